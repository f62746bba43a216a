/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Unit test of core/acpi.c: walks the tables from the RSDP as a guest would, checks pointers,
 * lengths, checksums and what they say, and lets iasl disassemble them where it is installed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "core/acpi.h"
#include "core/base/bytes.h"
#include "core/base/io.h"
#include "tests/lib/expect.h"
#include "tests/lib/tmp_root.h"

/* The table area as the guest sees it. */
struct area {
	uint8_t bytes[ACPI_LEN];
	uint32_t rsdp;
};

static struct area *build(unsigned ncpus)
{
	SCOPE(gmem_freep) struct gmem *g = NULL;
	ok(gmem_new(GMEM_MIN_BYTES, &g));
	struct area *a = malloc(sizeof(*a));
	assert_non_null(a);
	gpa_t rsdp = GPA(0);
	ok(acpi_build(
		g,
		&(struct acpi_opts){
			.ncpus = ncpus, .battery = true, .s2idle = true, .gpe_methods = true },
		&rsdp));
	ok(gmem_read(g, GPA(ACPI_BASE), a->bytes, ACPI_LEN));
	a->rsdp = (uint32_t)rsdp.v;
	return a;
}

static uint8_t sum(const uint8_t *p, size_t len)
{
	uint8_t s = 0;
	for (size_t i = 0; i < len; i++) {
		s = (uint8_t)(s + p[i]);
	}
	return s;
}

static const uint8_t *at(const struct area *a, uint64_t gpa, size_t len)
{
	assert_true(gpa >= ACPI_BASE && gpa - ACPI_BASE + len <= ACPI_LEN);
	return a->bytes + (gpa - ACPI_BASE);
}

/* A table with a sound header. */
static const uint8_t *table(const struct area *a, uint64_t gpa, const char *sig, uint32_t *ret_len)
{
	const uint8_t *p = at(a, gpa, 36);
	assert_memory_equal(p, sig, 4);
	*ret_len = get_le32(p + 4);
	assert_true(*ret_len >= 36);
	at(a, gpa, *ret_len);
	assert_int_equal(sum(p, *ret_len), 0);
	return p;
}

struct tables {
	const uint8_t *fadt, *madt, *dsdt, *facs, *xsdt;
	uint32_t fadt_len, madt_len, dsdt_len, xsdt_len;
};

static struct tables walk(const struct area *a)
{
	struct tables t;
	const uint8_t *rsdp = at(a, a->rsdp, 36);
	assert_int_equal(a->rsdp % 16, 0); /* guests scan in steps of 16 */
	assert_memory_equal(rsdp, "RSD PTR ", 8);
	assert_int_equal(sum(rsdp, 20), 0);
	assert_int_equal(sum(rsdp, 36), 0);
	assert_int_equal(rsdp[15], 2);
	assert_int_equal(get_le32(rsdp + 20), 36);
	t.xsdt = table(a, get_le64(rsdp + 24), "XSDT", &t.xsdt_len);
	assert_int_equal(t.xsdt_len, 36 + 5 * 8);
	t.fadt = table(a, get_le64(t.xsdt + 36), "FACP", &t.fadt_len);
	t.madt = table(a, get_le64(t.xsdt + 44), "APIC", &t.madt_len);
	uint64_t dsdt = get_le64(t.fadt + 140);
	assert_int_equal(get_le32(t.fadt + 40), dsdt);
	t.dsdt = table(a, dsdt, "DSDT", &t.dsdt_len);
	uint32_t facs = get_le32(t.fadt + 36);
	assert_int_equal(facs % 64, 0);
	assert_int_equal(get_le64(t.fadt + 132), 0); /* not both */
	t.facs = at(a, facs, 64);
	assert_memory_equal(t.facs, "FACS", 4);
	assert_int_equal(get_le32(t.facs + 4), 64);
	return t;
}

static void check_port(const uint8_t *gas, unsigned bits, unsigned access, uint16_t port)
{
	assert_int_equal(gas[0], port != 0 ? 1 : 0);
	assert_int_equal(gas[1], bits);
	assert_int_equal(gas[2], 0);
	assert_int_equal(gas[3], access);
	assert_true(get_le64(gas + 4) == port);
}

static void fadt_names_the_hardware(void **state)
{
	(void)state;
	SCOPE(freep) struct area *a = build(1);
	struct tables t = walk(a);
	const uint8_t *f = t.fadt;
	assert_int_equal(t.fadt_len, 276);
	assert_int_equal(f[8], 6);
	assert_int_equal(f[131], 4);
	assert_int_equal(get_le16(f + 46), 9);
	assert_int_equal(get_le32(f + 48), 0);     /* no SMI command */
	assert_int_equal(get_le32(f + 56), 0x600); /* PM1a event */
	assert_int_equal(get_le32(f + 64), 0x604); /* PM1a control */
	assert_int_equal(get_le32(f + 76), 0x608); /* timer */
	assert_int_equal(get_le32(f + 80), 0x620); /* GPE0: 32 bytes of status, 32 of enable */
	assert_int_equal(get_le32(f + 84), 0);     /* no GPE1 */
	assert_int_equal(f[92], 64);
	assert_int_equal(f[93], 0);
	assert_int_equal(f[88], 4);
	assert_int_equal(f[89], 2);
	assert_int_equal(f[91], 4);
	assert_int_equal(f[108], 0x32);
	uint16_t boot = get_le16(f + 109);
	assert_true((boot & 1) != 0);      /* legacy devices */
	assert_true((boot & 1 << 1) == 0); /* no 8042 to probe */
	assert_true((boot & 1 << 5) == 0); /* CMOS RTC is there */
	uint32_t flags = get_le32(f + 112);
	assert_true((flags & 1u << 10) != 0); /* reset register */
	assert_true((flags & 1u << 8) != 0);  /* 32-bit timer */
	assert_true((flags & 1u << 20) == 0); /* not reduced hardware */
	assert_true((flags & 7u << 4) == 0); /* power and sleep button and RTC are fixed hardware */
	assert_true((flags & 1u << 14) != 0); /* PCI Express wake status */
	assert_true((flags & 1u << 21) != 0); /* sleeping is done by s2idle */
	check_port(f + 116, 8, 1, 0xcf9);
	assert_int_equal(f[128], 6);
	check_port(f + 148, 32, 3, 0x600);
	check_port(f + 160, 0, 0, 0);
	check_port(f + 172, 16, 2, 0x604);
	check_port(f + 208, 32, 3, 0x608);
	check_port(f + 220, 0, 0, 0);
}

static void madt_lists_cpus_and_ioapic(void **state)
{
	(void)state;
	static const unsigned counts[] = { 1, 2, 64, 255, 256, 300 };
	for (unsigned c = 0; c < ARRAY_LEN(counts); c++) {
		SCOPE(freep) struct area *a = build(counts[c]);
		struct tables t = walk(a);
		assert_int_equal(get_le32(t.madt + 36), 0xfee00000);
		assert_int_equal(get_le32(t.madt + 40), 1);
		unsigned cpus = 0;
		unsigned ioapics = 0;
		unsigned overrides = 0;
		uint32_t p = 44;
		while (p < t.madt_len) {
			const uint8_t *e = t.madt + p;
			assert_true(t.madt_len - p >= 2 && e[1] >= 2 && t.madt_len - p >= e[1]);
			switch (e[0]) {
			case 0:
				assert_int_equal(e[1], 8);
				assert_int_equal(e[3], cpus);
				assert_true(e[3] <= 254);
				assert_int_equal(get_le32(e + 4), 1);
				cpus++;
				break;
			case 9:
				assert_int_equal(e[1], 16);
				assert_int_equal(get_le32(e + 4), cpus);
				assert_int_equal(get_le32(e + 8), 1);
				cpus++;
				break;
			case 1:
				assert_int_equal(get_le32(e + 4), 0xfec00000);
				assert_int_equal(get_le32(e + 8), 0);
				ioapics++;
				break;
			case 2:
				assert_int_equal(e[3], 9);
				assert_int_equal(get_le32(e + 4), 9);
				assert_int_equal(get_le16(e + 8), 0x0d);
				overrides++;
				break;
			default:
				fail_msg("entry of type %u", e[0]);
			}
			p += e[1];
		}
		assert_int_equal(p, t.madt_len);
		assert_int_equal(cpus, counts[c]);
		assert_int_equal(ioapics, 1);
		assert_int_equal(overrides, 1);
	}
}

static void too_many_cpus_are_an_error(void **state)
{
	(void)state;
	SCOPE(gmem_freep) struct gmem *g = NULL;
	ok(gmem_new(GMEM_MIN_BYTES, &g));
	gpa_t rsdp = GPA(7);
	struct err *e = acpi_build(g, &(struct acpi_opts){ .ncpus = 5000 }, &rsdp);
	assert_non_null(e);
	err_free(e);
	assert_true(rsdp.v == 7);
}

static void dsdt_is_small(void **state)
{
	(void)state;
	SCOPE(freep) struct area *a = build(1);
	struct tables t = walk(a);
	/* The ports that devices answer at are in it. */
	static const uint8_t pvpanic[] = { 0x47, 1, 0x05, 0x05, 0x05, 0x05, 1, 1 };
	assert_non_null(memmem(t.dsdt, t.dsdt_len, pvpanic, sizeof(pvpanic)));
	assert_true(t.dsdt_len < 1024); /* a guest interprets all of it at boot */
}

static void disassemble(const char *dir, const char *name, const uint8_t *p, uint32_t len,
			const char *must_say)
{
	char path[512];
	char cmd[1200];
	snprintf(path, sizeof(path), "%s/%s.aml", dir, name);
	SCOPE(fd_close) struct fd f = FD_NONE;
	ok(io_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600, &f));
	ok(io_write_full(f.n, p, len));
	snprintf(cmd, sizeof(cmd), "cd %s && iasl -d %s.aml > %s.log 2>&1", dir, name, name);
	assert_int_equal(system(cmd), 0);
	snprintf(path, sizeof(path), "%s/%s.dsl", dir, name);
	SCOPE(freep) uint8_t *text = NULL;
	size_t text_len;
	ok(io_slurp(path, 1 << 20, &text, &text_len));
	const char *t = (const char *)text;
	assert_null(strstr(t, "Incorrect checksum"));
	assert_null(strstr(t, "Invalid"));
	for (const char *u = t; (u = strstr(u, "Unknown")) != NULL; u++) { /* not in iasl's list */
		assert_int_equal(strncmp(u, "Unknown UUID", 12), 0);
	}
	if (strstr(t, must_say) == NULL) {
		fail_msg("%s: iasl does not say \"%s\"", name, must_say);
	}
}

static void iasl_understands_them(void **state)
{
	(void)state;
	if (system("iasl -v > /dev/null 2>&1") != 0) {
		skip();
	}
	char dir[256];
	snprintf(dir, sizeof(dir), "%s/acpi-XXXXXX", tmp_root());
	assert_non_null(mkdtemp(dir));
	SCOPE(freep) struct area *a = build(300);
	struct tables t = walk(a);
	disassemble(dir, "facp", t.fadt, t.fadt_len, "Reset Register Supported (V2) : 1");
	disassemble(dir, "apic", t.madt, t.madt_len, "Processor Local x2APIC");
	disassemble(dir, "dsdt", t.dsdt, t.dsdt_len, "PNP0501");
	uint32_t ssdt_len;
	const uint8_t *ssdt = table(a, get_le64(t.xsdt + 52), "SSDT", &ssdt_len);
	disassemble(dir, "gpes", ssdt, ssdt_len, "Method (_EFF, 0, NotSerialized)");
	disassemble(dir, "gpes", ssdt, ssdt_len, "Method (_E01, 0, NotSerialized)");
	ssdt = table(a, get_le64(t.xsdt + 60), "SSDT", &ssdt_len);
	disassemble(dir, "ssdt", ssdt, ssdt_len, "0xFEA00000");
	ssdt = table(a, get_le64(t.xsdt + 68), "SSDT", &ssdt_len);
	disassemble(dir, "ssdt2", ssdt, ssdt_len, "PNP0D80");
	disassemble(dir, "xsdt", t.xsdt, t.xsdt_len, "ACPI Table Address");
	disassemble(dir, "facs", t.facs, 64, "FACS");
	char cmd[300];
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	assert_int_equal(system(cmd), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fadt_names_the_hardware),
		cmocka_unit_test(madt_lists_cpus_and_ioapic),
		cmocka_unit_test(too_many_cpus_are_an_error),
		cmocka_unit_test(dsdt_is_small),
		cmocka_unit_test(iasl_understands_them),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
