/* SPDX-License-Identifier: Apache-2.0 */
/* Export and import between stores: byte-equal, or nothing at all. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/wait.h>

#include "core/base/io.h"
#include "store/snaprec.h"
#include "store/stream.h"
#include "tests/unit/store/store_fix.h"

enum {
	PAGES = 3000,
};

struct fixture {
	char *dir[2];
	struct store *s[2];
	struct family *f;
	uint8_t *img;
	struct snap_info info;
	char file[300];
};

static int setup(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));
	struct store_vm vm = { .name = "alpha", .created_ns = 1 };
	memcpy(vm.uuid, fix_vm1, 16);
	memcpy(vm.family, fix_fam, 16);
	for (int i = 0; i < 2; i++) {
		x->dir[i] = fix_tmpdir();
		OK(store_open(x->dir[i], STORE_CREATE, &x->s[i]));
	}
	OK(store_vm_put(x->s[0], &vm));
	OK(family_open(x->s[0], fix_fam, true, &x->f));
	x->img = fix_image(5, PAGES);
	struct snap_info first;
	OK(fix_take(x->f, fix_vm1, "", x->img, 10, &first));
	OK(fix_take(x->f, fix_vm1, "tag", x->img, PAGES, &x->info));
	snprintf(x->file, sizeof(x->file), "%s/stream", x->dir[0]);
	*state = x;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *x = *state;
	family_close(x->f);
	for (int i = 0; i < 2; i++) {
		store_close(x->s[i]);
		fix_rmdir(x->dir[i]);
	}
	free(x->img);
	free(x);
	return 0;
}

static uint64_t export_it(struct fixture *x)
{
	uint64_t bytes = 0;
	int fd = open(x->file, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	OK(store_export(x->s[0], "alpha@tag", fd, &(struct transfer_opts){ 0 }, &bytes));
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_size, bytes);
	close(fd);
	return bytes;
}

static struct err *import_with(struct fixture *x, int to, const struct transfer_opts *opts,
			       struct store_vm *vm, struct snap_info *info)
{
	int fd = open(x->file, O_RDONLY);
	assert_true(fd >= 0);
	uint64_t bytes;
	struct err *e = store_import(x->s[to], fd, opts, vm, info, &bytes);
	close(fd);
	return e;
}

static struct err *import_it(struct fixture *x, int to, const char *name, struct store_vm *vm,
			     struct snap_info *info)
{
	return import_with(x, to, &(struct transfer_opts){ .name = name }, vm, info);
}

static void there_and_back(void **state)
{
	struct fixture *x = *state;
	struct store_vm vm;
	struct snap_info info;
	export_it(x);
	OK(import_it(x, 1, NULL, &vm, &info));
	assert_string_equal(vm.name, "alpha");
	assert_memory_equal(vm.uuid, fix_vm1, 16);
	assert_int_equal(info.number, 2);
	assert_string_equal(info.tag, "tag");
	assert_int_equal(info.frozen_at_ns, x->info.frozen_at_ns);
	assert_memory_equal(&info.root, &x->info.root, sizeof(info.root));
	assert_memory_equal(&info.maps[0].digest, &x->info.maps[0].digest, 32);
	struct store_ref r;
	OK(store_ref_resolve(x->s[1], "alpha@tag", &r));
	fix_same(r.family, r.snap.id, "memory", x->img, PAGES);
	fix_sound(r.family, r.snap.id);
	/* Again: it is there. The counter goes on behind it. */
	FAILS(ERR_NOT_NOW, "tag", import_it(x, 1, NULL, &vm, &info));
	FAILS(ERR_NOT_NOW, "another name", import_it(x, 1, "beta", &vm, &info));
	OK(family_label(r.family, r.snap.id, &(struct snap_label){ .tag = "" }));
	FAILS(ERR_NOT_NOW, "number 2", import_it(x, 1, NULL, &vm, &info));
	OK(fix_take(r.family, fix_vm1, "", x->img, 100, &info));
	assert_int_equal(info.number, 3);
	/* Where it was removed it can come back, in its place. */
	OK(family_remove(r.family, &r.snap.id, 1));
	OK(import_it(x, 1, NULL, &vm, &info));
	assert_int_equal(info.number, 2);
	OK(fix_take(r.family, fix_vm1, "", x->img, 100, &info));
	assert_int_equal(info.number, 4);
	store_ref_done(&r);
}

static void names(void **state)
{
	struct fixture *x = *state;
	struct store_vm vm = { .name = "alpha", .uuid = { 77 }, .family = { 78 } };
	struct snap_info info;
	export_it(x);
	OK(store_vm_put(x->s[1], &vm));
	FAILS(ERR_NOT_NOW, "--name", import_it(x, 1, NULL, &vm, &info));
	OK(import_it(x, 1, "gamma", &vm, &info));
	assert_string_equal(vm.name, "gamma");
	struct store_ref r;
	OK(store_ref_resolve(x->s[1], "gamma@2", &r));
	fix_same(r.family, r.snap.id, "memory", x->img, PAGES);
	store_ref_done(&r);
}

static void nothing_there(struct fixture *x)
{
	struct store_vm *vms;
	size_t n;
	OK(store_vm_list(x->s[1], &vms, &n));
	assert_int_equal(n, 0);
	free(vms);
	char path[300];
	snprintf(path, sizeof(path), "%s/families", x->dir[1]);
	DIR *d = opendir(path);
	assert_non_null(d);
	unsigned entries = 0;
	while (readdir(d) != NULL) {
		entries++;
	}
	closedir(d);
	assert_int_equal(entries, 2);
}

/* Cut off at many lengths, a bit flipped at many places: refused, and nothing is left behind. */
static void damaged(void **state)
{
	struct fixture *x = *state;
	struct store_vm vm;
	struct snap_info info;
	uint64_t len = export_it(x);
	uint64_t seed = 1;
	for (unsigned i = 0; i < 12; i++) {
		export_it(x);
		assert_int_equal(truncate(x->file, (off_t)(i == 0 ? 0 : fix_rnd(&seed) % len)), 0);
		FAILS(ERR_CORRUPT, "", import_it(x, 1, NULL, &vm, &info));
		nothing_there(x);
		export_it(x);
		fix_flip(x->file, fix_rnd(&seed) % len, (unsigned)(fix_rnd(&seed) % 8));
		FAILS(ERR_CORRUPT, "", import_it(x, 1, NULL, &vm, &info));
		nothing_there(x);
	}
	export_it(x);
	OK(import_it(x, 1, NULL, &vm, &info));
}

/* A root that is not that of the content, under good checksums: what a stranger could write. */
static void a_wrong_root(void **state)
{
	struct fixture *x = *state;
	struct store_vm vm;
	struct snap_info info;
	export_it(x);
	int fd = open(x->file, O_RDWR);
	assert_true(fd >= 0);
	struct stat st;
	assert_int_equal(fstat(fd, &st), 0);
	uint8_t *p = malloc((size_t)st.st_size);
	assert_int_equal(pread(fd, p, (size_t)st.st_size, 0), st.st_size);
	struct sha256_ctx *sha = sha256_new();
	uint64_t seq = 0;
	for (uint8_t *at = p; at < p + st.st_size; seq++) {
		uint32_t kind = get_le32(at);
		uint32_t len = get_le32(at + 4);
		uint8_t place[16];
		if (kind == 1) {
			at[16 + len - 1] ^= 1;
		} else if (kind == 5) {
			struct sha256 all = sha256_final(sha);
			memcpy(at + 16 + 8, all.b, 32);
		}
		put_le32(place, kind);
		put_le32(place + 4, len);
		put_le64(place + 8, seq);
		put_le64(at + 8, hash_xxh3_64(at + 16, len, hash_xxh3_64(place, 16, 0)));
		sha256_update(sha, at, 16 + len);
		at += 16 + len;
	}
	sha256_free(sha);
	assert_int_equal(pwrite(fd, p, (size_t)st.st_size, 0), st.st_size);
	close(fd);
	free(p);
	FAILS(ERR_CORRUPT, "root", import_it(x, 1, NULL, &vm, &info));
	nothing_there(x);
}

static struct err *write_file(void *arg, const void *p, size_t len)
{
	const int *fd = arg;
	return io_write_full(*fd, p, len);
}

/* A stranger's few bytes that stand for a map of `bytes`, and maybe a blob. */
static void make_claim(const struct fixture *x, uint64_t bytes, size_t blob_len)
{
	int fd = open(x->file, O_RDWR | O_CREAT | O_TRUNC, 0600);
	assert_true(fd >= 0);
	struct stream_out o = { .write = write_file, .arg = &fd };
	struct stream_head h = { .name = "alpha",
				 .info = { .number = 1, .nmaps = 1, .nblobs = 1 } };
	struct snap_map m = { .name = "memory", .len_bytes = bytes };
	SCOPE(freep) uint8_t *blob = calloc(1, blob_len + 1);
	memcpy(h.info.vm, fix_vm1, 16);
	memcpy(h.family, fix_fam, 16);
	OK(stream_out_init(&o));
	OK(stream_put_head(&o, &h));
	OK(stream_put_map(&o, &m));
	if (blob_len > 0) {
		OK(stream_put_blob(&o, 1, 0, blob, blob_len));
	}
	stream_out_done(&o);
	close(fd);
}

/* What is too much is refused by what the stream says of itself, before there is any of it. */
static void too_much(void **state)
{
	struct fixture *x = *state;
	struct store_vm vm;
	struct snap_info info;
	make_claim(x, SNAP_MAP_BYTES_MAX, 0);
	FAILS(ERR_NOSPACE, "16777216 MiB of memory", import_it(x, 1, NULL, &vm, &info));
	nothing_there(x);
	struct transfer_opts to = { .max_bytes = 64 * MIB };
	make_claim(x, 64 * MIB + PAGE_BYTES, 0);
	FAILS(ERR_LIMIT, "at most 64 are allowed", import_with(x, 1, &to, &vm, &info));
	nothing_there(x);
	make_claim(x, 64 * MIB, 0);
	FAILS(ERR_CORRUPT, "cut off", import_with(x, 1, &to, &vm, &info));
	make_claim(x, 64 * MIB, 1);
	FAILS(ERR_LIMIT, "at most 64 are allowed", import_with(x, 1, &to, &vm, &info));
	nothing_there(x);
	/* Who says so gets more than the disk has: it may be zero pages. */
	to.max_bytes = SNAP_MAP_BYTES_MAX;
	make_claim(x, SNAP_MAP_BYTES_MAX, 0);
	FAILS(ERR_CORRUPT, "cut off", import_with(x, 1, &to, &vm, &info));
	nothing_there(x);
	/* A sound one at its own size. */
	to.max_bytes = (uint64_t)PAGES * PAGE_BYTES - 1;
	export_it(x);
	FAILS(ERR_LIMIT, "allowed", import_with(x, 1, &to, &vm, &info));
	nothing_there(x);
	to.max_bytes += 1 + MIB; /* and its blobs */
	OK(import_with(x, 1, &to, &vm, &info));
}

/* Through a pipe, to another process. */
static void through_a_pipe(void **state)
{
	struct fixture *x = *state;
	int fd[2];
	assert_int_equal(pipe(fd), 0);
	family_close(x->f);
	x->f = NULL;
	store_close(x->s[1]);
	x->s[1] = NULL;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct store *s = NULL;
		struct store_vm vm;
		struct snap_info info;
		uint64_t bytes;
		close(fd[1]);
		struct err *e = store_open(x->dir[1], STORE_WRITE, &s);
		e = e == NULL ? store_import(s, fd[0], &(struct transfer_opts){ 0 }, &vm, &info,
					     &bytes)
			      : e;
		_exit(e == NULL ? 7 : 1);
	}
	close(fd[0]);
	uint64_t bytes;
	OK(store_export(x->s[0], "alpha", fd[1], &(struct transfer_opts){ 0 }, &bytes));
	close(fd[1]);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 7);
	OK(store_open(x->dir[1], STORE_WRITE, &x->s[1]));
	struct store_ref r;
	OK(store_ref_resolve(x->s[1], "alpha", &r));
	fix_same(r.family, r.snap.id, "memory", x->img, PAGES);
	store_ref_done(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(there_and_back, setup, teardown),
		cmocka_unit_test_setup_teardown(names, setup, teardown),
		cmocka_unit_test_setup_teardown(damaged, setup, teardown),
		cmocka_unit_test_setup_teardown(a_wrong_root, setup, teardown),
		cmocka_unit_test_setup_teardown(too_much, setup, teardown),
		cmocka_unit_test_setup_teardown(through_a_pipe, setup, teardown),
	};
	return cmocka_run_group_tests_name("transfer", tests, NULL, NULL);
}
