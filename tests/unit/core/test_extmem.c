/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit tests of core/extmem.c (and core/kvm_slot.c) with a real KVM VM: which ranges and
 * descriptors are taken, what stays when one is refused, attaching to a new VM.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/extmem.h"
#include "tests/lib/expect.h"

#define AT (1 * GIB)

static struct fd kvm;
static struct gmem *gmem;
static struct kvm_vm *vm;
static struct extmem *x;

static int up(void **state)
{
	(void)state;
	ok(kvm_open(&kvm));
	ok(gmem_new(32 * MIB, &gmem));
	ok(kvm_vm_new(kvm.n, gmem, &vm));
	ok(extmem_new(&x));
	return 0;
}

static int down(void **state)
{
	(void)state;
	kvm_vm_free(vm);
	extmem_free(x);
	gmem_free(gmem);
	fd_close(&kvm);
	return 0;
}

static struct fd memfd(uint64_t bytes, unsigned flags)
{
	struct fd fd = { memfd_create("client", MFD_CLOEXEC | flags) };
	assert_true(fd.n >= 0);
	assert_int_equal(ftruncate(fd.n, (off_t)bytes), 0);
	return fd;
}

static void refused(struct err *e, enum err_class class, const char *word)
{
	assert_non_null(e);
	if (strstr(err_msg(e), word) == NULL) {
		print_message("'%s' has no '%s'\n", err_msg(e), word);
	}
	assert_non_null(strstr(err_msg(e), word));
	assert_int_equal(err_class(e), class);
	err_free(e);
}

static unsigned count(void)
{
	uint64_t first;
	return extmem_count(x, &first);
}

static void test_add_and_remove(void **state)
{
	(void)state;
	SCOPE(fd_close) struct fd fd = memfd(64 * KIB, MFD_ALLOW_SEALING);
	uint64_t first = 0;
	ok(extmem_add(x, vm, fd.n, 4096, AT, AT + 60 * KIB));
	ok(extmem_add(x, vm, fd.n, 0, AT - 4096, AT));
	assert_int_equal(extmem_count(x, &first), 2);
	assert_true(first == AT - 4096);
	/* The seal is on now: the file cannot shrink under the guest. */
	assert_true((fcntl(fd.n, F_GET_SEALS) & F_SEAL_SHRINK) != 0);
	assert_int_equal(ftruncate(fd.n, 4096), -1);
	/* A new VM (a reset) gets both. */
	kvm_vm_free(vm);
	ok(kvm_vm_new(kvm.n, gmem, &vm));
	ok(extmem_attach(x, vm));
	ok(extmem_remove(x, vm, AT));
	refused(extmem_remove(x, vm, AT), ERR_NOTFOUND, "no region");
	ok(extmem_remove(x, vm, AT - 4096));
	assert_int_equal(count(), 0);
	/* The end of RAM, and both ends of the device hole, may be touched but not overlapped. */
	ok(extmem_add(x, vm, fd.n, 0, 32 * MIB, 32 * MIB + 4096));
	ok(extmem_add(x, vm, fd.n, 0, GMEM_LOW_END - 4096, GMEM_LOW_END));
	ok(extmem_add(x, vm, fd.n, 0, GMEM_HIGH_START, GMEM_HIGH_START + 4096));
	assert_int_equal(count(), 3);
}

static void test_bad_ranges(void **state)
{
	(void)state;
	SCOPE(fd_close) struct fd fd = memfd(64 * KIB, MFD_ALLOW_SEALING);
	static const struct {
		uint64_t offset, start, end;
		const char *word;
	} bad[] = {
		{ 0, AT, AT, "is empty" },
		{ 0, AT, AT - 4096, "is empty" },
		{ 0, AT + 1, AT + 4096, "multiples" },
		{ 0, AT, AT + 4095, "multiples" },
		{ 1, AT, AT + 4096, "multiples" },
		{ 0, INT64_MAX - 4095, INT64_MAX, "multiples" },
		{ 0, 1ull << 62, (1ull << 62) + 4096, "beyond" },
		{ 0, 0, 4096, "RAM" },
		{ 0, 0, AT, "RAM" },
		{ 0, 32 * MIB - 4096, 32 * MIB, "RAM" },
		{ 0, GMEM_LOW_END - 4096, GMEM_LOW_END + 4096, "devices" },
		{ 0, GMEM_HIGH_START - 4096, GMEM_HIGH_START, "devices" },
		{ 0, AT, AT + 68 * KIB, "has 65536 bytes" },
		{ 64 * KIB, AT, AT + 4096, "has 65536 bytes" },
		{ INT64_MAX - 4095, AT, AT + 4096, "has 65536 bytes" },
		{ UINT64_MAX - 4095, AT, AT + 4096, "has 65536 bytes" },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err *e = extmem_add(x, vm, fd.n, bad[i].offset, bad[i].start, bad[i].end);
		assert_non_null(e);
		if (strstr(err_msg(e), bad[i].word) == NULL) {
			print_message("%zu: %s\n", i, err_msg(e));
		}
		assert_non_null(strstr(err_msg(e), bad[i].word));
		err_free(e);
	}
	assert_int_equal(count(), 0);
	ok(extmem_add(x, vm, fd.n, 0, AT, AT + 8192));
	refused(extmem_add(x, vm, fd.n, 0, AT + 4096, AT + 12288), ERR_NOT_NOW, "there already");
	refused(extmem_add(x, vm, fd.n, 0, AT - 4096, AT + 4096), ERR_NOT_NOW, "there already");
	assert_int_equal(count(), 1);
}

static void test_bad_descriptors(void **state)
{
	(void)state;
	SCOPE(fd_close) struct fd unsealable = memfd(4096, 0);
	refused(extmem_add(x, vm, unsealable.n, 0, AT, AT + 4096), ERR_SYS, "MFD_ALLOW_SEALING");
	SCOPE(fd_close) struct fd event = { eventfd(0, EFD_CLOEXEC) };
	refused(extmem_add(x, vm, event.n, 0, AT, AT + 4096), ERR_USAGE, "no memfd");
	SCOPE(fd_close) struct fd file = { open("/proc/self/exe", O_RDONLY | O_CLOEXEC) };
	refused(extmem_add(x, vm, file.n, 0, AT, AT + 4096), ERR_USAGE, "no memfd");
	SCOPE(fd_close) struct fd fixed = memfd(4096, MFD_ALLOW_SEALING);
	assert_int_equal(fcntl(fixed.n, F_ADD_SEALS, F_SEAL_WRITE), 0);
	refused(extmem_add(x, vm, fixed.n, 0, AT, AT + 4096), ERR_SYS, "mapping");
	SCOPE(fd_close) struct fd empty = memfd(0, MFD_ALLOW_SEALING);
	refused(extmem_add(x, vm, empty.n, 0, AT, AT + 4096), ERR_USAGE, "has 0 bytes");
	assert_int_equal(count(), 0);
}

static void test_limit(void **state)
{
	(void)state;
	SCOPE(fd_close) struct fd fd = memfd(4096, MFD_ALLOW_SEALING);
	for (unsigned i = 0; i < EXTMEM_MAX; i++) {
		ok(extmem_add(x, vm, fd.n, 0, AT + i * 8192, AT + i * 8192 + 4096));
	}
	refused(extmem_add(x, vm, fd.n, 0, 2 * AT, 2 * AT + 4096), ERR_LIMIT, "unregister one");
	ok(extmem_remove(x, vm, AT + 8192));
	ok(extmem_add(x, vm, fd.n, 0, 2 * AT, 2 * AT + 4096));
	assert_int_equal(count(), EXTMEM_MAX);
}

int main(void)
{
	if (access("/dev/kvm", R_OK | W_OK) != 0) {
		printf("skipped: /dev/kvm cannot be opened\n");
		return 77;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_add_and_remove, up, down),
		cmocka_unit_test_setup_teardown(test_bad_ranges, up, down),
		cmocka_unit_test_setup_teardown(test_bad_descriptors, up, down),
		cmocka_unit_test_setup_teardown(test_limit, up, down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
