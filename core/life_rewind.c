/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rewind: a living VM goes back to a snapshot of its family, in its process. See life.h;
 * docs/decisions/0016-rewind.md has the reasons. A job as a take is one (life_take.c).
 *
 * On the job's thread, the guest running: the snapshot is opened, decoded and compared with the VM,
 * missing memory is brought in. Then the safety take, after which the VM stays frozen, and the
 * pages that differ are read and verified. On the main loop: the machine is freed, another one is
 * built over the same memory and given the snapshot's state.
 *
 * R1: what memory differs in from the safety snapshot, from its freeze to the load, is in the set
 * of changed pages: KVM's log and gmem's marks are collected each time a machine goes. R2: until
 * the machine is freed nothing has changed: any error thaws the VM. After that any error loads the
 * safety snapshot, by the same steps and R1. R3: captured disks get a new layer over the target's
 * blocks; the one they had stays until the end, and is what the safety snapshot holds.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/life_internal.h"
#include "snapshot/pages.h"

#define REWIND_TAG_PREFIX CHECKPOINT_TAG_PREFIX "rewind-"

/* ---- may it be? ---- */

/* Where a disk lies on the host is not the guest's business. */
static json_t *shown_devices(const struct config *c)
{
	struct config_devs devs = c->devs;
	for (unsigned i = 0; i < devs.n; i++) {
		devs.d[i].path[0] = 0;
	}
	return config_devs_json(&devs);
}

static struct err *check_devices(const struct config *then, const struct config *now)
{
	json_t *a = shown_devices(then);
	json_t *b = shown_devices(now);
	bool same = a != NULL && b != NULL && json_equal(a, b);
	same = same && then->battery == now->battery && then->vmgenid == now->vmgenid &&
	       then->exit_device == now->exit_device && then->gpe_methods == now->gpe_methods;
	json_decref(a);
	json_decref(b);
	ENSURE(same, ERR_INCOMPAT, "it has other devices than '%s': restore it instead", now->name);
	return NULL;
}

/* The machine that is built is the VM's own. */
static struct err *check_config(const struct config *then, const struct config *now)
{
	ENSURE(then->mem_bytes == now->mem_bytes, ERR_INCOMPAT,
	       "it has %llu MiB of memory, '%s' has %llu: restore it instead",
	       (unsigned long long)(then->mem_bytes / MIB), now->name,
	       (unsigned long long)(now->mem_bytes / MIB));
	ENSURE(then->ncpus == now->ncpus && strcmp(then->cpu_model, now->cpu_model) == 0,
	       ERR_INCOMPAT,
	       "it has %u CPUs of model %s, '%s' has %u of model %s: restore it "
	       "instead",
	       then->ncpus, then->cpu_model, now->name, now->ncpus, now->cpu_model);
	ENSURE(then->has_initrd == now->has_initrd && strcmp(then->cmdline, now->cmdline) == 0,
	       ERR_INCOMPAT, "it was booted in another way than '%s': restore it instead",
	       now->name);
	return check_devices(then, now);
}

static struct err *check_same_vm(const struct life *l, const struct snap_image *img)
{
	const struct bytes text = snap_image_config(img);
	ENSURE(memcmp(snap_image_vm(img)->family, l->config.family, sizeof(l->config.family)) == 0,
	       ERR_INCOMPAT,
	       "it is of another family than '%s', which can only go back to what it or its clones "
	       "were: restore it instead",
	       l->config.name);
	SCOPE(config_done) struct config then = { 0 };
	TRY(config_parse(text.p, text.len, &then));
	return check_config(&then, &l->config);
}

/* ---- on the job's thread ---- */

static struct err *open_target(struct take_job *job)
{
	struct life *l = job->life;
	struct rewind *rw = job->rewind;
	size_t n;
	if (l->store == NULL) {
		TRY(store_open(l->store_dir, STORE_WRITE, &l->store));
	}
	TRY(snap_image_open(l->store, rw->ref, &rw->to));
	TRY(err_wrap(check_same_vm(l, rw->to), "snapshot %s", rw->ref));
	TRY(err_wrap(snap_image_compat(rw->to, &l->host), "snapshot %s", rw->ref));
	struct snap_part *const *parts = machine_parts(l->machine, &n);
	return snap_image_check(rw->to, l->gmem, parts, n);
}

static struct err *open_safety(struct take_job *job)
{
	const struct life *l = job->life;
	struct rewind *rw = job->rewind;
	char ref[REF_BYTES_MAX + 1];
	snprintf(ref, sizeof(ref), "%s@%llu", l->config.name,
		 (unsigned long long)job->result.number);
	TRY(snap_image_open(l->store, ref, &rw->safe));
	/* Somebody else may hold the name by now. */
	ENSURE(snap_image_info(rw->safe)->id == job->result.snap_id, ERR_NOT_NOW,
	       "the name '%s' has gone over to another VM", l->config.name);
	return NULL;
}

static void show(void *arg, const char *step, uint64_t done, uint64_t total)
{
	struct take_job *job = arg;
	LOCK_SCOPE(&job->lock);
	snprintf(job->step, sizeof(job->step), "%s", step);
	job->n_done = done;
	job->n_total = total;
}

struct err *life_rewind_job(struct take_job *job)
{
	struct life *l = job->life;
	struct rewind *rw = job->rewind;
	const struct snap_progress progress = { .fn = show, .arg = job };
	uint64_t differ = 0;
	TRY(open_target(job));
	TRY(err_wrap(life_swap_bring_in(job), "bringing in the memory that is not there"));
	TRY(life_job_take(job));
	TRY(open_safety(job));
	return snap_image_check_diff(rw->to, rw->safe, l->gmem, &progress, &differ);
}

/* ---- on the main loop ---- */

/* What the machine and its devices have written (R1). All pages, if that cannot be known. */
static void collect(struct life *l, struct pages_set *changed)
{
	const struct snap_vm vm = { .dirty = &dirty_ops, .dirty_self = l->dirty };
	uint64_t base;
	struct err *e = dirty_ops.begin(l->dirty, &base);
	e = e != NULL ? e : pages_fetch(&vm, changed);
	if (e != NULL) {
		log_err(err_wrap(e, "which pages have changed: all are written"));
		pages_set_fill(changed);
	}
}

static struct err *free_machine(struct life *l, struct pages_set *changed)
{
	if (l->machine != NULL) {
		ENSURE(machine_stop(l->machine, END_MS), ERR_NOT_NOW,
		       "a vCPU waits for a page of its memory, which does not come");
		collect(l, changed);
	}
	dirty_detach(l->dirty);
	machine_free(MOVE(l->machine));
	/* Devices may have finished something while they were freed. */
	for (unsigned i = 0; i < changed->n; i++) {
		gmem_fetch_dirty(l->gmem, i, changed->r[i].bits);
	}
	return NULL;
}

/* A machine with the state of `img`, running as ev says. Memory is `present`'s but for `changed`.
 */
static struct err *load_and_start(struct life *l, struct snap_image *img,
				  struct snap_image *present, const struct pages_set *changed,
				  enum life_event ev, uint64_t *ret_written)
{
	size_t n;
	TRY(life_build_machine(l, true));
	struct snap_part *const *parts = machine_parts(l->machine, &n);
	struct kvm_state *kvm = machine_kvm_state(l->machine);
	kvm_state_set_clock_policy(kvm, CLOCK_CONTINUE);
	const struct snap_load_opts lo = {
		.present = present,
		.changed = changed,
		.ret_written = ret_written,
	};
	TRY(snap_image_load(img, l->gmem, parts, n, &lo));
	dirty_set_base(l->dirty, snap_image_info(img)->id);
	TRY(kvm_state_clock_hold(kvm));
	TRY(life_start_as(l, ev));
	l->parent = snap_image_info(img)->id;
	return NULL;
}

/* A later reset starts what the snapshot holds, not what was booted. */
static void adopt_image(struct life *l, struct rewind *rw)
{
	fd_close(&l->kernel);
	fd_close(&l->initrd);
	life_wset_end(l); /* it reads the image */
	snap_image_free(l->image);
	l->image = MOVE(rw->to);
}

static void fill_result(struct take_job *job, uint64_t written)
{
	struct rewind *rw = job->rewind;
	uint64_t now = clock_mono_ns();
	rw->result = (struct life_rewound){
		.ref = rw->ref,
		.number = snap_image_info(rw->to)->number,
		.safety_tag = job->tag,
		.safety_number = job->result.number,
		.pages_written = written,
		.stopped_us = job->from == LIFE_RUNNING ? (now - job->froze_ns) / 1000 : 0,
		.elapsed_us = (now - rw->begun_ns) / 1000,
	};
}

/* The VM as it was at its freeze. */
static struct err *go_back(struct take_job *job, struct pages_set *changed, enum life_event ev,
			   struct err *why)
{
	struct life *l = job->life;
	uint64_t written = 0;
	struct err *e = free_machine(l, changed);
	if (e == NULL) {
		life_disks_rewind_undo(l);
		e = load_and_start(l, job->rewind->safe, job->rewind->to, changed, ev, &written);
	}
	if (e == NULL) {
		return err_wrap(why,
				"the rewind failed half-way, and the VM goes on from where it was "
				"(%s@%s)",
				l->config.name, job->tag);
	}
	job->rewind->lost = true;
	log_err(err_wrap(e, "going back to %s@%s after a rewind that failed", l->config.name,
			 job->tag));
	return err_wrap(why,
			"the rewind failed half-way, and so did the way back: the VM ends, and "
			"'torpor restore %s@%s' is what it was",
			l->config.name, job->tag);
}

struct err *life_rewind_commit(struct take_job *job)
{
	struct life *l = job->life;
	struct rewind *rw = job->rewind;
	enum life_event ev = life_same_state(l);
	uint64_t written = 0;
	SCOPE(pages_set_done) struct pages_set changed = { 0 };
	struct err *e = pages_set_init(&changed, l->gmem);
	if (e == NULL) {
		e = life_move(l, LIFE_EV_RESET);
	}
	if (e != NULL) {
		life_job_thaw(job);
		return e;
	}
	job->froze = false; /* what was frozen goes away */
	e = free_machine(l, &changed);
	if (e == NULL) {
		life_wset_store(l);
		swap_reset(l->swap);        /* nothing is out, and what is staged is there */
		pager_free(MOVE(l->pager)); /* complete: nothing is missing */
		e = life_disks_rewind(l, rw->to);
	}
	if (e == NULL) {
		e = load_and_start(l, rw->to, rw->safe, &changed, ev, &written);
	}
	l->ran = true;
	if (e != NULL) {
		return go_back(job, &changed, ev, e);
	}
	fill_result(job, written);
	life_disks_rewind_done(l); /* they read the old image until now */
	adopt_image(l, rw);
	return NULL;
}

/* ---- begin and end ---- */

/* "auto-rewind-20261122T175501.123Z": sorts by time. */
static void make_tag(char *ret_tag, size_t len)
{
	uint64_t now = clock_real_ns();
	time_t s = (time_t)(now / 1000000000u);
	struct tm tm;
	char text[32];
	gmtime_r(&s, &tm);
	BUG_ON(strftime(text, sizeof(text), "%Y%m%dT%H%M%S", &tm) == 0);
	snprintf(ret_tag, len, REWIND_TAG_PREFIX "%s.%03uZ", text,
		 (unsigned)(now / 1000000 % 1000));
}

struct err *life_rewind(struct life *l, const char *ref, life_rewind_done_fn *done, void *arg)
{
	char tag[NAME_BYTES_MAX + 1];
	ENSURE(strlen(ref) <= REF_BYTES_MAX, ERR_USAGE, "'%.40s...' is too long for a snapshot",
	       ref);
	TRY(life_check_may_take(l));
	make_tag(tag, sizeof(tag));
	struct rewind *rw = calloc(1, sizeof(*rw));
	ENSURE(rw != NULL, ERR_SYS, "out of memory");
	struct take_job *job = NULL;
	struct err *e = life_job_new(l, tag, arg, &job);
	if (e != NULL) {
		free(rw);
		return e;
	}
	snprintf(rw->ref, sizeof(rw->ref), "%s", ref);
	rw->done = done;
	rw->begun_ns = clock_mono_ns();
	job->rewind = rw;
	job->stay = true;
	return life_job_submit(job);
}

void life_rewind_answer(struct take_job *job, struct err *e)
{
	struct rewind *rw = job->rewind;
	const struct life_news news = {
		.kind = e == NULL ? NEWS_REWOUND : NEWS_REWIND_FAILED,
		.ref = rw->ref,
		.e = e,
		.rewound = e == NULL ? &rw->result : NULL,
	};
	life_tell(job->life, &news);
	rw->done(job->arg, e, news.rewound);
}

void life_rewind_free(struct rewind *rw)
{
	if (rw != NULL) {
		snap_image_free(rw->to);
		snap_image_free(rw->safe);
		free(rw);
	}
}
