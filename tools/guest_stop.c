/* SPDX-License-Identifier: Apache-2.0 */
/* Saving one guest and ending it. See guest_stop.h. */
#include "tools/guest_stop.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "tools/client.h"
#include "tools/guestdef.h"
#include "tools/storecmd.h"

enum {
	POLL_MS = 100,
	CANCEL_MS = 5000, /* for a take that is given up to end */
	GONE_MS = 30000,
	SAVED_KEPT = 2, /* generations of this kind that stay */
};

struct save {
	const char *store_dir;
	const char *name;
	uint64_t deadline_ns;
	const volatile int *interrupted;
	struct client *c;
};

static struct err *in_time(const struct save *s)
{
	ENSURE(s->interrupted == NULL || *s->interrupted == 0, ERR_CANCELLED,
	       "guest '%s': interrupted, it goes on", s->name);
	ENSURE(clock_mono_ns() < s->deadline_ns, ERR_CANCELLED,
	       "guest '%s': no time is left to save it", s->name);
	return NULL;
}

/* On a connection of its own: answers on one come in order. */
static void cancel_take(const struct save *s)
{
	SCOPE(client_closep) struct client *c = NULL;
	SCOPE(json_put) json_t *unused = NULL;
	bool ready = false;
	struct err *e = client_connect(client_vm(s->c), &c);
	if (e == NULL) {
		e = client_send(c,
				json_pack("{s:{s:i,s:s}}", "Torpor", "v", 1, "cmd", "TakeCancel"));
	}
	if (e == NULL) {
		e = client_receive(c, CANCEL_MS, &ready, &unused);
	}
	err_drop(e, "the take has ended by itself, or the VM");
	if (!ready) {
		return;
	}
	SCOPE(json_put) json_t *ended = NULL;
	err_drop(client_receive(s->c, CANCEL_MS, &ready, &ended), "it was to end with an error");
}

/* One take; ERR_NOT_NOW: another one is under way. */
static struct err *take_once(const struct save *s, const char *tag, json_t **ret)
{
	bool ready = false;
	SCOPE(json_put) json_t *answer = NULL;
	TRY(client_send(s->c, json_pack("{s:{s:i,s:{s:{s:s,s:I}}}}", "Torpor", "v", 1, "cmd",
					"Take", "tag", tag, "max_pause_us", (json_int_t)10000)));
	while (!ready) {
		TRY(client_receive(s->c, POLL_MS, &ready, &answer));
		struct err *late = ready ? NULL : in_time(s);
		if (late != NULL) {
			cancel_take(s);
			return late;
		}
	}
	json_t *result = json_object_get(json_object_get(answer, "Torpor"), "Take");
	ENSURE(json_is_object(result), ERR_PEER, "VM '%s' gave an unexpected answer", s->name);
	*ret = json_incref(result);
	return NULL;
}

static struct err *take(const struct save *s, json_t **ret)
{
	char tag[NAME_BYTES_MAX + 1];
	char when[32];
	time_t now = (time_t)(clock_real_ns() / 1000000000u);
	struct tm tm;
	gmtime_r(&now, &tm);
	(void)strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &tm);
	for (unsigned i = 0;; i++) {
		snprintf(tag, sizeof(tag), GUEST_SAVED_TAG "%s%s%.0u", when, i > 0 ? "-" : "", i);
		struct err *e = take_once(s, tag, ret);
		if (e == NULL || err_errno(e) != EBUSY) {
			return e;
		}
		err_drop(e, "an explicit take is under way: after it");
		TRY(in_time(s));
		nanosleep(&(struct timespec){ .tv_nsec = POLL_MS * 1000000 }, NULL);
	}
}

static void note_saved(struct guest_record *r, const void *arg)
{
	r->state = GUEST_SAVED;
	r->since_ns = clock_real_ns();
	r->clean = *(const uint64_t *)arg;
	snprintf(r->end, sizeof(r->end), "saved");
	r->report[0] = 0;
}

/* The older ones of this kind: nobody asked for them. */
static struct err *prune(struct store *s, const char *name)
{
	struct store_vm vm;
	bool found = false;
	TRY(store_vm_by_name(s, name, &found, &vm));
	SCOPE(freep) struct snap_info *snaps = NULL;
	size_t n = 0;
	if (found) {
		TRY(storecmd_snaps(s, &vm, &snaps, &n));
	}
	SCOPE(freep) uint64_t *ids = calloc(MAX(n, (size_t)1), sizeof(*ids));
	ENSURE(ids != NULL, ERR_SYS, "out of memory");
	size_t nids = 0;
	unsigned kept = 0;
	for (size_t i = n; i > 0; i--) {
		const struct snap_info *in = &snaps[i - 1];
		if (!in->pinned &&
		    strncmp(in->tag, GUEST_SAVED_TAG, strlen(GUEST_SAVED_TAG)) == 0 &&
		    ++kept > SAVED_KEPT) {
			ids[nids++] = in->id;
		}
	}
	if (nids == 0) {
		return NULL;
	}
	SCOPE(family_closep) struct family *f = NULL;
	TRY(family_open(s, vm.family, false, &f));
	return family_remove_unpinned(f, ids, nids);
}

/* Between the record and the VM's end nothing of the guest runs: it is suspended. */
static struct err *finish(const struct save *s, uint64_t number)
{
	SCOPE(store_closep) struct store *store = NULL;
	TRY(store_open(s->store_dir, STORE_WRITE, &store));
	TRY(guest_note(store, s->name, note_saved, &number));
	TRY(client_result(s->c, torpor_exit(client_lib(s->c))));
	TRY(client_wait_gone(s->c, GONE_MS));
	err_drop(prune(store, s->name), "there are more of them until the next time");
	return NULL;
}

/* Somebody has suspended it before: so it stays if it cannot be saved. */
static struct err *stands_still(struct client *c, bool *ret)
{
	SCOPE(json_put) json_t *status = NULL;
	TRY(client_torpor(c, json_string("Status"), "Status", &status));
	const char *state = json_string_value(json_object_get(status, "state"));
	*ret = state != NULL && strcmp(state, "suspended") == 0;
	return NULL;
}

struct err *guest_save(const char *store_dir, const char *name, uint64_t deadline_ns,
		       const volatile int *interrupted, struct guest_saved *ret)
{
	SCOPE(client_closep) struct client *c = NULL;
	SCOPE(json_put) json_t *result = NULL;
	uint64_t begun = clock_mono_ns();
	TRY(client_open(name, store_dir, &c));
	struct save s = {
		.store_dir = store_dir,
		.name = name,
		.deadline_ns = deadline_ns,
		.interrupted = interrupted,
		.c = c,
	};
	TRY(in_time(&s));
	torpor_set_timeout(client_lib(c), (int)MIN((deadline_ns - begun) / 1000000, 600000ull) + 1);
	bool stood = false;
	TRY(stands_still(c, &stood));
	TRY(client_result(c, torpor_suspend_vm(client_lib(c))));
	struct err *e = take(&s, &result);
	uint64_t number = (uint64_t)json_integer_value(json_object_get(result, "number"));
	if (e == NULL) {
		e = finish(&s, number);
	}
	if (e != NULL && !stood) {
		err_drop(client_result(c, torpor_resume_vm(client_lib(c))),
			 "it has ended, or tells so itself");
	}
	TRY(e);
	*ret = (struct guest_saved){
		.number = number,
		.bytes_stored =
			(uint64_t)json_integer_value(json_object_get(result, "bytes_stored")),
		.elapsed_us = (clock_mono_ns() - begun) / 1000,
	};
	return NULL;
}
