/* SPDX-License-Identifier: Apache-2.0 */
/* The machine of the stage tests. See stage_vm.h. */
#include "tests/lib/stage_vm.h"

#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "core/base/clock.h"

/* Ports of the device, from PORT_BASE; and its MMIO registers. */
enum {
	PORT_BASE = 0x5e0,
	PORT_SYNC = 0,
	PORT_STOP = 1,
	PORT_SINK = 2,
	PORT_FEED = 3,
	PORT_COUNT = 4,
	PORTS = 8,
	RANGE_PIO = 0,
	RANGE_MMIO = 1,
};
#define MMIO_BASE 0xd0000000ull

/* seen: last value the guest wrote; reads tell the guest to wait while it stands at a stage that
 * has not been let go. Written by vCPU threads, read by the test. */
struct sync {
	struct device dev;
	struct machine *machine;
	atomic_uint seen;
	atomic_uint let_go;
};

struct stage_env stage_env = { .serial_in = -1, .serial_out = -1 };

/* The world outside: it does not go back with the guest. One vCPU uses each. */
static struct {
	atomic_uint sink, feed, count;
	atomic_bool sink_bad, mmio_bad;
	atomic_ullong mmio_count, mmio_written;
} outside;

static uint8_t pattern(unsigned i)
{
	return (uint8_t)(i * 7 + 3);
}

/* Parks all vCPUs right behind the access that this is called for, and says so. */
static void stop_here(struct sync *s)
{
	atomic_store(&s->seen, 1);
	vcpu_group_park_nowait(s->machine->group, PARK_LIFE);
}

static uint64_t port_read(struct sync *s, uint64_t off)
{
	unsigned n;

	switch (off) {
	case PORT_SYNC:
		return atomic_load(&s->seen) > atomic_load(&s->let_go) ? 0 : 1;
	case PORT_STOP:
		if (atomic_load(&s->let_go) == 0) {
			stop_here(s);
		}
		return 0x5a;
	case PORT_FEED:
		n = atomic_fetch_add(&outside.feed, 1);
		if (n + 1 == stage_env.stop_feed) {
			stop_here(s);
		}
		return pattern(n);
	case PORT_COUNT:
		return atomic_fetch_add(&outside.count, 1) + 1;
	default:
		return ~0ull;
	}
}

static void sync_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
		      uint64_t *data)
{
	struct sync *s = (struct sync *)dev;
	(void)len;
	*data = range == RANGE_MMIO ? atomic_fetch_add(&outside.mmio_count, 1) : port_read(s, off);
}

static void sync_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
		       uint64_t data)
{
	struct sync *s = (struct sync *)dev;
	(void)len;
	if (range == RANGE_MMIO) {
		if (off != 8 || data != atomic_fetch_add(&outside.mmio_written, 1) + 1) {
			atomic_store(&outside.mmio_bad, true);
		}
	} else if (off == PORT_SYNC) {
		atomic_store(&s->seen, (unsigned)data);
	} else if (off == PORT_SINK) {
		unsigned n = atomic_fetch_add(&outside.sink, 1);
		if ((uint8_t)data != pattern(n)) {
			atomic_store(&outside.sink_bad, true);
		}
		if (n + 1 == stage_env.stop_sink) {
			stop_here(s);
		}
	}
}

static void sync_free(struct device *dev)
{
	free(dev);
}

static const struct dev_ops sync_ops = {
	.name = "test-sync",
	.read = sync_read,
	.write = sync_write,
	.free = sync_free,
};

struct err *vm_sink_check(unsigned want)
{
	unsigned n = atomic_load(&outside.sink);
	ENSURE(n == want && !atomic_load(&outside.sink_bad), ERR_GUEST,
	       "%u bytes came out of %u, %s", n, want,
	       atomic_load(&outside.sink_bad) ? "not in order" : "in order");
	return NULL;
}

struct err *vm_mmio_check(void)
{
	ENSURE(atomic_load(&outside.mmio_written) > 0 && !atomic_load(&outside.mmio_bad), ERR_GUEST,
	       "a write to device memory was lost or came twice, near %llu",
	       atomic_load(&outside.mmio_written));
	return NULL;
}

void sleep_ms(unsigned ms)
{
	const struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };
	nanosleep(&t, NULL);
}

/* ---- one machine ---- */

static void on_event(void *arg, enum machine_event ev, char *report)
{
	struct vm *vm = arg;
	(void)ev;
	vm->ended = true;
	free(vm->report);
	vm->report = report;
	loop_quit(vm->loop);
}

static void on_timer(void *arg)
{
	struct vm *vm = arg;
	unsigned seen = atomic_load(&vm->sync->seen);

	if (seen == vm->want || seen == SYNC_DONE || seen == SYNC_SKIP || seen == SYNC_FAIL ||
	    clock_mono_ns() > vm->deadline_ns) {
		loop_quit(vm->loop);
		return;
	}
	loop_timer_set(vm->timer, clock_mono_ns() + 1000000);
}

void vm_destroy(struct vm *vm)
{
	if (vm->timer != NULL) {
		loop_timer_del(vm->timer);
	}
	machine_free(vm->machine);
	gmem_free(vm->gmem);
	loop_free(vm->loop);
	free(vm->sync);
	free(vm->report);
	*vm = (struct vm){ 0 };
}

static struct err *vm_build(struct vm *vm, unsigned let_go)
{
	*vm = (struct vm){ 0 };
	TRY(loop_new(&vm->loop));
	TRY(gmem_new(stage_env.config.mem_bytes, &vm->gmem));
	const struct machine_opts o = {
		.kvm = stage_env.kvm_fd,
		.loop = vm->loop,
		.config = &stage_env.config,
		.gmem = vm->gmem,
		.serial_in = stage_env.serial_in,
		.serial_out = stage_env.serial_out,
		.serial_listen = -1,
		.on_event = on_event,
		.arg = vm,
	};
	TRY(machine_new(&o, &vm->machine));
	struct snap_host facts;
	TRY(machine_host_facts(vm->machine, &facts));
	snap_set_host(&facts);
	vm->sync = calloc(1, sizeof(*vm->sync));
	ENSURE(vm->sync != NULL, ERR_SYS, "out of memory");
	vm->sync->machine = vm->machine;
	vm->sync->dev = (struct device){
		.ops = &sync_ops,
		.ranges = { [RANGE_PIO] = { DEV_PIO, PORT_BASE, PORTS },
			    [RANGE_MMIO] = { DEV_MMIO, MMIO_BASE, PAGE_BYTES } },
		.nranges = 2,
	};
	atomic_store(&vm->sync->seen, let_go);
	atomic_store(&vm->sync->let_go, let_go);
	TRY(bus_add(vm->machine->bus, &vm->sync->dev));
	return loop_timer_add(vm->loop, on_timer, vm, &vm->timer);
}

struct err *vm_boot(struct vm *vm)
{
	memset(&outside, 0, sizeof(outside));
	TRY(vm_build(vm, 0));
	return machine_boot(vm->machine, stage_env.kernel_fd, -1);
}

struct err *vm_load(struct vm *vm, const char *ref, unsigned let_go)
{
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	TRY(vm_build(vm, let_go));
	TRY(snap_image_open(stage_env.store, ref, &img));
	struct snap_host facts;
	TRY(machine_host_facts(vm->machine, &facts));
	TRY(snap_image_compat(img, &facts));
	size_t n;
	struct snap_part *const *parts = machine_parts(vm->machine, &n);
	kvm_state_set_clock_policy(machine_kvm_state(vm->machine), CLOCK_CONTINUE);
	const struct snap_load_opts lo = { 0 };
	TRY(snap_image_load(img, vm->gmem, parts, n, &lo));
	return kvm_state_clock_hold(machine_kvm_state(vm->machine));
}

struct err *vm_go(struct vm *vm)
{
	machine_gate_devices(vm->machine, false);
	TRY(kvm_state_clock_release(machine_kvm_state(vm->machine), false));
	machine_unpark_vcpus(vm->machine);
	return NULL;
}

void vm_let_go(struct vm *vm, unsigned hold)
{
	atomic_store(&vm->sync->let_go, hold);
}

static struct err *run_loop(struct vm *vm, unsigned want, uint64_t for_ns)
{
	vm->want = want;
	vm->deadline_ns = clock_mono_ns() + for_ns;
	loop_timer_set(vm->timer, clock_mono_ns() + 1000000);
	TRY(loop_run(vm->loop));
	ENSURE(!vm->ended, ERR_GUEST, "the VM ended: %s", vm->report ? vm->report : "no report");
	return NULL;
}

struct err *vm_run_to(struct vm *vm, unsigned want)
{
	TRY(run_loop(vm, want, 30000000000ull));
	unsigned seen = atomic_load(&vm->sync->seen);
	ENSURE(seen == want || seen == SYNC_SKIP, ERR_GUEST,
	       "wanted the guest at 0x%x, it is at 0x%x", want, seen);
	return NULL;
}

bool vm_skipped(const struct vm *vm)
{
	return vm->sync != NULL && atomic_load(&vm->sync->seen) == SYNC_SKIP;
}

struct err *vm_run_ms(struct vm *vm, unsigned ms)
{
	return run_loop(vm, ~0u, (uint64_t)ms * 1000000);
}

struct err *vm_freeze(struct vm *vm, unsigned late_ms)
{
	TRY(machine_park_vcpus(vm->machine));
	if (late_ms != 0) {
		sleep_ms(late_ms); /* as if another vCPU took that long to leave the guest */
	}
	TRY(kvm_state_clock_hold(machine_kvm_state(vm->machine)));
	machine_gate_devices(vm->machine, true);
	return NULL;
}

static struct err *nothing(void *self)
{
	(void)self;
	return NULL;
}

static void nothing_void(void *self)
{
	(void)self;
}

/* The VM is frozen already, as a suspended one is. */
struct err *vm_take(struct vm *vm, const char *tag)
{
	static const struct snap_vm_ops ops = { .freeze = nothing, .thaw = nothing_void };
	const struct config *c = &stage_env.config;
	SCOPE(freep) char *text = NULL;
	TRY(config_text(c, &text));
	struct snap_vm sv = {
		.name = c->name,
		.gmem = vm->gmem,
		.ops = &ops,
		.config = { text, strlen(text) },
	};
	memcpy(sv.uuid, c->uuid, sizeof(sv.uuid));
	memcpy(sv.family, c->family, sizeof(sv.family));
	sv.parts = machine_parts(vm->machine, &sv.nparts);
	const struct snap_take_opts opts = { .tag = tag };
	struct snap_result result;
	return snap_take(stage_env.store, &sv, &opts, &result);
}

/* ---- reading snapshots ---- */

struct part_list {
	uint16_t index[128];
	size_t n;
};

static struct err *note_part(void *arg, uint16_t kind, uint16_t index)
{
	struct part_list *l = arg;
	if (kind == SNAP_BLOB_PART) {
		ENSURE(l->n < ARRAY_LEN(l->index), ERR_LIMIT, "more parts than this test compares");
		l->index[l->n++] = index;
	}
	return NULL;
}

static struct err *read_state(struct reader *r, uint16_t index, struct desc_head *ret_head,
			      const struct state_desc **ret_desc, void **ret_state)
{
	SCOPE(freep) uint8_t *p = NULL;
	size_t len;
	TRY(reader_blob(r, SNAP_BLOB_PART, index, &p, &len));
	TRY(desc_peek(p, len, ret_head));
	const struct state_desc *d = machine_find_desc(ret_head->name);
	ENSURE(d != NULL, ERR_CORRUPT, "part '%s' has no table", ret_head->name);
	SCOPE(freep) void *state = calloc(1, d->size);
	ENSURE(state != NULL, ERR_SYS, "out of memory");
	TRY(desc_decode(d, ret_head->instance, p, len, state));
	*ret_desc = d;
	*ret_state = MOVE(state);
	return NULL;
}

static struct err *find_state(struct reader *r, const char *part, uint32_t instance,
			      void **ret_state)
{
	struct part_list l = { .n = 0 };
	TRY(reader_blobs(r, note_part, &l));
	for (size_t i = 0; i < l.n; i++) {
		struct desc_head head;
		const struct state_desc *d;
		SCOPE(freep) void *state = NULL;
		TRY(read_state(r, l.index[i], &head, &d, &state));
		if (strcmp(head.name, part) == 0 && head.instance == instance) {
			*ret_state = MOVE(state);
			return NULL;
		}
	}
	return ERR(ERR_NOTFOUND, "the snapshot has no part %s %u", part, instance);
}

struct err *vm_saved(const char *ref, const char *part, uint32_t instance, void **ret_state)
{
	struct store_ref sr;
	TRY(store_ref_resolve(stage_env.store, ref, &sr));
	struct reader *r = NULL;
	struct err *e = reader_open(sr.family, sr.snap.id, &r);
	if (e == NULL) {
		e = find_state(r, part, instance, ret_state);
		reader_close(r);
	}
	store_ref_done(&sr);
	return e;
}

static struct err *compare_parts(struct reader *a, struct reader *b, size_t *ret_n)
{
	struct part_list la = { .n = 0 }, lb = { .n = 0 };
	TRY(reader_blobs(a, note_part, &la));
	TRY(reader_blobs(b, note_part, &lb));
	ENSURE(la.n == lb.n && la.n > 0, ERR_CORRUPT, "%zu parts, then %zu", la.n, lb.n);
	for (size_t i = 0; i < la.n; i++) {
		struct desc_head ha, hb;
		const struct state_desc *da, *db;
		SCOPE(freep) void *sa = NULL;
		SCOPE(freep) void *sb = NULL;
		TRY(read_state(a, la.index[i], &ha, &da, &sa));
		TRY(read_state(b, lb.index[i], &hb, &db, &sb));
		ENSURE(da == db && ha.instance == hb.instance, ERR_CORRUPT,
		       "part %zu is %s, then %s", i, ha.name, hb.name);
		TRY(err_wrap(desc_compare(da, sa, sb), "%s %u", ha.name, ha.instance));
	}
	*ret_n = la.n;
	return NULL;
}

/*
 * Names the first byte that differs, but for the 32 bytes of the guest's kvmclock: KVM writes that
 * record whenever a vCPU is entered after its MSRs or clock were set, also to finish a pending I/O.
 */
static struct err *compare_range(struct reader *a, struct reader *b, uint64_t from, uint64_t to,
				 uint64_t clock_gpa)
{
	for (uint64_t i = from / PAGE_BYTES; i < to / PAGE_BYTES; i++) {
		uint8_t pa[PAGE_BYTES], pb[PAGE_BYTES];
		TRY(reader_map_page(a, "memory", i, pa));
		TRY(reader_map_page(b, "memory", i, pb));
		for (unsigned k = 0; k < PAGE_BYTES; k++) {
			uint64_t gpa = i * PAGE_BYTES + k;
			if (gpa - clock_gpa < 32) {
				continue;
			}
			ENSURE(pa[k] == pb[k], ERR_CORRUPT,
			       "memory differs at 0x%llx: 0x%02x, then 0x%02x",
			       (unsigned long long)gpa, pa[k], pb[k]);
		}
	}
	return NULL;
}

static struct err *compare_memory(struct reader *a, struct reader *b, uint64_t clock_gpa)
{
	uint64_t bytes = stage_env.config.mem_bytes;
	uint64_t low = MIN(bytes, (uint64_t)GMEM_LOW_END);
	TRY(compare_range(a, b, 0, low, clock_gpa));
	return compare_range(a, b, GMEM_HIGH_START, GMEM_HIGH_START + bytes - low, clock_gpa);
}

struct err *vm_clock_gpa(struct vm *vm, uint64_t *ret_gpa)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msr = { .head = { .nmsrs = 1 }, .entry = { .index = 0x4b564d01 } };
	int fd = kvm_vcpu_fd(vm->machine->vcpus[0]);
	ENSURE(ioctl(fd, KVM_GET_MSRS, &msr) == 1, ERR_SYS, "reading the kvmclock MSR");
	*ret_gpa = msr.entry.data & ~1ull;
	return NULL;
}

static bool same_maps(const struct snap_info *a, const struct snap_info *b)
{
	if (a->nmaps != b->nmaps) {
		return false;
	}
	for (uint32_t i = 0; i < a->nmaps; i++) {
		if (memcmp(&a->maps[i].digest, &b->maps[i].digest, sizeof(a->maps[i].digest)) !=
		    0) {
			return false;
		}
	}
	return true;
}

struct err *vm_compare(const char *ref_a, const char *ref_b, uint64_t clock_gpa, size_t *ret_n)
{
	struct store_ref ra, rb;
	TRY(store_ref_resolve(stage_env.store, ref_a, &ra));
	struct err *e = store_ref_resolve(stage_env.store, ref_b, &rb);
	if (e != NULL) {
		store_ref_done(&ra);
		return e;
	}
	SCOPE(reader_closep) struct reader *a = NULL;
	SCOPE(reader_closep) struct reader *b = NULL;
	e = reader_open(ra.family, ra.snap.id, &a);
	if (e == NULL) {
		e = reader_open(rb.family, rb.snap.id, &b);
	}
	if (e == NULL) {
		e = compare_parts(a, b, ret_n);
	}
	if (e == NULL && !same_maps(&ra.snap, &rb.snap)) {
		e = compare_memory(a, b, clock_gpa);
	}
	reader_close(MOVE(a));
	reader_close(MOVE(b));
	store_ref_done(&ra);
	store_ref_done(&rb);
	return e;
}
