/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The life of a VM under bad luck: what a guest asks for at the same time as its owner, takes in
 * every state, ends that meet. The main loop is this test's own, so it can stand still while the
 * guest goes on, which puts events in an order that is rare otherwise.
 *
 * Usage: it_life GUEST_DIR [TEST]. Exit 77 without /dev/kvm.
 */
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/jail.h"
#include "core/life.h"
#include "tests/lib/tmp_root.h"

#define MS 1000000ull

struct vm {
	struct loop *loop;
	struct life *life;
	struct loop_timer *timer;
	int serial; /* memfd with what the guest printed */
	unsigned ends;
	enum vm_end end;
	unsigned takes; /* that have ended */
	bool take_failed;
	struct snap_result taken;
};

static const char *guest_dir;
static char tmp_path[128];
static unsigned seq;

static void sleep_ms(unsigned ms)
{
	const struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };
	nanosleep(&t, NULL);
}

static void on_end(void *arg, enum vm_end end, const char *report)
{
	struct vm *vm = arg;
	(void)report;
	vm->ends++;
	vm->end = end;
}

static void on_timer(void *arg)
{
	struct vm *vm = arg;
	loop_quit(vm->loop);
}

static void on_taken(void *arg, struct err *e, const struct snap_result *result)
{
	struct vm *vm = arg;
	vm->takes++;
	vm->take_failed = e != NULL;
	if (e != NULL) {
		printf("        take: %s\n", err_msg(e));
		err_free(e);
	} else {
		vm->taken = *result;
	}
}

/* Lets the main loop run for so long. */
static struct err *turn(struct vm *vm, unsigned ms)
{
	loop_timer_set(vm->timer, clock_mono_ns() + ms * MS);
	return loop_run(vm->loop);
}

static struct err *build(struct vm *vm, const char *kernel, const char *cmdline, unsigned ncpus,
			 bool paused)
{
	char path[512];
	*vm = (struct vm){ .serial = memfd_create("serial", MFD_CLOEXEC) };
	snprintf(path, sizeof(path), "%s/%s.pvh", guest_dir, kernel);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ENSURE(fd >= 0, ERR_SYS, "no guest %s: build the target 'guests'", path);
	struct config c = { .ncpus = ncpus, .mem_bytes = 32 * MIB };
	snprintf(c.name, sizeof(c.name), "life%u", ++seq);
	snprintf(c.cpu_model, sizeof(c.cpu_model), "host");
	c.cmdline = strdup(cmdline);
	c.kernel_name = strdup(kernel);
	TRY(uuid_make(c.uuid));
	memcpy(c.family, c.uuid, sizeof(c.family));
	TRY(loop_new(&vm->loop));
	TRY(loop_timer_add(vm->loop, on_timer, vm, &vm->timer));
	snprintf(path, sizeof(path), "%s/store", tmp_path);
	const struct life_opts o = {
		.config = &c,
		.store_dir = path,
		.kernel_fd = fd,
		.initrd_fd = -1,
		.uffd = -1,
		.swap_uffd = -1,
		.swap_why_not = "a test",
		.serial_in = -1,
		.serial_out = vm->serial,
		.serial_listen = -1,
		.start_paused = paused,
	};
	TRY(life_new(vm->loop, &o, &vm->life));
	life_on_end(vm->life, on_end, vm);
	return life_start(vm->life);
}

static void destroy(struct vm *vm)
{
	life_free(MOVE(vm->life));
	loop_free(MOVE(vm->loop));
	if (vm->serial >= 0) {
		close(vm->serial);
	}
}

static bool printed(const struct vm *vm, const char *text)
{
	char buf[65536];
	ssize_t n = pread(vm->serial, buf, sizeof(buf) - 1, 0);
	buf[n > 0 ? n : 0] = '\0';
	return strstr(buf, text) != NULL;
}

/* Runs until the guest has printed text. */
static struct err *run_to(struct vm *vm, const char *text)
{
	for (unsigned i = 0; i < 500 && !printed(vm, text); i++) {
		TRY(turn(vm, 20));
	}
	ENSURE(printed(vm, text), ERR_GUEST, "the guest did not print '%s'", text);
	return NULL;
}

static struct err *want_state(const struct vm *vm, const char *state)
{
	struct life_status s;
	life_status(vm->life, &s);
	ENSURE(strcmp(s.state, state) == 0, ERR_GUEST, "the VM is %s, wanted %s", s.state, state);
	return NULL;
}

static struct err *take(struct vm *vm)
{
	unsigned before = vm->takes;
	TRY(life_take(vm->life, NULL, 0, on_taken, vm));
	for (unsigned i = 0; i < 1000 && vm->takes == before; i++) {
		TRY(turn(vm, 10));
	}
	ENSURE(vm->takes == before + 1, ERR_GUEST, "the take ended %u times", vm->takes - before);
	ENSURE(!vm->take_failed, ERR_GUEST, "the take failed");
	return NULL;
}

/* ---- takes in every state ---- */

static struct err *test_take_states(struct vm *vm)
{
	TRY(build(vm, "bench", "beat=10 pages=1 fill=1 halt=1", 1, false));
	TRY(run_to(vm, "beat 2 "));
	TRY(take(vm));
	ENSURE(vm->taken.pause_us > 0, ERR_GUEST, "a take of a running VM paused it for 0 us");
	TRY(want_state(vm, "running"));

	TRY(life_suspend_vcpus(vm->life));
	TRY(err_wrap(take(vm), "vCPUs suspended"));
	ENSURE(vm->taken.pause_us == 0, ERR_GUEST, "a take of parked vCPUs paused them for %llu us",
	       (unsigned long long)vm->taken.pause_us);
	TRY(want_state(vm, "vcpus-suspended"));

	TRY(life_suspend(vm->life));
	TRY(err_wrap(take(vm), "suspended"));
	ENSURE(vm->taken.pause_us == 0, ERR_GUEST, "a take of a suspended VM paused it for %llu us",
	       (unsigned long long)vm->taken.pause_us);
	TRY(want_state(vm, "suspended"));
	TRY(life_resume(vm->life));
	TRY(want_state(vm, "running"));
	return run_to(vm, "beat 20 ");
}

/* ---- a reset that meets a suspend ---- */

static struct err *reset_meets(struct vm *vm, struct err *(*suspend)(struct life *l),
			       const char *state)
{
	TRY(build(vm, "hostile", "do=reset", 1, false));
	sleep_ms(300); /* the guest asks; the main loop has yet to hear of it */
	TRY(suspend(vm->life));
	struct err *e = life_take(vm->life, NULL, 0, on_taken, vm);
	TRY(e);
	for (unsigned i = 0; i < 500 && vm->takes == 0; i++) {
		TRY(turn(vm, 10));
	}
	ENSURE(vm->takes == 1 && vm->take_failed, ERR_GUEST,
	       "a take that would lose the guest's reset was not refused");
	TRY(turn(vm, 300));
	struct life_status s;
	life_status(vm->life, &s);
	ENSURE(s.resets == 1, ERR_GUEST, "%llu resets, wanted the one that was asked for",
	       (unsigned long long)s.resets);
	TRY(want_state(vm, state));
	TRY(life_resume(vm->life));
	TRY(turn(vm, 500));
	life_status(vm->life, &s);
	ENSURE(s.resets >= 2, ERR_GUEST, "after the resume the guest does not run");
	return NULL;
}

static struct err *test_reset_suspended(struct vm *vm)
{
	return reset_meets(vm, life_suspend, "suspended");
}

static struct err *test_reset_vcpus(struct vm *vm)
{
	return reset_meets(vm, life_suspend_vcpus, "vcpus-suspended");
}

/* ---- ends that meet ---- */

static struct err *test_stop_meets_reset(struct vm *vm)
{
	TRY(build(vm, "hostile", "do=reset", 1, false));
	sleep_ms(300);
	life_stop(vm->life);
	TRY(turn(vm, 300));
	ENSURE(vm->ends == 1 && vm->end == VM_END_STOPPED, ERR_GUEST, "%u ends, the last is %d",
	       vm->ends, (int)vm->end);
	return want_state(vm, "ended");
}

static struct err *test_off_races_reset(struct vm *vm)
{
	for (unsigned i = 0; i < 10; i++) {
		TRY(build(vm, "hostile", "do=race", 2, false));
		for (unsigned k = 0; k < 400 && vm->ends == 0; k++) {
			TRY(turn(vm, 10));
		}
		TRY(turn(vm, 50));
		ENSURE(vm->ends == 1 && vm->end == VM_END_POWEROFF, ERR_GUEST,
		       "round %u: %u ends, the last is %d", i, vm->ends, (int)vm->end);
		destroy(vm);
		*vm = (struct vm){ .serial = -1 };
	}
	return NULL;
}

static struct err *test_string_reset(struct vm *vm)
{
	TRY(build(vm, "hostile", "do=string", 1, false));
	TRY(turn(vm, 1500));
	struct life_status s;
	life_status(vm->life, &s);
	ENSURE(s.resets >= 2 && vm->ends == 0, ERR_GUEST, "%llu resets, %u ends",
	       (unsigned long long)s.resets, vm->ends);
	return NULL;
}

/* A reset that cannot be carried out ends the VM, once, and nothing that is asked after crashes. */
static struct err *test_reset_fails(struct vm *vm)
{
	struct rlimit old;
	TRY(build(vm, "hostile", "do=reset", 1, false));
	sleep_ms(300);
	getrlimit(RLIMIT_NOFILE, &old);
	const struct rlimit none = { .rlim_cur = 0, .rlim_max = old.rlim_max };
	setrlimit(RLIMIT_NOFILE, &none);
	struct err *e = turn(vm, 300);
	setrlimit(RLIMIT_NOFILE, &old);
	TRY(e);
	ENSURE(vm->ends == 1 && vm->end == VM_END_ERROR, ERR_GUEST, "%u ends, the last is %d",
	       vm->ends, (int)vm->end);
	TRY(want_state(vm, "ended"));
	int tid;
	e = life_vcpu_tid(vm->life, 0, &tid);
	ENSURE(e != NULL, ERR_GUEST, "a vCPU of a machine that is no more has thread %d", tid);
	err_free(e);
	e = life_suspend(vm->life);
	ENSURE(e != NULL, ERR_GUEST, "an ended VM was suspended");
	err_free(e);
	life_stop(vm->life);
	ENSURE(vm->ends == 1, ERR_GUEST, "%u ends", vm->ends);
	return NULL;
}

/* The life goes away under a take: its end is told, once. */
static struct err *test_free_during_take(struct vm *vm)
{
	TRY(build(vm, "bench", "beat=10 pages=1 fill=8 halt=1", 1, false));
	TRY(run_to(vm, "beat 2 "));
	TRY(life_take(vm->life, NULL, 0, on_taken, vm));
	life_free(MOVE(vm->life));
	TRY(turn(vm, 50));
	ENSURE(vm->takes == 1, ERR_GUEST, "the take ended %u times", vm->takes);
	return NULL;
}

/* ---- what a guest can make the process keep ---- */

static struct err *test_timer_flood(struct vm *vm)
{
	TRY(build(vm, "hostile", "do=timers", 1, false));
	TRY(run_to(vm, "hostile"));
	size_t before = mallinfo2().uordblks;
	sleep_ms(700); /* the main loop is busy with something else */
	TRY(life_suspend_vcpus(vm->life));
	size_t grown = mallinfo2().uordblks - before;
	printf("        %zu bytes more\n", grown);
	ENSURE(grown < 64 * 1024, ERR_GUEST, "a busy guest made the process keep %zu KiB",
	       grown / 1024);
	return NULL;
}

static struct err *test_storm(struct vm *vm)
{
	TRY(build(vm, "hostile", "do=storm n=30000", 1, false));
	for (unsigned i = 0; i < 3000 && vm->ends == 0; i++) {
		TRY(turn(vm, 10));
	}
	ENSURE(vm->ends == 1 && vm->end == VM_END_POWEROFF, ERR_GUEST, "%u ends, the last is %d",
	       vm->ends, (int)vm->end);
	ENSURE(printed(vm, "survived"), ERR_GUEST, "the guest did not get through");
	return NULL;
}

static const struct {
	const char *name;
	struct err *(*run)(struct vm *vm);
} tests[] = {
	{ "take-states", test_take_states },
	{ "reset-suspended", test_reset_suspended },
	{ "reset-vcpus-suspended", test_reset_vcpus },
	{ "stop-meets-reset", test_stop_meets_reset },
	{ "off-races-reset", test_off_races_reset },
	{ "string-reset", test_string_reset },
	{ "reset-fails", test_reset_fails },
	{ "free-during-take", test_free_during_take },
	{ "timer-flood", test_timer_flood },
	{ "storm", test_storm },
};

static bool run_test(unsigned i)
{
	struct vm vm = { .serial = -1 };
	uint64_t t0 = clock_mono_ns();
	struct err *e = tests[i].run(&vm);
	destroy(&vm);
	printf("%s  %-22s %4llu ms%s%s\n", e == NULL ? "ok    " : "FAILED", tests[i].name,
	       (unsigned long long)((clock_mono_ns() - t0) / MS), e != NULL ? "  " : "",
	       e != NULL ? err_msg(e) : "");
	fflush(stdout);
	bool ok = e == NULL;
	err_free(e);
	return ok;
}

int main(int argc, char **argv)
{
	unsigned failed = 0, ran = 0;
	char command[192];

	if (argc < 2) {
		fprintf(stderr, "usage: it_life GUEST_DIR [TEST]\n");
		return 2;
	}
	if (access("/dev/kvm", R_OK | W_OK) != 0) {
		printf("skipped: /dev/kvm cannot be opened\n");
		return 77;
	}
	guest_dir = argv[1];
	jail_disable(); /* the filters allow no test harness; they are tested with the binary */
	snprintf(tmp_path, sizeof(tmp_path), "%.80s/it_life.XXXXXX", tmp_root());
	if (mkdtemp(tmp_path) == NULL) {
		perror("mkdtemp");
		return 1;
	}
	for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
		if (argc == 2 || strcmp(argv[2], tests[i].name) == 0) {
			ran++;
			failed += run_test(i) ? 0 : 1;
		}
	}
	snprintf(command, sizeof(command), "rm -rf '%s'", tmp_path);
	if (system(command) != 0) {
		printf("left behind: %s\n", tmp_path);
	}
	printf("%u tests, %u failed\n", ran, failed);
	return failed != 0 || ran == 0;
}
