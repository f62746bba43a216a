/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of core/jail*.c. Every case runs in a child process, jailed for real: what a role
 * needs works, what it may not do ends the process with status 1 and a line that names the call.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "core/base/io.h"
#include "core/jail.h"
#include "tests/lib/tmp_root.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static char base_dir[256];
static char store_dir[300];
static char run_dir[300];
static char outside[300]; /* a file that exists, below neither */

enum { CHILD_DID = 0, CHILD_REFUSED = 7, CHILD_ODD = 9 };

/* Runs fn in a jailed child; its status and what it wrote to stderr. */
static int in_jail(enum jail_role role, int (*fn)(void), char *ret_text, size_t len)
{
	int ends[2];
	assert_int_equal(pipe(ends), 0);
	fflush(NULL);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		dup2(ends[1], STDERR_FILENO);
		bool landlock = false;
		struct err *e = jail_process(store_dir, run_dir, &landlock);
		if (e == NULL) {
			e = jail_thread(role);
		}
		if (e != NULL) {
			dprintf(STDERR_FILENO, "%s\n", err_msg(e));
			_exit(CHILD_ODD);
		}
		_exit(fn());
	}
	close(ends[1]);
	size_t used = 0;
	ssize_t n;
	while (used < len - 1 && (n = read(ends[0], ret_text + used, len - 1 - used)) > 0) {
		used += (size_t)n;
	}
	ret_text[used] = 0;
	close(ends[0]);
	int status = 0;
	assert_int_equal(waitpid(child, &status, 0), child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void works(enum jail_role role, int (*fn)(void))
{
	char text[1024];
	int status = in_jail(role, fn, text, sizeof(text));
	if (status != CHILD_DID) {
		print_message("status %d: %s", status, text);
	}
	assert_int_equal(status, CHILD_DID);
}

/* Ends with status 1 and the line that names the call and the role. */
static void dies(enum jail_role role, const char *role_name, int (*fn)(void), const char *call)
{
	char text[1024];
	char want[160];
	int status = in_jail(role, fn, text, sizeof(text));
	snprintf(want, sizeof(want), "torpor: error: syscall %s (", call);
	if (status != 1 || strstr(text, want) == NULL) {
		print_message("%s: status %d: %s\n", call, status, text);
	}
	assert_int_equal(status, 1);
	assert_non_null(strstr(text, want));
	snprintf(want, sizeof(want), ") is not allowed in thread %s\n", role_name);
	assert_non_null(strstr(text, want));
}

/* ---- what the children do ---- */

static int do_execve(void)
{
	char *argv[] = { (char[]){ "/bin/true" }, NULL };
	execve("/bin/true", argv, NULL);
	return CHILD_REFUSED;
}

static int do_socket(void)
{
	return socket(AF_INET, SOCK_STREAM, 0) >= 0 ? CHILD_DID : CHILD_REFUSED;
}

static int do_fork(void)
{
	return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) >= 0 ? CHILD_DID : CHILD_REFUSED;
}

static int do_open_store(void)
{
	char path[400];
	snprintf(path, sizeof(path), "%s/file", store_dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, "x", 1) != 1 || ftruncate(fd, 0) != 0 || fsync(fd) != 0) {
		return CHILD_ODD;
	}
	char to[400];
	snprintf(to, sizeof(to), "%s/renamed", store_dir);
	return close(fd) == 0 && rename(path, to) == 0 && unlink(to) == 0 ? CHILD_DID : CHILD_ODD;
}

static int do_open_outside(void)
{
	int fd = open(outside, O_RDONLY);
	return fd >= 0 ? CHILD_DID : errno == EACCES ? CHILD_REFUSED : CHILD_ODD;
}

static int do_create_outside(void)
{
	char path[400];
	snprintf(path, sizeof(path), "%s/new", base_dir);
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	return fd >= 0 ? CHILD_DID : errno == EACCES ? CHILD_REFUSED : CHILD_ODD;
}

static int do_open_passwd(void)
{
	int fd = open("/etc/passwd", O_RDONLY);
	return fd >= 0 ? CHILD_DID : errno == EACCES ? CHILD_REFUSED : CHILD_ODD;
}

static int do_exec_mapping(void)
{
	void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);
	return p != MAP_FAILED ? CHILD_DID : CHILD_REFUSED;
}

static int do_mprotect_exec(void)
{
	void *p = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return mprotect(p, 4096, PROT_READ | PROT_EXEC) == 0 ? CHILD_DID : CHILD_REFUSED;
}

static int do_ptrace(void)
{
	return ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 ? CHILD_DID : CHILD_REFUSED;
}

static int do_kill(void)
{
	kill(0, 0);
	return CHILD_REFUSED;
}

static int do_tgkill_other(void)
{
	return syscall(SYS_tgkill, 1, 1, 0) == 0 ? CHILD_DID : CHILD_REFUSED;
}

static int do_kvm_create(void)
{
	ioctl(STDOUT_FILENO, KVM_CREATE_VM, 0);
	return CHILD_REFUSED;
}

static int do_kvm_run(void)
{
	/* The ioctl is let through; that stdout is no vCPU is the kernel's answer. */
	return ioctl(STDOUT_FILENO, KVM_RUN, 0) < 0 && errno != ENOSYS ? CHILD_DID : CHILD_ODD;
}

static int do_tiocsti(void)
{
	char c = 'x';
	ioctl(STDOUT_FILENO, 0x5412, &c);
	return CHILD_REFUSED;
}

static int do_prctl_dumpable(void)
{
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	return CHILD_REFUSED;
}

static int do_bpf(void)
{
	syscall(SYS_bpf, 0, NULL, 0);
	return CHILD_REFUSED;
}

static void *thread_main(void *arg)
{
	/* Memory, time, names: what every thread does. */
	pthread_setname_np(pthread_self(), "t");
	void *p = malloc(1 << 20);
	memset(p, 1, 1 << 20);
	free(p);
	struct timespec ts = { .tv_nsec = 1000 };
	nanosleep(&ts, NULL);
	*(int *)arg += 1;
	return NULL;
}

static int do_threads(void)
{
	int n = 0;
	for (int i = 0; i < 3; i++) {
		pthread_t t;
		if (pthread_create(&t, NULL, thread_main, &n) != 0 || pthread_join(t, NULL) != 0) {
			return CHILD_ODD;
		}
	}
	return n == 3 ? CHILD_DID : CHILD_ODD;
}

static volatile sig_atomic_t kicks;

static void on_kick(int sig)
{
	(void)sig;
	kicks = 1;
}

static int do_kick(void)
{
	struct sigaction act = { .sa_handler = on_kick };
	sigaction(SIGRTMIN, &act, NULL);
	pthread_kill(pthread_self(), SIGRTMIN);
	return kicks == 1 ? CHILD_DID : CHILD_ODD;
}

static void *nested_vcpu(void *arg)
{
	struct err *e = jail_thread(JAIL_VCPU);
	*(bool *)arg = e == NULL;
	err_free(e);
	if (*(bool *)arg) {
		open(outside, O_RDONLY);
	}
	return NULL;
}

/* MAIN starts a vCPU thread, whose own filter is in force besides MAIN's. */
static int do_nested(void)
{
	bool ok = false;
	pthread_t t;
	if (pthread_create(&t, NULL, nested_vcpu, &ok) != 0) {
		return CHILD_ODD;
	}
	pthread_join(t, NULL);
	return CHILD_ODD; /* the violation ends the process before */
}

static void *inherits(void *arg)
{
	(void)arg;
	socket(AF_INET, SOCK_STREAM, 0);
	return NULL;
}

static int do_worker(void)
{
	pthread_t t;
	pthread_create(&t, NULL, inherits, NULL);
	pthread_join(t, NULL);
	return CHILD_REFUSED;
}

static int do_main_loop(void)
{
	int pair[2];
	/* Sockets exist before the jail; here the calls on descriptors are looked at. */
	if (pipe2(pair, O_CLOEXEC) != 0) {
		return CHILD_ODD;
	}
	long ep = syscall(SYS_epoll_create1, 0);
	long tfd = syscall(SYS_timerfd_create, CLOCK_MONOTONIC, 0);
	long efd = syscall(SYS_eventfd2, 0, 0);
	bool ok = ep >= 0 && tfd >= 0 && efd >= 0;
	ok = ok && syscall(SYS_accept4, pair[0], NULL, NULL, 0) < 0 && errno == ENOTSOCK;
	ok = ok && syscall(SYS_recvmsg, pair[0], NULL, 0) < 0 && errno == ENOTSOCK;
	return ok ? CHILD_DID : CHILD_ODD;
}

static int do_memfd(void)
{
	int fd = memfd_create("m", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd >= 0 && fallocate(fd, 0, 0, 65536) == 0 &&
			       fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) == 0
		       ? CHILD_DID
		       : CHILD_ODD;
}

/* ---- tests ---- */

static void test_allowed(void **state)
{
	(void)state;
	works(JAIL_MAIN, do_threads);
	works(JAIL_JOB, do_threads);
	works(JAIL_MAIN, do_kick);
	works(JAIL_JOB, do_kick);
	works(JAIL_VCPU, do_kick);
	works(JAIL_MAIN, do_open_store);
	works(JAIL_JOB, do_open_store);
	works(JAIL_MAIN, do_memfd);
	works(JAIL_JOB, do_memfd);
	works(JAIL_MAIN, do_main_loop);
	works(JAIL_MAIN, do_kvm_run);
	works(JAIL_JOB, do_kvm_run);
	works(JAIL_VCPU, do_kvm_run);
}

static void test_forbidden_everywhere(void **state)
{
	(void)state;
	static const struct {
		enum jail_role role;
		const char *name;
	} roles[] = { { JAIL_MAIN, "main" },
		      { JAIL_VCPU, "vcpu" },
		      { JAIL_JOB, "job" },
		      { JAIL_PAGER, "pager" } };
	for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
		dies(roles[i].role, roles[i].name, do_execve, "execve");
		dies(roles[i].role, roles[i].name, do_socket, "socket");
		dies(roles[i].role, roles[i].name, do_bpf, "bpf");
		if (SANITIZED) {
			continue; /* its runtime needs the rest */
		}
		dies(roles[i].role, roles[i].name, do_fork, "clone");
		dies(roles[i].role, roles[i].name, do_exec_mapping, "mmap");
		dies(roles[i].role, roles[i].name, do_mprotect_exec, "mprotect");
		dies(roles[i].role, roles[i].name, do_ptrace, "ptrace");
		dies(roles[i].role, roles[i].name, do_kill, "kill");
		dies(roles[i].role, roles[i].name, do_tgkill_other, "tgkill");
		dies(roles[i].role, roles[i].name, do_tiocsti, "ioctl");
		dies(roles[i].role, roles[i].name, do_prctl_dumpable, "prctl");
	}
}

static void test_forbidden_by_role(void **state)
{
	(void)state;
	dies(JAIL_VCPU, "vcpu", do_kvm_create, "ioctl");
	dies(JAIL_VCPU, "vcpu", do_memfd, "memfd_create");
	dies(JAIL_PAGER, "pager", do_kvm_create, "ioctl");
	dies(JAIL_PAGER, "pager", do_memfd, "memfd_create");
	if (SANITIZED) {
		return;
	}
	dies(JAIL_VCPU, "vcpu", do_open_outside, "openat");
	dies(JAIL_VCPU, "vcpu", do_open_store, "openat");
	dies(JAIL_PAGER, "pager", do_open_store, "openat");
	dies(JAIL_JOB, "job", do_main_loop, "pipe2");
	dies(JAIL_MAIN, "vcpu", do_nested, "openat");
}

static void test_worker_inherits(void **state)
{
	(void)state;
	dies(JAIL_JOB, "worker", do_worker, "socket");
}

static void test_landlock(void **state)
{
	(void)state;
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) < 1) {
		print_message("this kernel has no Landlock\n");
		skip();
	}
	char text[1024];
	assert_int_equal(in_jail(JAIL_MAIN, do_open_outside, text, sizeof(text)), CHILD_REFUSED);
	assert_int_equal(in_jail(JAIL_JOB, do_open_outside, text, sizeof(text)), CHILD_REFUSED);
	assert_int_equal(in_jail(JAIL_JOB, do_create_outside, text, sizeof(text)), CHILD_REFUSED);
	assert_int_equal(in_jail(JAIL_MAIN, do_open_passwd, text, sizeof(text)), CHILD_REFUSED);
}

/* A SIGSYS that somebody sends is no violation. */
static int do_raise(void)
{
	pthread_kill(pthread_self(), SIGSYS);
	return CHILD_DID;
}

static void test_sent_signal(void **state)
{
	(void)state;
	works(JAIL_VCPU, do_raise);
}

static int use_disabled(void)
{
	jail_disable();
	bool landlock = true;
	struct err *e = jail_process(store_dir, run_dir, &landlock);
	if (e != NULL || landlock || jail_thread(JAIL_VCPU) != NULL) {
		return CHILD_ODD;
	}
	return do_socket();
}

static void test_disable(void **state)
{
	(void)state;
	fflush(NULL);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		close(STDERR_FILENO);
		_exit(use_disabled());
	}
	int status = 0;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(WEXITSTATUS(status), CHILD_DID);
}

static int missing_store(void)
{
	bool landlock = false;
	struct err *e = jail_process("/nonexistent/store", run_dir, &landlock);
	bool good = e != NULL && strstr(err_msg(e), "/nonexistent/store") != NULL;
	err_free(e);
	return good ? CHILD_DID : CHILD_ODD;
}

static void test_missing_folder(void **state)
{
	(void)state;
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) < 1) {
		skip();
	}
	fflush(NULL);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0) {
		close(STDERR_FILENO);
		_exit(missing_store());
	}
	int status = 0;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(WEXITSTATUS(status), CHILD_DID);
}

static int setup(void **state)
{
	(void)state;
	snprintf(base_dir, sizeof(base_dir), "%s/test_jail.XXXXXX", tmp_root());
	if (mkdtemp(base_dir) == NULL) {
		return -1;
	}
	snprintf(store_dir, sizeof(store_dir), "%s/store", base_dir);
	snprintf(run_dir, sizeof(run_dir), "%s/run", base_dir);
	snprintf(outside, sizeof(outside), "%s/outside", base_dir);
	int fd = open(outside, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	close(fd);
	return mkdir(store_dir, 0700) == 0 && mkdir(run_dir, 0700) == 0 && fd >= 0 ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	char path[400];
	snprintf(path, sizeof(path), "%s/file", store_dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/new", base_dir);
	unlink(path);
	unlink(outside);
	rmdir(store_dir);
	rmdir(run_dir);
	return rmdir(base_dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_allowed),
		cmocka_unit_test(test_forbidden_everywhere),
		cmocka_unit_test(test_forbidden_by_role),
		cmocka_unit_test(test_worker_inherits),
		cmocka_unit_test(test_landlock),
		cmocka_unit_test(test_sent_signal),
		cmocka_unit_test(test_disable),
		cmocka_unit_test(test_missing_folder),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
