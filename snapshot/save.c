/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes one snapshot. Called by core on the thread of the take; docs/snapshot.md tells the steps.
 *
 * Everything that can be refused is refused before the freeze. The memory of a guest that runs is
 * copied beside it (live.h); it stands still for its state and the last changed pages, and the work
 * of that is done by the thread that came to stand still last. Only then is the rest written and
 * published. struct take holds what was done, and take_done undoes exactly that, so every error
 * path is one return.
 */
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "snapshot/disks.h"
#include "snapshot/keep.h"
#include "snapshot/live.h"
#include "snapshot/manifest.h"
#include "snapshot/pages.h"
#include "snapshot/quiesce.h"

struct take {
	struct store *store;
	const struct snap_vm *vm;
	const struct snap_take_opts *opts;
	const char *tag; /* never NULL */
	uint64_t started_mono_ns;
	struct manifest *manifest;
	struct family *family;
	bool made_family; /* remove it again on failure */
	struct keep_plan plan;
	struct disks_take disks;
	struct session *session;
	struct quiesce quiesce;
	bool track;           /* changes are known: set is there */
	struct pages_set set; /* pages to be read */
	uint64_t base;        /* the map of memory starts from this snapshot's; 0: from nothing */
	struct live *live;    /* of a VM that runs */
	struct err *work_err; /* of what was done in the pause */
	uint64_t worked_ns;   /* when that was done; CLOCK_MONOTONIC */
	struct snap_result res;
	struct wbuf records; /* all part records, one behind the other */
	size_t *record_end;  /* end of record i in records */
	/* Catalog row as it is to be, and what stood there before. */
	bool registered; /* undo on failure */
	bool had_row, had_holder;
	struct store_vm row, old_row, old_holder;
	bool published;
};

/* Puts the catalog back: a take that failed leaves no trace. */
static void unregister(struct take *t)
{
	struct err *e = t->had_row ? store_vm_put(t->store, &t->old_row)
				   : store_vm_forget(t->store, t->vm->uuid);
	if (e == NULL && t->had_holder) {
		e = store_vm_put(t->store, &t->old_holder);
	}
	if (e != NULL) {
		err_drop(e, "a row without snapshots lists nothing; the first error is told");
	}
}

static void take_done(struct take *t)
{
	quiesce_done(&t->quiesce);
	session_free(t->session);
	disks_end(&t->disks, 0);
	/* After the session: its compressors read the buffer. */
	live_free(t->live);
	pages_set_done(&t->set);
	err_free(t->work_err);
	if (!t->published && t->registered) {
		unregister(t);
	}
	family_close(t->family);
	if (!t->published && t->made_family) {
		struct err *e = family_remove_empty(t->store, t->vm->family);
		if (e != NULL) {
			err_drop(e, "an empty family is found by the next collection");
		}
	}
	wbuf_done(&t->records);
	free(t->record_end);
	free(t->manifest);
}

/* ---- before the freeze ---- */

static struct err *check_tag(struct take *t)
{
	size_t len = strlen(t->tag);
	ENSURE(len <= NAME_BYTES_MAX, ERR_USAGE, "tag of %zu bytes, at most %u are possible", len,
	       NAME_BYTES_MAX);
	if (len == 0) {
		return NULL;
	}
	ENSURE(strspn(t->tag, "0123456789") != len, ERR_USAGE,
	       "tag %s: a tag of digits alone would read as a number", t->tag);
	SCOPE(freep) struct snap_info *infos = NULL;
	size_t n = 0;
	TRY(family_snaps(t->family, &infos, &n));
	for (size_t i = 0; i < n; i++) {
		ENSURE(memcmp(infos[i].vm, t->vm->uuid, sizeof(infos[i].vm)) != 0 ||
			       strcmp(infos[i].tag, t->tag) != 0,
		       ERR_NOT_NOW, "%s has a snapshot with tag %s already (number %llu)",
		       t->vm->name, t->tag, (unsigned long long)infos[i].number);
	}
	return NULL;
}

/* Reads the catalog; the row itself is written just before the publish. */
static struct err *look_up(struct take *t)
{
	const struct snap_vm *vm = t->vm;
	ENSURE(strlen(vm->name) >= 1 && strlen(vm->name) <= NAME_BYTES_MAX, ERR_USAGE,
	       "VM name of %zu bytes, 1..%u are possible", strlen(vm->name), NAME_BYTES_MAX);
	TRY(store_vm_by_uuid(t->store, vm->uuid, &t->had_row, &t->old_row));
	ENSURE(!t->had_row || memcmp(t->old_row.family, vm->family, sizeof(vm->family)) == 0,
	       ERR_CORRUPT, "the store's catalog has %s in another family", vm->name);
	TRY(store_vm_by_name(t->store, vm->name, &t->had_holder, &t->old_holder));
	if (t->had_holder && memcmp(t->old_holder.uuid, vm->uuid, sizeof(vm->uuid)) == 0) {
		t->had_holder = false; /* it is this VM's own row */
	}
	memcpy(t->row.uuid, vm->uuid, sizeof(t->row.uuid));
	memcpy(t->row.family, vm->family, sizeof(t->row.family));
	memcpy(t->row.name, vm->name, strlen(vm->name) + 1);
	t->row.holds_name = true;
	t->row.created_ns = t->had_row ? t->old_row.created_ns : clock_real_ns();
	return NULL;
}

static struct err *open_family(struct take *t)
{
	struct err *e = family_open(t->store, t->vm->family, false, &t->family);
	if (e == NULL || err_class(e) != ERR_NOTFOUND) {
		return e;
	}
	err_drop(e, "first snapshot of the family");
	TRY(family_open(t->store, t->vm->family, true, &t->family));
	t->made_family = true;
	return NULL;
}

/* The map of memory, from what the VM is known to equal, where that is still there. */
static struct err *begin_memory(struct take *t)
{
	static const uint8_t no_user[32] = { 0 };
	uint64_t bytes = gmem_gfn_end(t->vm->gmem) * PAGE_BYTES;
	struct map_opts o = { .base = t->base, .rounds = t->vm->ops->freeze_and != NULL };
	struct err *e = session_map_begin_as(t->session, "memory", bytes, no_user, &o);
	if (e != NULL && o.base != 0 && err_class(e) == ERR_NOTFOUND && !t->vm->partial) {
		err_drop(e, "the base was removed: everything is stored again");
		t->base = o.base = 0;
		e = session_map_begin_as(t->session, "memory", bytes, no_user, &o);
	}
	return e;
}

static struct err *open_session(struct take *t)
{
	const struct snap_vm *vm = t->vm;
	struct session_opts opts = { .expect_bytes = t->plan.write_bytes };
	uint64_t allocated = 0;
	TRY(gmem_allocated(vm->gmem, &allocated));
	if (vm->dirty != NULL) {
		TRY(pages_set_init(&t->set, vm->gmem));
		TRY(vm->dirty->begin(vm->dirty_self, &t->base));
		t->track = true;
	}
	/* How much changed is not known yet; a disk that fills up is told of by the writer. */
	opts.expect_bytes += t->base == 0 ? allocated : 0;
	TRY(session_open(t->family, &opts, &t->session));
	TRY(keep_write(&t->plan, t->session, t->manifest, t->opts->cancel, &t->opts->progress));
	return begin_memory(t);
}

static struct err *prepare(struct take *t)
{
	const struct snap_vm *vm = t->vm;
	struct manifest *m = t->manifest = calloc(1, sizeof(*m));
	t->record_end = calloc(vm->nparts, sizeof(*t->record_end));
	ENSURE(m != NULL && t->record_end != NULL, ERR_SYS, "out of memory");
	t->records = wbuf_make((size_t)(vm->nparts * PART_BYTES_MAX));
	TRY(quiesce_init(&t->quiesce, vm));
	ENSURE(vm->config.len > 0 && vm->config.len <= BLOB_BYTES_MAX, ERR_LIMIT,
	       "configuration of %zu bytes, 1..%llu are possible", vm->config.len, BLOB_BYTES_MAX);
	TRY(look_up(t));
	TRY(open_family(t));
	TRY(check_tag(t));
	manifest_text(m->torpor, sizeof(m->torpor), TORPOR_VERSION);
	manifest_text(m->vm_name, sizeof(m->vm_name), vm->name);
	manifest_set_regions(m, vm->gmem);
	TRY(keep_plan(t->family, vm, t->opts->cancel, m, &t->plan));
	TRY(disks_begin(&t->disks, vm, m));
	TRY(open_session(t));
	return pages_check_cancel(t->opts->cancel);
}

/* Which pages are to be read; also where all are, so that the next take finds what changes now. */
static struct err *fetch_set(struct take *t)
{
	if (!t->track) {
		return NULL;
	}
	TRY(pages_fetch(t->vm, &t->set));
	if (t->base == 0) {
		pages_set_fill(&t->set);
	}
	return NULL;
}

/* ---- a guest that stands still anyway ---- */

static struct err *take_frozen(struct take *t)
{
	TRY(quiesce_begin(&t->quiesce));
	manifest_set_host(t->manifest, t->vm);
	disks_freeze(&t->disks);
	struct err *e = fetch_set(t);
	if (e == NULL) {
		e = pages_save(t->session, t->vm, t->track ? &t->set : NULL, t->base == 0, t->opts);
	}
	/* On failure too: no compressor may read guest memory once the guest runs. */
	e = err_first(e, session_settle(t->session));
	quiesce_end(&t->quiesce);
	return e;
}

/* ---- a guest that runs ---- */

/* In the pause, on the thread that stopped last. True: the guest may run on. */
static bool work_in_pause(void *arg)
{
	struct take *t = arg;
	uint64_t t0 = clock_mono_ns();
	bool fits = true;
	t->work_err = quiesce_hold(&t->quiesce);
	if (t->work_err == NULL) {
		manifest_set_host(t->manifest, t->vm);
		disks_freeze(&t->disks);
		t->res.pause.state_us = (clock_mono_ns() - t0) / 1000;
		t->work_err = live_last(t->live, &t->res, &fits);
	}
	t->worked_ns = clock_mono_ns();
	if (t->work_err != NULL || fits) {
		quiesce_release(&t->quiesce);
		return true;
	}
	return false;
}

/* What is left is too much for the buffer: it is read while the guest stands still. */
static struct err *save_rest(struct take *t)
{
	struct err *e = live_give(t->live);
	if (e == NULL) {
		e = pages_save(t->session, t->vm, &t->set, false, t->opts);
	}
	e = err_first(e, session_settle(t->session));
	uint64_t now = clock_mono_ns();
	t->res.pause.copy_us = (now - t->worked_ns) / 1000;
	t->worked_ns = now;
	return e;
}

static void note_pause(struct take *t, const struct snap_stop *stop)
{
	struct snap_pause *p = &t->res.pause;
	uint64_t bound = t->opts->max_pause_us != 0 ? t->opts->max_pause_us : SNAP_MAX_PAUSE_US;
	uint64_t us = (stop->resumed_ns - stop->out_ns) / 1000;
	p->kick_us = (stop->out_ns - stop->asked_ns) / 1000;
	p->park_us = (stop->parked_ns - stop->out_ns) / 1000;
	p->resume_us = (stop->resumed_ns - t->worked_ns) / 1000;
	t->quiesce.pause_us = us;
	if (us <= bound) {
		return;
	}
	uint64_t copy = p->dirty_us + p->copy_us;
	uint64_t host = p->park_us + p->resume_us;
	if (copy >= host && copy >= p->state_us) {
		snprintf(t->res.missed, sizeof(t->res.missed),
			 "the guest changes memory faster than it can be copied: %llu pages were "
			 "left "
			 "after %u rounds",
			 (unsigned long long)p->pages, t->res.rounds);
	} else {
		snprintf(t->res.missed, sizeof(t->res.missed),
			 "the host was slow: %llu us to stop and resume the vCPUs, %llu us for "
			 "their state",
			 (unsigned long long)host, (unsigned long long)p->state_us);
	}
}

static struct err *take_running(struct take *t)
{
	const struct snap_vm *vm = t->vm;
	struct snap_stop stop = { 0 };
	TRY(fetch_set(t));
	TRY(live_new(vm, t->session, &t->set, t->base == 0, t->opts, &t->live));
	TRY(live_rounds(t->live, &t->res));
	TRY(err_wrap(vm->ops->freeze_and(vm->self, work_in_pause, t, &stop), "freezing %s",
		     vm->name));
	struct err *e = MOVE(t->work_err);
	if (!stop.resumed) {
		t->quiesce.frozen = true;
		e = err_first(e, save_rest(t));
		quiesce_end(&t->quiesce);
		stop.resumed_ns = clock_mono_ns();
	}
	note_pause(t, &stop);
	TRY(e);
	return live_give(t->live);
}

/* ---- the guest runs again ---- */

static struct err *encode_parts(struct take *t)
{
	struct manifest *m = t->manifest;
	for (size_t i = 0; i < t->vm->nparts; i++) {
		const struct snap_part *p = t->vm->parts[i];
		BUG_ON(strcmp(p->name, p->desc->name) != 0);
		TRY(desc_encode(p->desc, p->instance, quiesce_state(&t->quiesce, i), &t->records));
		t->record_end[i] = t->records.len;
		manifest_text(m->parts[i].name, sizeof(m->parts[i].name), p->name);
		m->parts[i].instance = p->instance;
		m->parts[i].version = p->desc->version;
	}
	m->nparts = (uint32_t)t->vm->nparts;
	return NULL;
}

static struct err *put_blobs(struct take *t)
{
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	TRY(desc_encode(&manifest_desc, 0, t->manifest, &out));
	TRY(session_blob(t->session, SNAP_BLOB_MANIFEST, 0, out.p, out.len));
	TRY(session_blob(t->session, SNAP_BLOB_CONFIG, 0, t->vm->config.p, t->vm->config.len));
	size_t start = 0;
	for (size_t i = 0; i < t->vm->nparts; i++) {
		TRY(session_blob(t->session, SNAP_BLOB_PART, (uint16_t)i, t->records.p + start,
				 t->record_end[i] - start));
		start = t->record_end[i];
	}
	return NULL;
}

static struct err *register_vm(struct take *t)
{
	if (t->had_row && t->old_row.holds_name && strcmp(t->old_row.name, t->row.name) == 0) {
		return NULL;
	}
	TRY(store_vm_put(t->store, &t->row));
	t->registered = true;
	return NULL;
}

static struct err *publish(struct take *t, struct snap_result *ret_result)
{
	struct snap_meta meta = {
		.frozen_at_ns = t->quiesce.frozen_at_ns,
		.parent = t->vm->parent,
	};
	struct snap_info info;
	TRY(encode_parts(t));
	TRY(session_map_end(t->session));
	TRY(disks_save(&t->disks, t->session, t->opts, &t->res.disk_blocks));
	TRY(put_blobs(t));
	TRY(pages_check_cancel(t->opts->cancel));
	TRY(register_vm(t));
	memcpy(meta.vm, t->vm->uuid, sizeof(meta.vm));
	memcpy(meta.tag, t->tag, strlen(t->tag) + 1);
	TRY(session_publish(t->session, &meta, &info));
	t->published = true;
	disks_end(&t->disks, info.id);
	struct snap_result *r = &t->res;
	r->snap_id = info.id;
	r->number = info.number;
	r->frozen_at_ns = t->quiesce.frozen_at_ns;
	r->pause_us = t->quiesce.pause_us;
	r->elapsed_us = (clock_mono_ns() - t->started_mono_ns) / 1000;
	r->pages_stored = info.pages_stored;
	r->bytes_stored = info.bytes_stored;
	r->incremental = t->base != 0;
	*ret_result = *r;
	return NULL;
}

struct err *snap_take(struct store *s, const struct snap_vm *vm, const struct snap_take_opts *opts,
		      struct snap_result *ret_result)
{
	SCOPE(take_done)
	struct take t = {
		.store = s,
		.vm = vm,
		.opts = opts,
		.tag = opts->tag != NULL ? opts->tag : "",
		.started_mono_ns = clock_mono_ns(),
	};
	TRY(err_wrap(prepare(&t), "snapshot of %s", vm->name));
	BUG_ON(vm->ops->freeze_and != NULL && vm->dirty == NULL);
	TRY(err_wrap(vm->ops->freeze_and != NULL ? take_running(&t) : take_frozen(&t),
		     "snapshot of %s", vm->name));
	return err_wrap(publish(&t, ret_result), "snapshot of %s", vm->name);
}
