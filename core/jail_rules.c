/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What each thread role may ask of the kernel: allow-lists, as BPF programs made by libseccomp.
 * Built once per process by jail.c, before other threads exist.
 *
 * Filters stack: a thread's filter is its own and every filter of the threads it descends from. So
 * JOB contains what workers of a job need, and MAIN contains JOB, VCPU, PAGER and IO, whose threads
 * it starts as long as the VM lives (a reset makes new vCPU and device threads, every take a new
 * job).
 *
 * No role may execute a file, map memory as executable, make a process, or trace. MAIN alone may
 * make a socket, of one family: Unix. USERNET is another process: it may make sockets
 * of the Internet, and has nothing else.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <seccomp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "core/base/io.h"
#include "core/jail_internal.h"

/* Memory, locks, time, signals and descriptors already open: every role. */
static const int common_calls[] = {
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(readv),
	SCMP_SYS(writev),
	SCMP_SYS(pread64),
	SCMP_SYS(pwrite64),
	SCMP_SYS(close),
	SCMP_SYS(lseek),
	SCMP_SYS(fstat),
	SCMP_SYS(newfstatat),
	SCMP_SYS(futex),
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(brk),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(sigaltstack),
	SCMP_SYS(restart_syscall),
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
	SCMP_SYS(gettid),
	SCMP_SYS(getpid),
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_getres),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(nanosleep),
	SCMP_SYS(gettimeofday),
	SCMP_SYS(getrandom),
	SCMP_SYS(sched_yield),
	SCMP_SYS(sched_getaffinity),
	SCMP_SYS(set_robust_list),
	SCMP_SYS(rseq),
	SCMP_SYS(poll),
	SCMP_SYS(ppoll),
	SCMP_SYS(sendto),
	SCMP_SYS(sendmsg),
	SCMP_SYS(timerfd_settime),
	SCMP_SYS(epoll_ctl),
	SCMP_SYS(membarrier),
};

/* The store's files (LMDB's calls were found by tracing 0.9.24) and threads: JOB and MAIN. */
static const int job_calls[] = {
	SCMP_SYS(openat),
	SCMP_SYS(fcntl),
	SCMP_SYS(flock),
	SCMP_SYS(ftruncate),
	SCMP_SYS(fallocate),
	SCMP_SYS(fsync),
	SCMP_SYS(fdatasync),
	SCMP_SYS(sync_file_range),
	SCMP_SYS(msync),
	SCMP_SYS(fadvise64),
	SCMP_SYS(preadv),
	SCMP_SYS(pwritev),
	SCMP_SYS(copy_file_range),
	SCMP_SYS(getdents64),
	SCMP_SYS(unlink),
	SCMP_SYS(unlinkat),
	SCMP_SYS(rename),
	SCMP_SYS(renameat),
	SCMP_SYS(renameat2),
	SCMP_SYS(mkdir),
	SCMP_SYS(mkdirat),
	SCMP_SYS(rmdir),
	SCMP_SYS(stat),
	SCMP_SYS(lstat),
	SCMP_SYS(statx),
	SCMP_SYS(statfs),
	SCMP_SYS(fstatfs),
	SCMP_SYS(access),
	SCMP_SYS(faccessat),
	SCMP_SYS(faccessat2),
	SCMP_SYS(readlink),
	SCMP_SYS(readlinkat),
	SCMP_SYS(getcwd),
	SCMP_SYS(fchmod),
	SCMP_SYS(memfd_create),
	SCMP_SYS(uname),
	SCMP_SYS(sysinfo),
	SCMP_SYS(getrusage),
	SCMP_SYS(setpriority),
	SCMP_SYS(getpriority),
	SCMP_SYS(ioprio_set),
	SCMP_SYS(sched_setscheduler),
	SCMP_SYS(sched_getscheduler),
	SCMP_SYS(sched_getparam),
	SCMP_SYS(sched_setaffinity),
	SCMP_SYS(eventfd2),
	SCMP_SYS(getuid),
	SCMP_SYS(geteuid),
	SCMP_SYS(getgid),
	SCMP_SYS(getegid),
	SCMP_SYS(seccomp),
};

/* Sockets that exist, the loop, the end: MAIN. */
static const int main_calls[] = {
	SCMP_SYS(epoll_create1),
	SCMP_SYS(epoll_wait),
	SCMP_SYS(epoll_pwait),
	SCMP_SYS(epoll_pwait2),
	SCMP_SYS(timerfd_create),
	SCMP_SYS(timerfd_gettime),
	SCMP_SYS(signalfd4),
	SCMP_SYS(accept4),
	SCMP_SYS(recvmsg),
	SCMP_SYS(recvfrom),
	SCMP_SYS(getsockopt),
	SCMP_SYS(setsockopt),
	SCMP_SYS(getsockname),
	SCMP_SYS(getpeername),
	SCMP_SYS(shutdown),
	SCMP_SYS(pipe2),
	SCMP_SYS(dup),
	SCMP_SYS(dup3),
	SCMP_SYS(close_range),
	SCMP_SYS(connect),
	SCMP_SYS(io_uring_setup),
	SCMP_SYS(io_uring_register),
};

/* User networking: sockets of every guest connection, and the host's name servers. */
static const int usernet_calls[] = {
	SCMP_SYS(bind),       SCMP_SYS(listen),     SCMP_SYS(accept),      SCMP_SYS(accept4),
	SCMP_SYS(connect),    SCMP_SYS(shutdown),   SCMP_SYS(getsockname), SCMP_SYS(getpeername),
	SCMP_SYS(setsockopt), SCMP_SYS(getsockopt), SCMP_SYS(recvfrom),    SCMP_SYS(recvmsg),
	SCMP_SYS(fcntl),      SCMP_SYS(openat),     SCMP_SYS(stat),        SCMP_SYS(lstat),
};

static const unsigned long usernet_ioctls[] = {
	0x541b, /* FIONREAD */
	0x5421, /* FIONBIO */
};

/* A device's own thread, IO: the ring that it was given, which is limited to what it needs; what a
 * captured disk does by hand, and reading the store as the page server does. */
static const int io_calls[] = {
	SCMP_SYS(io_uring_enter), SCMP_SYS(fallocate), /* zeroing in a captured disk's layer */
};

/* What a sanitizer's runtime does on its own, up to the leak check at the end, whose tracer blocks
 * SIGSYS and would die without a word. */
static const int sanitizer_calls[] = {
	SCMP_SYS(ptrace),     SCMP_SYS(wait4),     SCMP_SYS(process_vm_readv),
	SCMP_SYS(readlink),   SCMP_SYS(openat),    SCMP_SYS(getdents64),
	SCMP_SYS(kill),       SCMP_SYS(pipe2),     SCMP_SYS(getppid),
	SCMP_SYS(clone),      SCMP_SYS(mmap),      SCMP_SYS(mprotect),
	SCMP_SYS(prctl),      SCMP_SYS(tgkill),    SCMP_SYS(prlimit64),
	SCMP_SYS(access),     SCMP_SYS(stat),      SCMP_SYS(lstat),
	SCMP_SYS(fcntl),      SCMP_SYS(getuid),    SCMP_SYS(dup2),
	SCMP_SYS(uname),      SCMP_SYS(getrusage), SCMP_SYS(mincore),
	SCMP_SYS(clone3),     SCMP_SYS(getcwd),    SCMP_SYS(open),
	SCMP_SYS(getdents),   SCMP_SYS(pipe),      SCMP_SYS(geteuid),
	SCMP_SYS(readlinkat),
};

/* KVM ioctls of a vCPU thread: run, its own registers, interrupt lines, time; and, for the vCPU
 * that parks last for a take, the state of the VM and the dirty log. No creation, no memory slots.
 */
static const unsigned long vcpu_ioctls[] = {
	KVM_RUN,
	KVM_GET_REGS,
	KVM_SET_REGS,
	KVM_GET_SREGS,
	KVM_SET_SREGS,
	KVM_GET_SREGS2,
	KVM_SET_SREGS2,
	KVM_GET_MSRS,
	KVM_SET_MSRS,
	KVM_GET_FPU,
	KVM_SET_FPU,
	KVM_GET_LAPIC,
	KVM_SET_LAPIC,
	KVM_GET_MP_STATE,
	KVM_SET_MP_STATE,
	KVM_GET_VCPU_EVENTS,
	KVM_SET_VCPU_EVENTS,
	KVM_GET_DEBUGREGS,
	KVM_SET_DEBUGREGS,
	KVM_GET_XSAVE,
	KVM_GET_XSAVE2,
	KVM_SET_XSAVE,
	KVM_GET_XCRS,
	KVM_SET_XCRS,
	KVM_GET_CPUID2,
	KVM_SET_CPUID2,
	KVM_GET_TSC_KHZ,
	KVM_SET_TSC_KHZ,
	KVM_TRANSLATE,
	KVM_INTERRUPT,
	KVM_NMI,
	KVM_SET_SIGNAL_MASK,
	KVM_KVMCLOCK_CTRL,
	KVM_IRQ_LINE,
	KVM_IRQ_LINE_STATUS,
	KVM_SIGNAL_MSI,
	KVM_IOEVENTFD,
	KVM_GET_CLOCK,
	KVM_GET_IRQCHIP,
	KVM_GET_PIT2,
	KVM_GET_DIRTY_LOG,
	KVM_CLEAR_DIRTY_LOG,
	KVM_GET_DEVICE_ATTR,
	KVM_HAS_DEVICE_ATTR,
	KVM_CHECK_EXTENSION,
};

/* A device's own thread raises interrupts, and no more. */
static const unsigned long io_ioctls[] = {
	KVM_SIGNAL_MSI,
	KVM_IRQ_LINE,
};

/* The page servers and a take that completes memory place pages: PAGER, JOB and MAIN. */
static const unsigned long pager_ioctls[] = {
	UFFDIO_COPY,
	UFFDIO_CONTINUE,
	UFFDIO_WAKE,
	UFFDIO_UNREGISTER,
};

/* Swap makes memory reclaimable while the guest runs: JOB and MAIN. */
static const unsigned long job_ioctls[] = {
	UFFDIO_REGISTER,
};

/* Reading the store: its environment is open, and its place in the file is known. */
static const int pager_calls[] = {
	SCMP_SYS(fadvise64),
	SCMP_SYS(fcntl),
	SCMP_SYS(preadv),
	SCMP_SYS(setpriority),
};

/* Terminals and sockets, MAIN: modes of the serial console's terminal, bytes waiting; guest memory
 * that is to arrive lazily; what a tap may leave to the guest. */
static const unsigned long main_ioctls[] = {
	0x5401 /* TCGETS */,     0x5402 /* TCSETS */,   0x5403 /* TCSETSW */, 0x5404 /* TCSETSF */,
	0x5413 /* TIOCGWINSZ */, 0x541b /* FIONREAD */, 0x5421 /* FIONBIO */, TUNSETOFFLOAD,
};

static const int prctls[] = { PR_SET_NAME,    PR_GET_NAME, PR_SET_NO_NEW_PRIVS, PR_SET_TIMERSLACK,
			      PR_SET_SECCOMP, 0x53564d41 /* PR_SET_VMA: names of allocations */ };

/* libseccomp answers -EEXIST to a rule that another one covers; that is as good as success. */
static struct err *rule(int rc, const char *what)
{
	if (rc == 0 || rc == -EEXIST) {
		return NULL;
	}
	return ERR_SYSNO(-rc, "seccomp rule for %s", what);
}

static struct err *allow_all(scmp_filter_ctx ctx, const int *calls, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		TRY(rule(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0), "a system call"));
	}
	return NULL;
}

static struct err *allow_ioctls(scmp_filter_ctx ctx, const unsigned long *requests, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		/* The kernel looks at the low 32 bits only: so does the filter. */
		TRY(rule(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
					  SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffffu, requests[i])),
			 "ioctl"));
	}
	return NULL;
}

/* Calls that are allowed with certain arguments only, in every role. */
static struct err *allow_common_args(scmp_filter_ctx ctx)
{
	TRY(rule(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				  SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)),
		 "mmap"));
	TRY(rule(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				  SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)),
		 "mprotect"));
	/* Signals to threads of this process: the kick, and abort. */
	TRY(rule(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
				  SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid())),
		 "tgkill"));
	TRY(rule(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1,
				  SCMP_A2(SCMP_CMP_EQ, 0)),
		 "prlimit64"));
	for (size_t i = 0; i < ARRAY_LEN(prctls); i++) {
		TRY(rule(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
					  SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)prctls[i])),
			 "prctl"));
	}
	return NULL;
}

/* Threads, not processes. clone3 hides its flags in memory, so it "does not exist": the C library
 * falls back to clone. */
static struct err *allow_threads(scmp_filter_ctx ctx, bool sanitized)
{
	const scmp_datum_t thread = CLONE_VM | CLONE_THREAD | CLONE_SIGHAND;
	TRY(rule(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
				  SCMP_A0(SCMP_CMP_MASKED_EQ, thread, thread)),
		 "clone"));
	if (sanitized) {
		return NULL;
	}
	return rule(seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0), "clone3");
}

/* Streams and datagrams of the Internet, ping's among them; a raw socket is refused, not punished,
 * since it is asked for where ping's are not allowed. */
static struct err *allow_internet(scmp_filter_ctx ctx)
{
	static const unsigned types[] = { SOCK_STREAM, SOCK_DGRAM };
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		TRY(rule(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2,
					  SCMP_A0(SCMP_CMP_EQ, AF_INET),
					  SCMP_A1(SCMP_CMP_MASKED_EQ, 0xf, types[i])),
			 "socket"));
	}
	return rule(seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(socket), 2,
				     SCMP_A0(SCMP_CMP_EQ, AF_INET),
				     SCMP_A1(SCMP_CMP_MASKED_EQ, 0xf, SOCK_RAW)),
		    "socket");
}

static struct err *add_rules(scmp_filter_ctx ctx, enum jail_role role, bool sanitized)
{
	TRY(allow_all(ctx, common_calls, ARRAY_LEN(common_calls)));
	if (sanitized) {
		TRY(allow_all(ctx, sanitizer_calls, ARRAY_LEN(sanitizer_calls)));
	}
	TRY(allow_common_args(ctx));
	if (role == JAIL_VCPU) {
		return allow_ioctls(ctx, vcpu_ioctls, ARRAY_LEN(vcpu_ioctls));
	}
	if (role == JAIL_USERNET) {
		TRY(allow_all(ctx, usernet_calls, ARRAY_LEN(usernet_calls)));
		TRY(allow_internet(ctx));
		return allow_ioctls(ctx, usernet_ioctls, ARRAY_LEN(usernet_ioctls));
	}
	if (role == JAIL_IO) {
		TRY(allow_all(ctx, io_calls, ARRAY_LEN(io_calls)));
		TRY(allow_all(ctx, pager_calls, ARRAY_LEN(pager_calls)));
		return allow_ioctls(ctx, io_ioctls, ARRAY_LEN(io_ioctls));
	}
	TRY(allow_ioctls(ctx, pager_ioctls, ARRAY_LEN(pager_ioctls)));
	if (role == JAIL_PAGER) {
		return allow_all(ctx, pager_calls, ARRAY_LEN(pager_calls));
	}
	/* JOB and MAIN: all of KVM's ioctls (type 0xae), on the descriptors that they have. */
	TRY(rule(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
				  SCMP_A1(SCMP_CMP_MASKED_EQ, 0xff00u, (scmp_datum_t)KVMIO << 8)),
		 "ioctl"));
	TRY(allow_ioctls(ctx, job_ioctls, ARRAY_LEN(job_ioctls)));
	TRY(allow_all(ctx, job_calls, ARRAY_LEN(job_calls)));
	TRY(allow_threads(ctx, sanitized));
	if (role == JAIL_JOB) {
		return NULL;
	}
	TRY(allow_all(ctx, main_calls, ARRAY_LEN(main_calls)));
	TRY(allow_all(ctx, io_calls, ARRAY_LEN(io_calls)));
	/* Listeners of events: the VM connects to a client's Unix socket. No other family can be
	 * made, so connect reaches nothing else. */
	static const int types[] = { SOCK_SEQPACKET, SOCK_STREAM };
	for (unsigned i = 0; i < ARRAY_LEN(types); i++) {
		int type = types[i] | SOCK_CLOEXEC | SOCK_NONBLOCK;
		TRY(rule(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2,
					  SCMP_A0(SCMP_CMP_EQ, AF_UNIX),
					  SCMP_A1(SCMP_CMP_EQ, (scmp_datum_t)type)),
			 "socket"));
	}
	/* arch_prctl: the guest's permission for large XSAVE components (0x1021 to 0x1025). */
	TRY(rule(seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(arch_prctl), 1,
				  SCMP_A0(SCMP_CMP_MASKED_EQ, ~(scmp_datum_t)7, 0x1020)),
		 "arch_prctl"));
	return allow_ioctls(ctx, main_ioctls, ARRAY_LEN(main_ioctls));
}

static UNUSED void ctx_done(scmp_filter_ctx *ctx)
{
	if (*ctx != NULL) {
		seccomp_release(*ctx);
	}
}

struct err *jail_rules_build(enum jail_role role, bool sanitized, struct sock_fprog *ret)
{
	SCOPE(ctx_done) scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_TRAP);
	ENSURE(ctx != NULL, ERR_SYS, "seccomp: no filter could be made");
	/* A foreign instruction set's calls end the process at once: no name table fits them. */
	TRY(rule(seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS),
		 "foreign calls"));
	/* A binary tree over call numbers: 7 comparisons instead of 60. */
	TRY(rule(seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2), "order"));
	TRY(add_rules(ctx, role, sanitized));
	SCOPE(fd_close) struct fd fd = { memfd_create("filter", MFD_CLOEXEC) };
	if (fd.n < 0) {
		return ERR_ERRNO("making memory for a seccomp filter");
	}
	int rc = seccomp_export_bpf(ctx, fd.n);
	if (rc != 0) {
		return ERR_SYSNO(-rc, "making a seccomp filter");
	}
	uint64_t len = 0;
	TRY(io_size(fd.n, &len));
	ENSURE(len % sizeof(struct sock_filter) == 0 && len / sizeof(struct sock_filter) <= 4096,
	       ERR_LIMIT, "a seccomp filter of %llu bytes is too long for the kernel",
	       (unsigned long long)len);
	SCOPE(freep) struct sock_filter *code = malloc(len);
	ENSURE(code != NULL, ERR_SYS, "out of memory for a seccomp filter");
	TRY(io_pread_full(fd.n, code, len, 0));
	ret->len = (unsigned short)(len / sizeof(struct sock_filter));
	ret->filter = MOVE(code);
	return NULL;
}
