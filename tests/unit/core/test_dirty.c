/* SPDX-License-Identifier: Apache-2.0 */
/* What changed since the base: KVM's log (a fake here) and gmem's bits, kept until a take is
 * published. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "core/dirty.h"
#include "tests/lib/expect.h"

enum { WORDS = GMEM_MIN_BYTES / PAGE_BYTES / 64 };

/* The log of a KVM that is none. */
struct kvm_vm {
	bool on;
	bool fail;
	uint64_t log[WORDS];
};

bool kvm_vm_log_on(const struct kvm_vm *vm)
{
	return vm->on;
}

struct err *kvm_vm_log_start(struct kvm_vm *vm)
{
	assert_false(vm->on);
	ENSURE(!vm->fail, ERR_SYS, "no log");
	vm->on = true;
	memset(vm->log, 0xff, sizeof(vm->log));
	return NULL;
}

struct err *kvm_vm_log_fetch(struct kvm_vm *vm, unsigned region, uint64_t *bits)
{
	assert_int_equal(region, 0);
	ENSURE(!vm->fail, ERR_SYS, "no bits");
	memcpy(bits, vm->log, sizeof(vm->log));
	return NULL;
}

struct err *kvm_vm_log_clear(struct kvm_vm *vm, unsigned region, uint64_t first, uint64_t npages,
			     const uint64_t *bits)
{
	assert_int_equal(region, 0);
	for (uint64_t w = first / 64; w < (first + npages) / 64; w++) {
		vm->log[w] &= ~bits[w];
	}
	return NULL;
}

static struct gmem *g;
static struct dirty *d;
static struct kvm_vm vm;
static uint64_t bits[WORDS];

static int setup(void **state)
{
	(void)state;
	memset(&vm, 0, sizeof(vm));
	memset(bits, 0, sizeof(bits));
	ok(gmem_new(GMEM_MIN_BYTES, &g));
	ok(dirty_new(g, &d));
	dirty_attach(d, &vm);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	dirty_free(d);
	gmem_free(g);
	return 0;
}

static uint64_t begin(void)
{
	uint64_t base = 99;
	ok(dirty_ops.begin(d, &base));
	return base;
}

static void fetch(void)
{
	memset(bits, 0, sizeof(bits));
	ok(dirty_ops.fetch(d, 0, bits));
}

static void clear_all(void)
{
	ok(dirty_ops.clear(d, 0, 0, GMEM_MIN_BYTES / PAGE_BYTES, bits));
}

static bool has(uint64_t page)
{
	return (bits[page / 64] >> (page % 64) & 1) != 0;
}

static uint64_t count(void)
{
	uint64_t n = 0;
	for (unsigned w = 0; w < WORDS; w++) {
		n += (uint64_t)__builtin_popcountll(bits[w]);
	}
	return n;
}

static void from_boot(void **state)
{
	(void)state;
	assert_int_equal(begin(), 0);
	assert_true(vm.on);
	fetch();
	assert_int_equal(count(), WORDS * 64);
	clear_all();
	vm.log[1] = 4;
	fetch();
	assert_int_equal(count(), 1);
	assert_true(has(66));
	clear_all();
	dirty_set_base(d, 7);
	/* The next take: the log goes on where it was. */
	vm.log[2] = 1;
	assert_int_equal(begin(), 7);
	fetch();
	assert_int_equal(count(), 1);
	assert_true(has(128));
}

static void the_vmm_writes_too(void **state)
{
	(void)state;
	begin();
	fetch();
	clear_all();
	dirty_set_base(d, 1);
	ok(gmem_write(g, GPA(5 * PAGE_BYTES - 1), "xy", 2));
	uint8_t page[PAGE_BYTES] = { 1 };
	ok(gmem_place(g, (gfn_t){ 9 }, page, 1)); /* a restore's own pages do not count */
	begin();
	fetch();
	assert_int_equal(count(), 2);
	assert_true(has(4) && has(5));
	fetch();
	assert_int_equal(count(), 0); /* told */
}

/* What a take fetched and cleared comes again in the next one, until one is published. */
static void nothing_is_lost(void **state)
{
	(void)state;
	begin();
	fetch();
	clear_all();
	dirty_set_base(d, 3);
	uint64_t want = 0;
	for (unsigned i = 0; i < 5; i++) { /* takes that fail */
		vm.log[i] = 1ull << i;
		want++;
		assert_int_equal(begin(), 3);
		fetch();
		assert_int_equal(count(), want);
		clear_all();
		vm.log[i + 1] = 1ull << 40;
		want++;
		fetch();
		assert_int_equal(count(), 1); /* a later round: only what is new */
		clear_all();
	}
	vm.fail = true;
	uint64_t base;
	ok(dirty_ops.begin(d, &base));
	fails(dirty_ops.fetch(d, 0, bits), ERR_SYS);
	vm.fail = false;
	begin();
	fetch();
	assert_int_equal(count(), want);
	clear_all();
	dirty_set_base(d, 4);
	begin();
	fetch();
	assert_int_equal(count(), 0);
}

static void machines_come_and_go(void **state)
{
	(void)state;
	struct kvm_vm restored = { .on = true };
	/* Restored: the log runs already, and there is a base. */
	dirty_attach(d, &restored);
	dirty_set_base(d, 12);
	assert_int_equal(dirty_base(d), 12);
	assert_int_equal(begin(), 12);
	fetch();
	assert_int_equal(count(), 0);
	/* A reset: the memory is cleared behind KVM's back. */
	dirty_detach(d);
	assert_int_equal(dirty_base(d), 0);
	ok(gmem_clear(g));
	dirty_attach(d, &vm);
	assert_int_equal(begin(), 0);
	/* A base without a log would be a lie. */
	vm.on = false;
	dirty_set_base(d, 5);
	assert_int_equal(begin(), 0);
	vm.on = false;
	vm.fail = true;
	uint64_t base = 99;
	fails(dirty_ops.begin(d, &base), ERR_SYS);
	assert_int_equal(base, 99);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(from_boot, setup, teardown),
		cmocka_unit_test_setup_teardown(the_vmm_writes_too, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_is_lost, setup, teardown),
		cmocka_unit_test_setup_teardown(machines_come_and_go, setup, teardown),
	};
	return cmocka_run_group_tests_name("dirty", tests, NULL, NULL);
}
