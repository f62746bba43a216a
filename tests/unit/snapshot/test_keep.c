/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of kept files: in and out at odd lengths, sharing, files that change or end early. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>

#include "core/base/hash.h"
#include "snapshot/image.h"
#include "tests/lib/snap_fake.h"

static struct fake_vm f;
static struct snap_file files[2];

static int setup(void **state)
{
	(void)state;
	fake_init(&f, GMEM_MIN_BYTES);
	fake_open_store(&f);
	f.vm.files = files;
	files[0] = (struct snap_file){ .name = "kernel", .fd = -1 };
	files[1] = (struct snap_file){ .name = "initrd", .fd = -1 };
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		if (files[i].fd >= 0) {
			close(files[i].fd);
		}
	}
	fake_done(&f);
	return 0;
}

static uint8_t byte_at(uint64_t off, uint8_t seed)
{
	return (uint8_t)(off * 7 + (off >> 12) + seed);
}

static void make_file(int i, uint64_t len, uint8_t seed)
{
	char path[400];
	snprintf(path, sizeof(path), "%s/file%d", f.dir, i);
	SCOPE(freep) uint8_t *p = malloc(len + 1);
	assert_non_null(p);
	for (uint64_t k = 0; k < len; k++) {
		p[k] = byte_at(k, seed);
	}
	if (files[i].fd >= 0) {
		close(files[i].fd);
	}
	files[i].fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(files[i].fd >= 0);
	OK(io_write_full(files[i].fd, p, len));
	files[i].len_bytes = len;
	files[i].image = NULL;
}

static struct err *take(struct snap_result *ret)
{
	const struct snap_take_opts opts = { 0 };
	f.log[0] = '\0';
	return snap_take(f.store, &f.vm, &opts, ret);
}

static void check_file(const char *ref, const char *name, uint64_t len, uint8_t seed)
{
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	SCOPE(fd_close) struct fd fd = FD_NONE;
	uint64_t got_len = 0;
	OK(snap_image_open(f.store, ref, &img));
	OK(snap_image_file_len(img, name, &got_len));
	assert_int_equal(got_len, len);
	OK(snap_image_file(img, name, &fd));
	OK(io_size(fd.n, &got_len));
	assert_int_equal(got_len, len);
	SCOPE(freep) uint8_t *p = malloc(len);
	OK(io_pread_full(fd.n, p, len, 0));
	for (uint64_t k = 0; k < len; k++) {
		if (p[k] != byte_at(k, seed)) {
			fail_msg("%s: byte %llu differs", name, (unsigned long long)k);
		}
	}
	/* sealed */
	assert_int_equal(pwrite(fd.n, "x", 1, 0), -1);
	assert_int_equal(errno, EPERM);
	assert_int_equal(ftruncate(fd.n, (off_t)len + 1), -1);
}

static void test_lengths(void **state)
{
	(void)state;
	static const uint64_t lens[] = { 1,       4095,        4096,    4097,        2 * MIB - 1,
					 2 * MIB, 2 * MIB + 1, 8 * MIB, 8 * MIB + 1, 10 * MIB + 5 };
	struct snap_result r;
	f.vm.nfiles = 1;
	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		make_file(0, lens[i], (uint8_t)i);
		OK(take(&r));
		check_file("fake", "kernel", lens[i], (uint8_t)i);
	}
}

static const struct snap_map *map_of(const struct snap_image *img, const char *name)
{
	const struct snap_info *info = snap_image_info(img);
	for (uint32_t i = 0; i < info->nmaps; i++) {
		if (strcmp(info->maps[i].name, name) == 0) {
			return &info->maps[i];
		}
	}
	fail();
	return NULL;
}

static void restored_from(const struct snap_image *img)
{
	for (int i = 0; i < 2; i++) {
		close(files[i].fd);
		files[i].fd = -1;
		files[i].len_bytes = 0;
		files[i].image = img;
	}
}

static void test_shared(void **state)
{
	(void)state;
	struct snap_result r1, r2, r3;
	f.vm.nfiles = 2;
	make_file(0, 3 * MIB, 1);
	make_file(1, 5000, 2);
	OK(take(&r1));
	OK(take(&r2));
	assert_true(r2.bytes_stored < r1.bytes_stored);
	assert_int_equal(r2.pages_stored, 0);
	/* a VM that was restored has no files of the host */
	SCOPE(snap_image_freep) struct snap_image *a = NULL;
	SCOPE(snap_image_freep) struct snap_image *b = NULL;
	OK(snap_image_open(f.store, "fake@1", &a));
	restored_from(a);
	OK(take(&r3));
	assert_int_equal(r3.pages_stored, 0);
	OK(snap_image_open(f.store, "fake@3", &b));
	assert_int_equal(map_of(a, "kernel")->root_id, map_of(b, "kernel")->root_id);
	assert_int_equal(map_of(a, "initrd")->root_id, map_of(b, "initrd")->root_id);
	check_file("fake@3", "kernel", 3 * MIB, 1);
	check_file("fake@3", "initrd", 5000, 2);
	/* another initrd is written, the kernel still shared */
	make_file(1, 5000, 3);
	OK(take(&r3));
	assert_int_equal(r3.pages_stored, 2);
	check_file("fake@4", "initrd", 5000, 3);
	/* a file that the image has not, and an image of another family */
	files[0].name = "other";
	REFUSED(take(&r3), ERR_NOTFOUND, "file other: the snapshot that fake was restored from");
	files[0].name = "kernel";
	a->ref.vm.family[0] ^= 1;
	REFUSED(take(&r3), ERR_NOT_NOW, "file kernel: the snapshot that keeps it is of another");
	assert_string_equal(f.log, "");
}

/* The snapshot that a running VM was restored from is removed: its next take is whole all the same.
 */
static void test_shared_with_removed(void **state)
{
	(void)state;
	struct snap_result r;
	SCOPE(family_closep) struct family *fam = NULL;
	f.vm.nfiles = 2;
	make_file(0, 3 * MIB, 1);
	make_file(1, 5000, 2);
	OK(take(&r));
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	OK(snap_image_open(f.store, "fake", &img));
	restored_from(img);
	OK(family_open(f.store, f.vm.family, false, &fam));
	OK(family_remove(fam, &r.snap_id, 1));
	assert_int_equal(fake_count_snaps(&f), 0);
	OK(take(&r));
	assert_int_equal(r.number, 2);
	snap_image_free(MOVE(img));
	struct gc_result gone;
	OK(family_gc(fam, &gone));
	check_file("fake", "kernel", 3 * MIB, 1);
	check_file("fake", "initrd", 5000, 2);
}

static void test_bad_files(void **state)
{
	(void)state;
	struct snap_result r;
	f.vm.nfiles = 1;
	make_file(0, 5000, 1);
	files[0].len_bytes = 6000;
	REFUSED(take(&r), ERR_CORRUPT, "file kernel: ");
	files[0].len_bytes = 0;
	REFUSED(take(&r), ERR_LIMIT, "file kernel: 0 bytes");
	files[0].len_bytes = INITRD_BYTES_MAX + 1;
	REFUSED(take(&r), ERR_LIMIT, "file kernel: ");
	assert_string_equal(f.log, "");
	assert_int_equal(fake_count_snaps(&f), 0);
}

/* Changes the file between its two readings: the first progress tells that the second is on. */
static void scribble(void *arg, const char *step, uint64_t done, uint64_t total)
{
	(void)done;
	(void)total;
	(void)arg;
	if (strcmp(step, "files") == 0) {
		uint8_t b = 0x77;
		assert_int_equal(pwrite(files[0].fd, &b, 1, 9 * MIB), 1);
	}
}

static void test_file_changes(void **state)
{
	(void)state;
	struct snap_result r;
	const struct snap_take_opts opts = { .progress = { .fn = scribble } };
	f.vm.nfiles = 1;
	make_file(0, 10 * MIB, 1);
	REFUSED(snap_take(f.store, &f.vm, &opts, &r), ERR_NOT_NOW, "file kernel: it changed");
	assert_string_equal(f.log, "");
	assert_int_equal(fake_count_snaps(&f), 0);
}

/* Content that is not what its SHA-256 says is not handed out. */
static void test_wrong_digest(void **state)
{
	(void)state;
	struct snap_result r;
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	SCOPE(fd_close) struct fd fd = FD_NONE;
	f.vm.nfiles = 1;
	make_file(0, 5000, 1);
	OK(take(&r));
	OK(snap_image_open(f.store, "fake", &img));
	img->manifest->files[0].sha256[31] ^= 1;
	REFUSED(snap_image_file(img, "kernel", &fd), ERR_CORRUPT, "its SHA-256 differs");
	img->manifest->files[0].sha256[31] ^= 1;
	img->manifest->files[0].len_bytes = 4096;
	REFUSED(snap_image_file(img, "kernel", &fd), ERR_CORRUPT, "past the end of the file");
	assert_int_equal(fd.n, -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_lengths, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shared, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shared_with_removed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bad_files, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file_changes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_digest, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
