/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bringing a defined guest up and looking after it. See guest_start.h.
 *
 * The VM is a process of its own (torpor restore or run, detached) that has the one end of a pipe:
 * it says there how it ends, and the end of the pipe is the end of the process, however it came.
 * The store is open only while something is looked up or noted.
 */
#include "tools/guest_start.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/base/log.h"
#include "core/ctl_wire.h"
#include "core/rundir.h"
#include "tools/child.h"
#include "tools/detach.h"
#include "tools/guest_stop.h"
#include "tools/guestdef.h"
#include "tools/out.h"
#include "tools/storecmd.h"
#include "tools/vmm.h"

enum {
	AGAIN_MAX = 5, /* fresh boots by policy within AGAIN_NS */
	END_BYTES_MAX = 64 * 1024,
	SAVE_S = 90, /* what SIGTERM gives a guest to be saved in */
};
#define START_WAIT_NS (120ull * 1000000000ull)
#define AGAIN_NS (600ull * 1000000000ull)

static const char log_suffix[] = ".keeper";

enum how { BY_POLICY_REWIND, BY_POLICY_RESTART, AS_IT_IS };

struct keeper {
	const struct guest_start *s;
	char host[37];
	struct fd lock; /* NAME.start, until the guest lives */
	struct fd end;  /* the VM's end of life */
	bool automatic;
	struct guest g;
	char report[GUEST_REPORT_BYTES];
	json_t *answer; /* owned; what is told when the guest lives */
};

/* Loud, and kept for `guests status`. */
static void report(struct keeper *k, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void report(struct keeper *k, const char *fmt, ...)
{
	char text[GUEST_REPORT_BYTES];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	LOG_W("guest '%s': %s", k->s->name, text);
	size_t n = strlen(k->report);
	snprintf(k->report + n, sizeof(k->report) - n, "%s%s", n > 0 ? "; " : "", text);
}

/* ---- the record ---- */

static void note_tried(struct guest_record *r, const void *arg)
{
	const struct keeper *k = arg;
	r->used = k->g.r.used;
	memcpy(r->used_host, k->host, sizeof(r->used_host));
	r->lived = 0;
}

static void note_lives(struct guest_record *r, const void *arg)
{
	const struct keeper *k = arg;
	r->state = GUEST_RUNNING;
	r->since_ns = clock_real_ns();
	r->used = k->g.r.used;
	r->lived = 1;
	r->clean = 0;
	r->end[0] = 0;
	r->again = k->g.r.again;
	r->again_ns = k->g.r.again_ns;
	memcpy(r->report, k->report, sizeof(r->report));
}

static void note_report(struct guest_record *r, const void *arg)
{
	const struct keeper *k = arg;
	memcpy(r->report, k->report, sizeof(r->report));
}

struct ended {
	enum guest_state state;
	const char *end;
	const char *report;
};

static void note_ended(struct guest_record *r, const void *arg)
{
	const struct ended *e = arg;
	if (r->state == GUEST_SAVED && e->state == GUEST_STOPPED) {
		return; /* whoever saved it has said so */
	}
	r->state = e->state;
	r->since_ns = clock_real_ns();
	snprintf(r->end, sizeof(r->end), "%s", e->end);
	snprintf(r->report, sizeof(r->report), "%s", e->report);
}

static struct err *open_store(const struct keeper *k, struct store **ret)
{
	return store_open(k->s->store_dir, STORE_WRITE, ret);
}

static struct err *note(const struct keeper *k, guest_note_fn *fn, const void *arg)
{
	SCOPE(store_closep) struct store *s = NULL;
	TRY(open_store(k, &s));
	return guest_note(s, k->s->name, fn, arg);
}

/* ---- starting the VM's process ---- */

/* The options that are the host's side, not the machine's: a restore takes them, too. */
static struct err *host_words(const json_t *vm, struct opt_words *w)
{
	struct vmm v;
	vmm_init(&v);
	const struct opt opts[] = { VMM_OPTS(&v) };
	SCOPE(json_put) json_t *host = json_object();
	for (size_t i = 0; i < ARRAY_LEN(opts); i++) {
		json_t *value = json_object_get(vm, opts[i].name);
		if (value != NULL) {
			json_object_set(host, opts[i].name, value);
		}
	}
	return opts_words(host, w);
}

static struct err *common_words(const struct keeper *k, int end_fd, struct opt_words *w)
{
	TRY(opt_words_add(w, "--detach"));
	TRY(opt_words_add(w, "--json"));
	TRY(opt_words_add(w, "--end-fd"));
	TRY(opt_words_add(w, "%d", end_fd));
	TRY(opt_words_add(w, "--store"));
	return opt_words_add(w, "%s", k->s->store_dir);
}

/* What a child said: its answer, or its error under the class that it gave. */
static struct err *child_error(int status, const json_t *answer)
{
	const json_t *e = json_object_get(answer, "error");
	const char *class = json_string_value(json_object_get(e, "class"));
	const char *text = json_string_value(json_object_get(e, "message"));
	if (status == 0 && e == NULL) {
		return NULL;
	}
	for (enum err_class c = 0; class != NULL && c < ERR__COUNT; c++) {
		if (strcmp(err_class_name(c), class) == 0) {
			return ERR(c, "%s", text != NULL ? text : "?");
		}
	}
	return ERR(ERR_SYS, "its process ended with status %d", status);
}

/* words: verb and what it is about. On success k->end is the VM's. */
static struct err *start_vm(struct keeper *k, struct opt_words *w, bool fresh)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) != 0) {
		return ERR_ERRNO("making a pipe");
	}
	SCOPE(fd_close) struct fd in = { ends[0] };
	SCOPE(fd_close) struct fd out = { ends[1] };
	TRY(common_words(k, out.n, w));
	TRY(fresh ? opts_words(k->g.vm, w) : host_words(k->g.vm, w));
	int status = 0;
	SCOPE(json_put) json_t *answer = NULL;
	TRY(child_run(w, out.n, &status, &answer));
	TRY(child_error(status, answer));
	fd_close(&k->end);
	k->end = fd_move(&in);
	json_decref(k->answer);
	k->answer = json_deep_copy(answer);
	return NULL;
}

static UNUSED void words_donep(struct opt_words *w)
{
	opt_words_done(w);
}

static struct err *boot(struct keeper *k)
{
	SCOPE(words_donep) struct opt_words w = { .n = 0 };
	k->g.r.used = 0;
	TRY(opt_words_add(&w, "run"));
	TRY(opt_words_add(&w, "--name"));
	TRY(opt_words_add(&w, "%s", k->s->name));
	TRY(opt_words_add(&w, "--again"));
	TRY(note(k, note_tried, k));
	TRY(start_vm(k, &w, true));
	json_object_set_new(k->answer, "from", json_string("boot"));
	return NULL;
}

/* ---- generations ---- */

struct generations {
	struct store_vm vm;
	struct snap_info *snap; /* owned; oldest first */
	size_t n;
	char damage[400]; /* a record that cannot even be listed; "": none */
};

static UNUSED void generations_done(struct generations *g)
{
	free(g->snap);
}

static struct err *list_generations(struct store *s, const char *name, struct generations *ret)
{
	bool found = false;
	ret->n = 0;
	TRY(store_vm_by_name(s, name, &found, &ret->vm));
	if (!found) {
		return NULL;
	}
	SCOPE(family_closep) struct family *f = NULL;
	struct err *e = family_open(s, ret->vm.family, false, &f);
	if (e != NULL && err_class(e) == ERR_NOTFOUND) {
		err_drop(e, "it has never been taken");
		return NULL;
	}
	TRY(e);
	size_t n = 0;
	SCOPE(err_freep) struct err *damage = NULL;
	TRY(family_snaps_sound(f, &ret->snap, &n, &damage));
	for (size_t i = 0; i < n; i++) {
		if (memcmp(ret->snap[i].vm, ret->vm.uuid, sizeof(ret->vm.uuid)) == 0) {
			ret->snap[ret->n++] = ret->snap[i];
		}
	}
	if (damage != NULL) {
		snprintf(ret->damage, sizeof(ret->damage), "%s", err_msg(damage));
	}
	return NULL;
}

static struct err *pin(struct store *s, const struct generations *g, const struct snap_info *bad)
{
	SCOPE(family_closep) struct family *f = NULL;
	const struct snap_label label = { .set_pin = true, .pinned = true };
	TRY(family_open(s, g->vm.family, false, &f));
	return family_label(f, bad->id, &label);
}

/* Does that finding speak of the host as it is now, whatever the generation? */
static bool of_the_host(const char *area)
{
	static const char *const areas[] = { "name", "space", "net", "memory", "kvm" };
	for (size_t i = 0; i < ARRAY_LEN(areas); i++) {
		if (strcmp(areas[i], area) == 0) {
			return true;
		}
	}
	return false;
}

/* Every byte is read, and the host is asked. *ret_bad: owned; NULL: nothing stands against it. */
static struct err *look_at(const struct keeper *k, const char *ref, struct err **ret_bad)
{
	SCOPE(words_donep) struct opt_words w = { .n = 0 };
	const char *const words[] = { "restore", ref,    "--check", "--json",
				      "--clock", "jump", "--store", k->s->store_dir };
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		TRY(opt_words_add(&w, "%s", words[i]));
	}
	int status = 0;
	SCOPE(json_put) json_t *answer = NULL;
	TRY(child_run(&w, -1, &status, &answer));
	const json_t *findings = json_object_get(answer, "findings");
	ENSURE(json_is_array(findings), ERR_SYS, "checking %s: the check ended with status %d", ref,
	       status);
	for (size_t i = 0; i < json_array_size(findings); i++) {
		const json_t *f = json_array_get(findings, i);
		const char *area = json_string_value(json_object_get(f, "area"));
		const char *text = json_string_value(json_object_get(f, "finding"));
		ENSURE(!of_the_host(area), ERR_NOT_NOW, "%s: %s", ref, text);
	}
	if (json_array_size(findings) > 0) {
		const char *text =
			json_string_value(json_object_get(json_array_get(findings, 0), "finding"));
		size_t more = json_array_size(findings) - 1;
		*ret_bad = more == 0 ? ERR(ERR_CORRUPT, "%s", text)
				     : ERR(ERR_CORRUPT, "%s (and %zu more)", text, more);
	}
	return NULL;
}

static struct err *restore(struct keeper *k, const char *ref, uint64_t number)
{
	SCOPE(words_donep) struct opt_words w = { .n = 0 };
	const char *const words[] = { "restore", ref, "--clock", "jump" };
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		TRY(opt_words_add(&w, "%s", words[i]));
	}
	k->g.r.used = number;
	TRY(note(k, note_tried, k));
	TRY(start_vm(k, &w, false));
	json_object_set_new(k->answer, "from", json_string(ref));
	json_object_set_new(k->answer, "number", json_integer((json_int_t)number));
	return NULL;
}

/* The fence, see guest_start.h. */
static bool used_already(const struct keeper *k, uint64_t number)
{
	const struct guest_record *r = &k->g.r;
	return k->automatic && r->used == number && r->lived != 0 &&
	       strcmp(r->used_host, k->host) == 0 &&
	       (r->state == GUEST_RUNNING || r->state == GUEST_FAILED);
}

static void tell_loss(struct keeper *k, const struct snap_info *newest,
		      const struct snap_info *used, bool clean)
{
	char when[24];
	uint64_t behind = newest->frozen_at_ns > used->frozen_at_ns
				  ? newest->frozen_at_ns - used->frozen_at_ns
				  : 0;
	json_object_set_new(k->answer, "frozen_at_ns",
			    json_integer((json_int_t)used->frozen_at_ns));
	json_object_set_new(k->answer, "clean", json_boolean(clean));
	json_object_set_new(k->answer, "behind_ns", json_integer((json_int_t)behind));
	if (used != newest) {
		report(k,
		       "it goes on from generation %llu of %s, %.1f s before the newest one: "
		       "what it did after that is lost",
		       (unsigned long long)used->number, out_time(used->frozen_at_ns, when),
		       (double)behind / 1e9);
	}
}

/* From the newest to the oldest. *ret_up false: there is none that can be used. */
static struct err *go_back(struct keeper *k, const struct generations *g, bool *ret_up)
{
	for (size_t i = g->n; i > 0; i--) {
		const struct snap_info *in = &g->snap[i - 1];
		char ref[STORECMD_REF_BYTES];
		snprintf(ref, sizeof(ref), "%s@%llu", k->s->name, (unsigned long long)in->number);
		struct err *bad = NULL;
		bool clean = k->g.r.state == GUEST_SAVED && k->g.r.clean == in->number;
		if (!clean || strcmp(k->g.p.verify, "always") == 0) {
			TRY(look_at(k, ref, &bad));
		}
		/* Only of one that is sound: damage may be why its run did not end well. */
		ENSURE(bad != NULL || !used_already(k, in->number), ERR_NOT_NOW,
		       "generation %llu was brought back already on this boot of the host, and "
		       "its run did not end well: 'torpor start %s' does it by hand",
		       (unsigned long long)in->number, k->s->name);
		if (bad == NULL) {
			struct err *e = restore(k, ref, in->number);
			if (e == NULL) {
				tell_loss(k, &g->snap[g->n - 1], in, clean);
				*ret_up = true;
				return NULL;
			}
			if (err_class(e) == ERR_CORRUPT || err_class(e) == ERR_INCOMPAT) {
				bad = MOVE(e);
			} else if (err_class(e) == ERR_SYS) {
				/* Only a look at every byte tells damage from the host's trouble.
				 */
				e = err_first(look_at(k, ref, &bad), e);
			}
			if (bad == NULL) {
				return e;
			}
			err_free(e);
		}
		report(k, "generation %llu cannot be used, and is kept: %.300s",
		       (unsigned long long)in->number, err_msg(bad));
		err_free(bad);
		SCOPE(store_closep) struct store *s = NULL;
		TRY(open_store(k, &s));
		err_drop(pin(s, g, in), "a record that cannot be changed is not removed either");
	}
	return NULL;
}

static struct err *fresh_again(struct keeper *k)
{
	struct guest_record *r = &k->g.r;
	uint64_t now = clock_real_ns();
	if (now - r->again_ns > AGAIN_NS) {
		r->again = 0;
		r->again_ns = now;
	}
	ENSURE(r->again < AGAIN_MAX, ERR_NOT_NOW,
	       "booted anew %d times within %llu minutes: it is left as it is", AGAIN_MAX,
	       AGAIN_NS / 60000000000ull);
	r->again++;
	return boot(k);
}

/* Decides and does it; the start lock is held. */
static struct err *bring_up(struct keeper *k, enum how how)
{
	SCOPE(generations_done) struct generations gens = { .n = 0 };
	{
		SCOPE(store_closep) struct store *s = NULL;
		TRY(open_store(k, &s));
		guest_done(&k->g);
		TRY(guest_load(s, k->s->name, &k->g));
		TRY(list_generations(s, k->s->name, &gens));
	}
	if (how == BY_POLICY_RESTART) {
		return fresh_again(k);
	}
	if (strcmp(k->g.p.fresh, "always") == 0 || k->g.r.state == GUEST_OFF) {
		return boot(k);
	}
	bool up = false;
	if (gens.damage[0] != 0) {
		report(k, "a generation cannot even be listed, it may be the newest: %s",
		       gens.damage);
	}
	TRY(go_back(k, &gens, &up));
	if (up) {
		return NULL;
	}
	bool lost = gens.n > 0 || gens.damage[0] != 0;
	ENSURE(!lost || strcmp(k->g.p.fresh, "lost") == 0, ERR_CORRUPT,
	       "none of its %zu generations can be used; they are kept. With 'torpor edit %s "
	       "--fresh lost' it is booted instead",
	       gens.n, k->s->name);
	if (lost) {
		report(k, "none of its generations can be used: it is booted, all is lost that it "
			  "had not written to its disks");
	}
	return boot(k);
}

/* With the fences, and the outcome noted. */
static struct err *bring_up_noted(struct keeper *k, enum how how)
{
	k->report[0] = 0;
	struct err *e = bring_up(k, how);
	if (e == NULL) {
		if (k->report[0] != 0) {
			json_object_set_new(k->answer, "report", json_string(k->report));
		}
		return note(k, note_lives, k);
	}
	if (err_class(e) != ERR_NOTFOUND) {
		size_t n = strlen(k->report);
		snprintf(k->report + n, sizeof(k->report) - n, "%s%s", n > 0 ? "; " : "",
			 err_msg(e));
		err_drop(note(k, note_report, k), "the error itself is told");
	}
	return err_wrap(e, "guest '%s'", k->s->name);
}

/* ---- fences ---- */

static struct err *try_start_lock(struct keeper *k, bool *ret_got)
{
	char dir[PATH_MAX - 128];
	char path[PATH_MAX];
	TRY(rundir_path(dir, sizeof(dir)));
	snprintf(path, sizeof(path), "%s/%s.start", dir, k->s->name);
	SCOPE(fd_close) struct fd f = FD_NONE;
	TRY(io_open(path, O_RDWR | O_CREAT, 0600, &f));
	TRY(io_try_lock(f.n, ret_got));
	if (*ret_got) {
		k->lock = fd_move(&f);
	}
	return NULL;
}

/* Where nobody asked for this guest in particular, whoever starts it already is waited for. */
static struct err *take_start_lock(struct keeper *k)
{
	bool got = false;
	uint64_t end = clock_mono_ns() + START_WAIT_NS;
	for (;;) {
		TRY(try_start_lock(k, &got));
		if (got || !k->automatic || clock_mono_ns() > end) {
			break;
		}
		nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
	}
	ENSURE(got, ERR_NOT_NOW, "guest '%s' is just being started by somebody else", k->s->name);
	struct rundir_vm vm;
	bool lives = false;
	TRY(rundir_find(k->s->name, &lives, &vm));
	if (lives && k->automatic && !k->s->foreground) {
		k->answer =
			json_pack("{s:s,s:i,s:b}", "name", k->s->name, "pid", vm.pid, "already", 1);
		return NULL;
	}
	ENSURE(!lives, ERR_NOT_NOW, "guest '%s' is already running (pid %d)", k->s->name, vm.pid);
	return NULL;
}

/* ---- looking after it ---- */

/* "READY=1" to systemd, if it asked for that. A datagram to a path or an abstract name. */
static void tell_systemd(const char *text)
{
	const char *where = getenv("NOTIFY_SOCKET");
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	if (where == NULL || (where[0] != '/' && where[0] != '@') ||
	    strlen(where) >= sizeof(addr.sun_path)) {
		return;
	}
	memcpy(addr.sun_path, where, strlen(where));
	addr.sun_path[0] = where[0] == '@' ? 0 : where[0];
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(where));
	SCOPE(fd_close) struct fd f = { socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) };
	if (f.n < 0 || sendto(f.n, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&addr,
			      len) < 0) {
		LOG_W("telling systemd that the guest runs: %s", strerror(errno));
	}
}

/* Reads what the VM says at its end; *ret_signal: somebody asks us to end before. */
static struct err *wait_end(const struct keeper *k, int signals, bool *ret_signal, char **ret_text)
{
	SCOPE(freep) char *text = calloc(1, END_BYTES_MAX + 1);
	ENSURE(text != NULL, ERR_SYS, "out of memory");
	size_t len = 0;
	for (;;) {
		struct pollfd p[2] = { { .fd = k->end.n, .events = POLLIN },
				       { .fd = signals, .events = POLLIN } };
		if (poll(p, 2, -1) < 0 && errno != EINTR) {
			return ERR_ERRNO("waiting for the guest's end");
		}
		if (p[0].revents != 0) {
			ssize_t n = read(k->end.n, text + len, END_BYTES_MAX - len);
			len += n > 0 ? (size_t)n : 0;
			if (n == 0 || (n < 0 && errno != EINTR)) {
				*ret_text = MOVE(text);
				return NULL;
			}
		} else if (p[1].revents != 0) {
			*ret_signal = true;
			return NULL;
		}
	}
}

/* What the policy says to that end; state is what is noted. */
static const char *answer_to(const struct guest *g, const char *end, enum guest_state *ret_state)
{
	static const struct {
		const char *end;
		enum guest_state state;
		size_t policy; /* 0: none */
	} rows[] = {
		{ "poweroff", GUEST_OFF, 0 },
		{ "reset", GUEST_OFF, 0 },
		{ "exit", GUEST_OFF, 0 },
		{ "stopped", GUEST_STOPPED, 0 },
		{ "panic", GUEST_FAILED, offsetof(struct guest_policy, on_panic) },
		{ "watchdog", GUEST_FAILED, offsetof(struct guest_policy, on_hang) },
	};
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		if (strcmp(rows[i].end, end) == 0) {
			const char *policy = "report";
			if (rows[i].policy != 0) {
				memcpy(&policy, (const char *)&g->p + rows[i].policy,
				       sizeof(policy));
			}
			*ret_state = rows[i].state;
			return policy;
		}
	}
	*ret_state = GUEST_FAILED; /* crash, error, or its process was killed */
	return g->p.on_crash;
}

/* The run that ended with `text`. *ret_up: the guest lives again. */
static struct err *after_end(struct keeper *k, const char *text, bool *ret_up, int *ret_status)
{
	SCOPE(json_put) json_t *j = json_loads(text, 0, NULL);
	const char *end = json_string_value(json_object_get(j, "end"));
	const char *why = json_string_value(json_object_get(j, "report"));
	struct ended ended = { .end = end != NULL ? end : "killed",
			       .report = why != NULL ? why : "" };
	const char *policy = answer_to(&k->g, ended.end, &ended.state);
	*ret_status = end != NULL ? (int)json_integer_value(json_object_get(j, "status")) : 33;
	TRY(note(k, note_ended, &ended));
	*ret_up = false;
	if (ended.state != GUEST_FAILED) {
		return NULL;
	}
	LOG_E("guest '%s' ended: %s; its policy: %s", k->s->name, ended.end, policy);
	if (strcmp(policy, "report") == 0) {
		return NULL;
	}
	k->automatic = false; /* who has started it meanwhile has won: that is told */
	TRY(take_start_lock(k));
	k->automatic = true;
	struct err *e = bring_up_noted(k, strcmp(policy, "rewind") == 0 ? BY_POLICY_REWIND
									: BY_POLICY_RESTART);
	fd_close(&k->lock);
	*ret_up = e == NULL;
	return e;
}

/* SIGTERM: the guest is saved and ends. If it cannot be saved it goes on. */
static void save(const struct keeper *k)
{
	struct guest_saved saved;
	struct err *e = guest_save(k->s->store_dir, k->s->name,
				   clock_mono_ns() + SAVE_S * 1000000000ull, NULL, &saved);
	if (e != NULL) {
		log_err(err_wrap(e, "saving at SIGTERM"));
	}
}

static struct err *open_signals(struct fd *ret)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	if (sigprocmask(SIG_BLOCK, &set, NULL) != 0) {
		return ERR_ERRNO("blocking signals");
	}
	*ret = (struct fd){ signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK) };
	return ret->n >= 0 ? NULL : ERR_ERRNO("making a descriptor for signals");
}

static struct err *look_after(struct keeper *k, int signals, int *ret_status)
{
	bool up = true;
	while (up) {
		SCOPE(freep) char *text = NULL;
		bool asked = false;
		TRY(wait_end(k, signals, &asked, &text));
		if (asked) {
			struct signalfd_siginfo info;
			(void)!read(signals, &info, sizeof(info));
			save(k);
			continue;
		}
		TRY(after_end(k, text, &up, ret_status));
	}
	return NULL;
}

/* ---- the process that looks after the guest ---- */

static UNUSED void keeper_donep(struct keeper *k)
{
	fd_close(&k->lock);
	fd_close(&k->end);
	guest_done(&k->g);
	json_decref(k->answer);
}

/* tell: the starter waits there; none in the foreground. */
static struct err *keep(struct keeper *k, struct fd *tell, int *ret_status)
{
	SCOPE(fd_close) struct fd signals = FD_NONE;
	TRY(guest_host(k->host));
	struct err *e = bring_up_noted(k, AS_IT_IS);
	fd_close(&k->lock);
	TRY(e);
	SCOPE(freep) char *text = json_dumps(k->answer, JSON_COMPACT);
	detach_tell_ok(tell, text != NULL ? text : "{}");
	tell_systemd("READY=1");
	TRY(open_signals(&signals));
	return look_after(k, signals.n, ret_status);
}

static struct err *tell_up(const struct guest_start *s, const char *text)
{
	SCOPE(json_put) json_t *j = json_loads(text, 0, NULL);
	const char *from = json_string_value(json_object_get(j, "from"));
	const char *loss = json_string_value(json_object_get(j, "report"));
	if (loss != NULL) {
		LOG_W("guest '%s': %s", s->name, loss);
	}
	if (s->json) {
		return out_json(json_incref(j));
	}
	printf("%s: up from %s\n", s->name, from != NULL ? from : "?");
	return NULL;
}

static struct err *keep_behind(struct keeper *k, int *ret_status)
{
	char dir[PATH_MAX - 128];
	char log_path[PATH_MAX];
	bool parent = false;
	SCOPE(fd_close) struct fd tell = FD_NONE;
	SCOPE(freep) char *text = NULL;
	TRY(rundir_path(dir, sizeof(dir)));
	snprintf(log_path, sizeof(log_path), "%s/%s%s", dir, k->s->name, log_suffix);
	TRY(detach_split(&k->lock.n, 1, &parent, &tell, &text));
	if (parent) {
		return tell_up(k->s, text);
	}
	struct err *e = detach_log_to(log_path);
	if (e == NULL) {
		e = keep(k, &tell, ret_status);
	}
	if (e != NULL && tell.n >= 0) {
		detach_tell_error(&tell, e);
	}
	struct stat st;
	if (e == NULL && fstat(STDERR_FILENO, &st) == 0 && st.st_size == 0) {
		(void)unlink(log_path);
	}
	return e;
}

struct err *guest_start(const struct guest_start *s, int *ret_status)
{
	SCOPE(keeper_donep)
	struct keeper k = {
		.s = s,
		.lock = FD_NONE,
		.end = FD_NONE,
		.automatic = s->automatic,
	};
	{
		/* What is no guest is told by whoever asked, not by a log. */
		SCOPE(store_closep) struct store *store = NULL;
		TRY(open_store(&k, &store));
		TRY(guest_load(store, s->name, &k.g));
	}
	TRY(take_start_lock(&k));
	if (k.answer != NULL) { /* it lives: nothing is left to do */
		return s->json ? out_json(MOVE(k.answer)) : NULL;
	}
	return s->foreground ? keep(&k, &(struct fd){ -1 }, ret_status)
			     : keep_behind(&k, ret_status);
}
