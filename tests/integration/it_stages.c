/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Freestanding guests at their stages (tests/guest/free/stages.c): run to the stage, take a
 * snapshot, destroy the whole machine, build a new one from the snapshot, take again before
 * anything runs, compare every part field by field and the memory, then let the guest run
 * on to its own assertion.
 *
 * Usage: it_stages GUEST_DIR [STAGE]. Exit 77 without /dev/kvm. The machine is wired by machine.h
 * as life does it; the only addition is the sync port's device, which has no state.
 */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "core/jail.h"
#include "core/machine_internal.h"

enum { SYNC_PORT = 0x5e0, SYNC_DONE = 0xd0, SYNC_FAIL = 0xf1 };

/* The sync port. seen: last value the guest wrote; reads tell the guest to wait while it stands at
 * a stage that has not been let go. Written by vCPU threads, read by the test. */
struct sync {
	struct device dev;
	atomic_uint seen;
	atomic_uint let_go;
};

struct vm {
	struct loop *loop;
	struct gmem *gmem;
	struct machine *machine;
	struct sync *sync;
	struct loop_timer *timer;
	unsigned want;        /* run_to: until the guest says this */
	uint64_t deadline_ns; /* and at most until then */
	bool ended;
	char *report;
};

static struct config config;
static int kvm_fd, kernel_fd, serial_fd;
static struct store *store;
static char store_path[128];

static void sync_read(struct device *dev, unsigned range, uint64_t off, unsigned len,
		      uint64_t *data)
{
	struct sync *s = (struct sync *)dev;
	(void)range;
	(void)off;
	(void)len;
	*data = atomic_load(&s->seen) > atomic_load(&s->let_go) ? 0 : 1;
}

static void sync_write(struct device *dev, unsigned range, uint64_t off, unsigned len,
		       uint64_t data)
{
	struct sync *s = (struct sync *)dev;
	(void)range;
	(void)off;
	(void)len;
	atomic_store(&s->seen, (unsigned)data);
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

	if (seen == vm->want || seen == SYNC_DONE || seen == SYNC_FAIL ||
	    clock_mono_ns() > vm->deadline_ns) {
		loop_quit(vm->loop);
		return;
	}
	loop_timer_set(vm->timer, clock_mono_ns() + 1000000);
}

static void vm_destroy(struct vm *vm)
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
	TRY(gmem_new(config.mem_bytes, &vm->gmem));
	const struct machine_opts o = {
		.kvm = kvm_fd,
		.loop = vm->loop,
		.config = &config,
		.gmem = vm->gmem,
		.serial_in = -1,
		.serial_out = serial_fd,
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
	vm->sync->dev = (struct device){
		.ops = &sync_ops,
		.ranges = { { .space = DEV_PIO, .base = SYNC_PORT, .len = 1 } },
		.nranges = 1,
	};
	atomic_store(&vm->sync->seen, let_go);
	atomic_store(&vm->sync->let_go, let_go);
	TRY(bus_add(vm->machine->bus, &vm->sync->dev));
	return loop_timer_add(vm->loop, on_timer, vm, &vm->timer);
}

static struct err *vm_boot(struct vm *vm)
{
	TRY(vm_build(vm, 0));
	return machine_boot(vm->machine, kernel_fd, -1);
}

static struct err *vm_load(struct vm *vm, const char *ref, unsigned let_go)
{
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	TRY(vm_build(vm, let_go));
	TRY(snap_image_open(store, ref, &img));
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

static struct err *vm_go(struct vm *vm)
{
	machine_gate_devices(vm->machine, false);
	TRY(kvm_state_clock_release(machine_kvm_state(vm->machine), false));
	machine_unpark_vcpus(vm->machine);
	return NULL;
}

/* Runs the main loop until the guest says `want`; another end is an error. */
static struct err *vm_run_to(struct vm *vm, unsigned want)
{
	vm->want = want;
	vm->deadline_ns = clock_mono_ns() + 30000000000ull;
	loop_timer_set(vm->timer, clock_mono_ns() + 1000000);
	TRY(loop_run(vm->loop));
	unsigned seen = atomic_load(&vm->sync->seen);
	ENSURE(!vm->ended, ERR_GUEST, "the VM ended: %s", vm->report ? vm->report : "no report");
	ENSURE(seen == want, ERR_GUEST, "wanted the guest at 0x%x, it is at 0x%x", want, seen);
	return NULL;
}

static struct err *vm_freeze(struct vm *vm)
{
	TRY(machine_park_vcpus(vm->machine));
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
static struct err *vm_take(struct vm *vm, const char *tag)
{
	static const struct snap_vm_ops ops = { .freeze = nothing, .thaw = nothing_void };
	SCOPE(freep) char *text = NULL;
	TRY(config_text(&config, &text));
	struct snap_vm sv = {
		.name = config.name,
		.gmem = vm->gmem,
		.ops = &ops,
		.config = { text, strlen(text) },
	};
	memcpy(sv.uuid, config.uuid, sizeof(sv.uuid));
	memcpy(sv.family, config.family, sizeof(sv.family));
	sv.parts = machine_parts(vm->machine, &sv.nparts);
	const struct snap_take_opts opts = { .tag = tag };
	struct snap_result result;
	return snap_take(store, &sv, &opts, &result);
}

/* ---- comparison ---- */

struct part_list {
	uint16_t index[64];
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
static struct err *compare_memory(struct reader *a, struct reader *b, uint64_t clock_gpa)
{
	for (uint64_t i = 0; i < config.mem_bytes / PAGE_BYTES; i++) {
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

/* Where the guest has its kvmclock record: MSR_KVM_SYSTEM_TIME_NEW of vCPU 0. */
static struct err *clock_gpa_of(struct vm *vm, uint64_t *ret_gpa)
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

static struct err *compare(const char *ref_a, const char *ref_b, uint64_t clock_gpa, size_t *ret_n)
{
	struct store_ref ra, rb;
	TRY(store_ref_resolve(store, ref_a, &ra));
	struct err *e = store_ref_resolve(store, ref_b, &rb);
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
	if (e == NULL && (ra.snap.nmaps != rb.snap.nmaps ||
			  memcmp(&ra.snap.maps[0].digest, &rb.snap.maps[0].digest,
				 sizeof(ra.snap.maps[0].digest)) != 0)) {
		e = compare_memory(a, b, clock_gpa);
	}
	reader_close(MOVE(a));
	reader_close(MOVE(b));
	store_ref_done(&ra);
	store_ref_done(&rb);
	return e;
}

/* ---- one stage ---- */

struct stage {
	const char *name;
	unsigned ncpus;
	unsigned holds;   /* how many times the guest stands at a hold */
	unsigned wait_ms; /* after the guest's word, until it is where it says */
};

static const struct stage stages[] = {
	{ "timer", 1, 1, 0 }, { "pending", 1, 1, 0 },  { "halted", 1, 1, 50 },
	{ "avx", 1, 1, 0 },   { "handler", 1, 1, 0 },  { "serial", 1, 1, 0 },
	{ "ap", 2, 2, 0 },    { "deadline", 1, 1, 0 }, { "registers", 1, 1, 0 },
};

static struct err *halted_check(struct vm *vm)
{
	/* The vCPU really sleeps: its saved mp_state says so. KVM_MP_STATE_HALTED is 3. */
	size_t n;
	struct snap_part *const *parts = machine_parts(vm->machine, &n);
	for (size_t i = 0; i < n; i++) {
		for (size_t f = 0; f < parts[i]->desc->nfields; f++) {
			const struct state_field *field = &parts[i]->desc->fields[f];
			if (strcmp(field->name, "mp_state") == 0) {
				uint32_t v = 0;
				memcpy(&v, (const char *)parts[i]->state + field->offset,
				       field->size < sizeof(v) ? field->size : sizeof(v));
				ENSURE(v == 3, ERR_GUEST, "mp_state is %u, not halted", v);
				return NULL;
			}
		}
	}
	return ERR(ERR_GUEST, "no part has an mp_state");
}

static struct err *hold_cycle(const struct stage *s, struct vm *vm, unsigned hold, size_t *ret_n)
{
	char tag_a[32], tag_b[32], ref_a[128], ref_b[128];

	TRY(vm_run_to(vm, hold));
	if (s->wait_ms != 0) {
		const struct timespec t = { .tv_nsec = (long)s->wait_ms * 1000000 };
		nanosleep(&t, NULL);
	}
	snprintf(tag_a, sizeof(tag_a), "s%u-a", hold);
	snprintf(tag_b, sizeof(tag_b), "s%u-b", hold);
	snprintf(ref_a, sizeof(ref_a), "%s@%s", config.name, tag_a);
	snprintf(ref_b, sizeof(ref_b), "%s@%s", config.name, tag_b);
	TRY(err_wrap(vm_freeze(vm), "freeze"));
	TRY(err_wrap(vm_take(vm, tag_a), "first take"));
	if (s->wait_ms != 0) {
		TRY(halted_check(vm));
	}
	vm_destroy(vm);
	TRY(err_wrap(vm_load(vm, ref_a, hold), "load"));
	/* Before the vCPU threads exist: their first entry makes KVM write its clock page. */
	TRY(err_wrap(vm_take(vm, tag_b), "second take"));
	uint64_t clock_gpa;
	TRY(clock_gpa_of(vm, &clock_gpa));
	TRY(err_wrap(compare(ref_a, ref_b, clock_gpa, ret_n), "hold %u, saved and saved again",
		     hold));
	TRY(err_wrap(machine_start(vm->machine), "start"));
	return vm_go(vm);
}

static struct err *stage_run(const struct stage *s, struct vm *vm, size_t *ret_n)
{
	TRY(vm_boot(vm));
	TRY(machine_start(vm->machine));
	TRY(vm_go(vm));
	for (unsigned hold = 1; hold <= s->holds; hold++) {
		TRY(hold_cycle(s, vm, hold, ret_n));
	}
	return err_wrap(vm_run_to(vm, SYNC_DONE), "running on");
}

static void show_serial(void)
{
	char buf[4096];
	ssize_t n = pread(serial_fd, buf, sizeof(buf) - 1, 0);

	if (n > 0) {
		buf[n] = '\0';
		fprintf(stderr, "--- console\n%s---\n", buf);
	}
}

static struct err *stage_set_up(const struct stage *s, const char *guest_dir)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/stages.pvh", guest_dir);
	kernel_fd = open(path, O_RDONLY | O_CLOEXEC);
	ENSURE(kernel_fd >= 0, ERR_SYS, "no guest %s: build the target 'guests'", path);
	serial_fd = memfd_create("serial", MFD_CLOEXEC);
	ENSURE(serial_fd >= 0, ERR_SYS, "memfd_create");
	snprintf(config.name, sizeof(config.name), "stage-%s", s->name);
	memset(config.uuid, 0, sizeof(config.uuid));
	memcpy(config.uuid, s->name, strlen(s->name) < 16 ? strlen(s->name) : 16);
	config.uuid[6] = 0x40;
	config.uuid[8] = 0x80;
	memcpy(config.family, config.uuid, sizeof(config.family));
	config.ncpus = s->ncpus;
	config.mem_bytes = 32 * MIB;
	snprintf(config.cpu_model, sizeof(config.cpu_model), "host");
	free(config.cmdline);
	free(config.kernel_name);
	config.cmdline = NULL;
	config.kernel_name = strdup("stages.pvh");
	snprintf(path, sizeof(path), "stage=%s softkvm=%d", s->name, kvm_is_software(kvm_fd));
	config.cmdline = strdup(path);
	ENSURE(config.cmdline != NULL && config.kernel_name != NULL, ERR_SYS, "out of memory");
	return NULL;
}

static bool stage_test(const struct stage *s, const char *guest_dir)
{
	struct vm vm = { 0 };
	size_t nparts = 0;
	struct err *e = stage_set_up(s, guest_dir);

	if (e == NULL) {
		e = stage_run(s, &vm, &nparts);
	}
	vm_destroy(&vm);
	/* Half the line before the snapshot, half after: all of it, once, in order. */
	if (e == NULL && strcmp(s->name, "serial") == 0) {
		char buf[4096] = "";
		if (pread(serial_fd, buf, sizeof(buf) - 1, 0) <= 0 ||
		    strstr(buf, "serial:abcdefghijklmnopqrstuvwxyz0123456789\n") == NULL) {
			e = ERR(ERR_GUEST, "the serial line is not whole");
		}
	}
	if (e == NULL) {
		printf("ok      stage %-10s %zu parts equal\n", s->name, nparts);
	} else {
		printf("FAILED  stage %-10s %s\n", s->name, err_msg(e));
		fflush(stdout);
		show_serial();
	}
	bool ok = e == NULL;
	err_free(e);
	close(serial_fd);
	close(kernel_fd);
	return ok;
}

int main(int argc, char **argv)
{
	unsigned failed = 0, ran = 0;
	char command[160];

	if (argc < 2) {
		fprintf(stderr, "usage: it_stages GUEST_DIR [STAGE]\n");
		return 2;
	}
	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm_fd < 0) {
		printf("skipped: /dev/kvm cannot be opened\n");
		return 77;
	}
	jail_disable(); /* the filters allow no test harness; they are tested with the binary */
	const char *tmp = getenv("TMPDIR");
	snprintf(store_path, sizeof(store_path), "%.80s/it_stages.XXXXXX", tmp ? tmp : "/tmp");
	if (mkdtemp(store_path) == NULL) {
		perror(store_path);
		return 1;
	}
	struct err *e = store_open(store_path, STORE_CREATE, &store);
	if (e != NULL) {
		fprintf(stderr, "store: %s\n", err_msg(e));
		err_free(e);
		return 1;
	}
	for (size_t i = 0; i < ARRAY_LEN(stages); i++) {
		if (argc > 2 && strcmp(argv[2], stages[i].name) != 0) {
			continue;
		}
		ran++;
		failed += !stage_test(&stages[i], argv[1]);
	}
	store_close(store);
	config_done(&config);
	snprintf(command, sizeof(command), "rm -rf '%s'", store_path);
	if (system(command) != 0) {
		failed++;
	}
	printf("%u stages, %u failed\n", ran, failed);
	return failed != 0 || ran == 0;
}
