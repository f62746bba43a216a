/* SPDX-License-Identifier: Apache-2.0 */
/* The CPU shown to guests: what is hidden, topology, models, and the check against a host. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "core/kvm_cap.h"
#include "core/kvm_vcpu.h"
#include "tests/lib/expect.h"
#include "tests/lib/found.h"

static struct fd kvm = { -1 };

static struct kvm_cpuid_entry2 *entry(struct cpuid_table *t, uint32_t leaf, uint32_t sub)
{
	for (uint32_t i = 0; i < t->n; i++) {
		if (t->e[i].function == leaf && t->e[i].index == sub) {
			return &t->e[i];
		}
	}
	return NULL;
}

static void test_hidden(void **state)
{
	(void)state;
	struct cpuid_table t;
	ok(cpuid_make(kvm.n, "host", 1, &t));
	struct kvm_cpuid_entry2 *e = entry(&t, 1, 0);
	assert_non_null(e);
	assert_int_equal(e->ecx & 1u << 5, 0);      /* VMX */
	assert_int_not_equal(e->ecx & 1u << 31, 0); /* hypervisor */
	assert_int_equal(e->ecx & 1u << 27, 0);     /* OSXSAVE is KVM's */
	assert_int_equal((e->ecx >> 24 & 1), kvm_cap_value(kvm.n, KVM_CAP_TSC_DEADLINE_TIMER) != 0);
	e = entry(&t, 0x80000001, 0);
	assert_non_null(e);
	assert_int_equal(e->ecx & 1u << 2, 0); /* SVM */
	assert_null(entry(&t, 0x8000000a, 0));
	assert_null(entry(&t, 0xa, 0)); /* PMU */

	/* Called invariant only where it can be carried over a restore. */
	e = entry(&t, 0x80000007, 0);
	if (e != NULL && kvm_is_software(kvm.n)) {
		assert_int_equal(e->edx & 1u << 8, 0);
	}

	e = entry(&t, 0x40000000, 0);
	assert_non_null(e);
	assert_memory_equal(&e->ebx, "KVMK", 4);
	e = entry(&t, 0x40000001, 0);
	assert_non_null(e);
	assert_int_not_equal(e->eax & 1u << 3, 0);                     /* kvmclock */
	assert_int_not_equal(e->eax & 1u << 24, 0);                    /* stable */
	assert_int_equal(e->eax & (1u << 4 | 1u << 10 | 1u << 14), 0); /* async page faults */
}

static void test_topology(void **state)
{
	(void)state;
	static const struct {
		unsigned n, bits;
	} cases[] = { { 1, 0 }, { 2, 1 }, { 3, 2 }, { 64, 6 } };
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct cpuid_table t;
		ok(cpuid_make(kvm.n, "host", cases[i].n, &t));
		struct kvm_cpuid_entry2 *e = entry(&t, 1, 0);
		assert_int_equal(e->ebx >> 16 & 0xff, 1u << cases[i].bits);
		assert_int_equal(e->edx >> 28 & 1, cases[i].n > 1);
		e = entry(&t, 0xb, 0);
		if (e != NULL) {
			assert_int_equal(e->ebx, 1);
			e = entry(&t, 0xb, 1);
			assert_non_null(e);
			assert_int_equal(e->eax, cases[i].bits);
			assert_int_equal(e->ebx, cases[i].n);
			assert_int_equal(e->ecx, 0x201);
		}
		e = entry(&t, 0x80000008, 0);
		if (e != NULL) {
			assert_int_equal((e->ecx & 0xff) + 1, cases[i].n);
		}
	}
}

static void test_models(void **state)
{
	(void)state;
	struct cpuid_table t = { .n = 77 };
	struct err *e = cpuid_make(kvm.n, "486", 1, &t);
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_USAGE);
	err_free(e);
	assert_int_equal(t.n, 77); /* untouched on failure */

	e = cpuid_make(kvm.n, "x86-64-v2", 1, &t);
	if (kvm_is_software(kvm.n)) {
		assert_non_null(e);
		assert_int_equal(err_class(e), ERR_INCOMPAT);
		assert_non_null(strstr(err_msg(e), "software KVM"));
		err_free(e);
		return;
	}
	ok(e);
	assert_int_equal(entry(&t, 1, 0)->ecx & 1u << 28, 0);     /* no AVX */
	assert_int_not_equal(entry(&t, 1, 0)->ecx & 1u << 23, 0); /* POPCNT */
	assert_int_equal(entry(&t, 7, 0)->ebx & (1u << 5 | 1u << 16), 0);
	ok(cpuid_check(kvm.n, &t));
	e = cpuid_make(kvm.n, "x86-64-v3", 1, &t);
	if (e == NULL) {
		assert_int_not_equal(entry(&t, 7, 0)->ebx & 1u << 5, 0); /* AVX2 */
		assert_int_equal(entry(&t, 7, 0)->ebx & 1u << 16, 0);    /* no AVX512F */
		assert_int_equal(entry(&t, 0xd, 0)->eax & ~7u, 0);
	} else {
		assert_int_equal(err_class(e), ERR_INCOMPAT);
		err_free(e);
	}
}

static void expect_lacks(const struct cpuid_table *t, const char *part)
{
	struct err *e = cpuid_check(kvm.n, t);
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_INCOMPAT);
	if (strstr(err_msg(e), part) == NULL) {
		fail_msg("\"%s\" does not name %s", err_msg(e), part);
	}
	err_free(e);
}

static void test_check(void **state)
{
	(void)state;
	struct cpuid_table good;
	ok(cpuid_make(kvm.n, "host", 2, &good));
	ok(cpuid_check(kvm.n, &good));

	struct cpuid_table t = good;
	entry(&t, 7, 0)->edx |= 1u << 13; /* no CPU and no KVM has this bit */
	expect_lacks(&t, "0x7.0 EDX bit 13");
	t = good;
	entry(&t, 1, 0)->ecx |= 1u << 16;
	expect_lacks(&t, "0x1.0 ECX bit 16");
	t = good;
	entry(&t, 0, 0)->ebx = 0x756e6547; /* Genu... */
	entry(&t, 0, 0)->ecx = 0x21212121;
	expect_lacks(&t, "vendor");
	t = good;
	entry(&t, 0x80000008, 0)->eax = 63;
	expect_lacks(&t, "63 bits");
	t = good;
	t.n = CPUID_MAX + 1;
	struct err *e = cpuid_check(kvm.n, &t);
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_CORRUPT);
	err_free(e);
	/* Bits that mirror CR4 are no features. */
	t = good;
	entry(&t, 1, 0)->ecx |= 1u << 27;
	ok(cpuid_check(kvm.n, &t));
}

static void test_check_all(void **state)
{
	(void)state;
	struct cpuid_table t;
	struct found found = { 0 };
	const struct findings f = { found_add, &found };
	ok(cpuid_make(kvm.n, "host", 2, &t));
	ok(cpuid_check_all(kvm.n, &t, &f));
	assert_int_equal(found.n, 0);
	entry(&t, 7, 0)->edx |= 1u << 13;
	entry(&t, 1, 0)->ecx |= 1u << 16;
	entry(&t, 0, 0)->ecx = 0x21212121;
	entry(&t, 0x80000008, 0)->eax = 63;
	ok(cpuid_check_all(kvm.n, &t, &f));
	assert_int_equal(found.n, 4);
	assert_true(found_has(&found, "cpu", "vendor"));
	assert_true(found_has(&found, "cpu", "0x1.0 ECX bit 16"));
	assert_true(found_has(&found, "cpu", "0x7.0 EDX bit 13"));
	assert_true(found_has(&found, "cpu", "63 bits"));
}

static void test_caps(void **state)
{
	(void)state;
	ok(kvm_cap_check(kvm.n));
	unsigned n = 0;
	unsigned required = 0;
	const struct kvm_cap_info *c;
	while ((c = kvm_cap_at(n)) != NULL) {
		assert_non_null(c->name);
		assert_non_null(c->why);
		required += c->required;
		n++;
	}
	assert_true(required >= 10 && required < n);
	/* A descriptor that knows no capability: everything required is named. */
	struct err *e = kvm_cap_check(-1);
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_INCOMPAT);
	assert_non_null(strstr(err_msg(e), "IRQCHIP"));
	err_free(e);
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
		cmocka_unit_test(test_hidden),    cmocka_unit_test(test_topology),
		cmocka_unit_test(test_models),    cmocka_unit_test(test_check),
		cmocka_unit_test(test_check_all), cmocka_unit_test(test_caps),
	};
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	fd_close(&kvm);
	return rc;
}
