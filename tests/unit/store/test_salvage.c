/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recovery of a store whose trees are lost: both meta pages, all branch pages, whole tables. What
 * is left are records that say themselves what they are.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/frame.h"
#include "store/guest.h"
#include "store/salvage.h"
#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 2600, /* of memory: six leaves, frames enough for a tree with branches */
	TAKES = 6,
	FLAG_BRANCH = 1,
	FLAG_LEAF = 2,
	FLAG_OVERFLOW = 4,
};

struct reports {
	unsigned saved;
	unsigned lost;
	char text[4096];
};

static void on_report(void *arg, enum salvage_kind kind, const char *what, const char *why)
{
	struct reports *r = arg;
	size_t len = strlen(r->text);
	r->saved += kind == SALVAGE_SAVED;
	r->lost += kind == SALVAGE_LOST;
	snprintf(r->text + len, sizeof(r->text) - len, "%d %s: %s\n", (int)kind, what, why);
}

struct fix {
	char *dir;
	char from[300];
	char to[300];
	char data[400];
	uint8_t *img[TAKES];
};

/* "t1" and "t2" are removed, then another "t1" is taken: t0, t3, t4 and the new t1 are there. */
static void setup(struct fix *x)
{
	SCOPE(store_closep) struct store *s = NULL;
	SCOPE(family_closep) struct family *f = NULL;
	struct snap_info info[TAKES];
	x->dir = fix_tmpdir();
	snprintf(x->from, sizeof(x->from), "%s/store", x->dir);
	snprintf(x->to, sizeof(x->to), "%s/new", x->dir);
	fix_data_path(x->from, fix_fam, x->data, sizeof(x->data));
	OK(store_open(x->from, STORE_CREATE, &s));
	struct store_vm vm = { .name = "web", .created_ns = 5 };
	memcpy(vm.uuid, fix_vm1, 16);
	memcpy(vm.family, fix_fam, 16);
	OK(store_vm_put(s, &vm));
	OK(family_open(s, fix_fam, true, &f));
	for (unsigned i = 0; i < TAKES; i++) {
		char tag[8];
		snprintf(tag, sizeof(tag), "t%u", i == TAKES - 1 ? 1 : i);
		x->img[i] = fix_image(100 + i, PAGES);
		if (i == TAKES - 1) {
			OK(family_remove(f, (uint64_t[]){ info[1].id, info[2].id }, 2));
		}
		OK(fix_take(f, fix_vm1, tag, x->img[i], PAGES, &info[i]));
	}
}

static void done(struct fix *x)
{
	for (unsigned i = 0; i < TAKES; i++) {
		free(x->img[i]);
	}
	fix_rmdir(x->dir);
}

static uint64_t pages_of(const char *path)
{
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_size / PAGE_BYTES;
}

/* Fills page pg with noise. */
static void ruin(const char *path, uint64_t pg)
{
	uint64_t seed = pg;
	uint8_t page[PAGE_BYTES];
	for (size_t i = 0; i < sizeof(page); i++) {
		page[i] = (uint8_t)fix_rnd(&seed);
	}
	int fd = open(path, O_RDWR);
	assert_int_equal(pwrite(fd, page, sizeof(page), (off_t)(pg * PAGE_BYTES)), PAGE_BYTES);
	close(fd);
}

/* Ruins every page whose head has that flag; how many. */
static unsigned ruin_all(const char *path, unsigned flag)
{
	unsigned n = 0;
	uint64_t run = 0; /* pages of a big value: their bytes are no heads */
	for (uint64_t pg = 2; pg < pages_of(path); pg++) {
		uint8_t head[16];
		int fd = open(path, O_RDONLY);
		assert_int_equal(pread(fd, head, sizeof(head), (off_t)(pg * PAGE_BYTES)), 16);
		close(fd);
		if (run > 0) {
			run--;
			continue;
		}
		if (get_le64(head) != pg) {
			continue;
		}
		if (get_le16(head + 10) == FLAG_OVERFLOW) {
			run = get_le32(head + 12) - 1;
		} else if ((get_le16(head + 10) & flag) != 0) {
			ruin(path, pg);
			n++;
		}
	}
	return n;
}

static void salvage(struct fix *x, struct reports *r)
{
	struct salvage_result res;
	OK(store_salvage(x->from, x->to, on_report, r, &res));
	assert_int_equal(res.saved, r->saved);
}

/* The snapshot of that tag in the new store has the memory of take i. */
static void expect(struct fix *x, const char *tag, unsigned i)
{
	SCOPE(store_closep) struct store *s = NULL;
	SCOPE(family_closep) struct family *f = NULL;
	SCOPE(freep) struct snap_info *list = NULL;
	size_t n;
	bool found = false;
	OK(store_open(x->to, STORE_WRITE, &s));
	OK(family_open(s, fix_fam, false, &f));
	OK(family_snaps(f, &list, &n));
	for (size_t k = 0; k < n; k++) {
		if (strcmp(list[k].tag, tag) == 0) {
			found = true;
			fix_same(f, list[k].id, "memory", x->img[i], PAGES);
			fix_sound(f, list[k].id);
			assert_int_equal(list[k].number, i + 1);
		}
	}
	assert_true(found);
	/* And the store is one to go on with. */
	struct snap_info info;
	OK(fix_take(f, fix_vm1, "", x->img[i], 10, &info));
	assert_true(info.number > TAKES);
}

static void both_meta_pages_lost(void **state)
{
	(void)state;
	struct fix x = { 0 };
	struct reports r = { 0 };
	setup(&x);
	ruin(x.data, 0);
	ruin(x.data, 1);
	salvage(&x, &r);
	assert_non_null(strstr(r.text, "looked for in all of its file"));
	assert_non_null(strstr(r.text, "web@t0"));
	expect(&x, "t0", 0);
	expect(&x, "t3", 3);
	expect(&x, "t4", 4);
	expect(&x, "t1", 5); /* not the one that was removed */
	done(&x);
}

/* Appends the whole front of every frame in the file once more, with another end. */
static unsigned leave_remains(const char *path)
{
	uint64_t pages = pages_of(path);
	unsigned n = 0;
	int fd = open(path, O_RDWR);
	uint8_t *p = calloc(pages, PAGE_BYTES);
	uint8_t *out = malloc(FRAME_BYTES_MAX + 2 * PAGE_BYTES);
	assert_true(fd >= 0 && p != NULL && out != NULL);
	assert_int_equal(pread(fd, p, pages * PAGE_BYTES, 0), pages * PAGE_BYTES);
	for (uint64_t at = 16; at + FRAME_HEAD_BYTES < pages * PAGE_BYTES; at += 2) {
		uint32_t len = get_le32(p + at + 28);
		if (get_le32(p + at) != RECORD_FRAME || p[at + 4] != RECORD_VERSION ||
		    len > FRAME_BYTES_MAX || at + len > pages * PAGE_BYTES) {
			continue;
		}
		size_t room = (16 + len + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
		memset(out, 0x5a, room);
		memcpy(out + 16, p + at, frame_front_bytes(p + at));
		assert_int_equal(pwrite(fd, out, room, lseek(fd, 0, SEEK_END)), room);
		n++;
	}
	free(p);
	free(out);
	close(fd);
	return n;
}

/* What is left of a freed frame whose end was overwritten does not replace the frame itself. */
static void remains_of_frames(void **state)
{
	(void)state;
	struct fix x = { 0 };
	struct reports r = { 0 };
	setup(&x);
	ruin(x.data, 0);
	ruin(x.data, 1);
	assert_true(leave_remains(x.data) > 10);
	salvage(&x, &r);
	assert_true(r.saved >= 4);
	expect(&x, "t0", 0);
	expect(&x, "t3", 3);
	expect(&x, "t4", 4);
	expect(&x, "t1", 5);
	done(&x);
}

static void every_branch_page_lost(void **state)
{
	(void)state;
	struct fix x = { 0 };
	struct reports r = { 0 };
	setup(&x);
	assert_true(ruin_all(x.data, FLAG_BRANCH) >= 1);
	salvage(&x, &r);
	assert_true(r.saved >= 4);
	expect(&x, "t0", 0);
	expect(&x, "t1", 5);
	done(&x);
	memset(&r, 0, sizeof(r));
	x = (struct fix){ 0 };
	setup(&x);
	ruin(x.data, 0);
	ruin(x.data, 1);
	assert_true(ruin_all(x.data, FLAG_BRANCH) >= 1);
	salvage(&x, &r);
	expect(&x, "t3", 3);
	expect(&x, "t4", 4);
	done(&x);
}

/* A list that can be read says what was removed: nothing comes back, and what is damaged is told.
 */
static void a_list_is_believed(void **state)
{
	(void)state;
	struct fix x = { 0 };
	struct reports r = { 0 };
	uint8_t head[32];
	setup(&x);
	fix_record(x.data, RECORD_FRAME, 0, true, 60, head); /* of one of the snapshots */
	salvage(&x, &r);
	assert_true(r.saved >= 3 && r.saved + r.lost == 4);
	assert_null(strstr(r.text, "t2"));
	static const struct {
		const char *tag;
		unsigned take;
	} all[] = { { "t0", 0 }, { "t3", 3 }, { "t4", 4 }, { "t1", 5 } };
	for (unsigned i = 0; i < 4; i++) {
		char lost[32];
		snprintf(lost, sizeof(lost), "1 web@%s", all[i].tag);
		if (strstr(r.text, lost) == NULL) {
			expect(&x, all[i].tag, all[i].take);
		}
	}
	done(&x);
}

/* With the records themselves gone there is nothing to save, and that is said. */
static void nothing_is_left(void **state)
{
	(void)state;
	struct fix x = { 0 };
	struct reports r = { 0 };
	setup(&x);
	ruin(x.data, 0);
	ruin(x.data, 1);
	assert_true(ruin_all(x.data, FLAG_LEAF) >= 1); /* snapshot records are in these */
	salvage(&x, &r);
	assert_int_equal(r.saved, 0);
	assert_true(r.lost >= 1);
	assert_non_null(strstr(r.text, "damaged"));
	done(&x);
}

/* Any one page lost besides the meta pages: what is saved is right, everything else is told. */
static void any_page_more(void **state)
{
	(void)state;
	enum {
		LOSSES = 12,
	};
	struct fix x = { 0 };
	setup(&x);
	ruin(x.data, 0);
	ruin(x.data, 1);
	uint64_t seed = 5;
	uint64_t pages = pages_of(x.data);
	char keep[500];
	snprintf(keep, sizeof(keep), "%s.keep", x.data);
	assert_int_equal(rename(x.data, keep), 0);
	for (unsigned i = 0; i < LOSSES; i++) {
		struct reports r = { 0 };
		char cmd[1100];
		snprintf(cmd, sizeof(cmd), "rm -rf '%s' && cp '%s' '%s'", x.to, keep, x.data);
		assert_int_equal(system(cmd), 0);
		ruin(x.data, 2 + fix_rnd(&seed) % (pages - 2));
		salvage(&x, &r);
		assert_true(r.saved + r.lost >= 1);
		SCOPE(store_closep) struct store *s = NULL;
		SCOPE(family_closep) struct family *f = NULL;
		SCOPE(freep) struct snap_info *list = NULL;
		size_t n = 0;
		OK(store_open(x.to, STORE_WRITE, &s));
		if (r.saved > 0) {
			OK(family_open(s, fix_fam, false, &f));
			OK(family_snaps(f, &list, &n));
		}
		for (size_t k = 0; k < n; k++) {
			fix_same(f, list[k].id, "memory", x.img[list[k].number - 1], PAGES);
		}
		assert_int_equal(n, r.saved);
	}
	done(&x);
}

static struct err *define(void *arg, bool found, struct store_guest *g, enum guest_verdict *ret)
{
	(void)found;
	free(g->wanted);
	g->wanted = strdup(arg);
	*ret = GUEST_PUT;
	return NULL;
}

/* Guests come along; a record that is damaged is no longer there where an earlier commit is read.
 */
static void guests_too(void **state)
{
	(void)state;
	struct fix x;
	struct reports r = { 0 };
	char path[400];
	setup(&x);
	struct store *s = NULL;
	OK(store_open(x.from, STORE_WRITE, &s));
	OK(store_guest_change(s, "web", define, (void *)(uintptr_t) "one"));
	OK(store_guest_change(s, "web", define, (void *)(uintptr_t) "the-second"));
	store_close(s);
	for (unsigned damaged = 0; damaged < 2; damaged++) {
		if (damaged == 1) {
			char buf[65536];
			snprintf(path, sizeof(path), "%s/guests/data.mdb", x.from);
			int fd = open(path, O_RDWR);
			ssize_t n = pread(fd, buf, sizeof(buf), 0);
			char *at = memmem(buf, (size_t)n, "the-second", 10);
			assert_non_null(at);
			assert_int_equal(pwrite(fd, "X", 1, at - buf), 1);
			close(fd);
			fix_rmdir(strdup(x.to));
		}
		r = (struct reports){ 0 };
		salvage(&x, &r);
		struct store_guest g;
		bool found = false;
		OK(store_open(x.to, STORE_READ, &s));
		OK(store_guest_get(s, "web", &found, &g));
		assert_true(found);
		assert_string_equal(g.wanted, damaged == 1 ? "one" : "the-second");
		store_guest_done(&g);
		store_close(s);
		assert_int_equal(r.lost, 0);
		assert_int_equal(strstr(r.text, "registry of guests") != NULL, damaged == 1);
	}
	done(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(both_meta_pages_lost), cmocka_unit_test(every_branch_page_lost),
		cmocka_unit_test(a_list_is_believed),   cmocka_unit_test(nothing_is_left),
		cmocka_unit_test(guests_too),           cmocka_unit_test(any_page_more),
		cmocka_unit_test(remains_of_frames),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
