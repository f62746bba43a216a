/* SPDX-License-Identifier: Apache-2.0 */
/* Words of options that describe a device. See devspec.h. */
#include "tools/devspec.h"

#include <stdio.h>
#include <string.h>

struct err *devspec_word(const char *option, const char **at, char *word, size_t size)
{
	size_t n = 0;
	const char *p = *at;
	for (; *p != 0; p++) {
		if (*p == ',' && p[1] == ',') {
			p++;
		} else if (*p == ',') {
			break;
		}
		ENSURE(n + 1 < size, ERR_USAGE, "%s: '%.40s...' is too long", option, *at);
		word[n++] = *p;
	}
	word[n] = 0;
	*at = *p == ',' ? p + 1 : p;
	return NULL;
}

struct err *devspec_number(const char *option, const char *word, unsigned max, unsigned *ret)
{
	uint64_t v = 0;
	const char *text = strchr(word, '=') + 1;
	struct err *e = config_parse_size(text, &v);
	if (e != NULL || v > max) {
		err_drop(e, "the message below says more");
		return ERR(ERR_USAGE, "%s: '%.40s' is no number up to %u", option, word, max);
	}
	*ret = (unsigned)v;
	return NULL;
}

struct err *devspec_rate(const char *option, const char *word, uint64_t *ret)
{
	struct err *e = config_parse_size(strchr(word, '=') + 1, ret);
	if (e != NULL || *ret == 0 || *ret > CONFIG_RATE_MAX) {
		err_drop(e, "the message below says more");
		return ERR(ERR_USAGE, "%s: '%.40s' is no rate from 1 to 1024G a second", option,
			   word);
	}
	return NULL;
}

struct err *devspec_place(const char *option, const char *word, struct config_dev *d,
			  bool *ret_known)
{
	*ret_known = true;
	if (strncmp(word, "id=", 3) == 0) {
		TRY(err_wrap(config_check_name(word + 3), "%s: id", option));
		snprintf(d->id, sizeof(d->id), "%.*s", (int)NAME_BYTES_MAX, word + 3);
	} else if (strncmp(word, "slot=", 5) == 0) {
		TRY(devspec_number(option, word, CONFIG_SLOT_MAX, &d->slot));
		ENSURE(d->slot > 0, ERR_USAGE, "%s: slots count from 1", option);
	} else {
		*ret_known = false;
	}
	return NULL;
}

const char *devspec_mapped(const struct opt_list *map, const char *id)
{
	for (unsigned i = 0; i < map->n; i++) {
		size_t n = strlen(id);
		if (strncmp(map->v[i], id, n) == 0 && map->v[i][n] == '=') {
			return map->v[i] + n + 1;
		}
	}
	return NULL;
}

struct err *devspec_check_map(const char *option, enum config_kind kind,
			      const struct config_devs *devs, const struct opt_list *map)
{
	for (unsigned i = 0; i < map->n; i++) {
		char id[NAME_BYTES_MAX + 1];
		size_t n = strcspn(map->v[i], "=");
		snprintf(id, sizeof(id), "%.*s", (int)MIN(n, (size_t)NAME_BYTES_MAX), map->v[i]);
		const struct config_dev *d = config_dev_find(devs, id);
		ENSURE(map->v[i][n] == '=' && d != NULL && d->kind == kind, ERR_USAGE,
		       "%s: '%.40s': the VM has no such %s; give ID=%s", option, map->v[i],
		       config_kind_name(kind), kind == CONFIG_DISK ? "PATH" : "WHERE");
	}
	return NULL;
}
