/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of devices/pvpanic.c: each byte a guest can write to either port. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "devices/pvpanic.h"
#include "tests/lib/fake_host.h"

static void panic_port(void **state)
{
	(void)state;
	struct fake_host f;
	struct device *dev = NULL;
	fake_host_init(&f);
	ok_(pvpanic_new(&f.host, &dev));
	assert_true(dev->ranges[0].base == 0x505 && dev->ranges[0].len == 1);
	assert_null(dev->part.desc);
	assert_int_equal(dev_in(dev, 0, 0), 1); /* no "crash kernel loaded" */
	unsigned want = 0;
	for (unsigned v = 0; v < 256; v++) {
		dev_out(dev, 0, 0, v);
		want += v & 1;
		assert_int_equal(f.requests[DEV_PANIC], want);
	}
	assert_int_equal(dev_in(dev, 0, 0), 1);
	dev->ops->free(dev);
}

static void exit_port(void **state)
{
	(void)state;
	struct fake_host f;
	struct device *dev = NULL;
	fake_host_init(&f);
	ok_(exit_device_new(&f.host, &dev));
	assert_true(dev->ranges[0].base == 0x501 && dev->ranges[0].len == 1);
	for (unsigned v = 0; v < 256; v++) {
		unsigned before = f.requests[DEV_EXIT + v % 32];
		dev_out(dev, 0, 0, v);
		assert_int_equal(f.requests[DEV_EXIT + v % 32], before + 1);
	}
	assert_int_equal(f.requests[DEV_RESET] + f.requests[DEV_POWEROFF] + f.requests[DEV_PANIC],
			 0);
	assert_int_equal(dev_in(dev, 0, 0), 0);
	const struct dev_ops *ops = dev->ops;
	ops->free(dev);
	ops->free(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(panic_port),
		cmocka_unit_test(exit_port),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
