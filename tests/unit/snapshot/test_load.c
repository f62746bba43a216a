/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of loading: take and load are equal, and every damage is refused before a part changes.
 * Damaged snapshots are written through the store's own interface, so its checksums are right and
 * what is tested is the engine behind them.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "core/base/hash.h"
#include "tests/lib/found.h"
#include "snapshot/pages.h"
#include "tests/lib/snap_fake.h"

static struct fake_vm f; /* the VM that is taken */
static struct fake_vm n; /* a fresh one to load into */

static int setup(void **state)
{
	(void)state;
	fake_init(&f, GMEM_MIN_BYTES);
	fake_init(&n, GMEM_MIN_BYTES);
	fake_open_store(&f);
	fake_fill(&f, 3);
	for (int i = 0; i < FAKE_PARTS; i++) {
		memset(&n.p[i].live, 0, sizeof(n.p[i].live));
		memset(&n.p[i].state, 0xee, sizeof(n.p[i].state));
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fake_done(&f);
	fake_done(&n);
	return 0;
}

static struct snap_result take(void)
{
	const struct snap_take_opts opts = { 0 };
	struct snap_result r;
	OK(snap_take(f.store, &f.vm, &opts, &r));
	return r;
}

static struct err *load(const char *ref)
{
	const struct snap_load_opts opts = { 0 };
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	TRY(snap_image_open(f.store, ref, &img));
	return snap_image_load(img, n.gmem, n.list, n.vm.nparts, &opts);
}

static void memory_equal(void)
{
	uint64_t len = gmem_bytes(f.gmem);
	for (uint64_t at = 0; at < len; at += PAGE_BYTES) {
		uint8_t a[PAGE_BYTES], b[PAGE_BYTES];
		OK(gmem_read(f.gmem, GPA(at), a, sizeof(a)));
		OK(gmem_read(n.gmem, GPA(at), b, sizeof(b)));
		assert_memory_equal(a, b, sizeof(a));
	}
}

static void parts_untouched(void)
{
	struct fake_state ee;
	memset(&ee, 0xee, sizeof(ee));
	for (int i = 0; i < FAKE_PARTS; i++) {
		assert_memory_equal(&n.p[i].state, &ee, sizeof(ee));
	}
	assert_string_equal(n.log, "");
}

static void test_take_and_load(void **state)
{
	(void)state;
	struct snap_result r = take();
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	const struct snap_load_opts opts = { 0 };
	OK(snap_image_open(f.store, "fake", &img));
	assert_int_equal(snap_image_info(img)->number, r.number);
	assert_int_equal(snap_image_info(img)->frozen_at_ns, r.frozen_at_ns);
	assert_string_equal(snap_image_vm(img)->name, "fake");
	assert_int_equal(snap_image_config(img).len, f.vm.config.len);
	assert_memory_equal(snap_image_config(img).p, f.vm.config.p, f.vm.config.len);
	OK(snap_image_load(img, n.gmem, n.list, n.vm.nparts, &opts));
	assert_string_equal(n.log, "commit:serial0 commit:cpu0 commit:cpu1 commit:clock0");
	for (int i = 0; i < FAKE_PARTS; i++) {
		assert_memory_equal(&n.p[i].live, &f.p[i].live, sizeof(f.p[i].live));
	}
	memory_equal();
}

/* snapshot, load, snapshot: the same memory gives the same digest. */
static void test_same_digest(void **state)
{
	(void)state;
	struct snap_result r;
	const struct snap_take_opts opts = { 0 };
	take();
	OK(load("fake"));
	n.vm.parent = 1;
	OK(snap_take(f.store, &n.vm, &opts, &r));
	SCOPE(snap_image_freep) struct snap_image *a = NULL;
	SCOPE(snap_image_freep) struct snap_image *b = NULL;
	OK(snap_image_open(f.store, "fake@1", &a));
	OK(snap_image_open(f.store, "fake@2", &b));
	assert_string_equal(snap_image_info(a)->maps[0].name, "memory");
	assert_true(sha256_equal(&snap_image_info(a)->maps[0].digest,
				 &snap_image_info(b)->maps[0].digest));
	/* and other memory another one */
	fake_fill(&n, 4);
	OK(snap_take(f.store, &n.vm, &opts, &r));
	SCOPE(snap_image_freep) struct snap_image *c = NULL;
	OK(snap_image_open(f.store, "fake@3", &c));
	assert_false(sha256_equal(&snap_image_info(a)->maps[0].digest,
				  &snap_image_info(c)->maps[0].digest));
}

static void test_zero_memory_loads(void **state)
{
	(void)state;
	uint64_t before, after;
	OK(gmem_clear(f.gmem));
	OK(gmem_allocated(n.gmem, &before));
	take();
	OK(load("fake"));
	OK(gmem_allocated(n.gmem, &after));
	assert_int_equal(before, after);
	memory_equal();
}

/* Both sides of the 32-bit hole. */
static void test_two_regions(void **state)
{
	(void)state;
	fake_done(&n);
	gmem_free(f.gmem);
	f.gmem = NULL;
	struct err *e = gmem_new(GMEM_LOW_END + 64 * MIB, &f.gmem);
	if (e != NULL && err_class(e) == ERR_LIMIT) {
		err_free(e);
		fake_init(&n, GMEM_MIN_BYTES);
		skip(); /* the host has less memory than that */
	}
	OK(e);
	f.vm.gmem = f.gmem;
	fake_init(&n, GMEM_LOW_END + 64 * MIB);
	fake_fill(&f, 9);
	uint8_t page[PAGE_BYTES];
	memset(page, 0x42, sizeof(page));
	page[7] = 1;
	const uint64_t edges[] = { GMEM_LOW_END - PAGE_BYTES, GMEM_HIGH_START,
				   GMEM_HIGH_START + 64 * MIB - PAGE_BYTES };
	for (size_t i = 0; i < ARRAY_LEN(edges); i++) {
		page[0] = (uint8_t)i;
		OK(gmem_write(f.gmem, GPA(edges[i]), page, sizeof(page)));
	}
	take();
	OK(load("fake"));
	for (size_t i = 0; i < ARRAY_LEN(edges); i++) {
		uint8_t got[PAGE_BYTES];
		page[0] = (uint8_t)i;
		OK(gmem_read(n.gmem, GPA(edges[i]), got, sizeof(got)));
		assert_memory_equal(got, page, sizeof(page));
	}
}

/* Memory that is another snapshot's but for some pages: only those and what differs are written. */
static void test_over_another(void **state)
{
	(void)state;
	const struct snap_take_opts opts = { 0 };
	struct snap_result r;
	uint64_t differ = 0;
	uint64_t written = 0;
	SCOPE(snap_image_freep) struct snap_image *first = NULL;
	SCOPE(snap_image_freep) struct snap_image *second = NULL;
	SCOPE(pages_set_done) struct pages_set changed = { 0 };
	take();
	OK(load("fake@1"));
	fake_fill(&f, 4);
	OK(snap_take(f.store, &f.vm, &opts, &r));
	OK(snap_image_open(f.store, "fake@1", &first));
	OK(snap_image_open(f.store, "fake@2", &second));
	OK(pages_set_init(&changed, n.gmem));
	const uint64_t gone[] = { 0, 5, GMEM_MIN_BYTES / PAGE_BYTES - 1 };
	for (size_t i = 0; i < ARRAY_LEN(gone); i++) {
		OK(gmem_write(n.gmem, GPA(gone[i] * PAGE_BYTES), "gone", 4));
		changed.r[0].bits[gone[i] / 64] |= 1ull << (gone[i] % 64);
	}
	n.log[0] = 0;
	OK(snap_image_check(second, n.gmem, n.list, n.vm.nparts));
	OK(snap_image_check_diff(second, first, n.gmem, &(struct snap_progress){ 0 }, &differ));
	assert_string_equal(n.log, "");
	assert_true(differ > 0);
	struct snap_load_opts lo = { .present = first,
				     .changed = &changed,
				     .ret_written = &written };
	OK(snap_image_load(second, n.gmem, n.list, n.vm.nparts, &lo));
	assert_string_equal(n.log, "commit:serial0 commit:cpu0 commit:cpu1 commit:clock0");
	memory_equal();
	assert_in_range(written, differ, differ + ARRAY_LEN(gone));
	/* All may have changed. */
	OK(gmem_clear(n.gmem));
	pages_set_fill(&changed);
	OK(snap_image_load(second, n.gmem, n.list, n.vm.nparts, &lo));
	memory_equal();
	assert_int_equal(written, GMEM_MIN_BYTES / PAGE_BYTES);
	/* And nothing at all. */
	lo = (struct snap_load_opts){ .present = second, .ret_written = &written };
	OK(snap_image_load(second, n.gmem, n.list, n.vm.nparts, &lo));
	assert_int_equal(written, 0);
	memory_equal();
}

static struct err *does_not_fit(void *self, const void *state)
{
	const struct fake_part *p = self;
	const struct fake_state *s = state;
	assert_int_equal(s->a, f.p[1].live.a);
	return ERR(ERR_NOT_NOW, "%s/%u does not fit", p->part.name, p->part.instance);
}

/* A part that will not have its state is asked before anything is changed. */
static void test_part_that_refuses(void **state)
{
	(void)state;
	struct snap_part_ops ops = fake_part_ops;
	ops.check = does_not_fit;
	take();
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	OK(snap_image_open(f.store, "fake", &img));
	OK(snap_image_check(img, n.gmem, n.list, n.vm.nparts));
	n.p[1].part.ops = &ops;
	REFUSED(load("fake"), ERR_NOT_NOW, "does not fit");
	REFUSED(snap_image_check(img, n.gmem, n.list, n.vm.nparts), ERR_NOT_NOW, "does not fit");
	parts_untouched();
}

static void test_part_lists_differ(void **state)
{
	(void)state;
	take();
	n.vm.nparts = FAKE_PARTS - 1;
	REFUSED(load("fake"), ERR_CORRUPT, "the snapshot has part serial/0, which the VM has not");
	n.vm.nparts = FAKE_PARTS;
	n.p[1].part.instance = 2;
	REFUSED(load("fake"), ERR_CORRUPT, "part cpu/2 of the VM is missing in the snapshot");
	n.p[1].part.instance = 0;
	REFUSED(load("fake"), ERR_USAGE, "part cpu/0 is twice in the VM");
	parts_untouched();
}

static void refuse_a(void *self, const struct findings *fs)
{
	const struct fake_part *p = self;
	finding(fs, "cpu", ERR(ERR_INCOMPAT, "no %llu here", (unsigned long long)p->state.a));
}

/* Asking first: every part is asked, whatever is wrong with the others, and nothing is committed.
 */
static void test_probe(void **state)
{
	(void)state;
	struct found found = { 0 };
	const struct findings fs = { found_add, &found };
	f.p[1].live.a = 77;
	take();
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	OK(snap_image_open(f.store, "fake", &img));
	snap_image_probe(img, n.gmem, n.list, n.vm.nparts, &fs);
	assert_int_equal(found.n, 0);
	assert_string_equal(n.log, "");

	struct snap_part_ops picky = *n.p[1].part.ops;
	picky.probe = refuse_a;
	n.p[1].part.ops = &picky;
	n.p[2].part.instance = 9;
	struct gmem *other = NULL;
	OK(gmem_new(2 * GMEM_MIN_BYTES, &other));
	snap_image_probe(img, other, n.list, n.vm.nparts, &fs);
	gmem_free(other);
	assert_string_equal(n.log, "");
	assert_true(found_has(&found, "cpu", "no 77 here"));
	assert_true(found_has(&found, "device", "of the VM is missing in the snapshot"));
	assert_true(found_has(&found, "device", "which the VM has not"));
	assert_true(found_has(&found, "memory", ""));
	assert_int_equal(found.n, 4);
}

static void test_other_memory_size(void **state)
{
	(void)state;
	take();
	fake_done(&n);
	fake_init(&n, GMEM_MIN_BYTES + 2 * MIB);
	REFUSED(load("fake"), ERR_CORRUPT, "memory region 0");
	assert_string_equal(n.log, "");
}

static void test_commit_fails(void **state)
{
	(void)state;
	take();
	for (n.fail_at = 1; n.fail_at <= FAKE_PARTS; n.fail_at++) {
		n.ops = 0;
		REFUSED(load("fake"), ERR_NOT_NOW, "setting the state of ");
		assert_int_equal(n.ops, n.fail_at); /* nothing after it */
	}
}

static void test_refs(void **state)
{
	(void)state;
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	REFUSED(snap_image_open(f.store, "fake", &img), ERR_NOTFOUND, "snapshot fake: ");
	take();
	REFUSED(snap_image_open(f.store, "fake@2", &img), ERR_NOTFOUND, "fake@2");
	REFUSED(snap_image_open(f.store, "fake@tag", &img), ERR_NOTFOUND, "tag");
	assert_null(img);
	OK(snap_image_open(f.store, "fake@1", &img));
	uint64_t len = 0;
	REFUSED(snap_image_file_len(img, "kernel", &len), ERR_NOTFOUND, "no file kernel");
}

/* ---- snapshots written by hand ---- */

struct raw {
	struct manifest *manifest;
	uint8_t *part[FAKE_PARTS];
	size_t part_len[FAKE_PARTS];
	bool leave_out_part; /* part 2 */
	bool extra_blob;
	bool extra_map;
	bool no_memory;
	uint64_t memory_bytes;
	uint64_t page_at;              /* a page of sevens; 0: none */
	const uint8_t *manifest_bytes; /* instead of the encoded one */
	size_t manifest_len;
};

static void raw_init(struct raw *r)
{
	*r = (struct raw){ .manifest = calloc(1, sizeof(*r->manifest)) };
	struct manifest *m = r->manifest;
	assert_non_null(m);
	manifest_text(m->torpor, sizeof(m->torpor), "x");
	manifest_text(m->vm_name, sizeof(m->vm_name), "fake");
	manifest_set_regions(m, f.gmem);
	m->nparts = FAKE_PARTS;
	r->memory_bytes = gmem_gfn_end(f.gmem) * PAGE_BYTES;
	for (int i = 0; i < FAKE_PARTS; i++) {
		const struct snap_part *p = f.list[i];
		SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
		manifest_text(m->parts[i].name, sizeof(m->parts[i].name), p->name);
		m->parts[i].instance = p->instance;
		m->parts[i].version = 1;
		OK(desc_encode(p->desc, p->instance, &f.p[i].live, &out));
		r->part_len[i] = out.len;
		r->part[i] = MOVE(out.p);
	}
}

static void raw_done(struct raw *r)
{
	for (int i = 0; i < FAKE_PARTS; i++) {
		free(r->part[i]);
	}
	free(r->manifest);
}

/* Publishes it as the newest snapshot of "fake". */
static void raw_publish(const struct raw *r)
{
	static uint8_t page[PAGE_BYTES];
	static const uint8_t user[32];
	const struct session_opts opts = { 0 };
	struct snap_meta meta = { .frozen_at_ns = 1 };
	struct snap_info info;
	struct store_vm vm = { .name = "fake", .holds_name = true, .created_ns = 1 };
	SCOPE(family_closep) struct family *fam = NULL;
	SCOPE(session_freep) struct session *s = NULL;
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	memcpy(vm.uuid, f.vm.uuid, 16);
	memcpy(vm.family, f.vm.family, 16);
	memcpy(meta.vm, f.vm.uuid, 16);
	memset(page, 7, sizeof(page));
	page[0] = 1;
	OK(store_vm_put(f.store, &vm));
	OK(family_open(f.store, f.vm.family, true, &fam));
	OK(session_open(fam, &opts, &s));
	if (!r->no_memory) {
		OK(session_map_begin(s, "memory", r->memory_bytes, user));
		if (r->page_at != 0) {
			OK(session_map_pages(s, r->page_at, page, 1));
		}
		OK(session_map_end(s));
	}
	if (r->extra_map) {
		OK(session_map_begin(s, "other", PAGE_BYTES, user));
		OK(session_map_end(s));
	}
	OK(session_settle(s));
	if (r->manifest_bytes != NULL) {
		OK(session_blob(s, SNAP_BLOB_MANIFEST, 0, r->manifest_bytes, r->manifest_len));
	} else {
		OK(desc_encode(&manifest_desc, 0, r->manifest, &out));
		OK(session_blob(s, SNAP_BLOB_MANIFEST, 0, out.p, out.len));
	}
	OK(session_blob(s, SNAP_BLOB_CONFIG, 0, "{}", 2));
	for (int i = 0; i < FAKE_PARTS; i++) {
		if (!r->leave_out_part || i != 2) {
			OK(session_blob(s, SNAP_BLOB_PART, (uint16_t)i, r->part[i],
					r->part_len[i]));
		}
	}
	if (r->extra_blob) {
		OK(session_blob(s, SNAP_BLOB_PART, FAKE_PARTS, "x", 1));
	}
	OK(session_publish(s, &meta, &info));
}

static void test_raw_is_good(void **state)
{
	(void)state;
	SCOPE(raw_done) struct raw r;
	raw_init(&r);
	r.page_at = 5;
	raw_publish(&r);
	OK(load("fake"));
	uint8_t b = 0;
	OK(gmem_read(n.gmem, GPA(5 * PAGE_BYTES + 1), &b, 1));
	assert_int_equal(b, 7);
}

/* Each byte of a device record with one bit flipped, and each length it can be cut to. */
static void test_damaged_part(void **state)
{
	(void)state;
	SCOPE(raw_done) struct raw r;
	raw_init(&r);
	size_t len = r.part_len[1];
	for (size_t i = 0; i < len; i++) {
		r.part[1][i] ^= (uint8_t)(1u << (i % 8));
		raw_publish(&r);
		r.part[1][i] ^= (uint8_t)(1u << (i % 8));
		REFUSED(load("fake"), ERR_CORRUPT, "part cpu/1: ");
	}
	for (size_t cut = 1; cut < len; cut++) {
		r.part_len[1] = cut;
		raw_publish(&r);
		REFUSED(load("fake"), ERR_CORRUPT, "part cpu/1: ");
	}
	r.part_len[1] = len;
	parts_untouched();
}

static void test_wrong_records(void **state)
{
	(void)state;
	SCOPE(raw_done) struct raw r;
	raw_init(&r);
	/* sound in itself, but in another's place */
	uint8_t *p = r.part[0];
	size_t len = r.part_len[0];
	r.part[0] = r.part[1];
	r.part_len[0] = r.part_len[1];
	raw_publish(&r);
	REFUSED(load("fake"), ERR_CORRUPT, "part cpu/0: record of cpu/1 stands in its place");
	r.part[0] = p;
	r.part_len[0] = len;
	/* a cross-field rule broken under a right checksum */
	struct fake_state bad = f.p[3].live;
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	struct state_desc lax = fake_serial_desc;
	lax.check = NULL;
	bad.b = 666;
	OK(desc_encode(&lax, 0, &bad, &out));
	assert_int_equal(out.len, r.part_len[3]);
	memcpy(r.part[3], out.p, out.len);
	raw_publish(&r);
	REFUSED(load("fake"), ERR_CORRUPT, "part serial/0: 666 is never right");
	/* a newer version, by record and manifest, and by one of them */
	bad.b = 1;
	lax.version = 2;
	wbuf_reset(&out);
	OK(desc_encode(&lax, 0, &bad, &out));
	memcpy(r.part[3], out.p, out.len);
	raw_publish(&r);
	REFUSED(load("fake"), ERR_CORRUPT, "part serial/0: version 2 in its record, 1");
	r.manifest->parts[3].version = 2;
	raw_publish(&r);
	REFUSED(load("fake"), ERR_INCOMPAT, "part serial/0: version 2 of serial is newer");
	parts_untouched();
}

static void test_wrong_sets(void **state)
{
	(void)state;
	SCOPE(raw_done) struct raw r;
	raw_init(&r);
	r.leave_out_part = true;
	raw_publish(&r);
	REFUSED(load("fake"), ERR_NOTFOUND, "part clock/0");
	r.leave_out_part = false;
	r.extra_blob = true;
	raw_publish(&r);
	REFUSED(load("fake"), ERR_CORRUPT, "blob 3/4");
	r.extra_blob = false;
	r.extra_map = true;
	raw_publish(&r);
	REFUSED(load("fake"), ERR_CORRUPT, "2 maps");
	r.extra_map = false;
	r.no_memory = true;
	raw_publish(&r);
	REFUSED(load("fake"), ERR_CORRUPT, "no map of memory");
	r.no_memory = false;
	r.memory_bytes += PAGE_BYTES;
	raw_publish(&r);
	REFUSED(load("fake"), ERR_CORRUPT, "map of memory has");
	r.memory_bytes -= PAGE_BYTES;
	r.manifest->nfiles = 1;
	manifest_text(r.manifest->files[0].name, sizeof(r.manifest->files[0].name), "kernel");
	r.manifest->files[0].len_bytes = 1;
	raw_publish(&r);
	REFUSED(load("fake"), ERR_CORRUPT, "1 maps, its manifest tells of 2");
	r.manifest->nfiles = 0;
	manifest_text(r.manifest->parts[2].name, sizeof(r.manifest->parts[2].name), "vga");
	raw_publish(&r);
	REFUSED(load("fake"), ERR_CORRUPT, "part clock/0 of the VM is missing");
	parts_untouched();
}

static void test_damaged_manifest(void **state)
{
	(void)state;
	SCOPE(raw_done) struct raw r;
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	struct state_desc newer = manifest_desc;
	raw_init(&r);
	OK(desc_encode(&manifest_desc, 0, r.manifest, &out));
	r.manifest_bytes = out.p;
	for (size_t cut = 1; cut < out.len; cut += 37) {
		r.manifest_len = cut;
		raw_publish(&r);
		REFUSED(load("fake"), ERR_CORRUPT, "snapshot fake: part manifest/0");
	}
	r.manifest_len = out.len;
	for (size_t i = 0; i < out.len; i += 41) {
		out.p[i] ^= 0x10;
		raw_publish(&r);
		out.p[i] ^= 0x10;
		REFUSED(load("fake"), ERR_CORRUPT, "snapshot fake: part manifest/0");
	}
	wbuf_reset(&out);
	newer.version = 9;
	OK(desc_encode(&newer, 0, r.manifest, &out));
	r.manifest_bytes = out.p;
	raw_publish(&r);
	REFUSED(load("fake"), ERR_INCOMPAT, "version 9 of manifest is newer");
	parts_untouched();
}

/* A page where the VM has no RAM: in the hole below 4 GiB. */
static void test_page_outside_ram(void **state)
{
	(void)state;
	fake_done(&n);
	struct gmem *big = NULL;
	struct err *e = gmem_new(GMEM_LOW_END + 64 * MIB, &big);
	if (e != NULL && err_class(e) == ERR_LIMIT) {
		err_free(e);
		fake_init(&n, GMEM_MIN_BYTES);
		skip();
	}
	OK(e);
	gmem_free(f.gmem);
	f.gmem = big;
	fake_init(&n, GMEM_LOW_END + 64 * MIB);
	SCOPE(raw_done) struct raw r;
	raw_init(&r);
	r.page_at = GMEM_LOW_END / PAGE_BYTES;
	raw_publish(&r);
	REFUSED(load("fake"), ERR_CORRUPT, "gfn 0xc0000, where there is no RAM");
	r.page_at = GMEM_HIGH_START / PAGE_BYTES - 1;
	raw_publish(&r);
	REFUSED(load("fake"), ERR_CORRUPT, "where there is no RAM");
	assert_string_equal(n.log, "");
	r.page_at = GMEM_HIGH_START / PAGE_BYTES;
	raw_publish(&r);
	OK(load("fake"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_take_and_load, setup, teardown),
		cmocka_unit_test_setup_teardown(test_same_digest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_zero_memory_loads, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_regions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_over_another, setup, teardown),
		cmocka_unit_test_setup_teardown(test_part_that_refuses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_part_lists_differ, setup, teardown),
		cmocka_unit_test_setup_teardown(test_probe, setup, teardown),
		cmocka_unit_test_setup_teardown(test_other_memory_size, setup, teardown),
		cmocka_unit_test_setup_teardown(test_commit_fails, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_raw_is_good, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_part, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_records, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_sets, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_manifest, setup, teardown),
		cmocka_unit_test_setup_teardown(test_page_outside_ram, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
