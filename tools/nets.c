/* SPDX-License-Identifier: Apache-2.0 */
/* --net and --net-map. See nets.h. */
#include "tools/nets.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/net_end.h"
#include "core/usernet.h"
#include "tools/devspec.h"

enum { FD_NUMBER_MAX = 1 << 20 };

/* ---- words ---- */

static const char *after(const char *word, const char *head)
{
	size_t n = strlen(head);
	return strncmp(word, head, n) == 0 ? word + n : NULL;
}

/* A word of user networking. *ret_known false: it is none of them. */
static struct err *user_word(const char *word, struct usernet_opts *o, bool *ret_known)
{
	const char *forward = after(word, "hostfwd=");
	*ret_known = true;
	if (forward != NULL) {
		ENSURE(o->n < USERNET_FORWARDS_MAX, ERR_USAGE, "at most %d times hostfwd",
		       USERNET_FORWARDS_MAX);
		TRY(usernet_parse_forward(forward, &o->forward[o->n]));
		o->n++;
	} else if (strcmp(word, "restrict") == 0) {
		o->restricted = true;
	} else if (strcmp(word, "loopback") == 0) {
		o->loopback = true;
	} else {
		*ret_known = false;
	}
	return NULL;
}

/* Is it the first word of a WHERE? Its form alone is checked. */
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
	ENSURE(strcmp(word, "none") == 0 || strcmp(word, "user") == 0, ERR_USAGE,
	       "%s: '%.40s' is not one of tap=NAME, fd=N, user, none", option, word);
	return NULL;
}

static struct err *set_word(const char *word, struct config_dev *d)
{
	bool known = false;
	TRY(devspec_place("--net", word, d, &known));
	if (!known && after(d->path, "user") != NULL) {
		struct usernet_opts o = { 0 };
		size_t n = strlen(d->path);
		TRY(err_wrap(user_word(word, &o, &known), "--net"));
		ENSURE(!known || n + 1 + strlen(word) < sizeof(d->path), ERR_USAGE,
		       "--net: too many words");
		if (known) { /* part of what is behind the device */
			snprintf(d->path + n, sizeof(d->path) - n, ",%s", word);
		}
	}
	const char *mac = after(word, "mac=");
	if (mac != NULL) {
		TRY(err_wrap(config_mac_parse(mac, d->mac), "--net"));
		d->mac_chosen = true;
	} else if (after(word, "mtu=") != NULL) {
		TRY(devspec_number("--net", word, CONFIG_MTU_MAX, &d->mtu));
		ENSURE(d->mtu >= CONFIG_MTU_MIN, ERR_USAGE, "--net: '%s': %d to %d are possible",
		       word, CONFIG_MTU_MIN, CONFIG_MTU_MAX);
	} else if (!known) {
		return ERR(
			ERR_USAGE,
			"--net: '%.40s' is not one of mac=MAC, mtu=N, id=NAME, slot=N, and of user "
			"hostfwd=..., restrict, loopback",
			word);
	}
	return NULL;
}

struct err *nets_parse(const char *text, struct config_dev *ret)
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
	*ret = d;
	return NULL;
}

struct err *nets_add(const char *text, struct config_devs *devs)
{
	struct config_dev d;
	TRY(nets_parse(text, &d));
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

/* All words behind "user". */
static struct err *user_words(const char *words, struct usernet_opts *o)
{
	char word[CONFIG_PATH_BYTES_MAX + 1];
	while (*words != 0) {
		bool known = false;
		TRY(devspec_word("user", &words, word, sizeof(word)));
		TRY(user_word(word, o, &known));
		ENSURE(known, ERR_USAGE, "'%.40s' is not one of hostfwd=..., restrict, loopback",
		       word);
	}
	return NULL;
}

/* Splits a WHERE: its first word, which is checked, and what follows. */
static struct err *split(const char *where, char *word, size_t size, const char **ret_rest)
{
	const char *rest = where;
	TRY(devspec_word("--net-map", &rest, word, size));
	TRY(check_where("--net-map", word));
	ENSURE(*rest == 0 || strcmp(word, "user") == 0, ERR_USAGE,
	       "nothing goes with '%.40s': '%.40s'", word, rest);
	*ret_rest = rest;
	return NULL;
}

static struct err *open_one(const char *where, struct host_end *end)
{
	const char *rest = NULL;
	char word[CONFIG_PATH_BYTES_MAX + 1];
	unsigned n = 0;
	TRY(split(where, word, sizeof(word), &rest));
	if (strcmp(word, "user") == 0) {
		struct usernet_opts o = { 0 };
		TRY(user_words(rest, &o));
		TRY(usernet_start(&o, &end->fd));
		return net_end_fd(end->fd.n, end);
	}
	if (after(word, "tap=") != NULL) {
		return net_end_tap(after(word, "tap="), end);
	}
	if (after(word, "fd=") != NULL) {
		TRY(devspec_number("--net", word, FD_NUMBER_MAX, &n));
		return net_end_fd((int)n, end);
	}
	return NULL; /* none */
}

/* The process of user networking stays when ours ends: it must not hold our stderr, which may be a
 * pipe that somebody reads to its end. */
struct err *nets_open_one(const struct config_dev *d, struct host_end *end)
{
	fflush(NULL);
	int old = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
	SCOPE(fd_close) struct fd null = FD_NONE;
	TRY(io_open("/dev/null", O_RDWR, 0, &null));
	if (old < 0 || dup2(null.n, STDERR_FILENO) < 0) {
		return ERR_ERRNO("putting stderr aside");
	}
	struct err *e = open_one(d->path, end);
	(void)dup2(old, STDERR_FILENO);
	(void)close(old);
	return err_wrap(e, "network device");
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
	const char *rest = NULL;
	char word[CONFIG_PATH_BYTES_MAX + 1];
	TRY(split(where, word, sizeof(word), &rest));
	end->header = false;
	if (strcmp(word, "user") == 0) {
		struct usernet_opts o = { 0 };
		TRY(user_words(rest, &o));
		return usernet_look(&o);
	}
	const char *tap = after(word, "tap=");
	if (tap != NULL) {
		end->header = true;
		return net_end_there(tap);
	}
	unsigned n = 0;
	if (after(word, "fd=") != NULL) {
		TRY(devspec_number("--net", word, FD_NUMBER_MAX, &n));
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
