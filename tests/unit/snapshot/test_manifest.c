/* SPDX-License-Identifier: Apache-2.0 */
/* Unit test of the manifest: its table, its rules, its helpers. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/snap_fake.h"

static struct manifest *sample(void)
{
	struct manifest *m = calloc(1, sizeof(*m));
	assert_non_null(m);
	manifest_text(m->torpor, sizeof(m->torpor), "0.1.0");
	manifest_text(m->vm_name, sizeof(m->vm_name), "box");
	m->page_bytes = PAGE_BYTES;
	m->nregions = 2;
	m->regions[0] = (struct manifest_region){ 0, 3 * GIB };
	m->regions[1] = (struct manifest_region){ 4 * GIB, 1 * GIB };
	m->nparts = 2;
	manifest_text(m->parts[0].name, sizeof(m->parts[0].name), "cpu");
	manifest_text(m->parts[1].name, sizeof(m->parts[1].name), "cpu");
	m->parts[0].version = m->parts[1].version = 1;
	m->parts[1].instance = 1;
	m->nfiles = 1;
	manifest_text(m->files[0].name, sizeof(m->files[0].name), "kernel");
	m->files[0].len_bytes = 12345;
	memset(m->files[0].sha256, 0x5a, 32);
	m->host.tsc_khz = 2400000;
	m->host.xcr0_mask = 7;
	m->host.xcr0_used = 3;
	manifest_text(m->host.kernel, sizeof(m->host.kernel), "6.1.0");
	return m;
}

static void test_table(void **state)
{
	(void)state;
	OK(desc_check_coverage(&manifest_desc));
	SCOPE(freep) struct manifest *m = sample();
	SCOPE(freep) struct manifest *got = malloc(sizeof(*got));
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	assert_non_null(got);
	OK(desc_encode(&manifest_desc, 0, m, &out));
	OK(desc_decode(&manifest_desc, 0, out.p, out.len, got));
	assert_memory_equal(m, got, sizeof(*m));
	assert_int_equal(manifest_gfn_end(got), 5 * GIB / PAGE_BYTES);
}

/* A manifest with as many of everything as there can be fits into one record. */
static void test_largest(void **state)
{
	(void)state;
	SCOPE(freep) struct manifest *m = sample();
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	m->nparts = PARTS_MAX;
	for (uint32_t i = 0; i < PARTS_MAX; i++) {
		manifest_text(m->parts[i].name, sizeof(m->parts[i].name),
			      "abcdefghijklmnopqrstuvwxyz01234");
		m->parts[i].instance = i;
	}
	m->nfiles = MANIFEST_FILES_MAX;
	for (uint32_t i = 0; i < MANIFEST_FILES_MAX; i++) {
		char name[16];
		snprintf(name, sizeof(name), "file%u", i);
		manifest_text(m->files[i].name, sizeof(m->files[i].name), name);
		m->files[i].len_bytes = 1;
	}
	OK(desc_encode(&manifest_desc, 0, m, &out));
	assert_true(out.len < PART_BYTES_MAX);
}

static void test_truncation(void **state)
{
	(void)state;
	SCOPE(freep) struct manifest *m = sample();
	SCOPE(freep) struct manifest *got = malloc(sizeof(*got));
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	OK(desc_encode(&manifest_desc, 0, m, &out));
	for (size_t len = 0; len < out.len; len++) {
		REFUSED(desc_decode(&manifest_desc, 0, out.p, len, got), ERR_CORRUPT, "manifest/0");
	}
}

static void bad(struct manifest *m, const char *text)
{
	SCOPE(wbuf_done) struct wbuf out = wbuf_make(PART_BYTES_MAX);
	REFUSED(desc_encode(&manifest_desc, 0, m, &out), ERR_CORRUPT, text);
	free(m);
}

static void test_rules(void **state)
{
	(void)state;
	struct manifest *m = sample();
	m->page_bytes = 16384;
	bad(m, "page_bytes");
	m = sample();
	m->nregions = 0;
	bad(m, "nregions");
	m = sample();
	m->nregions = 3;
	bad(m, "nregions");
	m = sample();
	m->regions[1].base = 2 * GIB;
	bad(m, "memory region 1");
	m = sample();
	m->regions[1].len_bytes = 0;
	bad(m, "memory region 1");
	m = sample();
	m->regions[0].len_bytes++;
	bad(m, "memory region 0");
	m = sample();
	m->regions[1].len_bytes = UINT64_MAX - 4095;
	bad(m, "memory region 1");
	m = sample();
	m->nparts = 0;
	bad(m, "nparts");
	m = sample();
	m->parts[1].instance = 0;
	bad(m, "part cpu/0 is listed twice");
	m = sample();
	memset(m->parts[0].name, 'x', sizeof(m->parts[0].name));
	bad(m, "part name is not terminated");
	m = sample();
	m->parts[0].name[0] = 0;
	bad(m, "part name is empty");
	m = sample();
	m->vm_name[1] = '\n';
	bad(m, "VM name holds byte 0x0a at 1");
	m = sample();
	m->vm_name[20] = 'x';
	bad(m, "VM name holds byte 0x78 at 20");
	m = sample();
	m->nfiles = 2;
	m->files[1] = m->files[0];
	bad(m, "file kernel is listed twice");
	m = sample();
	m->files[0].len_bytes = INITRD_BYTES_MAX + 1;
	bad(m, "len_bytes");
}

static void test_find(void **state)
{
	(void)state;
	SCOPE(freep) struct manifest *m = sample();
	assert_ptr_equal(manifest_find_file(m, "kernel"), &m->files[0]);
	assert_null(manifest_find_file(m, "kern"));
	assert_null(manifest_find_file(m, "kernels"));
	assert_int_equal(manifest_find_part(m, "cpu", 1), 1);
	assert_int_equal(manifest_find_part(m, "cpu", 2), -1);
	assert_int_equal(manifest_find_part(m, "cp", 1), -1);
}

static void test_text(void **state)
{
	(void)state;
	uint8_t t[8];
	memset(t, 0xff, sizeof(t));
	manifest_text(t, sizeof(t), "a\nb\xc3");
	assert_memory_equal(t, "a?b?\0\0\0\0", 8);
	manifest_text(t, sizeof(t), "0123456789");
	assert_memory_equal(t, "0123456\0", 8);
}

static uint64_t used_components(void *self)
{
	(void)self;
	return 3;
}

static void test_host(void **state)
{
	(void)state;
	struct fake_vm f;
	SCOPE(freep) struct manifest *m = sample();
	struct snap_host got, here = {
		.kernel = "6.1.0-test",
		.cpu_model = "Some CPU",
		.tsc_khz = 1000,
		.tsc_scaling = true,
		.software_kvm = true,
		.xcr0_mask = 0xe7,
	};
	struct snap_vm_ops ops = fake_vm_ops;
	fake_init(&f, GMEM_MIN_BYTES);
	snap_set_host(&here);
	manifest_set_host(m, &f.vm);
	manifest_get_host(m, &got);
	assert_string_equal(got.kernel, here.kernel);
	assert_string_equal(got.cpu_model, here.cpu_model);
	assert_int_equal(got.tsc_khz, here.tsc_khz);
	assert_true(got.tsc_scaling && got.software_kvm);
	assert_int_equal(got.xcr0_mask, here.xcr0_mask);
	assert_int_equal(m->host.xcr0_used, 0xe7);
	ops.xcr0_used = used_components;
	f.vm.ops = &ops;
	manifest_set_host(m, &f.vm);
	assert_int_equal(m->host.xcr0_used, 3);
	assert_int_equal(m->host.xcr0_mask, 0xe7);
	fake_done(&f);
}

static void test_regions(void **state)
{
	(void)state;
	struct fake_vm f;
	SCOPE(freep) struct manifest *m = sample();
	fake_init(&f, GMEM_MIN_BYTES);
	REFUSED(manifest_match_regions(m, f.gmem), ERR_CORRUPT, "2 memory regions");
	manifest_set_regions(m, f.gmem);
	OK(manifest_match_regions(m, f.gmem));
	m->regions[0].len_bytes += PAGE_BYTES;
	REFUSED(manifest_match_regions(m, f.gmem), ERR_CORRUPT, "memory region 0");
	fake_done(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),      cmocka_unit_test(test_largest),
		cmocka_unit_test(test_truncation), cmocka_unit_test(test_rules),
		cmocka_unit_test(test_find),       cmocka_unit_test(test_text),
		cmocka_unit_test(test_host),       cmocka_unit_test(test_regions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
