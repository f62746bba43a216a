/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The filters of core/jail_rules.c, executed call by call: what SECURITY.md shows of them is what
 * they do. `test_jail_rules --write` brings the page up to date.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/bytes.h"
#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/jail_internal.h"

enum {
	CALLS_MAX = 600, /* beyond the last system call number */
	ARCH_X86_64 = (int)0xc000003eu,
	COLUMNS = 108,
};

/* ---- running a filter ---- */

struct run {
	uint32_t action;
	bool looked; /* at an argument */
};

static struct run filter_run(const struct sock_fprog *f, unsigned nr, const uint64_t arg[6])
{
	struct seccomp_data d = { .nr = (int)nr, .arch = (uint32_t)ARCH_X86_64 };
	struct run r = { 0 };
	uint32_t a = 0;
	memcpy(d.args, arg, sizeof(d.args));
	for (unsigned pc = 0; pc < f->len; pc++) {
		const struct sock_filter *i = &f->filter[pc];
		bool yes = false;
		switch (i->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			assert_true(i->k % 4 == 0 && i->k + 4 <= sizeof(d));
			memcpy(&a, (const uint8_t *)&d + i->k, 4);
			r.looked |= i->k >= offsetof(struct seccomp_data, args);
			continue;
		case BPF_ALU | BPF_AND | BPF_K:
			a &= i->k;
			continue;
		case BPF_JMP | BPF_JA:
			pc += i->k;
			continue;
		case BPF_JMP | BPF_JEQ | BPF_K:
			yes = a == i->k;
			break;
		case BPF_JMP | BPF_JGT | BPF_K:
			yes = a > i->k;
			break;
		case BPF_JMP | BPF_JGE | BPF_K:
			yes = a >= i->k;
			break;
		case BPF_RET | BPF_K:
			r.action = i->k;
			return r;
		default:
			fail_msg("an instruction that this test does not know: 0x%x", i->code);
		}
		pc += yes ? i->jt : i->jf;
	}
	fail_msg("the filter has no end");
	return r;
}

static bool allows(const struct sock_fprog *f, unsigned nr, uint64_t a0, uint64_t a1, uint64_t a2)
{
	return filter_run(f, nr, (const uint64_t[6]){ a0, a1, a2 }).action == SECCOMP_RET_ALLOW;
}

/* ---- calls that depend on their arguments ---- */

#define THREAD_FLAGS (CLONE_VM | CLONE_THREAD | CLONE_SIGHAND)

/* One case that must be let through where the call is allowed at all, and one that never may. */
static const struct cond {
	int nr;
	const char *text;
	uint64_t good[3];
	uint64_t bad[3];
	bool usernet; /* in the process of user networking; else in the VM's */
} conds[] = {
	{ SCMP_SYS(mmap), "never executable", { 0, 4096, PROT_READ }, { 0, 4096, PROT_EXEC } },
	{ SCMP_SYS(mprotect), "never executable", { 0, 4096, PROT_WRITE }, { 0, 4096, PROT_EXEC } },
	{ SCMP_SYS(prlimit64), "reading only", { 0, 7, 0 }, { 0, 7, 4096 } },
	{ SCMP_SYS(prctl),
	  "names, no_new_privs, more filters, timer slack",
	  { PR_SET_NAME },
	  { PR_SET_DUMPABLE } },
	{ SCMP_SYS(clone), "threads, no processes", { THREAD_FLAGS }, { CLONE_VM } },
	{ SCMP_SYS(arch_prctl), "permission for XSAVE parts", { 0x1023 }, { 0x1002 } },
	{ SCMP_SYS(socket),
	  "streams and datagrams of the Internet",
	  { AF_INET, SOCK_STREAM | SOCK_CLOEXEC },
	  { AF_UNIX, SOCK_STREAM },
	  true },
	{ SCMP_SYS(socket),
	  "Unix sockets, for listeners of events",
	  { AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK },
	  { AF_INET, SOCK_STREAM } },
};

#define REQ(x)                                                                                     \
	{                                                                                          \
#x, x                                                                              \
	}
static const struct {
	const char *name;
	unsigned long nr;
} requests[] = {
	REQ(KVM_RUN),
	REQ(KVM_GET_REGS),
	REQ(KVM_SET_REGS),
	REQ(KVM_GET_SREGS),
	REQ(KVM_SET_SREGS),
	REQ(KVM_GET_SREGS2),
	REQ(KVM_SET_SREGS2),
	REQ(KVM_GET_MSRS),
	REQ(KVM_SET_MSRS),
	REQ(KVM_GET_FPU),
	REQ(KVM_SET_FPU),
	REQ(KVM_GET_LAPIC),
	REQ(KVM_SET_LAPIC),
	REQ(KVM_GET_MP_STATE),
	REQ(KVM_SET_MP_STATE),
	REQ(KVM_GET_VCPU_EVENTS),
	REQ(KVM_SET_VCPU_EVENTS),
	REQ(KVM_GET_DEBUGREGS),
	REQ(KVM_SET_DEBUGREGS),
	REQ(KVM_GET_XSAVE),
	REQ(KVM_GET_XSAVE2),
	REQ(KVM_SET_XSAVE),
	REQ(KVM_GET_XCRS),
	REQ(KVM_SET_XCRS),
	REQ(KVM_GET_CPUID2),
	REQ(KVM_SET_CPUID2),
	REQ(KVM_GET_TSC_KHZ),
	REQ(KVM_SET_TSC_KHZ),
	REQ(KVM_TRANSLATE),
	REQ(KVM_INTERRUPT),
	REQ(KVM_NMI),
	REQ(KVM_SET_SIGNAL_MASK),
	REQ(KVM_KVMCLOCK_CTRL),
	REQ(KVM_IRQ_LINE),
	REQ(KVM_IRQ_LINE_STATUS),
	REQ(KVM_SIGNAL_MSI),
	REQ(KVM_GET_CLOCK),
	REQ(KVM_SET_CLOCK),
	REQ(KVM_GET_DEVICE_ATTR),
	REQ(KVM_SET_DEVICE_ATTR),
	REQ(KVM_HAS_DEVICE_ATTR),
	REQ(KVM_CHECK_EXTENSION),
	REQ(KVM_CREATE_VM),
	REQ(KVM_CREATE_VCPU),
	REQ(KVM_CREATE_DEVICE),
	REQ(KVM_CREATE_IRQCHIP),
	REQ(KVM_SET_USER_MEMORY_REGION),
	REQ(KVM_GET_DIRTY_LOG),
	REQ(KVM_IRQFD),
	REQ(KVM_IOEVENTFD),
	REQ(KVM_SET_GSI_ROUTING),
	REQ(KVM_ENABLE_CAP),
	REQ(KVM_GET_IRQCHIP),
	REQ(KVM_SET_IRQCHIP),
	REQ(KVM_GET_PIT2),
	REQ(KVM_SET_PIT2),
	REQ(UFFDIO_API),
	REQ(UFFDIO_REGISTER),
	REQ(UFFDIO_UNREGISTER),
	REQ(UFFDIO_WAKE),
	REQ(UFFDIO_COPY),
	REQ(UFFDIO_ZEROPAGE),
	REQ(UFFDIO_CONTINUE),
	REQ(UFFDIO_WRITEPROTECT),
	REQ(TUNSETIFF),
	REQ(TUNSETOFFLOAD),
	{ "TCGETS", 0x5401 },
	{ "TCSETS", 0x5402 },
	{ "TCSETSW", 0x5403 },
	{ "TCSETSF", 0x5404 },
	{ "TIOCSTI", 0x5412 },
	{ "TIOCGWINSZ", 0x5413 },
	{ "FIONREAD", 0x541b },
	{ "FIONBIO", 0x5421 },
};

/* ---- the text ---- */

struct text {
	struct wbuf w;
	size_t column;
};

static void say(struct text *t, const char *s)
{
	wbuf_put(&t->w, s, strlen(s));
	t->column = strrchr(s, '\n') != NULL ? strlen(strrchr(s, '\n')) - 1 : t->column + strlen(s);
}

/* A word of a list, on a new line where it does not fit. */
static void word(struct text *t, const char *s)
{
	if (t->column + 1 + strlen(s) > COLUMNS) {
		say(t, "\n");
	}
	if (t->column > 0) {
		say(t, " ");
	}
	say(t, s);
}

static void requests_text(struct text *t, const struct sock_fprog *f)
{
	bool all = true;
	for (unsigned n = 0; n < 256; n++) {
		all &= allows(f, SCMP_SYS(ioctl), 3, 0xae00u | n, 0);
	}
	if (all) {
		word(t, "every");
		word(t, "request");
		word(t, "of");
		word(t, "KVM");
	}
	for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
		bool kvm = (requests[i].nr & 0xff00u) == 0xae00u;
		if (!(all && kvm) && allows(f, SCMP_SYS(ioctl), 3, requests[i].nr, 0)) {
			word(t, requests[i].name);
		}
	}
	assert_false(allows(f, SCMP_SYS(ioctl), 3, 0x5412 /* TIOCSTI */, 0));
}

static void role_text(struct text *t, const char *name, enum jail_role role)
{
	struct sock_fprog f = { 0 };
	struct err *e = jail_rules_build(role, false, &f);
	assert_null(e);
	say(t, "\n**");
	say(t, name);
	say(t, "** may call\n\n```\n");
	for (unsigned nr = 0; nr < CALLS_MAX; nr++) {
		struct run r = filter_run(&f, nr, (const uint64_t[6]){ 0 });
		char *call = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, (int)nr);
		if (!r.looked && r.action == SECCOMP_RET_ALLOW) {
			assert_non_null(call);
			word(t, call);
		}
		free(call);
	}
	say(t, "\n```\n\nand with certain arguments only\n\n```\n");
	for (unsigned nr = 0; nr < CALLS_MAX; nr++) {
		if (!filter_run(&f, nr, (const uint64_t[6]){ 0 }).looked) {
			continue;
		}
		char *call = seccomp_syscall_resolve_num_arch(SCMP_ARCH_X86_64, (int)nr);
		assert_non_null(call);
		say(t, call);
		say(t, ":");
		bool known = true;
		if ((int)nr == SCMP_SYS(ioctl)) {
			requests_text(t, &f);
		} else if ((int)nr == SCMP_SYS(tgkill)) {
			word(t, "threads of this process");
			assert_true(allows(&f, nr, (uint64_t)getpid(), 1, 9));
			assert_false(allows(&f, nr, (uint64_t)getppid(), 1, 9));
		} else {
			known = false;
		}
		for (size_t i = 0; i < ARRAY_LEN(conds); i++) {
			const struct cond *c = &conds[i];
			bool here =
				c->nr != SCMP_SYS(socket) || c->usernet == (role == JAIL_USERNET);
			if (c->nr == (int)nr && here) {
				known = true;
				word(t, c->text);
				assert_true(allows(&f, nr, c->good[0], c->good[1], c->good[2]));
				assert_false(allows(&f, nr, c->bad[0], c->bad[1], c->bad[2]));
			}
		}
		if (!known) {
			fail_msg("%s looks at its arguments: say in conds[] what they may be",
				 call);
		}
		free(call);
		say(t, "\n");
	}
	say(t, "```\n");
	free(f.filter);
}

static const struct {
	const char *name;
	enum jail_role role;
} roles[] = {
	{ "vCPU threads", JAIL_VCPU },
	{ "The page server", JAIL_PAGER },
	{ "Threads of devices", JAIL_IO },
	{ "The job of a take or a load, and its workers", JAIL_JOB },
	{ "The main loop", JAIL_MAIN },
	{ "The process of user networking", JAIL_USERNET },
};
_Static_assert(ARRAY_LEN(roles) == JAIL__ROLES, "each role is shown");

#define BEGIN "<!-- filters: made by test_jail_rules --write -->\n"
#define END "<!-- filters: end -->\n"

/* The page as it should be. */
static void page_make(struct text *t, const char *have)
{
	const char *from = strstr(have, BEGIN);
	const char *to = strstr(have, END);
	assert_non_null(from);
	assert_non_null(to);
	t->w = wbuf_make(MIB);
	wbuf_put(&t->w, have, (size_t)(from - have) + strlen(BEGIN));
	for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
		role_text(t, roles[i].name, roles[i].role);
	}
	say(t, "\n");
	wbuf_put(&t->w, to, strlen(to));
	assert_int_equal(t->w.failed, 0);
}

static char *page_read(char path[4096])
{
	uint8_t *p = NULL;
	size_t len = 0;
	snprintf(path, 4096, "%s/SECURITY.md", TORPOR_SOURCE_DIR);
	struct err *e = io_slurp(path, MIB, &p, &len);
	assert_null(e);
	char *text = malloc(len + 1);
	assert_non_null(text);
	memcpy(text, p, len);
	text[len] = 0;
	free(p);
	return text;
}

static void the_page_shows_the_filters(void **state)
{
	(void)state;
	char path[4096];
	char *have = page_read(path);
	struct text t = { 0 };
	page_make(&t, have);
	if (t.w.len != strlen(have) || memcmp(t.w.p, have, t.w.len) != 0) {
		fail_msg("%s does not show the filters of core/jail_rules.c: run "
			 "`test_jail_rules --write`, then read what has changed",
			 path);
	}
	wbuf_done(&t.w);
	free(have);
}

/* What no role may ever do, whatever is added to the lists. */
static void nobody_may(void **state)
{
	(void)state;
	static const int never[] = {
		SCMP_SYS(execve),
		SCMP_SYS(execveat),
		SCMP_SYS(fork),
		SCMP_SYS(vfork),
		SCMP_SYS(ptrace),
		SCMP_SYS(process_vm_readv),
		SCMP_SYS(kill),
		SCMP_SYS(mount),
		SCMP_SYS(umount2),
		SCMP_SYS(init_module),
		SCMP_SYS(finit_module),
		SCMP_SYS(bpf),
		SCMP_SYS(unshare),
		SCMP_SYS(setns),
		SCMP_SYS(chroot),
		SCMP_SYS(pivot_root),
		SCMP_SYS(perf_event_open),
		SCMP_SYS(keyctl),
		SCMP_SYS(add_key),
		SCMP_SYS(setuid),
		SCMP_SYS(reboot),
		SCMP_SYS(open_by_handle_at),
		SCMP_SYS(process_vm_writev),
		SCMP_SYS(pidfd_getfd),

		SCMP_SYS(mknod),
		SCMP_SYS(kexec_load),
	};
	for (int role = 0; role < JAIL__ROLES; role++) {
		struct sock_fprog f = { 0 };
		struct err *e = jail_rules_build((enum jail_role)role, false, &f);
		assert_null(e);
		for (size_t i = 0; i < ARRAY_LEN(never); i++) {
			assert_false(allows(&f, (unsigned)never[i], 0, 0, 0));
			assert_false(allows(&f, (unsigned)never[i], 1, 1, 1));
		}
		free(f.filter);
	}
}

/* No thread may need what the main loop, which starts it, may not: filters stack. */
static void the_main_loop_contains_the_others(void **state)
{
	(void)state;
	struct sock_fprog f[JAIL__ROLES] = { 0 };
	_Static_assert(JAIL_USERNET == JAIL__ROLES - 1, "the last one is another process");
	for (int role = 0; role < JAIL__ROLES; role++) {
		struct err *e = jail_rules_build((enum jail_role)role, false, &f[role]);
		assert_null(e);
	}
	for (unsigned nr = 0; nr < CALLS_MAX; nr++) {
		for (int role = 0; role < JAIL_USERNET; role++) {
			assert_true(!allows(&f[role], nr, 0, 0, 0) ||
				    allows(&f[JAIL_MAIN], nr, 0, 0, 0));
		}
	}
	for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
		for (int role = 0; role < JAIL_USERNET; role++) {
			assert_true(!allows(&f[role], SCMP_SYS(ioctl), 3, requests[i].nr, 0) ||
				    allows(&f[JAIL_MAIN], SCMP_SYS(ioctl), 3, requests[i].nr, 0));
		}
	}
	/* A vCPU thread makes nothing and maps no guest memory. */
	static const unsigned long not_vcpu[] = { KVM_CREATE_VM,     KVM_CREATE_VCPU,
						  KVM_CREATE_DEVICE, KVM_SET_USER_MEMORY_REGION,
						  KVM_IRQFD,         KVM_ENABLE_CAP };
	for (size_t i = 0; i < ARRAY_LEN(not_vcpu); i++) {
		assert_false(allows(&f[JAIL_VCPU], SCMP_SYS(ioctl), 3, not_vcpu[i], 0));
	}
	for (int role = 0; role < JAIL__ROLES; role++) {
		free(f[role].filter);
	}
}

static int page_write(void)
{
	char path[4096];
	char *have = page_read(path);
	struct text t = { 0 };
	page_make(&t, have);
	FILE *f = fopen(path, "w");
	if (f == NULL || fwrite(t.w.p, 1, t.w.len, f) != t.w.len || fclose(f) != 0) {
		perror(path);
		return 1;
	}
	wbuf_done(&t.w);
	free(have);
	printf("%s written\n", path);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_page_shows_the_filters),
		cmocka_unit_test(nobody_may),
		cmocka_unit_test(the_main_loop_contains_the_others),
	};
	if (argc == 2 && strcmp(argv[1], "--write") == 0) {
		return page_write();
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
