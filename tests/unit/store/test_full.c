/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A full disk, on a small tmpfs in a mount namespace of its own: a clear error, old snapshots stay
 * readable, and after a removal it goes on. Needs root; 77 (skipped) otherwise.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sched.h>
#include <sys/mount.h>
#include <sys/statvfs.h>

#include "tests/unit/store/store_fix.h"

enum {
	DISK_MIB = 64,
	PAGES = 3500, /* random: about 14 MiB each */
};

static char *disk;

/* Random pages: they take what they are long. */
static uint8_t *random_image(uint64_t seed, uint64_t npages)
{
	uint8_t *img = malloc(npages * PAGE_BYTES);
	assert_non_null(img);
	for (uint64_t i = 0; i < npages * PAGE_BYTES / 8; i++) {
		uint64_t v = fix_rnd(&seed);
		memcpy(img + i * 8, &v, 8);
	}
	return img;
}

static void fill_disk(int *fd, uint64_t leave_bytes)
{
	char path[512];
	snprintf(path, sizeof(path), "%s/filler", disk);
	*fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_true(*fd >= 0);
	struct statvfs v;
	assert_int_equal(statvfs(disk, &v), 0);
	uint64_t have = (uint64_t)v.f_bavail * v.f_frsize;
	if (have > leave_bytes) {
		assert_int_equal(posix_fallocate(*fd, 0, (off_t)(have - leave_bytes)), 0);
	}
}

static void full_disk(void **state)
{
	(void)state;
	char dir[512];
	snprintf(dir, sizeof(dir), "%s/store", disk);
	struct store *s = NULL;
	struct family *f = NULL;
	OK(store_open(dir, STORE_CREATE, &s));
	OK(family_open(s, fix_fam, true, &f));
	/*
	 * Take until the disk is full. The last one is refused at its start or in the middle, as
	 * the room that is left happens to be; full_in_the_middle has the second case for sure.
	 */
	uint64_t ids[16];
	unsigned n = 0;
	struct err *e = NULL;
	while (e == NULL) {
		uint8_t *img = random_image(n, PAGES);
		struct snap_info info;
		e = fix_take(f, fix_vm1, "", img, PAGES, &info);
		free(img);
		if (e == NULL) {
			assert_true(n < ARRAY_LEN(ids));
			ids[n++] = info.id;
		}
	}
	assert_in_range(n, 2, DISK_MIB / 13);
	if (err_class(e) != ERR_NOSPACE || strstr(err_msg(e), "disk is full") == NULL) {
		print_error("%s: %s\n", err_class_name(err_class(e)), err_msg(e));
		fail();
	}
	err_free(e);
	/* Nothing partial, all of the old. */
	struct snap_info *list;
	size_t count;
	OK(family_snaps(f, &list, &count));
	assert_int_equal(count, n);
	free(list);
	for (unsigned i = 0; i < n; i++) {
		uint8_t *img = random_image(i, PAGES);
		fix_sound(f, ids[i]);
		fix_same(f, ids[i], "memory", img, PAGES);
		free(img);
	}
	/* Also with every block of the disk in use: removing works, and then taking. */
	int fd;
	fill_disk(&fd, 0);
	OK(family_remove(f, &ids[0], 1));
	uint8_t *img = random_image(100, PAGES / 2);
	struct snap_info info;
	OK(fix_take(f, fix_vm1, "", img, PAGES / 2, &info));
	fix_same(f, info.id, "memory", img, PAGES / 2);
	fix_sound(f, info.id);
	free(img);
	close(fd);
	char path[512];
	snprintf(path, sizeof(path), "%s/filler", disk);
	unlink(path);
	family_close(f);
	OK(family_open(s, fix_fam, false, &f));
	fix_sound(f, ids[1]);
	family_close(f);
	store_close(s);
	fix_rmdir(strdup(dir));
}

/* The disk fills up while the take is running: by far the most of it has been written already. */
static void full_in_the_middle(void **state)
{
	(void)state;
	char dir[512];
	snprintf(dir, sizeof(dir), "%s/third", disk);
	struct store *s = NULL;
	struct family *f = NULL;
	OK(store_open(dir, STORE_CREATE, &s));
	OK(family_open(s, fix_fam, true, &f));
	uint8_t *small = random_image(1, 300);
	struct snap_info info;
	struct snap_info failed;
	OK(fix_take(f, fix_vm1, "", small, 300, &info));
	uint8_t *img = random_image(2, 5 * PAGES);
	for (unsigned i = 0; i < 3; i++) {
		FAILS(ERR_NOSPACE, "disk is full",
		      fix_take(f, fix_vm1, "", img, 5 * PAGES, &failed));
		fix_same(f, info.id, "memory", small, 300);
		fix_sound(f, info.id);
	}
	struct store_usage u;
	OK(family_usage(f, &u));
	assert_int_equal(u.snaps, 1);
	struct gc_result res;
	OK(family_gc(f, &res));
	assert_int_equal(res.sessions_cleared, 0); /* the failed ones cleared up themselves */
	assert_int_equal(res.frames_freed, 0);
	OK(fix_take(f, fix_vm1, "", img, PAGES, &info));
	fix_same(f, info.id, "memory", img, PAGES);
	free(img);
	free(small);
	family_close(f);
	store_close(s);
	fix_rmdir(strdup(dir));
}

/* Free pages without blocks, and then not a block left: the reserve pays for the first removals. */
static void full_with_holes(void **state)
{
	(void)state;
	char dir[512];
	snprintf(dir, sizeof(dir), "%s/holes", disk);
	struct store *s = NULL;
	struct family *f = NULL;
	OK(store_open(dir, STORE_CREATE, &s));
	OK(family_open(s, fix_fam, true, &f));
	uint8_t *img[4];
	uint64_t ids[4];
	for (unsigned i = 0; i < 3; i++) {
		struct snap_info info;
		img[i] = random_image(50 + i, PAGES);
		OK(fix_take(f, fix_vm1, "", img[i], PAGES, &info));
		ids[i] = info.id;
	}
	OK(family_remove(f, &ids[1], 1));
	uint64_t bytes;
	OK(family_punch(f, true, &bytes));
	assert_true(bytes > 10 << 20);
	int fd;
	fill_disk(&fd, 0);
	struct statvfs v;
	assert_int_equal(statvfs(disk, &v), 0);
	assert_int_equal(v.f_bavail, 0);
	struct snap_info info;
	FAILS(ERR_NOSPACE, "full", fix_take(f, fix_vm1, "", img[1], PAGES, &info));
	OK(family_remove(f, &ids[0], 1));
	fix_same(f, ids[2], "memory", img[2], PAGES);
	fix_sound(f, ids[2]);
	OK(family_punch(f, true, &bytes));
	OK(fix_take(f, fix_vm1, "", img[0], PAGES / 2, &info));
	fix_same(f, info.id, "memory", img[0], PAGES / 2);
	OK(family_punch(f, true, &bytes));
	/* Full again, to the last block: the reserve has been made anew. */
	close(fd);
	assert_int_equal(statvfs(disk, &v), 0);
	char path[512];
	snprintf(path, sizeof(path), "%s/filler2", disk);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_true(fd >= 0);
	if (v.f_bavail > 0) {
		assert_int_equal(posix_fallocate(fd, 0, (off_t)(v.f_bavail * v.f_frsize)), 0);
	}
	close(fd);
	uint64_t two[] = { ids[2], info.id };
	OK(family_remove(f, two, 2));
	struct fix_findings fi = { 0 };
	uint64_t findings;
	OK(family_verify(f, fix_report, &fi, &findings));
	assert_int_equal(findings, 0);
	unlink(path);
	snprintf(path, sizeof(path), "%s/filler", disk);
	unlink(path);
	for (unsigned i = 0; i < 3; i++) {
		free(img[i]);
	}
	family_close(f);
	store_close(s);
	fix_rmdir(strdup(dir));
}

/* The whole expected content is looked at before anything is written. */
static void refused_beforehand(void **state)
{
	(void)state;
	char dir[512];
	snprintf(dir, sizeof(dir), "%s/second", disk);
	struct store *s = NULL;
	struct family *f = NULL;
	OK(store_open(dir, STORE_CREATE, &s));
	OK(family_open(s, fix_fam, true, &f));
	struct session *se = NULL;
	FAILS(ERR_NOSPACE, "disk is full",
	      session_open(f, &(struct session_opts){ .expect_bytes = 64 * GIB }, &se));
	family_close(f);
	store_close(s);
}

static int mount_disk(void **state)
{
	(void)state;
	disk = fix_tmpdir();
	char opts[64];
	snprintf(opts, sizeof(opts), "size=%dm", DISK_MIB);
	return mount("torpor-test", disk, "tmpfs", 0, opts);
}

static int unmount_disk(void **state)
{
	(void)state;
	umount2(disk, MNT_DETACH);
	fix_rmdir(disk);
	return 0;
}

int main(void)
{
	if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0 ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
		fprintf(stderr, "skipped: no mount namespace of our own\n");
		return 77;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(full_disk),
		cmocka_unit_test(full_in_the_middle),
		cmocka_unit_test(full_with_holes),
		cmocka_unit_test(refused_beforehand),
	};
	return cmocka_run_group_tests_name("full", tests, mount_disk, unmount_disk);
}
