/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page server over a source that is none: faults of threads and of the kernel, the filler
 * beside writers, completion on behalf of a job, pages that cannot be had now or ever, sources that
 * lie. Skipped where userfaultfd may not be used.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/jail.h"
#include "core/pager.h"
#include "core/uffd.h"
#include "tests/lib/expect.h"

enum { MEM_PAGES = 8192, PIECE = 16 };

/* A source by formula. Page g is zero if g % 5 == 3, else filled with g + 1. */
struct fake {
	atomic_uint fetches;
	atomic_uint fills;
	atomic_ullong bad_page; /* this page fails with bad_class; UINT64_MAX: none */
	atomic_uint bad_class;
	atomic_uint fill_fails;    /* so many fills fail first */
	atomic_uint fill_delay_us; /* per run */
	atomic_bool lie;           /* fetch gives another piece */
	atomic_bool outside;       /* fill ends with a page outside RAM */
	atomic_uint after;
	atomic_uint soon;
	atomic_uint
		nahead; /* pieces fetched for the filler, and how many fills had begun by then */
	uint64_t ahead[16];
	unsigned ahead_fills;
	uint64_t buf[PAGE_READERS][PIECE * PAGE_BYTES / 8];
};

struct rig {
	struct loop *loop;
	struct loop_timer *timer;
	struct gmem *gmem;
	struct pager *pager;
	struct fake fake;
	unsigned full, lost, stuck; /* main thread */
	char text[512];
	bool timed_out;
};

static uint64_t word_of(uint64_t gfn)
{
	return gfn % 5 == 3 ? 0 : gfn + 1;
}

static struct err *fake_bad(struct fake *f, uint64_t first, uint64_t n)
{
	uint64_t bad = atomic_load(&f->bad_page);
	if (bad >= first && bad - first < n) {
		return ERR((enum err_class)atomic_load(&f->bad_class), "page 0x%llx is bad",
			   (unsigned long long)bad);
	}
	return NULL;
}

static void fake_pages(uint64_t *buf, uint64_t first, uint64_t n)
{
	for (uint64_t i = 0; i < n * (PAGE_BYTES / 8); i++) {
		buf[i] = word_of(first + i / (PAGE_BYTES / 8));
	}
}

static struct err *fake_fetch(void *self, enum page_reader who, gfn_t gfn, struct page_run *ret)
{
	struct fake *f = self;
	atomic_fetch_add(&f->fetches, 1);
	uint64_t first = gfn.v / PIECE * PIECE;
	if (who == PAGE_READER_FILL) {
		f->ahead_fills += atomic_load(&f->fills);
		f->ahead[atomic_fetch_add(&f->nahead, 1) % ARRAY_LEN(f->ahead)] = gfn.v;
	}
	TRY(fake_bad(f, gfn.v, 1));
	fake_pages(f->buf[who], first, PIECE);
	*ret = (struct page_run){
		.gfn = { atomic_load(&f->lie) ? first + PIECE : first },
		.npages = PIECE,
		.pages = f->buf[who],
	};
	return NULL;
}

static struct err *fake_fill(void *self, const struct page_fill *fill)
{
	struct fake *f = self;
	atomic_fetch_add(&f->fills, 1);
	uint64_t buf[3 * PAGE_BYTES / 8];
	/* Backwards, so that it is not the order of anything else. */
	for (uint64_t g = MEM_PAGES; g-- > 0;) {
		if (g % 5 != 0) {
			continue; /* runs of three: 0 1 2, then 4 */
		}
		const struct page_run runs[] = { { { g }, 3, buf }, { { g + 4 }, 1, buf } };
		for (unsigned i = 0; i < 2; i++) {
			uint64_t left = MEM_PAGES > runs[i].gfn.v ? MEM_PAGES - runs[i].gfn.v : 0;
			uint64_t n = MIN(runs[i].npages, left);
			if (n == 0 || !fill->wanted(fill->arg, runs[i].gfn, n)) {
				continue;
			}
			TRY(fake_bad(f, runs[i].gfn.v, n));
			if (atomic_load(&f->fill_fails) > 0 && g < MEM_PAGES / 2) {
				atomic_fetch_sub(&f->fill_fails, 1);
				return ERR(ERR_SYS, "the disk says no");
			}
			if (atomic_load(&f->fill_delay_us) > 0) {
				usleep(atomic_load(&f->fill_delay_us));
			}
			fake_pages(buf, runs[i].gfn.v, n);
			const struct page_run run = { runs[i].gfn, n, buf };
			TRY(fill->place(fill->arg, &run));
		}
	}
	if (atomic_load(&f->outside)) {
		const struct page_run run = { { MEM_PAGES - 1 }, 2, buf };
		TRY(fill->place(fill->arg, &run));
	}
	return NULL;
}

static struct err *fake_after(void *self, const bool *cancel)
{
	struct fake *f = self;
	(void)cancel;
	atomic_fetch_add(&f->after, 1);
	return NULL;
}

static void fake_free(void *self)
{
	(void)self;
}

static void fake_soon(void *self, enum page_reader who, gfn_t gfn)
{
	struct fake *f = self;
	(void)gfn;
	assert_int_equal(who, PAGE_READER_FILL);
	atomic_fetch_add(&f->soon, 1);
}

static const struct page_source_ops fake_ops = {
	.fetch = fake_fetch,
	.soon = fake_soon,
	.fill = fake_fill,
	.after = fake_after,
	.free = fake_free,
};

/* ---- the rig ---- */

static void on_event(void *arg, enum pager_event ev, const char *text)
{
	struct rig *r = arg;
	switch (ev) {
	case PAGER_FULL:
		r->full++;
		assert_null(text);
		break;
	case PAGER_LOST:
		r->lost++;
		break;
	case PAGER_STUCK:
		r->stuck++;
		break;
	}
	if (text != NULL) {
		snprintf(r->text, sizeof(r->text), "%s", text);
	}
	loop_quit(r->loop);
}

static void on_timer(void *arg)
{
	struct rig *r = arg;
	r->timed_out = true;
	loop_quit(r->loop);
}

/* Runs the loop until the next event, or for ms. False: none came. */
static bool wait_event(struct rig *r, unsigned ms)
{
	r->timed_out = false;
	loop_timer_set(r->timer, clock_mono_ns() + ms * 1000000ull);
	ok(loop_run(r->loop));
	loop_timer_set(r->timer, UINT64_MAX);
	return !r->timed_out;
}

/* first: what is to come before the rest; copied. */
static int setup_with(void **state, const uint64_t *first, size_t nfirst)
{
	SCOPE(fd_close) struct fd uffd = FD_NONE;
	struct err *e = uffd_open(&uffd);
	if (e != NULL) {
		print_message("skipped: %s\n", err_msg(e));
		err_free(e);
		*state = NULL;
		return 0;
	}
	struct rig *r = calloc(1, sizeof(*r));
	atomic_store(&r->fake.bad_page, UINT64_MAX);
	ok(loop_new(&r->loop));
	ok(loop_timer_add(r->loop, on_timer, r, &r->timer));
	ok(gmem_new((uint64_t)MEM_PAGES * PAGE_BYTES, &r->gmem));
	uint64_t *copy = calloc(nfirst + 1, sizeof(*copy));
	assert_non_null(copy);
	for (size_t i = 0; i < nfirst; i++) {
		copy[i] = first[i];
	}
	const struct pager_opts o = {
		.loop = r->loop,
		.first = { copy, nfirst },
		.gmem = r->gmem,
		.source = { &fake_ops, &r->fake },
		.uffd = fd_move(&uffd).n,
		.on_event = on_event,
		.arg = r,
	};
	ok(pager_start(&o, &r->pager));
	*state = r;
	return 0;
}

static int setup(void **state)
{
	return setup_with(state, NULL, 0);
}

/* Not in the order of anything, one twice, and two that are no memory. */
static int setup_first(void **state)
{
	static const uint64_t first[] = { 320, 112, MEM_PAGES, 4803, UINT64_MAX / 2, 117, 16 };
	return setup_with(state, first, ARRAY_LEN(first));
}

static int teardown(void **state)
{
	struct rig *r = *state;
	if (r == NULL) {
		return 0;
	}
	pager_free(r->pager);
	gmem_free(r->gmem);
	loop_timer_del(r->timer);
	loop_free(r->loop);
	free(r);
	return 0;
}

static uint64_t *page_at(struct rig *r, uint64_t gfn)
{
	return gmem_at(r->gmem, GPA(gfn * PAGE_BYTES), PAGE_BYTES);
}

/* First and last word. */
static bool page_is(struct rig *r, uint64_t gfn, uint64_t word)
{
	const volatile uint64_t *p = page_at(r, gfn);
	return p[0] == word && p[PAGE_BYTES / 8 - 1] == word;
}

static void all_right(struct rig *r)
{
	for (uint64_t g = 0; g < MEM_PAGES; g++) {
		assert_true(page_is(r, g, word_of(g)));
	}
}

/* ---- faults ---- */

static void serves_faults(void **state)
{
	struct rig *r = given(state);
	struct pager_status s;
	pager_status(r->pager, &s);
	assert_string_equal(s.state, "waiting");
	assert_int_equal(s.resident + s.faults + s.p50_ns, 0);
	assert_int_equal(s.bytes, (uint64_t)MEM_PAGES * PAGE_BYTES);
	assert_true(page_is(r, 100, 101));
	assert_true(page_is(r, 111, 112)); /* of the same piece */
	assert_int_equal(atomic_load(&r->fake.fetches), 1);
	/* The kernel's own touch, as KVM's would be. */
	SCOPE(fd_close) struct fd zero = { open("/dev/zero", O_RDONLY) };
	assert_int_equal(read(zero.n, (uint8_t *)page_at(r, 500) + 8, 16), 16);
	assert_int_equal(page_at(r, 500)[0], 501);
	assert_int_equal(page_at(r, 500)[1], 0);
	assert_int_equal(page_at(r, 500)[3], 501);
	for (uint64_t g = 0; g < MEM_PAGES; g++) {
		assert_true(g == 500 || page_is(r, g, word_of(g)));
	}
	for (unsigned i = 0; i < 30000 && s.resident < s.bytes; i++) {
		usleep(2000); /* it is counted just after who waited was let go */
		pager_status(r->pager, &s);
	}
	assert_int_equal(s.resident, s.bytes);
	assert_true(s.faults >= MEM_PAGES / PIECE);
	assert_true(s.p50_ns > 0 && s.p50_ns <= s.p99_ns && s.p99_ns <= s.max_ns);
}

struct toucher {
	struct rig *r;
	uint64_t seed;
	atomic_uint bad;
	pthread_t thread;
};

static uint64_t rnd(uint64_t *s)
{
	*s = *s * 6364136223846793005ull + 1442695040888963407ull;
	return *s >> 33;
}

/* Each writes pages of its own (g % 4 == seed) and reads any; what was written must stay. */
static void *touch(void *arg)
{
	struct toucher *t = arg;
	uint64_t mine = t->seed;
	uint64_t s = t->seed + 1000;
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t g = rnd(&s) % (MEM_PAGES / 4) * 4 + mine;
		uint64_t *p = page_at(t->r, g);
		if (p[0] != word_of(g) || (p[7] != word_of(g) && p[7] != ~g)) {
			atomic_fetch_add(&t->bad, 1);
		}
		p[7] = ~g;
		uint64_t other = rnd(&s) % MEM_PAGES;
		const volatile uint64_t *q = page_at(t->r, other);
		if (q[0] != word_of(other)) {
			atomic_fetch_add(&t->bad, 1);
		}
	}
	return NULL;
}

static void touch_all(struct rig *r, struct toucher t[4])
{
	for (unsigned i = 0; i < 4; i++) {
		t[i] = (struct toucher){ .r = r, .seed = i };
		assert_int_equal(pthread_create(&t[i].thread, NULL, touch, &t[i]), 0);
	}
}

static void touched_all(struct toucher t[4])
{
	for (unsigned i = 0; i < 4; i++) {
		pthread_join(t[i].thread, NULL);
		assert_int_equal(atomic_load(&t[i].bad), 0);
	}
}

/* Writers against the filler: nothing that was written is ever replaced. */
static void fills_beside_writers(void **state)
{
	struct rig *r = given(state);
	struct toucher t[4];
	touch_all(r, t);
	ok(pager_fill(r->pager));
	ok(pager_fill(r->pager)); /* once is enough */
	assert_true(wait_event(r, 60000));
	assert_int_equal(r->full, 1);
	touched_all(t);
	for (uint64_t g = 0; g < MEM_PAGES; g++) {
		const uint64_t *p = page_at(r, g);
		assert_int_equal(p[0], word_of(g));
		assert_true(p[7] == word_of(g) || p[7] == ~g);
	}
	struct pager_status s;
	pager_status(r->pager, &s);
	assert_string_equal(s.state, "complete");
	assert_int_equal(s.resident, s.bytes);
	assert_int_equal(atomic_load(&r->fake.fills), 1);
	assert_false(wait_event(r, 20)); /* told once */
}

/* Zero pages stay holes: the filler makes the VM no larger than it was. */
static void leaves_holes(void **state)
{
	struct rig *r = given(state);
	ok(pager_fill(r->pager));
	assert_true(wait_event(r, 60000));
	uint64_t bytes;
	ok(gmem_allocated(r->gmem, &bytes));
	uint64_t zero = (MEM_PAGES + 1) / 5;
	assert_in_range(bytes, 1, (uint64_t)(MEM_PAGES - zero + 1) * PAGE_BYTES);
	all_right(r);
	for (unsigned i = 0; i < 6000 && atomic_load(&r->fake.after) == 0; i++) {
		usleep(10000);
	}
	assert_int_equal(atomic_load(&r->fake.after), 1);
}

/* A page that was placed and then given back reads as zero, and nobody waits for ever. */
static void given_back(void **state)
{
	struct rig *r = given(state);
	assert_true(page_is(r, 20, word_of(20)));
	unsigned fetches = atomic_load(&r->fake.fetches);
	struct gmem_region reg = gmem_region(r->gmem, 0);
	assert_int_equal(fallocate(reg.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   (off_t)(reg.fd_offset + 20 * PAGE_BYTES), PAGE_BYTES),
			 0);
	assert_true(page_is(r, 20, 0));
	*page_at(r, 20) = 7;
	assert_int_equal(*page_at(r, 20), 7);
	assert_true(page_is(r, 21, word_of(21)));
	assert_int_equal(atomic_load(&r->fake.fetches), fetches);
}

static void ends_in_the_middle(void **state)
{
	struct rig *r = given(state);
	atomic_store(&r->fake.fill_delay_us, 500);
	ok(pager_fill(r->pager));
	usleep(20000);
	pager_free(MOVE(r->pager));
	/* What is missing is zero now, and clearing takes the rest away for good. */
	ok(gmem_clear(r->gmem));
	for (uint64_t g = 0; g < MEM_PAGES; g++) {
		assert_true(page_is(r, g, 0));
	}
	assert_false(wait_event(r, 20));
}

/* ---- on behalf of a job ---- */

struct job {
	struct rig *r;
	bool cancel;
	struct err *e;
	pthread_t thread;
};

static void *job_main(void *arg)
{
	struct job *j = arg;
	j->e = jail_thread(JAIL_JOB);
	if (j->e == NULL) {
		j->e = pager_complete(j->r->pager, &j->cancel);
	}
	return NULL;
}

static void job_start(struct rig *r, struct job *j)
{
	*j = (struct job){ .r = r };
	assert_int_equal(pthread_create(&j->thread, NULL, job_main, j), 0);
}

/* The job takes the work over from a filler that is slow, in the middle of it. */
static void completes_for_a_job(void **state)
{
	struct rig *r = given(state);
	struct toucher t[4];
	struct job j;
	atomic_store(&r->fake.fill_delay_us, 2000);
	ok(pager_fill(r->pager));
	usleep(30000);
	touch_all(r, t);
	job_start(r, &j);
	usleep(30000);
	atomic_store(&r->fake.fill_delay_us, 0);
	pthread_join(j.thread, NULL);
	ok(j.e);
	assert_true(wait_event(r, 60000));
	assert_int_equal(r->full, 1);
	assert_int_equal(atomic_load(&r->fake.fills), 2);
	touched_all(t);
	ok(pager_complete(r->pager, NULL)); /* nothing to do */
	assert_int_equal(atomic_load(&r->fake.fills), 2);
}

/* Cancelled: the filler goes on with what is left, and nothing is taken for complete before. */
static void cancelled_job(void **state)
{
	struct rig *r = given(state);
	struct job j;
	for (unsigned filler = 0; filler < 2; filler++) {
		atomic_store(&r->fake.fill_delay_us, 1000);
		if (filler == 1) {
			ok(pager_fill(r->pager));
		}
		job_start(r, &j);
		usleep(20000);
		__atomic_store_n(&j.cancel, true, __ATOMIC_RELAXED);
		atomic_store(&r->fake.fill_delay_us, 0);
		pthread_join(j.thread, NULL);
		if (j.e != NULL) { /* else it was done before */
			fails(j.e, ERR_CANCELLED);
		}
	}
	if (r->full == 0) {
		assert_true(wait_event(r, 60000));
	}
	assert_int_equal(r->full, 1);
	all_right(r);
}

/* ---- what was waited for before ---- */

/* It comes before the rest, in its order, but for what is there already. */
static void first_in_order(void **state)
{
	struct rig *r = given(state);
	struct pager_status s;
	assert_true(page_is(r, 120, word_of(120))); /* of the piece at 112 */
	do { /* it is counted just after who waited was let go */
		usleep(1000);
		pager_status(r->pager, &s);
	} while (s.resident < PIECE * PAGE_BYTES);
	ok(pager_fill(r->pager));
	assert_true(wait_event(r, 60000));
	assert_int_equal(r->full, 1);
	assert_int_equal(atomic_load(&r->fake.nahead), 3);
	assert_int_equal(r->fake.ahead[0], 320);
	assert_int_equal(r->fake.ahead[1], 4803);
	assert_int_equal(r->fake.ahead[2], 16);
	assert_int_equal(r->fake.ahead_fills, 0);
	assert_true(atomic_load(&r->fake.soon) >= 1);
	pager_status(r->pager, &s);
	assert_int_equal(s.known, 7);
	assert_int_equal(s.first, 3 * PIECE * PAGE_BYTES);
	assert_int_equal(s.demanded, 1);
	SCOPE(page_order_done) struct page_order o = { 0 };
	ok(pager_demanded(r->pager, &o));
	assert_int_equal(o.n, 1);
	assert_int_equal(o.gfn[0], 120);
	all_right(r);
}

/* A job takes everything over; nothing of the order is left to be read after it. */
static void first_gives_way(void **state)
{
	struct rig *r = given(state);
	ok(pager_complete(r->pager, NULL));
	ok(pager_fill(r->pager));
	assert_true(wait_event(r, 60000));
	pager_free(MOVE(r->pager));
	assert_int_equal(atomic_load(&r->fake.nahead), 0);
	all_right(r);
}

/* Damage among it is not its business: the fill and the faults tell. */
static void first_is_damaged(void **state)
{
	struct rig *r = given(state);
	atomic_store(&r->fake.bad_class, ERR_CORRUPT);
	atomic_store(&r->fake.bad_page, 112);
	ok(pager_fill(r->pager));
	assert_true(wait_event(r, 60000));
	assert_int_equal(r->lost, 1);
	assert_non_null(strstr(r->text, "page 0x70 is bad"));
	assert_int_equal(atomic_load(&r->fake.fills), 1);
	assert_int_equal(atomic_load(&r->fake.nahead), 2);
}

/* What was waited for, in that order; not what came by itself. */
static void tells_what_was_demanded(void **state)
{
	struct rig *r = given(state);
	static const uint64_t touched[] = { 5000, 17, 8191, 18, 4000 };
	for (size_t i = 0; i < ARRAY_LEN(touched); i++) {
		assert_true(page_is(r, touched[i], word_of(touched[i])));
	}
	SCOPE(page_order_done) struct page_order o = { 0 };
	ok(pager_demanded(r->pager, &o));
	assert_int_equal(o.n, 4); /* 18 came with 17 */
	assert_int_equal(o.gfn[0], 5000);
	assert_int_equal(o.gfn[1], 17);
	assert_int_equal(o.gfn[2], 8191);
	assert_int_equal(o.gfn[3], 4000);
	ok(pager_complete(r->pager, NULL));
	page_order_done(&o);
	ok(pager_demanded(r->pager, &o));
	assert_int_equal(o.n, 4);
}

/* ---- pages that cannot be had ---- */

static void *read_bad(void *arg)
{
	struct toucher *t = arg;
	const volatile uint64_t *p = page_at(t->r, t->seed);
	atomic_store(&t->bad, p[0] == word_of(t->seed) ? 2 : 1);
	return NULL;
}

static void stuck_then_retried(void **state)
{
	struct rig *r = given(state);
	struct toucher t = { .r = r, .seed = 777 };
	atomic_store(&r->fake.bad_class, ERR_SYS);
	atomic_store(&r->fake.bad_page, 777);
	assert_int_equal(pthread_create(&t.thread, NULL, read_bad, &t), 0);
	assert_true(wait_event(r, 60000));
	assert_int_equal(r->stuck, 1);
	assert_non_null(strstr(r->text, "guest memory at 0x309000: page 0x309 is bad"));
	struct pager_status s;
	pager_status(r->pager, &s);
	assert_string_equal(s.state, "stuck");
	assert_true(page_is(r, 100, 101)); /* others are served */
	pager_retry(r->pager);
	assert_true(wait_event(r, 60000)); /* still bad: told again */
	assert_int_equal(r->stuck, 2);
	assert_int_equal(atomic_load(&t.bad), 0);
	atomic_store(&r->fake.bad_page, UINT64_MAX);
	pager_retry(r->pager);
	pthread_join(t.thread, NULL);
	assert_int_equal(atomic_load(&t.bad), 2);
	pager_status(r->pager, &s);
	assert_string_equal(s.state, "waiting");
	ok(pager_complete(r->pager, NULL));
	all_right(r);
}

static void lost_by_a_fault(void **state)
{
	struct rig *r = given(state);
	struct toucher t = { .r = r, .seed = 778 };
	atomic_store(&r->fake.bad_class, ERR_CORRUPT);
	atomic_store(&r->fake.bad_page, 779);
	t.seed = 779;
	assert_int_equal(pthread_create(&t.thread, NULL, read_bad, &t), 0);
	assert_true(wait_event(r, 60000));
	assert_int_equal(r->lost, 1);
	assert_non_null(strstr(r->text, "guest memory at 0x30b000"));
	pager_retry(r->pager); /* in vain */
	usleep(20000);
	assert_int_equal(atomic_load(&t.bad), 0);
	struct pager_status s;
	pager_status(r->pager, &s);
	assert_string_equal(s.state, "lost");
	fails(pager_complete(r->pager, NULL), ERR_CORRUPT);
	pager_free(MOVE(r->pager)); /* only here may it read zero: nobody runs on it */
	pthread_join(t.thread, NULL);
}

static void lost_by_the_filler(void **state)
{
	struct rig *r = given(state);
	atomic_store(&r->fake.bad_class, ERR_CORRUPT);
	atomic_store(&r->fake.bad_page, 4000);
	ok(pager_fill(r->pager));
	assert_true(wait_event(r, 60000));
	assert_int_equal(r->lost, 1);
	assert_non_null(strstr(r->text, "page 0xfa0 is bad"));
	assert_true(page_is(r, 100, 101));
}

static void lost_by_a_job(void **state)
{
	struct rig *r = given(state);
	atomic_store(&r->fake.bad_class, ERR_CORRUPT);
	atomic_store(&r->fake.bad_page, 4000);
	fails(pager_complete(r->pager, NULL), ERR_CORRUPT);
	assert_true(wait_event(r, 60000));
	assert_int_equal(r->lost, 1);
	/* A disk that fails is another matter. */
	atomic_store(&r->fake.bad_page, UINT64_MAX);
}

static void disk_fails_a_job(void **state)
{
	struct rig *r = given(state);
	atomic_store(&r->fake.fill_fails, 1);
	fails(pager_complete(r->pager, NULL), ERR_SYS);
	ok(pager_complete(r->pager, NULL));
	assert_true(wait_event(r, 60000));
	assert_int_equal(r->full, 1);
	all_right(r);
}

/* The filler tries again by itself, and stops nobody. */
static void disk_fails_the_filler(void **state)
{
	struct rig *r = given(state);
	atomic_store(&r->fake.fill_fails, 1);
	ok(pager_fill(r->pager));
	assert_true(wait_event(r, 60000));
	assert_int_equal(r->full, 1);
	assert_int_equal(r->stuck + r->lost, 0);
	assert_int_equal(atomic_load(&r->fake.fills), 2);
	all_right(r);
}

/* ---- sources that lie ---- */

static void another_piece(void **state)
{
	struct rig *r = given(state);
	struct toucher t = { .r = r, .seed = 64 };
	atomic_store(&r->fake.lie, true);
	assert_int_equal(pthread_create(&t.thread, NULL, read_bad, &t), 0);
	assert_true(wait_event(r, 60000));
	assert_int_equal(r->lost, 1);
	assert_non_null(strstr(r->text, "another page"));
	pager_free(MOVE(r->pager));
	pthread_join(t.thread, NULL);
}

static void page_outside_ram(void **state)
{
	struct rig *r = given(state);
	atomic_store(&r->fake.outside, true);
	ok(pager_fill(r->pager));
	assert_true(wait_event(r, 60000));
	assert_int_equal(r->lost, 1);
	assert_non_null(strstr(r->text, "where there is no RAM"));
}

/* What a balloon gives back: never the source's bytes again, whoever places pages meanwhile, and
 * who waits for one of them goes on. */
static void dropped(void **state)
{
	enum { FIRST = 1000, COUNT = 4000 };
	struct rig *r = given(state);
	assert_true(page_is(r, FIRST, FIRST + 1)); /* some are there already */
	atomic_store(&r->fake.fill_delay_us, 20);
	ok(pager_fill(r->pager));
	for (uint64_t g = FIRST; g < FIRST + COUNT; g += 8) {
		gpa_t gpa = GPA(g * PAGE_BYTES);
		pager_drop(r->pager, gpa, 4 * PAGE_BYTES);
		ok(gmem_give_back(r->gmem, gpa, 4 * PAGE_BYTES));
		assert_true(page_is(r, g + 4, word_of(g + 4))); /* a neighbour, by a fault */
	}
	pager_drop(r->pager, GPA(GMEM_LOW_END), PAGE_BYTES); /* no RAM: nothing */
	assert_true(page_is(r, FIRST, 0));                   /* while the server is there */
	ok(pager_complete(r->pager, NULL));
	for (uint64_t g = 0; g < MEM_PAGES; g++) {
		bool given = g >= FIRST && g < FIRST + COUNT && (g - FIRST) % 8 < 4;
		assert_true(gmem_is_given(r->gmem, 0, g) == (given && g != FIRST));
		assert_true(page_is(r, g, given ? 0 : word_of(g)));
	}
}

struct reader {
	struct rig *r;
	atomic_ullong at;
};

static void *read_on(void *arg)
{
	struct reader *x = arg;
	for (uint64_t g = 0; g < MEM_PAGES; g++) {
		const volatile uint64_t *p = page_at(x->r, g);
		assert_true(p[0] == word_of(g) || p[0] == 0);
		atomic_store(&x->at, g);
	}
	return NULL;
}

/* Pages are dropped just when somebody waits for them: nobody waits for ever. */
static void dropped_under_a_reader(void **state)
{
	struct rig *r = given(state);
	struct reader x = { .r = r };
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, read_on, &x), 0);
	for (uint64_t g = 0; g < MEM_PAGES;) {
		uint64_t at = atomic_load(&x.at);
		if (at + 1 < g) {
			sched_yield();
			continue;
		}
		gpa_t gpa = GPA(g * PAGE_BYTES);
		pager_drop(r->pager, gpa, PAGE_BYTES);
		ok(gmem_give_back(r->gmem, gpa, PAGE_BYTES));
		g = MAX(at, g) + 1;
	}
	pthread_join(thread, NULL);
	assert_int_equal(atomic_load(&x.at), MEM_PAGES - 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(first_in_order, setup_first, teardown),
		cmocka_unit_test_setup_teardown(first_gives_way, setup_first, teardown),
		cmocka_unit_test_setup_teardown(first_is_damaged, setup_first, teardown),
		TEST(tells_what_was_demanded),
		TEST(serves_faults),
		TEST(fills_beside_writers),
		TEST(leaves_holes),
		TEST(given_back),
		TEST(ends_in_the_middle),
		TEST(completes_for_a_job),
		TEST(cancelled_job),
		TEST(stuck_then_retried),
		TEST(lost_by_a_fault),
		TEST(lost_by_the_filler),
		TEST(lost_by_a_job),
		TEST(disk_fails_a_job),
		TEST(disk_fails_the_filler),
		TEST(another_piece),
		TEST(page_outside_ram),
		TEST(dropped),
		TEST(dropped_under_a_reader),
	};
	return cmocka_run_group_tests_name("pager", tests, NULL, NULL);
}
