/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `torpor start NAME`, and `torpor guests start|stop|status`: all that are wanted, at boot and at
 * shutdown of the host. Called by main. Each guest is started and saved by a torpor process of its
 * own (guest_start.h, guest_stop.h), so that one that is slow or broken holds up no other.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/config.h"
#include "core/ctl_wire.h"
#include "core/rundir.h"
#include "tools/child.h"
#include "tools/client.h"
#include "tools/cmd.h"
#include "tools/guest_start.h"
#include "tools/guest_stop.h"
#include "tools/guestdef.h"
#include "tools/out.h"
#include "tools/psi.h"
#include "tools/storecmd.h"

static const char about_one[] =
	"Starts a defined guest: from its newest generation that verifies and fits this host, or "
	"by\n"
	"booting it where it has nothing to bring back. Returns once it runs; a process stays "
	"behind\n"
	"that sees to its end as its policy says.";
static const char about_start[] =
	"Starts all guests that are wanted (or those that are named), the most urgent first, each\n"
	"after those that it needs, a few at a time, and not while the host is short of memory or "
	"its\n"
	"disk is busy. One that runs is left alone. Exit status 1 if one could not be started.";
static const char about_stop[] =
	"Saves all living guests that are wanted (or those that are named), the most urgent "
	"first, and\n"
	"ends those that were saved. One that cannot be saved in time or for lack of room goes on, "
	"and is\n"
	"told of before the time is over. Exit status 1 if there is one. Ctrl-C lets all go on "
	"that have\n"
	"not ended yet.";
static const char about_status[] =
	"Tells of each defined guest what is wanted, what it is, its newest generation, and what\n"
	"somebody should read.";

enum {
	JOBS_MAX = 32,
	PACE_MS = 200,
	PACE_MOST_MS = 15000, /* a host that is always busy starts guests all the same */
	MEMORY_BUSY = 20,     /* percent, psi.h */
	IO_BUSY = 80,
	MARGIN_MS = 1000, /* before the end of the time: for what is given up to end */
};

static volatile int interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted = 1;
}

static void catch_signals(void)
{
	struct sigaction act = { .sa_handler = on_interrupt };
	(void)sigaction(SIGINT, &act, NULL);
	(void)sigaction(SIGTERM, &act, NULL);
}

/* ---- one guest ---- */

struct err *cmd_start(struct args *a, int *ret_status)
{
	bool automatic = false;
	bool foreground = false;
	const struct opt opts[] = {
		{ "foreground", NULL, OPT_FLAG, &foreground,
		  "see to the guest in this process, and tell systemd that it runs; the exit\n"
		  "status is the VM's" },
		{ "automatic", NULL, OPT_FLAG, &automatic,
		  "nobody asks for it: a generation that was brought back on this boot of the\n"
		  "host already, and did not do well, is not brought back again" },
	};
	TRY(opts_parse(a, about_one, opts, ARRAY_LEN(opts), 1, 1));
	if (a->help) {
		return NULL;
	}
	char dir[PATH_MAX];
	TRY(config_check_name(a->pos[0]));
	TRY(opts_store_dir(a, dir, sizeof(dir)));
	const struct guest_start s = {
		.store_dir = dir,
		.name = a->pos[0],
		.automatic = automatic,
		.foreground = foreground,
		.json = a->json,
	};
	return guest_start(&s, ret_status);
}

/* ---- many ---- */

enum step { STEP_WAITS, STEP_UNDER_WAY, STEP_DONE, STEP_FAILED, STEP_SKIPPED };

struct item {
	struct guest *g;
	bool lives;
	enum step step;
	json_t *answer; /* owned: what its process said */
};

struct many {
	char store_dir[PATH_MAX];
	struct guest *guests; /* owned */
	size_t nguests;
	struct item *item; /* owned; the most urgent first */
	size_t n;
	unsigned jobs;
	unsigned timeout_s;
	uint64_t deadline_ns;
	struct child child[JOBS_MAX];
	size_t of[JOBS_MAX]; /* item that the child is about */
	bool units;
};

static UNUSED void many_done(struct many *m)
{
	for (size_t i = 0; i < JOBS_MAX; i++) {
		if (m->child[i].pid != 0) {
			child_done(&m->child[i]);
		}
	}
	for (size_t i = 0; i < m->n; i++) {
		json_decref(m->item[i].answer);
	}
	free(m->item);
	guests_free(m->guests, m->nguests);
}

static int by_urgency(const void *pa, const void *pb)
{
	const struct item *a = pa;
	const struct item *b = pb;
	if (a->g->p.priority != b->g->p.priority) {
		return a->g->p.priority > b->g->p.priority ? -1 : 1;
	}
	return strcmp(a->g->name, b->g->name);
}

static bool named(const struct args *a, const char *name)
{
	for (int i = 0; i < a->npos; i++) {
		if (strcmp(a->pos[i], name) == 0) {
			return true;
		}
	}
	return false;
}

static struct item *find(const struct many *m, const char *name)
{
	for (size_t i = 0; i < m->n; i++) {
		if (strcmp(m->item[i].g->name, name) == 0) {
			return &m->item[i];
		}
	}
	return NULL;
}

static struct err *mark_living(struct many *m)
{
	SCOPE(freep) struct rundir_vm *vms = NULL;
	size_t n = 0;
	TRY(rundir_list(&vms, &n));
	for (size_t i = 0; i < n; i++) {
		struct item *it = find(m, vms[i].name);
		if (it != NULL && strcmp(vms[i].store_dir, m->store_dir) == 0) {
			it->lives = true;
		}
	}
	return NULL;
}

/* All defined guests; those that are named, and must be there; no names: all. */
static struct err *load_many(struct args *a, struct many *m)
{
	SCOPE(store_closep) struct store *s = NULL;
	struct stat st;
	TRY(opts_store_dir(a, m->store_dir, sizeof(m->store_dir)));
	if (a->store == NULL && stat(m->store_dir, &st) != 0) {
		return NULL; /* nothing was ever defined: at a first boot that is no error */
	}
	TRY(storecmd_open(a, STORE_READ, &s));
	TRY(guests_load(s, &m->guests, &m->nguests));
	m->item = calloc(MAX(m->nguests, (size_t)1), sizeof(*m->item));
	ENSURE(m->item != NULL, ERR_SYS, "out of memory");
	for (size_t i = 0; i < m->nguests; i++) {
		if (a->npos == 0 || named(a, m->guests[i].name)) {
			m->item[m->n++].g = &m->guests[i];
		}
	}
	for (int i = 0; i < a->npos; i++) {
		ENSURE(find(m, a->pos[i]) != NULL, ERR_NOTFOUND,
		       "there is no guest '%s' in store %s", a->pos[i], m->store_dir);
	}
	qsort(m->item, m->n, sizeof(*m->item), by_urgency);
	return mark_living(m);
}

static UNUSED void words_donep(struct opt_words *w)
{
	opt_words_done(w);
}

static size_t running(const struct many *m)
{
	size_t n = 0;
	for (size_t i = 0; i < JOBS_MAX; i++) {
		n += m->child[i].pid != 0;
	}
	return n;
}

/* words: verb and options of the item's process. */
static struct err *launch(struct many *m, const char *program, struct item *it,
			  const struct opt_words *w)
{
	size_t slot = 0;
	while (m->child[slot].pid != 0) {
		slot++; /* there is a free one: fewer run than m->jobs */
	}
	TRY(child_start(program, w, -1, &m->child[slot]));
	m->of[slot] = (size_t)(it - m->item);
	it->step = STEP_UNDER_WAY;
	return NULL;
}

/* Waits until one has ended, or for a while. */
static struct err *collect(struct many *m, int timeout_ms)
{
	struct child *run[JOBS_MAX];
	struct child copy[JOBS_MAX];
	size_t n = 0;
	size_t which;
	for (size_t i = 0; i < JOBS_MAX; i++) {
		if (m->child[i].pid != 0) {
			run[n] = &m->child[i];
			copy[n++] = m->child[i];
		}
	}
	struct err *e = child_wait(copy, n, timeout_ms, &which);
	for (size_t i = 0; i < n; i++) {
		*run[i] = copy[i];
	}
	TRY(e);
	if (which == n) {
		return NULL;
	}
	struct child *c = run[which];
	struct item *it = &m->item[m->of[c - m->child]];
	it->answer = c->text != NULL ? json_loads(c->text, 0, NULL) : NULL;
	it->step = c->status == 0 ? STEP_DONE : STEP_FAILED;
	child_done(c);
	return NULL;
}

static const char *failure(const struct item *it)
{
	const json_t *e = json_object_get(it->answer, "error");
	const char *text = json_string_value(json_object_get(e, "message"));
	return text != NULL ? text : "its process ended without an answer";
}

static const char *const step_names[] = {
	[STEP_WAITS] = "not tried", [STEP_UNDER_WAY] = "not finished", [STEP_DONE] = "done",
	[STEP_FAILED] = "failed",   [STEP_SKIPPED] = "left alone",
};

static struct err *tell_many(const struct args *a, const struct many *m, int *ret_status)
{
	json_t *list = json_array();
	for (size_t i = 0; i < m->n; i++) {
		const struct item *it = &m->item[i];
		bool good = it->step == STEP_DONE || it->step == STEP_SKIPPED;
		json_t *row =
			json_pack("{s:s,s:s}", "name", it->g->name, "result", step_names[it->step]);
		if (!good) {
			*ret_status = 1;
			json_object_set_new(row, "why", json_string(failure(it)));
		} else if (it->answer != NULL) {
			json_object_update(row, it->answer);
		}
		json_array_append_new(list, row);
		if (!a->json && !good) {
			printf("%s: %s: %s\n", it->g->name, step_names[it->step], failure(it));
		} else if (!a->json && json_object_get(it->answer, "already") != NULL) {
			printf("%s: runs already\n", it->g->name);
		} else if (!a->json && it->step == STEP_DONE) {
			const json_t *ref = json_object_get(it->answer, "from");
			const json_t *saved = json_object_get(it->answer, "ref");
			const json_t *what = saved != NULL ? saved : ref;
			printf("%s: %s%s\n", it->g->name,
			       saved != NULL  ? "saved as "
			       : what != NULL ? "up from "
					      : "up",
			       what != NULL ? json_string_value(what) : "");
		}
	}
	if (!a->json) {
		json_decref(list);
		return NULL;
	}
	return out_json(json_pack("{s:b,s:o}", "ok", (int)(*ret_status == 0), "guests", list));
}

static struct err *fail_item(struct item *it, struct err *e)
{
	it->step = STEP_FAILED;
	json_decref(it->answer);
	it->answer = json_pack("{s:{s:s}}", "error", "message", err_msg(e));
	err_free(e);
	return NULL;
}

static struct err *check_jobs(struct many *m)
{
	if (m->jobs == 0) {
		long cpus = sysconf(_SC_NPROCESSORS_ONLN);
		m->jobs = (unsigned)MIN(MAX(cpus, 2L), 8L);
	}
	ENSURE(m->jobs <= JOBS_MAX, ERR_USAGE, "--jobs %u: at most %d", m->jobs, JOBS_MAX);
	return NULL;
}

/* ---- guests start ---- */

/* Those that it needs: *ret_ready all are up; an error: one of them will not be. */
static struct err *needs_met(const struct many *m, const struct item *it, bool *ret_ready)
{
	*ret_ready = true;
	for (unsigned i = 0; i < it->g->p.needs.n; i++) {
		const char *name = it->g->p.needs.v[i];
		const struct item *other = find(m, name);
		struct rundir_vm vm;
		bool lives = false;
		if (other == NULL || other->step == STEP_SKIPPED) {
			TRY(rundir_find(name, &lives, &vm));
			ENSURE(lives, ERR_NOT_NOW, "it needs '%s', which is not up and not wanted",
			       name);
			continue;
		}
		ENSURE(other->step != STEP_FAILED, ERR_NOT_NOW,
		       "it needs '%s', which could not be started", name);
		*ret_ready = *ret_ready && other->step == STEP_DONE;
	}
	return NULL;
}

/* Not all at once on a host that has no memory or disk time left, but one at least. */
static void pace(const struct many *m)
{
	for (int ms = 0;
	     running(m) > 0 && ms < PACE_MOST_MS && !interrupted && psi_busy(MEMORY_BUSY, IO_BUSY);
	     ms += PACE_MS) {
		nanosleep(&(struct timespec){ .tv_nsec = PACE_MS * 1000000 }, NULL);
	}
}

/* systemd starts it, in a unit of its own. */
static struct err *start_unit(struct many *m, struct item *it)
{
	SCOPE(words_donep) struct opt_words w = { .n = 0 };
	TRY(opt_words_add(&w, "start"));
	TRY(opt_words_add(&w, "torpor@%s.service", it->g->name));
	pace(m);
	return launch(m, "systemctl", it, &w);
}

static struct err *start_one(struct many *m, struct item *it, bool by_hand)
{
	if (m->units) {
		return start_unit(m, it);
	}
	SCOPE(words_donep) struct opt_words w = { .n = 0 };
	TRY(opt_words_add(&w, "start"));
	TRY(opt_words_add(&w, "%s", it->g->name));
	TRY(opt_words_add(&w, "--json"));
	TRY(opt_words_add(&w, "--store"));
	TRY(opt_words_add(&w, "%s", m->store_dir));
	if (!by_hand) {
		TRY(opt_words_add(&w, "--automatic"));
	}
	pace(m);
	return launch(m, NULL, it, &w);
}

/* The most urgent one that waits for nobody; *ret_more: some wait still. */
static struct err *next_to_start(struct many *m, struct item **ret, bool *ret_more)
{
	*ret = NULL;
	*ret_more = false;
	for (size_t i = 0; i < m->n; i++) {
		struct item *it = &m->item[i];
		bool ready = false;
		if (it->step != STEP_WAITS) {
			continue;
		}
		struct err *e = needs_met(m, it, &ready);
		if (e != NULL) {
			TRY(fail_item(it, e));
			return next_to_start(m, ret, ret_more);
		}
		if (ready && *ret == NULL) {
			*ret = it;
		}
		*ret_more = true;
	}
	return NULL;
}

/* Who has powered itself off stays off until somebody starts it. */
static bool is_wanted(const struct guest *g)
{
	return strcmp(g->p.wanted, "on") == 0;
}

static struct err *start_all(struct many *m, bool by_hand)
{
	for (;;) {
		struct item *it;
		bool more;
		TRY(next_to_start(m, &it, &more));
		if (interrupted || (!more && running(m) == 0)) {
			return NULL;
		}
		if (it == NULL && running(m) == 0) {
			/* Only those are left that wait for each other. */
			for (size_t i = 0; i < m->n; i++) {
				if (m->item[i].step == STEP_WAITS) {
					TRY(fail_item(&m->item[i],
						      ERR(ERR_USAGE, "it needs itself, by way of "
								     "others")));
				}
			}
			return NULL;
		}
		if (it == NULL || running(m) >= m->jobs) {
			TRY(collect(m, PACE_MS));
			continue;
		}
		struct err *e = start_one(m, it, by_hand);
		if (e != NULL) {
			TRY(fail_item(it, e));
		}
	}
}

struct err *cmd_guests_start(struct args *a, int *ret_status)
{
	SCOPE(many_done) struct many m = { .jobs = 0 };
	const struct opt opts[] = {
		{ "jobs", "N", OPT_UINT, &m.jobs,
		  "how many at a time; default as many as there are CPUs, 2 to 8" },
		{ "units", NULL, OPT_FLAG, &m.units,
		  "as units of systemd, torpor@NAME.service, which has the store in\n"
		  "/var/lib/torpor/store" },
	};
	TRY(opts_parse(a, about_start, opts, ARRAY_LEN(opts), 0, -1));
	if (a->help) {
		return NULL;
	}
	TRY(check_jobs(&m));
	TRY(load_many(a, &m));
	for (size_t i = 0; i < m.n; i++) {
		if (m.item[i].lives || (a->npos == 0 && !is_wanted(m.item[i].g))) {
			m.item[i].step = STEP_SKIPPED;
		}
	}
	catch_signals();
	TRY(start_all(&m, a->npos > 0));
	while (running(&m) > 0) {
		TRY(collect(&m, -1));
	}
	return tell_many(a, &m, ret_status);
}

/* ---- guests stop ---- */

static struct err *stop_one(struct many *m, struct item *it)
{
	uint64_t now = clock_mono_ns();
	ENSURE(now < m->deadline_ns, ERR_CANCELLED, "no time is left to save it");
	SCOPE(words_donep) struct opt_words w = { .n = 0 };
	TRY(opt_words_add(&w, "guests"));
	TRY(opt_words_add(&w, "stop"));
	TRY(opt_words_add(&w, "%s", it->g->name));
	TRY(opt_words_add(&w, "--json"));
	TRY(opt_words_add(&w, "--store"));
	TRY(opt_words_add(&w, "%s", m->store_dir));
	TRY(opt_words_add(&w, "--timeout"));
	TRY(opt_words_add(&w, "%llu",
			  (unsigned long long)((m->deadline_ns - now) / 1000000000u + 1)));
	return launch(m, NULL, it, &w);
}

static void interrupt_all(const struct many *m)
{
	for (size_t i = 0; i < JOBS_MAX; i++) {
		if (m->child[i].pid != 0) {
			(void)kill(m->child[i].pid, SIGTERM);
		}
	}
}

/* Those of one priority beside each other, the next ones after them: room on the disk goes to the
 * most urgent. */
static struct err *stop_all(struct many *m)
{
	bool passed_on = false;
	for (;;) {
		struct item *next = NULL;
		for (size_t i = 0; i < m->n && next == NULL; i++) {
			next = m->item[i].step == STEP_WAITS ? &m->item[i] : NULL;
		}
		bool wait = next == NULL || running(m) >= m->jobs;
		for (size_t i = 0; i < JOBS_MAX && !wait; i++) {
			wait = m->child[i].pid != 0 &&
			       m->item[m->of[i]].g->p.priority != next->g->p.priority;
		}
		if (interrupted && !passed_on) {
			interrupt_all(m);
			passed_on = true;
		}
		if (running(m) == 0 && (next == NULL || interrupted)) {
			return NULL;
		}
		if (wait || interrupted) {
			TRY(collect(m, PACE_MS));
			continue;
		}
		struct err *e = stop_one(m, next);
		if (e != NULL) {
			TRY(fail_item(next, e));
		}
	}
}

/* One that is named: in this process. */
static struct err *stop_named(const struct args *a, const struct many *m)
{
	const char *name = a->pos[0];
	struct guest_saved saved = { 0 };
	char ref[NAME_BYTES_MAX + 32];
	TRY(guest_save(m->store_dir, name, m->deadline_ns, &interrupted, &saved));
	snprintf(ref, sizeof(ref), "%s@%llu", name, (unsigned long long)saved.number);
	if (!a->json) {
		printf("%s: saved as %s\n", name, ref);
		return NULL;
	}
	return out_json(json_pack("{s:s,s:s,s:I,s:I,s:I}", "name", name, "ref", ref, "number",
				  (json_int_t)saved.number, "bytes_stored",
				  (json_int_t)saved.bytes_stored, "elapsed_us",
				  (json_int_t)saved.elapsed_us));
}

struct err *cmd_guests_stop(struct args *a, int *ret_status)
{
	SCOPE(many_done) struct many m = { .timeout_s = 90 };
	const struct opt opts[] = {
		{ "timeout", "SECONDS", OPT_UINT, &m.timeout_s,
		  "when to give up those that are not saved yet; default 90" },
		{ "jobs", "N", OPT_UINT, &m.jobs,
		  "how many at a time; default as many as there are CPUs, 2 to 8" },
	};
	TRY(opts_parse(a, about_stop, opts, ARRAY_LEN(opts), 0, -1));
	if (a->help) {
		return NULL;
	}
	uint64_t whole_ms = (uint64_t)m.timeout_s * 1000;
	m.deadline_ns =
		clock_mono_ns() + (whole_ms - MIN(whole_ms / 10, (uint64_t)MARGIN_MS)) * 1000000;
	TRY(check_jobs(&m));
	TRY(load_many(a, &m));
	for (size_t i = 0; i < m.n; i++) {
		bool wanted = a->npos > 0 || strcmp(m.item[i].g->p.wanted, "off") != 0;
		if (!m.item[i].lives || !wanted) {
			m.item[i].step = STEP_SKIPPED;
		}
	}
	catch_signals();
	if (a->npos == 1) {
		return stop_named(a, &m);
	}
	TRY(stop_all(&m));
	return tell_many(a, &m, ret_status);
}

/* ---- guests status ---- */

/* Its newest generation; found false: it has none, or none that can be listed. */
static struct err *newest(struct store *s, const char *name, bool *ret_found, struct snap_info *ret)
{
	struct store_vm vm;
	SCOPE(freep) struct snap_info *snaps = NULL;
	size_t n = 0;
	bool found = false;
	*ret_found = false;
	TRY(store_vm_by_name(s, name, &found, &vm));
	if (found) {
		TRY(storecmd_snaps(s, &vm, &snaps, &n));
	}
	if (n > 0) {
		*ret = snaps[n - 1];
		*ret_found = true;
	}
	return NULL;
}

/* "running", or what its record says; of one that nobody saw end: "crashed". */
static const char *state_of(const struct item *it)
{
	if (it->lives) {
		return "running";
	}
	return it->g->r.state == GUEST_RUNNING ? "crashed" : guest_state_names[it->g->r.state];
}

static struct err *status_row(struct store *s, const struct item *it, struct table *t, json_t *list)
{
	const struct guest *g = it->g;
	struct snap_info snap = { .number = 0 };
	bool found = false;
	char when[24];
	char number[32] = "-";
	TRY(newest(s, g->name, &found, &snap));
	if (found) {
		snprintf(number, sizeof(number), "%llu, %s", (unsigned long long)snap.number,
			 out_time(snap.frozen_at_ns, when));
	}
	if (list != NULL) {
		json_array_append_new(list,
				      json_pack("{s:s,s:s,s:s,s:i,s:s,s:I,s:I,s:I,s:s}", "name",
						g->name, "wanted", g->p.wanted, "state",
						state_of(it), "priority", (int)g->p.priority, "end",
						g->r.end, "newest", (json_int_t)snap.number,
						"newest_ns", (json_int_t)snap.frozen_at_ns, "used",
						(json_int_t)g->r.used, "report", g->r.report));
		return NULL;
	}
	table_cell(t, "%s", g->name);
	table_cell(t, "%s", g->p.wanted);
	table_cell(t, "%s", state_of(it));
	table_cell(t, "%u", g->p.priority);
	table_cell(t, "%s", number);
	table_cell(t, "%s", g->r.report[0] != 0 ? g->r.report : "-");
	return NULL;
}

struct err *cmd_guests_status(struct args *a, int *ret_status)
{
	(void)ret_status;
	TRY(opts_parse(a, about_status, NULL, 0, 0, -1));
	if (a->help) {
		return NULL;
	}
	SCOPE(many_done) struct many m = { .jobs = 0 };
	SCOPE(table_freep) struct table *t = table_new(6);
	SCOPE(json_put) json_t *list = a->json ? json_array() : NULL;
	static const char *const head[] = { "NAME",     "WANTED", "STATE",
					    "PRIORITY", "NEWEST", "REPORT" };
	for (size_t i = 0; i < ARRAY_LEN(head); i++) {
		table_cell(t, "%s", head[i]);
	}
	TRY(load_many(a, &m));
	SCOPE(store_closep) struct store *s = NULL;
	if (m.n > 0) {
		TRY(store_open(m.store_dir, STORE_READ, &s));
	}
	for (size_t i = 0; i < m.n; i++) {
		TRY(status_row(s, &m.item[i], t, list));
	}
	if (a->json) {
		return out_json(MOVE(list));
	}
	table_print(t);
	return NULL;
}
