/* SPDX-License-Identifier: Apache-2.0 */
/* --net and --net-map. See nets.h. */
#include "tools/nets.h"

#include <net/if.h>
#include <stdio.h>
#include <string.h>

#include "core/net_end.h"
#include "tools/devspec.h"

enum { FD_NUMBER_MAX = 1 << 20 };

/* ---- words ---- */

static const char *after(const char *word, const char *head)
{
	size_t n = strlen(head);
	return strncmp(word, head, n) == 0 ? word + n : NULL;
}

/* Is it a WHERE? Its form alone is checked. */
static struct err *check_where(const char *option, const char *word)
{
	const char *tap = after(word, "tap=");
	if (tap != NULL) {
		ENSURE(tap[0] != 0 && strlen(tap) < IFNAMSIZ, ERR_USAGE,
		       "%s: '%.40s' names no interface", option, word);
		return NULL;
	}
	if (after(word, "fd=") != NULL) {
		unsigned n = 0;
		TRY(devspec_number(option, word, FD_NUMBER_MAX, &n));
		ENSURE(n > 2, ERR_USAGE, "%s: '%s': 0 to 2 are torpor's own", option, word);
		return NULL;
	}
	ENSURE(strcmp(word, "none") == 0, ERR_USAGE,
	       "%s: '%.40s' is not one of tap=NAME, fd=N, none", option, word);
	return NULL;
}

static struct err *set_word(const char *word, struct config_dev *d)
{
	bool known = false;
	TRY(devspec_place("--net", word, d, &known));
	const char *mac = after(word, "mac=");
	if (mac != NULL) {
		TRY(err_wrap(config_mac_parse(mac, d->mac), "--net"));
		d->mac_chosen = true;
	} else if (after(word, "mtu=") != NULL) {
		TRY(devspec_number("--net", word, CONFIG_MTU_MAX, &d->mtu));
		ENSURE(d->mtu >= CONFIG_MTU_MIN, ERR_USAGE, "--net: '%s': %d to %d are possible",
		       word, CONFIG_MTU_MIN, CONFIG_MTU_MAX);
	} else if (!known) {
		return ERR(ERR_USAGE,
			   "--net: '%.40s' is not one of mac=MAC, mtu=N, id=NAME, slot=N", word);
	}
	return NULL;
}

struct err *nets_add(const char *text, struct config_devs *devs)
{
	struct config_dev d = { .kind = CONFIG_NET };
	char word[CONFIG_PATH_BYTES_MAX + 1];
	const char *at = text;
	TRY(devspec_word("--net", &at, d.path, sizeof(d.path)));
	TRY(check_where("--net", d.path));
	while (*at != 0) {
		TRY(devspec_word("--net", &at, word, sizeof(word)));
		TRY(set_word(word, &d));
	}
	if (!d.mac_chosen) {
		TRY(config_mac_make(d.mac));
	}
	return config_dev_add(devs, &d, NULL);
}

size_t nets_fds(const struct opt_list *list, int *ret, size_t max)
{
	size_t n = 0;
	for (unsigned i = 0; i < list->n && n < max; i++) {
		const char *text = list->v[i];
		const char *at = after(text, "fd=");
		if (at == NULL && strchr(text, '=') != NULL) {
			at = after(strchr(text, '=') + 1, "fd=");
		}
		int fd = 0;
		if (at != NULL && sscanf(at, "%7d", &fd) == 1) {
			ret[n++] = fd;
		}
	}
	return n;
}

/* ---- opening ---- */

static struct err *open_one(const char *where, struct host_end *end)
{
	TRY(check_where("--net-map", where));
	const char *tap = after(where, "tap=");
	if (tap != NULL) {
		return net_end_tap(tap, end);
	}
	unsigned n = 0;
	if (after(where, "fd=") != NULL) {
		TRY(devspec_number("--net", where, FD_NUMBER_MAX, &n));
		return net_end_fd((int)n, end);
	}
	return NULL; /* none */
}

/* Where a device is now; ERR_USAGE when nobody says. */
static struct err *where_is(const struct config_dev *d, const struct opt_list *map, bool restored,
			    const char **ret)
{
	const char *where = devspec_mapped(map, d->id);
	ENSURE(where != NULL || !restored || after(d->path, "fd=") == NULL, ERR_USAGE,
	       "network device '%s' was on a descriptor of another process: say where it "
	       "is now by --net-map %s=WHERE, or %s=none",
	       d->id, d->id, d->id);
	*ret = where != NULL ? where : d->path;
	return NULL;
}

struct err *nets_open(const struct config_devs *devs, const struct opt_list *map, bool restored,
		      struct host_ends *ret)
{
	TRY(devspec_check_map("--net-map", CONFIG_NET, devs, map));
	for (unsigned i = 0; i < devs->n; i++) {
		const struct config_dev *d = &devs->d[i];
		if (d->kind != CONFIG_NET) {
			continue;
		}
		const char *where = NULL;
		TRY(where_is(d, map, restored, &where));
		struct host_end *end = host_end_next(ret, d->id);
		TRY(err_wrap(open_one(where, end), "network device '%s'", d->id));
		ret->n++;
	}
	return NULL;
}

/* ---- looking ---- */

static struct err *look_one(const struct config_dev *d, const struct opt_list *map,
			    struct host_end *end)
{
	const char *where = NULL;
	TRY(where_is(d, map, true, &where));
	TRY(check_where("--net-map", where));
	end->header = false;
	const char *tap = after(where, "tap=");
	if (tap != NULL) {
		end->header = true;
		return net_end_there(tap);
	}
	unsigned n = 0;
	if (after(where, "fd=") != NULL) {
		TRY(devspec_number("--net", where, FD_NUMBER_MAX, &n));
		return net_end_fd_look((int)n, end);
	}
	return NULL; /* none */
}

void nets_look(const struct config_devs *devs, const struct opt_list *map, const struct findings *f,
	       struct host_ends *ret)
{
	finding(f, "net", devspec_check_map("--net-map", CONFIG_NET, devs, map));
	for (unsigned i = 0; i < devs->n; i++) {
		const struct config_dev *d = &devs->d[i];
		if (d->kind == CONFIG_NET) {
			struct host_end *end = host_end_next(ret, d->id);
			end->header = true; /* of what cannot be found nothing else is told */
			finding(f, "net",
				err_wrap(look_one(d, map, end), "network device '%s'", d->id));
			ret->n++;
		}
	}
}
