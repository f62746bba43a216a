/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Words of options that describe a device, and maps of what stands behind devices: shared by
 * disks.c and nets.c. `option` is the option's name for messages. One thread.
 */
#ifndef TORPOR_TOOLS_DEVSPEC_H
#define TORPOR_TOOLS_DEVSPEC_H

#include "core/config.h"
#include "tools/opts.h"

/* Up to the next single comma, with doubled ones made single; *at moves behind it. */
MUST_USE struct err *devspec_word(const char *option, const char **at, char *word, size_t size);
/* What follows the word's '='. */
MUST_USE struct err *devspec_number(const char *option, const char *word, unsigned max,
				    unsigned *ret);
/* The same for a rate: 1 to CONFIG_RATE_MAX, K, M and G at its end. */
MUST_USE struct err *devspec_rate(const char *option, const char *word, uint64_t *ret);
/* id=NAME and slot=N; *ret_known: it was one of them. */
MUST_USE struct err *devspec_place(const char *option, const char *word, struct config_dev *d,
				   bool *ret_known);

/* What a map ("ID=WHERE") says of a device, NULL: nothing; and whether all that it names are
 * devices of that kind. */
const char *devspec_mapped(const struct opt_list *map, const char *id);
MUST_USE struct err *devspec_check_map(const char *option, enum config_kind kind,
				       const struct config_devs *devs, const struct opt_list *map);

#endif
