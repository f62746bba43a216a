/* SPDX-License-Identifier: Apache-2.0 */
/* The report of a crashed vCPU: exit names, triple fault with and without paging, bad rip. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "core/kvm_vcpu.h"
#include "tests/lib/expect.h"

static struct fd kvm = { -1 };

struct rig {
	struct gmem *g;
	struct kvm_vm *vm;
	struct kvm_vcpu *v;
};

static void rig_up(struct rig *r)
{
	struct cpuid_table t;
	ok(gmem_new(GMEM_MIN_BYTES, &r->g));
	ok(kvm_vm_new(kvm.n, r->g, &r->vm));
	ok(cpuid_make(kvm.n, "host", 1, &t));
	ok(kvm_vcpu_new(r->vm, 0, &t, &r->v));
}

static void rig_down(struct rig *r)
{
	kvm_vcpu_free(r->v);
	kvm_vm_free(r->vm);
	gmem_free(r->g);
}

static void expect_text(const char *text, const char *part)
{
	if (strstr(text, part) == NULL) {
		fail_msg("no \"%s\" in:\n%s", part, text);
	}
}

/* lidt of an empty table, then ud2: #UD, then #GP, then a triple fault */
static const uint8_t crash32[] = { 0x0f, 0x01, 0x1d, 0x00, 0x00, 0x30, 0x00, 0x0f, 0x0b };

static void test_triple_fault(void **state)
{
	(void)state;
	struct rig r;
	rig_up(&r);
	ok(gmem_write(r.g, GPA(0x100000), crash32, sizeof(crash32)));
	struct boot_regs b = { .mode = BOOT_MULTIBOOT32, .rip = 0x100000, .rbx = 0xabcd };
	ok(kvm_vcpu_set_boot(r.v, &b));
	int err = 0;
	assert_int_equal(kvm_vcpu_run(r.v, &err), KVM_RUN_EXIT);
	assert_int_equal(kvm_vcpu_page(r.v)->exit_reason, KVM_EXIT_SHUTDOWN);
	char *text = NULL;
	kvm_vcpu_report(r.v, r.g, &text);
	assert_non_null(text);
	expect_text(text, "triple fault");
	expect_text(text, "rip 0000000000100007");
	expect_text(text, "rbx 000000000000abcd");
	expect_text(text, "rax 000000002badb002");
	expect_text(text, "physical 0x100007): 0f 0b 00");
	expect_text(text, "cs 0010 base 0000000000000000 limit ffffffff");
	free(text);
	kvm_vcpu_report(r.v, NULL, &text);
	expect_text(text, "not readable");
	free(text);
	rig_down(&r);
}

/* Long mode, virtual 1 GiB + x to physical 2 MiB + x; the tables lie at 0x1000. */
static void test_long_mode_bytes(void **state)
{
	(void)state;
	struct rig r;
	rig_up(&r);
	uint64_t e = 0x2003;
	ok(gmem_write(r.g, GPA(0x1000), &e, 8)); /* PML4[0] */
	e = 0x3003;
	ok(gmem_write(r.g, GPA(0x2008), &e, 8)); /* PDPT[1] */
	e = 0x200083;
	ok(gmem_write(r.g, GPA(0x3000), &e, 8)); /* PD[0]: 2 MiB page */
	static const uint8_t code[] = { 0x0f, 0x0b, 0xf4, 0x90 };
	ok(gmem_write(r.g, GPA(0x200000 + 0x1ffffe), code, sizeof(code)));
	struct boot_regs b = {
		.mode = BOOT_LINUX64, .rip = 0x40000000 + 0x1ffffe, .cr3 = 0x1000, .rsi = 0x77
	};
	ok(kvm_vcpu_set_boot(r.v, &b));
	int err = 0;
	assert_int_equal(kvm_vcpu_run(r.v, &err), KVM_RUN_EXIT);
	assert_int_equal(kvm_vcpu_page(r.v)->exit_reason, KVM_EXIT_SHUTDOWN);
	char *text = NULL;
	kvm_vcpu_report(r.v, r.g, &text);
	expect_text(text, "linear 0x401ffffe, physical 0x3ffffe): 0f 0b (0x40200000: end)");
	expect_text(text, "rsi 0000000000000077");
	expect_text(text, "cr3 0000000000001000");
	free(text);
	rig_down(&r);
}

static void test_unreadable_rip(void **state)
{
	(void)state;
	struct rig r;
	rig_up(&r);
	struct boot_regs b = { .mode = BOOT_PVH32, .rip = 0xe0000000 };
	ok(kvm_vcpu_set_boot(r.v, &b));
	char *text = NULL;
	kvm_vcpu_report(r.v, r.g, &text);
	expect_text(text, "code at rip (linear 0xe0000000): not readable");
	struct kvm_run *run = kvm_vcpu_page(r.v);
	run->exit_reason = KVM_EXIT_INTERNAL_ERROR;
	run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
	run->internal.ndata = 1000; /* more than there is room for */
	run->internal.data[0] = 0x1234;
	free(text);
	kvm_vcpu_report(r.v, r.g, &text);
	expect_text(text, "suberror 1: an instruction that KVM cannot emulate");
	expect_text(text, "data[0] = 0x1234");
	expect_text(text, "data[15]");
	assert_null(strstr(text, "data[16]"));
	free(text);
	rig_down(&r);
}

static void test_names(void **state)
{
	(void)state;
	assert_string_equal(kvm_exit_name(KVM_EXIT_MMIO), "MMIO");
	assert_non_null(strstr(kvm_exit_name(UINT32_MAX), "does not know"));
	assert_non_null(strstr(kvm_exit_name(13), "does not know"));
}

int main(void)
{
	struct err *e = kvm_open(&kvm);
	if (e != NULL) {
		print_message("skipped: %s\n", err_msg(e));
		err_free(e);
		return 77;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_triple_fault),
		cmocka_unit_test(test_long_mode_bytes),
		cmocka_unit_test(test_unreadable_rip),
		cmocka_unit_test(test_names),
	};
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	fd_close(&kvm);
	return rc;
}
