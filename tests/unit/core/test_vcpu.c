/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The park rendezvous with real vCPUs: many parks of guests that never leave by themselves, pending
 * port I/O completed before the park, independent reasons, and a crash told once with a report.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/vcpu.h"
#include "tests/lib/expect.h"

enum { CODE = 0x100000, COUNTER = 0x200000, PORT = 0x77 };

/* loop: incl COUNTER; jmp loop */
static const uint8_t code_count[] = { 0xff, 0x05, 0x00, 0x00, 0x20, 0x00, 0xeb, 0xf8 };
/* loop: inb PORT, %al; movb %al, COUNTER; jmp loop */
static const uint8_t code_in[] = { 0xe4, PORT, 0xa2, 0x00, 0x00, 0x20, 0x00, 0xeb, 0xf7 };
/* lidt of an empty table, then int3: a triple fault */
static const uint8_t code_crash[] = { 0x0f, 0x01, 0x1d, 0x00, 0x00, 0x30, 0x00, 0x0f, 0x0b };

/* The guest must have moved so often; on a loaded machine it gets to run in few of the rounds. */
enum { ROUNDS = 300, ROUNDS_LOADED = 30000, MOVES = 100 };

struct rig {
	struct fd kvm;
	struct gmem *gmem;
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[2];
	unsigned n;
	struct bus *bus;
	struct vcpu_group *group;
	atomic_int fates;
	atomic_int last_fate;
	char *report;
	struct device dev;
	atomic_uint in_count;
};

static void on_fate(void *arg, unsigned vcpu, enum vcpu_fate fate, char *report)
{
	struct rig *r = arg;
	(void)vcpu;
	free(r->report);
	r->report = report;
	atomic_store(&r->last_fate, (int)fate);
	atomic_fetch_add(&r->fates, 1);
}

static void port_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
		      uint64_t *data)
{
	struct rig *r = CONTAINER_OF(dev, struct rig, dev);
	(void)range;
	(void)off;
	(void)len;
	*data = atomic_fetch_add(&r->in_count, 1) + 1;
}

static void port_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
		       uint64_t data)
{
	(void)dev;
	(void)range;
	(void)off;
	(void)len;
	(void)data;
}

static void port_free(struct device *dev)
{
	(void)dev;
}

static const struct dev_ops port_ops = {
	.name = "port",
	.read = port_read,
	.write = port_write,
	.free = port_free,
};

static void rig_up(struct rig *r, const uint8_t *code, size_t len, unsigned n)
{
	memset(r, 0, sizeof(*r));
	r->n = n;
	ok(kvm_open(&r->kvm));
	ok(gmem_new(32 * MIB, &r->gmem));
	ok(kvm_vm_new(r->kvm.n, r->gmem, &r->vm));
	ok(gmem_write(r->gmem, GPA(CODE), code, len));
	struct cpuid_table *cpuid = calloc(1, sizeof(*cpuid));
	ok(cpuid_make(r->kvm.n, "host", n, cpuid));
	for (unsigned i = 0; i < n; i++) {
		ok(kvm_vcpu_new(r->vm, i, cpuid, &r->vcpus[i]));
	}
	free(cpuid);
	const struct boot_regs regs = { .mode = BOOT_PVH32, .rip = CODE };
	ok(kvm_vcpu_set_boot(r->vcpus[0], &regs));
	ok(bus_new(&r->bus));
	r->dev.ops = &port_ops;
	r->dev.nranges = 1;
	r->dev.ranges[0] = (struct dev_range){ DEV_PIO, PORT, 1 };
	ok(bus_add(r->bus, &r->dev));
	const struct vcpu_group_opts o = {
		.bus = r->bus,
		.gmem = r->gmem,
		.on_fate = on_fate,
		.arg = r,
	};
	ok(vcpu_group_new(r->vcpus, n, &o, &r->group));
	ok(vcpu_group_start(r->group));
	for (unsigned i = 0; i < n; i++) {
		assert_int_not_equal(vcpu_group_tid(r->group, i),
				     0); /* real-time at once: MakeRT */
	}
}

static void rig_down(struct rig *r)
{
	vcpu_group_free(r->group);
	for (unsigned i = 0; i < r->n; i++) {
		kvm_vcpu_free(r->vcpus[i]);
	}
	bus_free(r->bus);
	kvm_vm_free(r->vm);
	gmem_free(r->gmem);
	fd_close(&r->kvm);
	free(r->report);
}

static uint32_t counter(struct rig *r)
{
	uint32_t v;
	ok(gmem_read(r->gmem, GPA(COUNTER), &v, sizeof(v)));
	return v;
}

static void test_parked_guests_stand_still(void **state)
{
	(void)state;
	struct rig r;
	rig_up(&r, code_count, sizeof(code_count), 2); /* the second waits for SIPI in the kernel */
	vcpu_group_unpark(r.group, PARK_START);
	uint32_t last = 0;
	unsigned moved = 0;
	for (int i = 0; i < ROUNDS || (moved <= MOVES && i < ROUNDS_LOADED); i++) {
		usleep(500);
		assert_true(vcpu_group_park(r.group, PARK_LIFE, 60000));
		uint32_t a = counter(&r);
		moved += a != last;
		usleep(50);
		uint32_t b = counter(&r);
		assert_int_equal(a, b);
		last = b;
		vcpu_group_unpark(r.group, PARK_LIFE);
	}
	assert_true(moved > MOVES);
	rig_down(&r);
}

static void test_pending_input_is_completed_before_the_park(void **state)
{
	(void)state;
	struct rig r;
	rig_up(&r, code_in, sizeof(code_in), 1);
	vcpu_group_unpark(r.group, PARK_START);
	for (int i = 0; i < ROUNDS || (atomic_load(&r.in_count) <= MOVES && i < ROUNDS_LOADED);
	     i++) {
		usleep(200);
		assert_true(vcpu_group_park(r.group, PARK_LIFE, 60000));
		struct kvm_regs regs;
		assert_int_equal(ioctl(kvm_vcpu_fd(r.vcpus[0]), KVM_GET_REGS, &regs), 0);
		/* The value that the device gave last is in AL: not lost between exit and entry. */
		assert_int_equal(regs.rax & 0xff, atomic_load(&r.in_count) & 0xff);
		vcpu_group_unpark(r.group, PARK_LIFE);
	}
	assert_true(atomic_load(&r.in_count) > MOVES);
	rig_down(&r);
}

static void test_reasons_stand_independently(void **state)
{
	(void)state;
	struct rig r;
	rig_up(&r, code_count, sizeof(code_count), 1);
	vcpu_group_unpark(r.group, PARK_START);
	assert_true(vcpu_group_park(r.group, PARK_LIFE, 60000));
	vcpu_group_park_nowait(r.group, PARK_REQUEST);
	vcpu_group_unpark(r.group, PARK_LIFE);
	assert_true(vcpu_group_has_reason(r.group, PARK_REQUEST));
	uint32_t a = counter(&r);
	usleep(5000);
	assert_int_equal(a, counter(&r));
	vcpu_group_unpark(r.group, PARK_REQUEST);
	uint64_t until = clock_mono_ns() + 60000000000ull;
	while (counter(&r) == a && clock_mono_ns() < until) {
		usleep(200);
	}
	assert_int_not_equal(a, counter(&r));
	rig_down(&r);
}

struct stop_check {
	struct rig *r;
	bool go;
	unsigned calls;
	bool own_thread; /* on a vCPU's thread, not the caller's */
	pthread_t caller;
};

static bool look(void *arg)
{
	struct stop_check *c = arg;
	uint32_t a = counter(c->r);
	c->calls++;
	c->own_thread = !pthread_equal(pthread_self(), c->caller);
	usleep(50);
	assert_int_equal(counter(c->r), a);
	return c->go;
}

/* The work of a stop: with all parked, by the last one or the caller, and the guest goes on after
 * it. */
static void test_stop_with_work(void **state)
{
	(void)state;
	struct rig r;
	rig_up(&r, code_count, sizeof(code_count), 2);
	vcpu_group_unpark(r.group, PARK_START);
	struct stop_check c = { .r = &r, .go = true, .caller = pthread_self() };
	uint32_t last = 0;
	unsigned moved = 0;
	unsigned i = 0;
	for (; i < ROUNDS || (moved <= MOVES && i < ROUNDS_LOADED); i++) {
		struct vcpu_stop s = { .work = look, .arg = &c };
		usleep(500);
		assert_true(vcpu_group_park_and(r.group, PARK_LIFE, &s, 20000));
		assert_true(s.resumed && c.own_thread);
		assert_true(s.asked_ns <= s.out_ns && s.out_ns <= s.parked_ns &&
			    s.parked_ns <= s.resumed_ns);
		assert_false(vcpu_group_has_reason(r.group, PARK_LIFE));
		uint32_t now = counter(&r);
		moved += now != last;
		last = now;
	}
	assert_int_equal(c.calls, i);
	assert_true(moved > MOVES);
	/* False: they stay. */
	struct vcpu_stop stay = { .work = look, .arg = &c };
	c.go = false;
	assert_true(vcpu_group_park_and(r.group, PARK_LIFE, &stay, 20000));
	assert_false(stay.resumed);
	last = counter(&r);
	usleep(2000);
	assert_int_equal(counter(&r), last);
	/* Parked already: the caller does it; another reason stands after it. */
	struct vcpu_stop here = { .work = look, .arg = &c };
	c.go = true;
	assert_true(vcpu_group_park(r.group, PARK_REQUEST, 60000));
	assert_true(vcpu_group_park_and(r.group, PARK_LIFE, &here, 20000));
	assert_true(here.resumed && !c.own_thread);
	last = counter(&r);
	usleep(2000);
	assert_int_equal(counter(&r), last);
	vcpu_group_unpark(r.group, PARK_REQUEST);
	while (counter(&r) == last) {
		usleep(100);
	}
	rig_down(&r);
}

/* What the guest writes shows in the dirty log, once. */
static void test_dirty_log(void **state)
{
	(void)state;
	enum { WORDS = 32 * MIB / PAGE_BYTES / 64, AT = COUNTER / PAGE_BYTES };
	static uint64_t bits[WORDS];
	struct rig r;
	rig_up(&r, code_count, sizeof(code_count), 1);
	vcpu_group_unpark(r.group, PARK_START);
	assert_false(kvm_vm_log_on(r.vm));
	ok(kvm_vm_log_start(r.vm));
	assert_true(kvm_vm_log_on(r.vm));
	ok(kvm_vm_log_fetch(r.vm, 0, bits));
	for (unsigned w = 0; w < WORDS; w++) {
		assert_int_equal(bits[w], UINT64_MAX); /* everything, to begin with */
	}
	ok(kvm_vm_log_clear(r.vm, 0, 0, WORDS * 64, bits));
	for (unsigned i = 0; i < 20; i++) {
		uint32_t from = counter(&r);
		while (counter(&r) == from) {
			usleep(100);
		}
		ok(kvm_vm_log_fetch(r.vm, 0, bits));
		uint64_t n = 0;
		for (unsigned w = 0; w < WORDS; w++) {
			n += (uint64_t)__builtin_popcountll(bits[w]);
		}
		assert_int_equal(bits[AT / 64] >> (AT % 64) & 1, 1);
		assert_int_equal(n, 1);
		ok(kvm_vm_log_clear(r.vm, 0, AT / 64 * 64, 64, bits));
	}
	assert_true(vcpu_group_park(r.group, PARK_LIFE, 60000));
	ok(kvm_vm_log_fetch(r.vm, 0, bits));
	ok(kvm_vm_log_clear(r.vm, 0, 0, WORDS * 64, bits));
	ok(kvm_vm_log_fetch(r.vm, 0, bits));
	assert_int_equal(bits[AT / 64], 0);
	rig_down(&r);
	/* From the start: nothing is dirty. */
	struct fd kvm;
	struct gmem *g = NULL;
	struct kvm_vm *vm = NULL;
	ok(kvm_open(&kvm));
	ok(gmem_new(32 * MIB, &g));
	ok(kvm_vm_new_logged(kvm.n, g, &vm));
	assert_true(kvm_vm_log_on(vm));
	memset(bits, 0xff, sizeof(bits));
	ok(kvm_vm_log_fetch(vm, 0, bits));
	for (unsigned w = 0; w < WORDS; w++) {
		assert_int_equal(bits[w], 0);
	}
	kvm_vm_free(vm);
	gmem_free(g);
	fd_close(&kvm);
}

static void test_a_triple_fault_is_told_once(void **state)
{
	(void)state;
	struct rig r;
	rig_up(&r, code_crash, sizeof(code_crash), 1);
	vcpu_group_unpark(r.group, PARK_START);
	uint64_t until = clock_mono_ns() + 60000000000ull;
	while (atomic_load(&r.fates) == 0 && clock_mono_ns() < until) {
		usleep(1000);
	}
	assert_true(vcpu_group_park(r.group, PARK_LIFE, 60000));
	usleep(10000);
	assert_int_equal(atomic_load(&r.fates), 1);
	assert_non_null(r.report);
	assert_non_null(strstr(r.report, "rip"));
	rig_down(&r);
}

static void test_freed_while_running(void **state)
{
	(void)state;
	for (int i = 0; i < 5; i++) {
		struct rig r;
		rig_up(&r, code_count, sizeof(code_count), 2);
		vcpu_group_unpark(r.group, PARK_START);
		usleep(1000);
		rig_down(&r);
	}
}

/* A throttled vCPU runs nothing; a park does not wait for it; what is left counts after the park.
 */
static void test_a_throttled_vcpu_stays_out(void **state)
{
	(void)state;
	struct rig r;
	rig_up(&r, code_count, sizeof(code_count), 1);
	vcpu_group_unpark(r.group, PARK_START);
	while (counter(&r) == 0) {
		usleep(1000);
	}
	vcpu_group_throttle(r.group, 0, VCPU_THROTTLE_MAX_US);
	/* More is forgotten, and so the sum does not wrap. */
	vcpu_group_throttle(r.group, 0, UINT64_MAX);
	/* It is out of the guest once it has parked; from then on it owes a minute. */
	assert_true(vcpu_group_park(r.group, PARK_LIFE, 60000));
	uint32_t before = counter(&r);
	vcpu_group_unpark(r.group, PARK_LIFE);
	usleep(100000);
	assert_int_equal(counter(&r), before);
	uint64_t from = clock_mono_ns();
	assert_true(vcpu_group_park(r.group, PARK_LIFE, 60000));
	assert_true(clock_mono_ns() - from < VCPU_THROTTLE_MAX_US * 500ull);
	rig_down(&r);
	/* One that has paid goes on. */
	rig_up(&r, code_count, sizeof(code_count), 1);
	vcpu_group_throttle(r.group, 0, 20000);
	from = clock_mono_ns();
	vcpu_group_unpark(r.group, PARK_START);
	while (counter(&r) == 0) {
		usleep(1000);
	}
	assert_true(clock_mono_ns() - from >= 20000000);
	rig_down(&r);
}

int main(void)
{
	if (access("/dev/kvm", R_OK | W_OK) != 0) {
		print_message("no /dev/kvm: skipped\n");
		return 77;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parked_guests_stand_still),
		cmocka_unit_test(test_pending_input_is_completed_before_the_park),
		cmocka_unit_test(test_reasons_stand_independently),
		cmocka_unit_test(test_stop_with_work),
		cmocka_unit_test(test_dirty_log),
		cmocka_unit_test(test_a_triple_fault_is_told_once),
		cmocka_unit_test(test_freed_while_running),
		cmocka_unit_test(test_a_throttled_vcpu_stays_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
