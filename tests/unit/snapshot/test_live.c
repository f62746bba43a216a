/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes of a guest that runs: a thread plays one that writes all the time, and a fake log knows
 * which pages it wrote, as KVM's does: a write to a page that has been cleared sets its bit. Every
 * snapshot must be what memory was at the stop.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>

#include "core/base/clock.h"
#include "tests/lib/snap_fake.h"

enum {
	MEM_BYTES = 48 * MIB,
	PAGES = MEM_BYTES / PAGE_BYTES, /* three times what the buffer holds */
	WORDS = PAGES / 64,
};

static struct fake_vm f;
static _Atomic uint64_t log_bits[WORDS];
static uint64_t kept[WORDS];
static uint64_t base;
static bool fresh;
static pthread_mutex_t guest = PTHREAD_MUTEX_INITIALIZER; /* held by the guest for each write */
static atomic_bool over;
static uint64_t span; /* pages that the guest writes to */
static uint8_t *at_stop;
static bool slow_stop;
static int fail_clear; /* this one fails; 0: none */
static bool cancel;

/* ---- the log ---- */

static struct err *log_begin(void *self, uint64_t *ret_base)
{
	(void)self;
	fresh = true;
	*ret_base = base;
	return NULL;
}

static struct err *log_fetch(void *self, unsigned region, uint64_t *bits)
{
	(void)self;
	assert_int_equal(region, 0);
	for (unsigned w = 0; w < WORDS; w++) {
		uint64_t now = atomic_load(&log_bits[w]);
		kept[w] |= now;
		bits[w] |= fresh ? kept[w] : now;
	}
	fresh = false;
	return NULL;
}

static struct err *log_clear(void *self, unsigned region, uint64_t first, uint64_t npages,
			     const uint64_t *bits)
{
	(void)self;
	assert_int_equal(region, 0);
	assert_int_equal(first % 64 + npages % 64, 0);
	ENSURE(fail_clear == 0 || --fail_clear > 0, ERR_SYS, "the log is broken");
	for (uint64_t w = first / 64; w < (first + npages) / 64; w++) {
		atomic_fetch_and(&log_bits[w], ~bits[w]);
	}
	return NULL;
}

static const struct snap_dirty_ops log_ops = {
	.begin = log_begin,
	.fetch = log_fetch,
	.clear = log_clear,
};

/* ---- the guest ---- */

static uint64_t mix(uint64_t *s)
{
	uint64_t z = *s += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	return z ^ z >> 27;
}

static void guest_write(uint64_t *seed)
{
	uint64_t page = mix(seed) % span;
	uint64_t v = mix(seed) % 5 == 0 ? 0 : mix(seed);
	uint64_t *p = gmem_at(f.gmem, GPA(page * PAGE_BYTES), PAGE_BYTES);
	for (unsigned i = 0; i < 512; i++) {
		p[i] = i % 7 == 0 ? v : v * i;
	}
	/* As KVM: seen no later than the next look, which waits for the guest's lock at the stop.
	 */
	atomic_fetch_or(&log_bits[page / 64], 1ull << (page % 64));
}

static void *guest_main(void *arg)
{
	uint64_t seed = 7;
	(void)arg;
	while (!atomic_load(&over)) {
		pthread_mutex_lock(&guest);
		for (unsigned i = 0; i < 8; i++) {
			guest_write(&seed);
		}
		pthread_mutex_unlock(&guest);
	}
	return NULL;
}

static struct err *stop_and(void *self, bool (*work)(void *arg), void *arg, struct snap_stop *ret)
{
	ret->asked_ns = clock_mono_ns();
	TRY(fake_op(self, "freeze", NULL));
	pthread_mutex_lock(&guest);
	memcpy(at_stop, gmem_at(f.gmem, GPA(0), MEM_BYTES), MEM_BYTES);
	ret->out_ns = ret->parked_ns = clock_mono_ns();
	ret->resumed = work(arg);
	if (slow_stop) {
		usleep(20000);
	}
	ret->resumed_ns = clock_mono_ns();
	if (ret->resumed) {
		pthread_mutex_unlock(&guest);
	}
	return NULL;
}

static void thaw(void *self)
{
	fake_thaw(self);
	pthread_mutex_unlock(&guest);
}

static const struct snap_vm_ops running_ops = {
	.freeze_and = stop_and,
	.thaw = thaw,
	.flush_irqs = fake_flush,
};

static int setup(void **state)
{
	(void)state;
	fake_init(&f, MEM_BYTES);
	fake_open_store(&f);
	f.vm.ops = &running_ops;
	f.vm.dirty = &log_ops;
	base = 0;
	span = PAGES / 8;
	slow_stop = cancel = false;
	fail_clear = 0;
	memset(kept, 0, sizeof(kept));
	for (unsigned w = 0; w < WORDS; w++) {
		atomic_store(&log_bits[w], ~0ull);
	}
	at_stop = malloc(MEM_BYTES);
	assert_non_null(at_stop);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	free(at_stop);
	fake_done(&f);
	return 0;
}

static struct err *take(struct snap_result *ret)
{
	const struct snap_take_opts o = { .cancel = &cancel, .max_pause_us = 10000 };
	f.log[0] = '\0';
	f.ops = 0;
	TRY(snap_take(f.store, &f.vm, &o, ret));
	base = ret->snap_id;
	memset(kept, 0, sizeof(kept));
	return NULL;
}

static struct err *place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	memcpy((uint8_t *)arg + index * PAGE_BYTES, pages, npages * PAGE_BYTES);
	return NULL;
}

static void is_as_at_the_stop(uint64_t id)
{
	struct family *fam = NULL;
	struct reader *r = NULL;
	uint8_t *have = calloc(1, MEM_BYTES);
	uint64_t findings = 1;
	OK(family_open(f.store, f.vm.family, false, &fam));
	OK(reader_open(fam, id, &r));
	const struct read_opts ro = { .place = place, .arg = have };
	OK(reader_map_read(r, "memory", &ro));
	reader_close(r);
	for (unsigned p = 0; p < PAGES; p++) {
		if (memcmp(have + (size_t)p * PAGE_BYTES, at_stop + (size_t)p * PAGE_BYTES,
			   PAGE_BYTES) != 0) {
			fail_msg("page %u of snapshot %llu is not as it was at the stop", p,
				 (unsigned long long)id);
		}
	}
	OK(family_verify_snap(fam, id, NULL, NULL, &findings));
	assert_int_equal(findings, 0);
	family_close(fam);
	free(have);
}

static void with_guest(void (*fn)(void))
{
	pthread_t t;
	atomic_store(&over, false);
	assert_int_equal(pthread_create(&t, NULL, guest_main, NULL), 0);
	fn();
	atomic_store(&over, true);
	pthread_join(t, NULL);
}

static void take_many(void)
{
	struct snap_result r = { 0 };
	for (unsigned i = 0; i < 6; i++) {
		OK(take(&r));
		assert_int_equal(r.incremental, i > 0);
		assert_true(r.rounds >= 1 && r.rounds <= SNAP_ROUNDS_MAX);
		assert_true(strstr(f.log, "unpark:serial0") != NULL);
		is_as_at_the_stop(r.snap_id);
	}
}

static void every_take_is_the_stop(void **state)
{
	(void)state;
	with_guest(take_many);
}

/* More than the buffer holds changes all the time: the rest is read while the guest stands still.
 */
static void too_much(void **state)
{
	(void)state;
	span = PAGES;
	with_guest(take_many);
}

static void take_after_failures(void)
{
	struct snap_result r = { 0 };
	OK(take(&r));
	for (int n = 1; n < 5; n++) {
		fail_clear = n;
		struct err *e = take(&r);
		if (e != NULL) {
			assert_int_equal(err_class(e), ERR_SYS);
			err_free(e);
		}
		fail_clear = 0;
		if (n % 2 == 0) {
			OK(take(&r));
			is_as_at_the_stop(r.snap_id);
		}
	}
	/* Every operation of the stop fails once; the guest goes on each time. */
	for (f.fail_at = 1; f.fail_at <= 10; f.fail_at++) {
		REFUSED(take(&r), ERR_NOT_NOW, "made to fail");
	}
	f.fail_at = 0;
	cancel = true;
	REFUSED(take(&r), ERR_CANCELLED, "");
	cancel = false;
	OK(take(&r));
	assert_true(r.incremental);
	is_as_at_the_stop(r.snap_id);
}

static void no_change_is_lost(void **state)
{
	(void)state;
	with_guest(take_after_failures);
}

/* The base is gone: everything is stored again. */
static void without_its_base(void **state)
{
	(void)state;
	struct snap_result r = { 0 };
	uint64_t seed = 3;
	for (unsigned i = 0; i < 300; i++) {
		guest_write(&seed);
	}
	OK(take(&r));
	struct family *fam = NULL;
	OK(family_open(f.store, f.vm.family, false, &fam));
	OK(family_remove(fam, &r.snap_id, 1));
	family_close(fam);
	guest_write(&seed);
	OK(take(&r));
	assert_false(r.incremental);
	is_as_at_the_stop(r.snap_id);
	OK(take(&r));
	assert_true(r.incremental);
	assert_int_equal(r.pages_stored, 0);
	assert_int_equal(r.pause.pages, 0);
	is_as_at_the_stop(r.snap_id);
}

static void a_missed_bound_is_told(void **state)
{
	(void)state;
	struct snap_result r = { 0 };
	OK(take(&r));
	assert_int_equal(r.missed[0] != 0, r.pause_us > 10000);
	slow_stop = true;
	OK(take(&r));
	assert_true(r.pause_us >= 20000 && r.pause.resume_us >= 20000);
	assert_non_null(strstr(r.missed, "the host was slow"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_take_is_the_stop, setup, teardown),
		cmocka_unit_test_setup_teardown(too_much, setup, teardown),
		cmocka_unit_test_setup_teardown(no_change_is_lost, setup, teardown),
		cmocka_unit_test_setup_teardown(without_its_base, setup, teardown),
		cmocka_unit_test_setup_teardown(a_missed_bound_is_told, setup, teardown),
	};
	return cmocka_run_group_tests_name("live", tests, NULL, NULL);
}
