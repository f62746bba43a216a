/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of the compatibility check: what is refused, and what never is. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "snapshot/image.h"
#include "tests/lib/found.h"
#include "tests/lib/snap_fake.h"

static struct manifest man;
static struct snap_image img = { .manifest = &man };

static const struct snap_host host = {
	.kernel = "6.1.0",
	.cpu_model = "One CPU",
	.tsc_khz = 2000000,
	.xcr0_mask = 0x7,
};

static int setup(void **state)
{
	(void)state;
	memset(&man, 0, sizeof(man));
	man.host.tsc_khz = host.tsc_khz;
	man.host.xcr0_mask = 0xe7;
	man.host.xcr0_used = 0x7;
	return 0;
}

static void test_same_host(void **state)
{
	(void)state;
	OK(snap_image_compat(&img, &host));
}

static void test_names_never_matter(void **state)
{
	(void)state;
	struct snap_host here = host;
	snprintf(here.kernel, sizeof(here.kernel), "9.9");
	snprintf(here.cpu_model, sizeof(here.cpu_model), "Another CPU");
	here.software_kvm = !here.software_kvm;
	OK(snap_image_compat(&img, &here));
}

static void test_xcr0(void **state)
{
	(void)state;
	struct snap_host here = host;
	here.xcr0_mask = 0xff; /* more than used */
	OK(snap_image_compat(&img, &here));
	here.xcr0_mask = 0x3;
	REFUSED(snap_image_compat(&img, &here), ERR_INCOMPAT, "component 2 (AVX)");
	man.host.xcr0_used = 1ull << 18 | 1ull << 40 | 0x3;
	REFUSED(snap_image_compat(&img, &here), ERR_INCOMPAT, "component 18 (AMX tiles)");
	man.host.xcr0_used = 1ull << 40 | 0x3;
	REFUSED(snap_image_compat(&img, &here), ERR_INCOMPAT, "component 40 (unnamed)");
}

static void test_tsc(void **state)
{
	(void)state;
	struct snap_host here = host;
	here.tsc_khz = 2000500; /* 250 ppm */
	OK(snap_image_compat(&img, &here));
	here.tsc_khz = 1999500;
	OK(snap_image_compat(&img, &here));
	here.tsc_khz = 2000501;
	REFUSED(snap_image_compat(&img, &here), ERR_INCOMPAT, "no TSC scaling");
	here.tsc_khz = 1999499;
	REFUSED(snap_image_compat(&img, &here), ERR_INCOMPAT, "1999499 kHz");
	here.tsc_scaling = true;
	OK(snap_image_compat(&img, &here));
	here.tsc_scaling = false;
	here.tsc_khz = 0;
	OK(snap_image_compat(&img, &here));
	here.tsc_khz = 1;
	man.host.tsc_khz = 0;
	OK(snap_image_compat(&img, &here));
	man.host.tsc_khz = UINT32_MAX;
	REFUSED(snap_image_compat(&img, &here), ERR_INCOMPAT, "kHz");
}

/* The check before a restore hears of everything, the refusal of the first. */
static void test_all_of_it(void **state)
{
	(void)state;
	struct snap_host here = host;
	struct found found = { 0 };
	snap_image_compat_all(&img, &here, &(struct findings){ found_add, &found });
	assert_int_equal(found.n, 0);
	here.xcr0_mask = 0x1;
	here.tsc_khz = 3000000;
	man.host.xcr0_used = 1ull << 18 | 0x7;
	snap_image_compat_all(&img, &here, &(struct findings){ found_add, &found });
	assert_int_equal(found.n, 4);
	assert_true(found_has(&found, "cpu", "component 1 (SSE)"));
	assert_true(found_has(&found, "cpu", "component 2 (AVX)"));
	assert_true(found_has(&found, "cpu", "component 18 (AMX tiles)"));
	assert_true(found_has(&found, "clock", "3000000 kHz"));
	REFUSED(snap_image_compat(&img, &here), ERR_INCOMPAT, "component 1 (SSE)");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_same_host, setup),
		cmocka_unit_test_setup(test_names_never_matter, setup),
		cmocka_unit_test_setup(test_xcr0, setup),
		cmocka_unit_test_setup(test_tsc, setup),
		cmocka_unit_test_setup(test_all_of_it, setup),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
