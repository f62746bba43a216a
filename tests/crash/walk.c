/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A random walk over one family against a model: takes from nothing and from older snapshots, in
 * one go and in rounds as of a running VM, or given up half-way; rewinds, reading on demand while
 * what is read is removed and compacted, hints; removals in any order, collection, compaction,
 * holes, pruning, export and import, writers that are killed, two at once, a limit on the file.
 * After every step the list is the model's; snapshots are compared page by page, the family
 * verifies, and nothing is leaked. Then the steady state: many takes, ten kept at random, and what
 * the store takes then.
 *
 *	crash_walk [STEPS]		environment: TORPOR_SEED, TORPOR_TIER=long
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/bytes.h"
#include "core/base/clock.h"
#include "core/base/limits.h"
#include "tests/crash/crash_vm.h"

enum {
	PAGES = 1600,
	SNAPS_MAX = 14, /* more are removed again */
	ALL_EVERY = 8,  /* steps between two full comparisons */
	HINT_BYTES = 3000,
	PIECES = (PAGES + STORE_PIECE_PAGES - 1) / STORE_PIECE_PAGES,
	KINDS = 19, /* of steps */
};

/* A page is what its number says: 0 zero, odd a pattern of its own, even one value. */
struct model_snap {
	bool used;
	uint64_t id;
	uint64_t number;
	char tag[NAME_BYTES_MAX + 1];
	struct sha256 root;
	uint64_t page[PAGES];
	uint64_t hint; /* what it was made from; 0: there is none */
};

struct walk {
	char dir[256];
	uint64_t seed;
	struct store *s;
	struct family *f;
	uint64_t page[PAGES]; /* of the VM now */
	struct model_snap snap[SNAPS_MAX + 4];
	uint8_t *img; /* owned: PAGES */
	uint8_t *got; /* owned: PAGES */
	uint64_t scribbled[PAGES / 64 + 1];
	unsigned step;
	unsigned done[KINDS]; /* by kind of step */
	uint64_t rounds;      /* of compaction */
};

static uint64_t rnd(struct walk *w, uint64_t n)
{
	return crash_random(&w->seed) % n;
}

static void fill_page(uint8_t *p, uint64_t v)
{
	uint64_t s = v;
	for (size_t i = 0; i < PAGE_BYTES; i += 8) {
		uint64_t x = v;
		if (v % 2 == 1) { /* about half of it compresses away */
			x = i % 32 < 16 ? crash_random(&s) : 0x6f77206f6c6c6568ull;
		}
		put_le64(p + i, x);
	}
}

static void fill_image(uint8_t *img, const uint64_t page[PAGES])
{
	for (size_t i = 0; i < PAGES; i++) {
		fill_page(img + i * PAGE_BYTES, page[i]);
	}
}

/* ---- the store ---- */

static struct err *open_all(struct walk *w)
{
	TRY(store_open(w->dir, STORE_CREATE, &w->s));
	struct store_vm vm = { .name = "walker", .created_ns = 7 };
	memcpy(vm.uuid, crash_vm, sizeof(vm.uuid));
	memcpy(vm.family, crash_family, sizeof(vm.family));
	bool found;
	struct store_vm have;
	TRY(store_vm_by_uuid(w->s, crash_vm, &found, &have));
	if (!found) {
		TRY(store_vm_put(w->s, &vm));
	}
	return family_open(w->s, crash_family, true, &w->f);
}

static void close_all(struct walk *w)
{
	family_close(w->f);
	store_close(w->s);
	w->f = NULL;
	w->s = NULL;
}

static struct model_snap *pick(struct walk *w)
{
	struct model_snap *all[ARRAY_LEN(w->snap)];
	size_t n = 0;
	for (size_t i = 0; i < ARRAY_LEN(w->snap); i++) {
		if (w->snap[i].used) {
			all[n++] = &w->snap[i];
		}
	}
	return n > 0 ? all[rnd(w, n)] : NULL;
}

static size_t count(const struct walk *w)
{
	size_t n = 0;
	for (size_t i = 0; i < ARRAY_LEN(w->snap); i++) {
		n += w->snap[i].used;
	}
	return n;
}

static struct model_snap *add(struct walk *w, const struct snap_info *info)
{
	struct model_snap *m = w->snap;
	while (m->used) {
		m++;
		BUG_ON(m == w->snap + ARRAY_LEN(w->snap));
	}
	*m = (struct model_snap){
		.used = true, .id = info->id, .number = info->number, .root = info->root
	};
	memcpy(m->tag, info->tag, sizeof(m->tag));
	memcpy(m->page, w->page, sizeof(m->page));
	return m;
}

/* Those of w->img's pages, which say what `now` says, that `was` does not say. */
static struct err *give(struct session *s, const struct walk *w, const uint64_t *now,
			const uint64_t *was)
{
	for (size_t at = 0; at < PAGES;) {
		size_t end = at;
		while (end < PAGES && now[end] != was[end]) {
			end++;
		}
		if (end > at) {
			TRY(session_map_pages(s, at, w->img + at * PAGE_BYTES, end - at));
		}
		at = end + (end == at);
	}
	return NULL;
}

static const uint64_t nothing[PAGES];

/* Changes some pages. */
static void scatter(struct walk *w, uint64_t page[PAGES])
{
	for (uint64_t runs = 1 + rnd(w, 12); runs > 0; runs--) {
		size_t at = (size_t)rnd(w, PAGES);
		size_t n = MIN((size_t)(1 + rnd(w, 20)), PAGES - at);
		uint64_t kind = rnd(w, 8);
		for (size_t i = at; i < at + n; i++) {
			page[i] = kind == 0 ? 0 : kind == 1 ? 0x4242 : crash_random(&w->seed) | 1;
		}
	}
}

/* As of a running VM: pages are given as they were some time before, those that changed again. */
static struct err *give_rounds(struct session *s, struct walk *w, const uint64_t *was)
{
	uint64_t mid[2][PAGES];
	unsigned rounds = 1 + (unsigned)rnd(w, 3);
	for (unsigned i = 0; i < rounds; i++) {
		memcpy(mid[1], w->page, sizeof(mid[1]));
		scatter(w, mid[1]);
		fill_image(w->img, mid[1]);
		TRY(give(s, w, mid[1], was));
		TRY(session_map_round(s));
		memcpy(mid[0], mid[1], sizeof(mid[0]));
		was = mid[0];
	}
	fill_image(w->img, w->page);
	return give(s, w, w->page, was);
}

/* A session with the VM as it is now; base NULL: all of it. */
static struct err *write_down(struct walk *w, const struct model_snap *base, bool in_rounds,
			      struct session **ret_session)
{
	SCOPE(session_freep) struct session *s = NULL;
	const uint64_t *was = base != NULL ? base->page : nothing;
	TRY(session_open(w->f, &(struct session_opts){ .workers = 2 }, &s));
	TRY(session_map_begin_as(
		s, "memory", PAGES * (uint64_t)PAGE_BYTES, (uint8_t[32]){ 0 },
		&(struct map_opts){ .base = base != NULL ? base->id : 0, .rounds = in_rounds }));
	if (in_rounds) {
		TRY(give_rounds(s, w, was));
	} else {
		fill_image(w->img, w->page);
		TRY(give(s, w, w->page, was));
	}
	*ret_session = MOVE(s);
	return NULL;
}

static struct err *take(struct walk *w, const struct model_snap *base, const char *tag,
			struct snap_info *ret_info)
{
	SCOPE(session_freep) struct session *s = NULL;
	TRY(write_down(w, base, rnd(w, 2) > 0, &s));
	TRY(session_map_end(s));
	TRY(session_settle(s));
	TRY(session_blob(s, 1, 0, w->page, sizeof(w->page)));
	struct snap_meta meta = { .frozen_at_ns = clock_real_ns() };
	memcpy(meta.vm, crash_vm, sizeof(meta.vm));
	snprintf(meta.tag, sizeof(meta.tag), "%s", tag);
	return session_publish(s, &meta, ret_info);
}

/* ---- comparing ---- */

static struct err *place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	const struct walk *w = arg;
	memcpy(w->got + index * PAGE_BYTES, pages, npages * PAGE_BYTES);
	return NULL;
}

static struct err *place_zero(void *arg, uint64_t index, uint64_t npages)
{
	const struct walk *w = arg;
	memset(w->got + index * PAGE_BYTES, 0, npages * PAGE_BYTES);
	return NULL;
}

/* What was read is what the snapshot holds. */
static struct err *same_pages(const struct walk *w, const struct model_snap *m)
{
	fill_image(w->img, m->page);
	for (size_t i = 0; i < PAGES; i++) {
		ENSURE(memcmp(w->got + i * PAGE_BYTES, w->img + i * PAGE_BYTES, PAGE_BYTES) == 0,
		       ERR_CORRUPT, "snapshot %llu: page %zu is not the model's",
		       (unsigned long long)m->number, i);
	}
	return NULL;
}

static size_t hint_of(uint64_t seed, uint8_t out[HINT_BYTES])
{
	size_t len = 1 + seed % HINT_BYTES;
	for (size_t i = 0; i < len; i++) {
		out[i] = (uint8_t)crash_random(&seed);
	}
	return len;
}

static struct err *same_hint(struct reader *r, const struct model_snap *m)
{
	uint8_t want[HINT_BYTES];
	size_t want_len = m->hint != 0 ? hint_of(m->hint, want) : 0;
	SCOPE(freep) uint8_t *got = NULL;
	size_t len;
	reader_hint(r, &got, &len);
	ENSURE((got != NULL) == (m->hint != 0) && len == want_len &&
		       (len == 0 || memcmp(got, want, len) == 0),
	       ERR_CORRUPT, "snapshot %llu: another hint than was put",
	       (unsigned long long)m->number);
	return NULL;
}

static struct err *same(struct walk *w, const struct model_snap *m)
{
	SCOPE(reader_closep) struct reader *r = NULL;
	TRY(reader_open(w->f, m->id, &r));
	memset(w->got, 0, PAGES * (size_t)PAGE_BYTES);
	TRY(reader_map_read(r, "memory", &(struct read_opts){ .place = place, .arg = w }));
	TRY(same_pages(w, m));
	TRY(same_hint(r, m));
	ENSURE(sha256_equal(&reader_info(r)->root, &m->root), ERR_CORRUPT,
	       "snapshot %llu: another root", (unsigned long long)m->number);
	return NULL;
}

static struct err *check_list(struct walk *w)
{
	SCOPE(freep) struct snap_info *list = NULL;
	size_t n;
	TRY(family_snaps(w->f, &list, &n));
	ENSURE(n == count(w), ERR_CORRUPT, "%zu snapshots, the model has %zu", n, count(w));
	for (size_t i = 0; i < ARRAY_LEN(w->snap); i++) {
		bool found = !w->snap[i].used;
		for (size_t k = 0; k < n && !found; k++) {
			found = list[k].id == w->snap[i].id && list[k].number == w->snap[i].number;
		}
		ENSURE(found, ERR_CORRUPT, "snapshot %llu is not listed",
		       (unsigned long long)w->snap[i].number);
	}
	return NULL;
}

static void print_finding(void *arg, const char *finding)
{
	(void)arg;
	fprintf(stderr, "  finding: %s\n", finding);
}

static struct err *check_all(struct walk *w)
{
	uint64_t findings;
	struct gc_result gc;
	struct family_stat st;
	for (size_t i = 0; i < ARRAY_LEN(w->snap); i++) {
		if (w->snap[i].used) {
			TRY(same(w, &w->snap[i]));
		}
	}
	TRY(family_gc(w->f, &gc));
	TRY(family_verify(w->f, print_finding, NULL, &findings));
	ENSURE(findings == 0, ERR_CORRUPT, "verify has %llu findings",
	       (unsigned long long)findings);
	TRY(family_stat(w->f, &st));
	uint64_t left = st.dead_bytes + st.pending_bytes + st.hidden + st.damaged;
	family_stat_done(&st);
	ENSURE(left == 0, ERR_CORRUPT, "%llu bytes or records are leaked",
	       (unsigned long long)left);
	return NULL;
}

/* ---- steps ---- */

static struct err *step_take(struct walk *w)
{
	struct snap_info info;
	scatter(w, w->page);
	TRY(take(w, rnd(w, 5) > 0 ? pick(w) : NULL, "", &info));
	(void)add(w, &info);
	return NULL;
}

static struct err *step_remove(struct walk *w)
{
	uint64_t ids[3];
	size_t n = 0;
	for (size_t want = 1 + (size_t)rnd(w, 3); n < want && count(w) > 0; n++) {
		struct model_snap *m = pick(w);
		ids[n] = m->id;
		m->used = false;
	}
	return family_remove(w->f, ids, n);
}

static struct err *step_compact(struct walk *w)
{
	struct compact_result res;
	TRY(family_compact(w->f, &(struct compact_opts){ .live_percent = rnd(w, 2) > 0 ? 100 : 0 },
			   &res));
	w->rounds += res.rounds;
	return NULL;
}

static struct err *step_gc(struct walk *w)
{
	struct gc_result res;
	uint64_t unused;
	TRY(family_gc(w->f, &res));
	return family_punch(w->f, rnd(w, 2) > 0, &unused);
}

static struct err *step_prune(struct walk *w)
{
	SCOPE(freep) struct snap_info *list = NULL;
	size_t n;
	bool doomed[ARRAY_LEN(w->snap)];
	uint64_t ids[ARRAY_LEN(w->snap)];
	size_t nids = 0;
	TRY(family_snaps(w->f, &list, &n));
	prune_choose(list, n, &(struct prune_policy){ .keep_last = 4 + (unsigned)rnd(w, 6) },
		     doomed);
	for (size_t i = 0; i < n; i++) {
		for (size_t k = 0; doomed[i] && k < ARRAY_LEN(w->snap); k++) {
			if (w->snap[k].used && w->snap[k].id == list[i].id) {
				w->snap[k].used = false;
				ids[nids++] = list[i].id;
			}
		}
	}
	return nids > 0 ? family_remove_unpinned(w->f, ids, nids) : NULL;
}

/* Out to a file, away, and in again: the same number, the same root. */
static struct err *step_transfer(struct walk *w)
{
	struct model_snap *m = pick(w);
	if (m == NULL) {
		return NULL;
	}
	char ref[64];
	char path[300];
	uint64_t bytes;
	struct store_vm vm;
	struct snap_info info;
	snprintf(ref, sizeof(ref), "walker@%llu", (unsigned long long)m->number);
	snprintf(path, sizeof(path), "%s.stream", w->dir);
	SCOPE(fd_close) struct fd fd = { open(path, O_RDWR | O_CREAT | O_TRUNC, 0600) };
	ENSURE(fd.n >= 0, ERR_SYS, "no stream file");
	unlink(path);
	struct transfer_opts opts = { 0 };
	TRY(store_export(w->s, ref, fd.n, &opts, &bytes));
	TRY(family_remove(w->f, &m->id, 1));
	ENSURE(lseek(fd.n, 0, SEEK_SET) == 0, ERR_SYS, "lseek");
	TRY(store_import(w->s, fd.n, &opts, &vm, &info, &bytes));
	ENSURE(info.number == m->number && sha256_equal(&info.root, &m->root), ERR_CORRUPT,
	       "snapshot %llu came back as another", (unsigned long long)m->number);
	m->id = info.id;
	m->hint = 0; /* no stream has it */
	return NULL;
}

/* A take that is given up: nothing of it is listed, and check_all finds nothing left. */
static struct err *step_abort(struct walk *w)
{
	SCOPE(session_freep) struct session *s = NULL;
	scatter(w, w->page);
	TRY(write_down(w, pick(w), rnd(w, 2) > 0, &s));
	return rnd(w, 2) > 0 ? session_map_end(s) : NULL;
}

static struct err *step_hint(struct walk *w)
{
	uint8_t hint[HINT_BYTES];
	struct model_snap *m = pick(w);
	if (m == NULL) {
		return NULL;
	}
	m->hint = crash_random(&w->seed) | 1;
	return family_hint_put(w->f, m->id, hint, hint_of(m->hint, hint));
}

static uint64_t also(void *arg, uint64_t index)
{
	const struct walk *w = arg;
	return w->scribbled[index / 64];
}

/* Memory that is one snapshot's, but for what was written since, becomes another one's. */
static struct err *step_rewind(struct walk *w)
{
	SCOPE(reader_closep) struct reader *since = NULL;
	SCOPE(reader_closep) struct reader *r = NULL;
	const struct model_snap *from = pick(w);
	const struct model_snap *to = pick(w);
	if (to == NULL) {
		return NULL;
	}
	memcpy(w->page, from->page, sizeof(w->page));
	scatter(w, w->page);
	memset(w->scribbled, 0, sizeof(w->scribbled));
	for (size_t i = 0; i < PAGES; i++) {
		w->scribbled[i / 64] |= (uint64_t)(w->page[i] != from->page[i]) << i % 64;
	}
	fill_image(w->got, w->page);
	TRY(reader_open(w->f, from->id, &since));
	TRY(reader_open(w->f, to->id, &r));
	TRY(reader_map_read(r, "memory",
			    &(struct read_opts){ .place = place,
						 .zero = place_zero,
						 .since = since,
						 .also = also,
						 .arg = w }));
	memcpy(w->page, to->page, sizeof(w->page));
	return same_pages(w, to);
}

/* Reads each piece that was not read yet, or (some) one of four of them. */
static struct err *read_pieces(struct walk *w, struct piece_reader *p, bool had[PIECES], bool some)
{
	for (uint64_t i = 0; i < PIECES; i++) {
		struct piece piece;
		if (had[i] || (some && rnd(w, 4) > 0)) {
			continue;
		}
		had[i] = true;
		TRY(piece_read(p, i * STORE_PIECE_PAGES + rnd(w, STORE_PIECE_PAGES), &piece));
		ENSURE(piece.first == i * STORE_PIECE_PAGES && piece.npages <= PAGES - piece.first,
		       ERR_CORRUPT, "another piece than %llu", (unsigned long long)i);
		TRY(place(w, piece.first, piece.pages, piece.npages));
	}
	return NULL;
}

/*
 * A lazy restore: some of it is read, the VM writes and is taken, the snapshot that it comes from
 * may be removed, what is dead is collected and compacted; then the rest is read.
 */
static struct err *step_lazy(struct walk *w)
{
	SCOPE(reader_closep) struct reader *r = NULL;
	SCOPE(piece_reader_freep) struct piece_reader *p = NULL;
	static struct model_snap was;
	struct snap_info info;
	bool had[PIECES] = { false };
	struct model_snap *m = pick(w);
	if (m == NULL) {
		return NULL;
	}
	was = *m;
	SCOPE(freep) uint8_t *memory = malloc(PAGES * (size_t)PAGE_BYTES);
	BUG_ON(memory == NULL);
	TRY(reader_open(w->f, m->id, &r));
	TRY(piece_reader_new(r, "memory", &p));
	TRY(read_pieces(w, p, had, true));
	memcpy(memory, w->got, PAGES * (size_t)PAGE_BYTES); /* the next steps read, too */
	memcpy(w->page, m->page, sizeof(w->page));
	scatter(w, w->page);
	TRY(take(w, m, "", &info));
	if (rnd(w, 2) > 0) {
		m->used = false;
		TRY(family_remove(w->f, &was.id, 1));
	}
	(void)add(w, &info);
	TRY(rnd(w, 2) > 0 ? step_gc(w) : step_compact(w));
	memcpy(w->got, memory, PAGES * (size_t)PAGE_BYTES);
	TRY(read_pieces(w, p, had, false));
	return same_pages(w, &was);
}

/* Takes up what a child may have published under that tag. */
static struct err *adopt(struct walk *w, const char *tag)
{
	SCOPE(freep) struct snap_info *list = NULL;
	size_t n;
	TRY(family_snaps(w->f, &list, &n));
	for (size_t i = 0; i < n; i++) {
		if (strcmp(list[i].tag, tag) == 0) {
			(void)add(w, &list[i]);
		}
	}
	return NULL;
}

/* What a child does, with handles of its own. 0: done, 1: failed, 3: a full file. */
static int child(struct walk *w, const struct model_snap *base, const char *tag, int what)
{
	struct snap_info info;
	struct err *e = open_all(w);
	if (e == NULL && what == 2) {
		e = step_compact(w);
	} else if (e == NULL) {
		e = take(w, base, tag, &info);
	}
	if (e == NULL) {
		return 0;
	}
	int rc = err_class(e) == ERR_NOSPACE ? 3 : 1;
	if (rc == 1) {
		fprintf(stderr, "child: %s\n  at %s\n", err_msg(e), err_trace_text(e));
	}
	return rc;
}

enum with {
	WITH_KILL,
	WITH_LIMIT,
	WITH_PARENT,
};

/* A second process: killed at some instant, or with a limit on its files, or beside this one. */
static struct err *step_child(struct walk *w, enum with with)
{
	char tag[32];
	snprintf(tag, sizeof(tag), "child%u", w->step);
	scatter(w, w->page);
	const struct model_snap *base = pick(w);
	int what = with == WITH_KILL && rnd(w, 3) == 0 ? 2 : 1;
	uint64_t limit = rnd(w, 2) > 0 ? MIB : 4 * MIB;
	uint64_t wait_us = rnd(w, 60000);
	close_all(w);
	pid_t pid = fork();
	ENSURE(pid >= 0, ERR_SYS, "fork");
	if (pid == 0) {
		if (with == WITH_LIMIT) {
			signal(SIGXFSZ, SIG_IGN);
			setrlimit(RLIMIT_FSIZE, &(struct rlimit){ limit, limit });
		}
		_exit(child(w, base, tag, what));
	}
	uint64_t now[PAGES];
	memcpy(now, w->page, sizeof(now));
	struct err *e = open_all(w);
	if (with == WITH_KILL) {
		usleep((useconds_t)wait_us);
		kill(pid, SIGKILL);
	} else if (with == WITH_PARENT && e == NULL) {
		e = step_take(w);
		e = e == NULL ? step_gc(w) : e;
		e = e == NULL ? step_compact(w) : e;
	}
	int status = 0;
	waitpid(pid, &status, 0);
	TRY(e);
	ENSURE(with == WITH_KILL || (WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
		       (with == WITH_LIMIT && WIFEXITED(status) && WEXITSTATUS(status) == 3),
	       ERR_CORRUPT, "the child ended with status 0x%x", (unsigned)status);
	uint64_t mine[PAGES];
	memcpy(mine, w->page, sizeof(mine));
	memcpy(w->page, now, sizeof(now)); /* what the child took */
	TRY(adopt(w, tag));
	memcpy(w->page, mine, sizeof(mine));
	return NULL;
}

static struct err *one_step(struct walk *w)
{
	unsigned kind = (unsigned)rnd(w, KINDS);
	w->done[kind]++;
	switch (kind) {
	case 0:
		return step_gc(w);
	case 1:
	case 2:
		return step_compact(w);
	case 3:
	case 4:
		return step_remove(w);
	case 5:
		return step_prune(w);
	case 6:
		return step_transfer(w);
	case 7:
		return step_child(w, WITH_KILL);
	case 8:
		return step_child(w, WITH_LIMIT);
	case 9:
		return step_child(w, WITH_PARENT);
	case 10:
	case 11:
		return step_lazy(w);
	case 12:
		return step_rewind(w);
	case 13:
		return step_abort(w);
	case 14:
		return step_hint(w);
	default:
		return step_take(w);
	}
}

static struct err *steps(struct walk *w, unsigned n)
{
	for (w->step = 1; w->step <= n; w->step++) {
		TRY(err_wrap(one_step(w), "step %u", w->step));
		while (count(w) > SNAPS_MAX - 2) {
			TRY(step_remove(w));
		}
		TRY(err_wrap(check_list(w), "step %u", w->step));
		const struct model_snap *m = pick(w);
		if (m != NULL) {
			TRY(err_wrap(same(w, m), "step %u", w->step));
		}
		if (w->step % ALL_EVERY == 0 || w->step == n) {
			TRY(err_wrap(check_all(w), "step %u", w->step));
		}
	}
	ENSURE(n < 100 || w->rounds > 0, ERR_NOTFOUND, "nothing was ever compacted");
	return NULL;
}

/* ---- the steady state ---- */

static struct err *steady(struct walk *w, unsigned takes)
{
	struct model_snap *last = NULL;
	for (unsigned i = 0; i < takes; i++) {
		struct snap_info info;
		scatter(w, w->page);
		TRY(take(w, last != NULL && last->used ? last : NULL, "", &info));
		last = add(w, &info);
		while (count(w) > 10) {
			struct model_snap *m = pick(w);
			if (m != last) {
				m->used = false;
				TRY(family_remove(w->f, &m->id, 1));
			}
		}
		if (i % 50 == 49) {
			TRY(step_compact(w));
		}
	}
	struct compact_result res;
	struct family_stat st;
	TRY(family_stat(w->f, &st));
	double before = (double)st.disk_bytes / (double)st.live_bytes;
	family_stat_done(&st);
	TRY(family_compact(w->f, &(struct compact_opts){ 0 }, &res));
	TRY(check_all(w));
	TRY(family_stat(w->f, &st));
	double after = (double)st.disk_bytes / (double)st.live_bytes;
	printf("%u takes, %zu kept: %.1f MiB live, %.2f of it on disk, %.2f before the last "
	       "compaction\n",
	       takes, st.nsnaps, (double)st.live_bytes / (double)MIB, after, before);
	family_stat_done(&st);
	ENSURE(after <= 1.35, ERR_LIMIT, "the store takes more than 1.35 of what is live");
	return NULL;
}

int main(int argc, char **argv)
{
	static struct walk w;
	unsigned n = argc > 1           ? (unsigned)strtoul(argv[1], NULL, 10)
		     : crash_run_long() ? 4000
					: 250;
	w.seed = crash_run_seed();
	printf("seed %llu, %u steps\n", (unsigned long long)w.seed, n);
	fflush(stdout);
	crash_dir_make(w.dir);
	w.img = malloc(PAGES * (size_t)PAGE_BYTES);
	w.got = malloc(PAGES * (size_t)PAGE_BYTES);
	BUG_ON(w.img == NULL || w.got == NULL);
	struct err *e = open_all(&w);
	e = e == NULL ? steps(&w, n) : e;
	e = e == NULL ? steady(&w, crash_run_long() ? 500 : 100) : e;
	close_all(&w);
	free(w.img);
	free(w.got);
	if (e != NULL) {
		fprintf(stderr, "crash_walk: %s\n  at %s\n  the store is left in %s\n", err_msg(e),
			err_trace_text(e), w.dir);
		err_free(e);
		return 1;
	}
	crash_dir_remove(w.dir);
	return 0;
}
