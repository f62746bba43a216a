/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Judges a store that somebody has damaged: everything is listed, verified and read, and compared
 * with what was written. For rot.c, cut.c and faults.c, in a process of its own, with a time limit.
 */
#ifndef TORPOR_TEST_ROT_JUDGE_H
#define TORPOR_TEST_ROT_JUDGE_H

#include <errno.h>
#include <signal.h>

#include "tests/crash/crash_store.h"

enum outcome {
	HARMLESS,
	FOUND,
	SILENT,     /* wrong and nobody said so */
	UNVERIFIED, /* a read failed, but verify is clean */
	DIED,
	HUNG,
	OUTCOMES,
};
static const char *const outcome_name[OUTCOMES] = { "harmless",         "found", "WRONG IN SILENCE",
						    "MISSED BY VERIFY", "DIED",  "HUNG" };

struct note {
	char text[400]; /* first error or finding */
};

static void noted(struct note *n, const char *what, const char *text)
{
	if (n->text[0] == 0) {
		snprintf(n->text, sizeof(n->text), "%s: %s", what, text);
	}
}

static void on_finding(void *arg, const char *finding)
{
	noted(arg, "finding", finding);
}

/* An error that names something; a nameless one is as bad as silence. */
static bool failed(struct err *e, const char *what, struct note *n)
{
	if (e == NULL) {
		return false;
	}
	if (err_msg(e)[0] == 0) {
		_exit(SILENT);
	}
	noted(n, what, err_msg(e));
	err_free(e);
	return true;
}

static bool infos_same(const struct snap_info *a, size_t na, const struct snap_info *b, size_t nb)
{
	return na == nb && memcmp(a, b, na * sizeof(*a)) == 0;
}

struct judge {
	const struct crash_store *ref;
	struct note *note;
	bool wrong;    /* differs without an error */
	bool unread;   /* some read failed */
	bool verified; /* verification ran and found nothing */
};

static void judge_catalog(struct judge *j, struct store *s)
{
	SCOPE(freep) struct store_vm *vms = NULL;
	size_t n = 0;
	if (failed(store_vm_list(s, &vms, &n), "list", j->note)) {
		j->unread = true;
		return;
	}
	j->wrong |= n != CRASH_VMS;
	for (unsigned i = 0; i < CRASH_VMS; i++) {
		struct store_vm want = crash_vm(i);
		struct store_vm have = { 0 };
		bool found = false;
		if (failed(store_vm_by_name(s, want.name, &found, &have), "name", j->note)) {
			j->unread = true;
			continue;
		}
		want.holds_name = true;
		j->wrong |= !found || memcmp(&want, &have, sizeof(want)) != 0;
		j->wrong |= i < n && memcmp(&vms[i], &want, sizeof(want)) != 0;
	}
}

static void judge_snap(struct judge *j, struct family *f, unsigned k)
{
	const struct crash_snap *want = &j->ref->snap[k];
	bool wrong = false;
	if (failed(crash_compare(f, want, &wrong), "read", j->note)) {
		j->unread = true;
	}
	j->wrong |= wrong;
}

static void judge_family(struct judge *j, struct family *f)
{
	SCOPE(freep) struct snap_info *infos = NULL;
	size_t n = 0;
	if (failed(family_snaps(f, &infos, &n), "snapshots", j->note)) {
		j->unread = true;
	} else {
		struct snap_info want[CRASH_SNAPS];
		for (unsigned k = 0; k < CRASH_SNAPS; k++) {
			want[k] = j->ref->snap[k].info;
		}
		j->wrong |= !infos_same(infos, n, want, CRASH_SNAPS);
	}
	uint64_t found = 0;
	bool stopped = failed(family_verify(f, on_finding, j->note, &found), "verify", j->note);
	j->verified = j->verified && !stopped && found == 0;
	for (unsigned k = 0; k < CRASH_SNAPS; k++) {
		judge_snap(j, f, k);
	}
}

/* Writes into the damaged store: errors are fine, damage to what was sound is not. */
static void judge_writes(struct judge *j, struct family *f)
{
	struct gc_result unused;
	(void)failed(family_remove(f, &j->ref->snap[0].info.id, 1), "remove", j->note);
	(void)failed(family_gc(f, &unused), "collect", j->note);
	struct crash_snap made;
	struct err *e = crash_take(f, 1000, 0, &made);
	bool took = !failed(e, "take", j->note);
	bool wrong = false;
	(void)failed(crash_compare(f, &j->ref->snap[1], &wrong), "read after writing", j->note);
	if (took) {
		(void)failed(crash_compare(f, &made, &wrong), "read of the new one", j->note);
	}
	j->wrong |= wrong;
}

/* paused (may be NULL) is called once the store and the family are open. */
static UNUSED enum outcome judge(const struct crash_store *ref, const char *dir, bool write,
				 struct note *note, void (*paused)(void *arg), void *arg)
{
	struct judge j = { .ref = ref, .note = note, .verified = true };
	struct store *s = NULL;
	struct family *f = NULL;
	if (failed(store_open(dir, write ? STORE_WRITE : STORE_READ, &s), "open", note)) {
		return FOUND;
	}
	uint64_t found = 0;
	if (failed(store_verify(s, on_finding, note, &found), "verify", note) || found > 0) {
		j.verified = false;
	}
	judge_catalog(&j, s);
	if (failed(family_open(s, crash_family, false, &f), "family", note)) {
		store_close(s);
		return j.wrong ? SILENT : FOUND;
	}
	if (paused != NULL) {
		paused(arg);
		j.verified = j.verified &&
			     !failed(store_verify(s, on_finding, note, &found), "verify", note) &&
			     found == 0;
		judge_catalog(&j, s);
	}
	judge_family(&j, f);
	/* What verify has named, a list may show otherwise: the bit of an unlisted thing. */
	enum outcome out = j.wrong && j.verified           ? SILENT
			   : j.wrong && note->text[0] == 0 ? SILENT
			   : j.unread && j.verified        ? UNVERIFIED
			   : j.verified                    ? HARMLESS
							   : FOUND;
	if (write) {
		bool before = j.wrong;
		j.wrong = false;
		judge_writes(&j, f);
		if (j.wrong && !before) {
			out = SILENT;
		}
	}
	family_close(f);
	store_close(s);
	return out;
}

enum {
	JUDGE_SECONDS =
		90, /* more than the store ever waits for anybody; a loaded machine is slow */
};

/* In the process that judges: a hang ends it. */
static UNUSED void judge_limit(void)
{
	signal(SIGALRM, SIG_DFL);
	alarm(JUDGE_SECONDS);
}

static UNUSED enum outcome judge_wait(pid_t pid, int *ret_signal)
{
	int st = 0;
	while (waitpid(pid, &st, 0) < 0 && errno == EINTR) {
	}
	*ret_signal = WIFSIGNALED(st) ? WTERMSIG(st) : 0;
	if (WIFSIGNALED(st)) {
		return WTERMSIG(st) == SIGALRM ? HUNG : DIED;
	}
	return WEXITSTATUS(st) < OUTCOMES ? (enum outcome)WEXITSTATUS(st) : DIED;
}

#endif
