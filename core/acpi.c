/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI tables. See acpi.h. Written into one buffer in the order RSDP, FACS, DSDT, FADT, MADT, MCFG,
 * SSDTs, XSDT, each after those it points to, and copied to guest memory at once.
 * Layouts: ACPI 6.4, 5.2.5.3 (RSDP), 5.2.8 (XSDT), 5.2.9 (FADT), 5.2.10 (FACS), 5.2.12 (MADT);
 * PCI Firmware 3.2, 4.1.2 (MCFG); AML encodings: ACPI 6.4, 20.2.
 */
#include "core/acpi.h"

#include <stdio.h>
#include <string.h>

#include "core/base/bytes.h"
#include "devices/acpi_pm.h"
#include "devices/pci.h"
#include "devices/rtc.h"
#include "battery.hex"
#include "dsdt.hex"
#include "pci.hex"
#include "s2idle.hex"
#include "pcie.hex"
#include "vmgenid.hex"

_Static_assert(ACPI_PM1_EVT_PORT == ACPI_PM_EVT_PORT, "FADT names the device's port");
_Static_assert(ACPI_PM1_CNT_PORT == ACPI_PM_CNT_PORT, "FADT names the device's port");
_Static_assert(ACPI_RESET_PORT == ACPI_PM_RESET_PORT, "FADT names the device's port");
_Static_assert(ACPI_SCI_GSI == ACPI_PM_SCI_GSI, "FADT names the device's interrupt");

enum {
	RSDP_BYTES = 36,
	RSDP_V1_BYTES = 20,
	HEADER_BYTES = 36,
	HEADER_LEN_AT = 4,
	HEADER_SUM_AT = 9,
	FACS_BYTES = 64,
	FACS_ALIGN = 64,
	TABLE_ALIGN = 16,
	FADT_BYTES = 276,

	FADT_REVISION = 6,
	FADT_MINOR = 4,
	XSDT_REVISION = 1,
	SSDT_REVISION = 2,
	MADT_REVISION = 5,

	/* FADT boot architecture flags (5.2.9.3). The keyboard controller is not announced: nothing
	 * is plugged in, and a guest that knows so saves the probe. */
	BOOT_LEGACY_DEVICES = 1 << 0,
	BOOT_NO_VGA = 1 << 2,
	BOOT_NO_ASPM = 1 << 4,

	/* FADT feature flags. Power button, sleep button and RTC alarm are fixed hardware (bits 4
	 * to 6 clear). */
	FADT_WBINVD = 1 << 0,
	FADT_PROC_C1 = 1 << 2,
	FADT_TIMER_32 = 1 << 8,
	FADT_RESET_REG = 1 << 10,
	FADT_PCIE_WAKE = 1 << 14,
	FADT_LOW_POWER_S0 = 1 << 21, /* sleeping is done by s2idle */
	FADT_FLAGS = FADT_WBINVD | FADT_PROC_C1 | FADT_TIMER_32 | FADT_RESET_REG | FADT_PCIE_WAKE,

	RESET_VALUE = 6,
	LATENCY_NO_C2 = 101,  /* above 100: no C2 */
	LATENCY_NO_C3 = 1001, /* above 1000: no C3 */

	MADT_LAPIC = 0,
	MADT_IOAPIC = 1,
	MADT_OVERRIDE = 2,
	MADT_X2APIC = 9,
	MADT_PCAT = 1, /* the machine has two 8259s as well */
	MADT_ENABLED = 1,
	MADT_LEVEL_HIGH = 0x0d,
	LAPIC_ID_MAX = 254, /* 255 is broadcast */

	TABLES_MAX = 8,

	AML_ZERO = 0x00,
	AML_NAME = 0x08,
	AML_BYTE = 0x0a,
	AML_DWORD = 0x0c,
	AML_SCOPE = 0x10,
	AML_METHOD = 0x14,
	AML_PACKAGE = 0x12,
	AML_ROOT = 0x5c,
	AML_DUAL_NAME = 0x2e,
	AML_PKG_SHORT = 0x3f, /* a length that fits one byte */
};

#define LAPIC_BASE 0xfee00000u
#define IOAPIC_BASE 0xfec00000u

static uint8_t checksum(const uint8_t *p, size_t len)
{
	uint8_t sum = 0;
	for (size_t i = 0; i < len; i++) {
		sum = (uint8_t)(sum + p[i]);
	}
	return (uint8_t)-sum;
}

static void pad_to(struct wbuf *w, size_t at)
{
	while (w->len < at && w->failed == 0) {
		wbuf_u8(w, 0);
	}
}

static void align(struct wbuf *w, size_t unit)
{
	pad_to(w, (size_t)round_up_u64(w->len, unit));
}

/* Starts a table; length and checksum come with table_end. Returns its offset in w. */
static size_t table_begin(struct wbuf *w, const char *signature, uint8_t revision)
{
	align(w, TABLE_ALIGN);
	size_t at = w->len;
	wbuf_put(w, signature, 4);
	wbuf_u32(w, 0);
	wbuf_u8(w, revision);
	wbuf_u8(w, 0);
	wbuf_put(w, "TORPOR", 6);
	wbuf_put(w, "TORPORVM", 8);
	wbuf_u32(w, 1);
	wbuf_put(w, "TRPR", 4);
	wbuf_u32(w, 1);
	return at;
}

static void table_end(struct wbuf *w, size_t at)
{
	if (w->failed != 0) {
		return;
	}
	wbuf_patch_u32(w, at + HEADER_LEN_AT, (uint32_t)(w->len - at));
	w->p[at + HEADER_SUM_AT] = checksum(w->p + at, w->len - at);
}

static uint32_t address(size_t at)
{
	return (uint32_t)(ACPI_BASE + at);
}

/* Generic address of an I/O port; bytes 0: no such register. */
static void gas_port(struct wbuf *w, unsigned bytes, uint16_t port)
{
	wbuf_u8(w, bytes != 0 ? 1 : 0);                /* system I/O */
	wbuf_u8(w, (uint8_t)(bytes * 8));              /* bit width */
	wbuf_u8(w, 0);                                 /* bit offset */
	wbuf_u8(w, (uint8_t)(bytes == 4 ? 3 : bytes)); /* access size: 1, 2 bytes or 3 = dword */
	wbuf_u64(w, port);
}

static size_t facs(struct wbuf *w)
{
	align(w, FACS_ALIGN);
	size_t at = w->len;
	wbuf_put(w, "FACS", 4);
	wbuf_u32(w, FACS_BYTES);
	pad_to(w, at + 32);
	wbuf_u8(w, 2); /* version; it has no checksum */
	pad_to(w, at + FACS_BYTES);
	return at;
}

/* The part of the FADT that ACPI 1.0 had: 32-bit addresses and port numbers. */
static void fadt_legacy(struct wbuf *w, size_t facs_at, size_t dsdt_at, bool s2idle)
{
	wbuf_u32(w, address(facs_at));
	wbuf_u32(w, address(dsdt_at));
	wbuf_u8(w, 0);
	wbuf_u8(w, 0); /* profile: unspecified */
	wbuf_u16(w, ACPI_SCI_GSI);
	wbuf_u32(w, 0); /* no SMI command port: always in ACPI mode */
	wbuf_u32(w, 0); /* ACPI_ENABLE, ACPI_DISABLE, S4BIOS_REQ, PSTATE_CNT */
	wbuf_u32(w, ACPI_PM1_EVT_PORT);
	wbuf_u32(w, 0);
	wbuf_u32(w, ACPI_PM1_CNT_PORT);
	wbuf_u32(w, 0);
	wbuf_u32(w, 0); /* PM2 control */
	wbuf_u32(w, ACPI_PM_TMR_PORT);
	wbuf_u32(w, ACPI_PM_GPE_PORT);
	wbuf_u32(w, 0); /* GPE1 */
	wbuf_u8(w, 4);  /* lengths: PM1 event, PM1 control, PM2, timer */
	wbuf_u8(w, 2);
	wbuf_u8(w, 0);
	wbuf_u8(w, 4);
	wbuf_u8(w, 2 * ACPI_PM_GPE_BYTES);
	wbuf_u8(w, 0); /* GPE1 length and base, CST_CNT */
	wbuf_u16(w, 0);
	wbuf_u16(w, LATENCY_NO_C2);
	wbuf_u16(w, LATENCY_NO_C3);
	wbuf_u32(w, 0); /* flush size and stride: WBINVD works */
	wbuf_u16(w, 0); /* duty cycle */
	wbuf_u8(w, 0);  /* no day-of-month and month alarm */
	wbuf_u8(w, 0);
	wbuf_u8(w, RTC_CENTURY);
	wbuf_u16(w, BOOT_LEGACY_DEVICES | BOOT_NO_VGA | BOOT_NO_ASPM);
	wbuf_u8(w, 0);
	wbuf_u32(w, FADT_FLAGS | (s2idle ? FADT_LOW_POWER_S0 : 0));
}

static size_t fadt(struct wbuf *w, size_t facs_at, size_t dsdt_at, bool s2idle)
{
	size_t at = table_begin(w, "FACP", FADT_REVISION);
	fadt_legacy(w, facs_at, dsdt_at, s2idle);
	gas_port(w, 1, ACPI_RESET_PORT);
	wbuf_u8(w, RESET_VALUE);
	wbuf_u16(w, 0); /* ARM boot flags */
	wbuf_u8(w, FADT_MINOR);
	wbuf_u64(w, 0); /* X_FIRMWARE_CTRL: the 32-bit one counts */
	wbuf_u64(w, address(dsdt_at));
	gas_port(w, 4, ACPI_PM1_EVT_PORT);
	gas_port(w, 0, 0);
	gas_port(w, 2, ACPI_PM1_CNT_PORT);
	gas_port(w, 0, 0);
	gas_port(w, 0, 0); /* PM2 control */
	gas_port(w, 4, ACPI_PM_TMR_PORT);
	gas_port(w, 0, 0); /* GPE0: wider than a generic address can say; the 32-bit one counts */
	gas_port(w, 0, 0); /* GPE1 */
	gas_port(w, 0, 0); /* sleep control and status: reduced hardware only */
	gas_port(w, 0, 0);
	wbuf_put(w, "TORPOR\0", 8); /* hypervisor vendor */
	BUG_ON(w->failed == 0 && w->len - at != FADT_BYTES);
	table_end(w, at);
	return at;
}

static void madt_cpu(struct wbuf *w, uint32_t id)
{
	if (id <= LAPIC_ID_MAX) {
		wbuf_u8(w, MADT_LAPIC);
		wbuf_u8(w, 8);
		wbuf_u8(w, (uint8_t)id); /* processor uid */
		wbuf_u8(w, (uint8_t)id);
		wbuf_u32(w, MADT_ENABLED);
		return;
	}
	wbuf_u8(w, MADT_X2APIC);
	wbuf_u8(w, 16);
	wbuf_u16(w, 0);
	wbuf_u32(w, id);
	wbuf_u32(w, MADT_ENABLED);
	wbuf_u32(w, id);
}

static size_t madt(struct wbuf *w, unsigned ncpus)
{
	size_t at = table_begin(w, "APIC", MADT_REVISION);
	wbuf_u32(w, LAPIC_BASE);
	wbuf_u32(w, MADT_PCAT);
	for (unsigned i = 0; i < ncpus; i++) {
		madt_cpu(w, i);
	}
	wbuf_u8(w, MADT_IOAPIC);
	wbuf_u8(w, 12);
	wbuf_u8(w, 0); /* id */
	wbuf_u8(w, 0);
	wbuf_u32(w, IOAPIC_BASE);
	wbuf_u32(w, 0); /* first GSI */
	/*
	 * KVM's default routing joins ISA IRQ n, the PIT's 0 included, to IOAPIC pin n: no override
	 * of IRQ 0. Only the SCI differs from the ISA default of edge.
	 */
	wbuf_u8(w, MADT_OVERRIDE);
	wbuf_u8(w, 10);
	wbuf_u8(w, 0); /* ISA */
	wbuf_u8(w, ACPI_SCI_GSI);
	wbuf_u32(w, ACPI_SCI_GSI);
	wbuf_u16(w, MADT_LEVEL_HIGH);
	table_end(w, at);
	return at;
}

/* Where ECAM is. */
static size_t mcfg(struct wbuf *w)
{
	size_t at = table_begin(w, "MCFG", 1);
	wbuf_u64(w, 0); /* reserved */
	wbuf_u64(w, PCI_ECAM_BASE);
	wbuf_u16(w, 0); /* segment */
	wbuf_u8(w, 0);  /* first and last bus */
	wbuf_u8(w, PCI_ECAM_BUSES - 1);
	wbuf_u32(w, 0);
	table_end(w, at);
	return at;
}

/* Length of an AML package with `body` bytes behind the length itself. */
static void aml_length(struct wbuf *w, size_t body)
{
	if (body + 1 <= AML_PKG_SHORT) {
		wbuf_u8(w, (uint8_t)(body + 1));
		return;
	}
	size_t n = body + 2; /* two bytes: 4 bits in the first, 8 in the second */
	BUG_ON(n >= 1u << 12);
	wbuf_u8(w, (uint8_t)(0x40 | (n & 0xf)));
	wbuf_u8(w, (uint8_t)(n >> 4));
}

/* One route: any function of the slot, INTA, to a GSI. */
static void aml_route(struct wbuf *w, unsigned slot)
{
	enum { ROUTE_BODY = 1 + 5 + 1 + 1 + 2 };
	wbuf_u8(w, AML_PACKAGE);
	aml_length(w, ROUTE_BODY);
	wbuf_u8(w, 4);
	wbuf_u8(w, AML_DWORD);
	wbuf_u32(w, slot << 16 | 0xffff);
	wbuf_u8(w, AML_ZERO);
	wbuf_u8(w, AML_ZERO);
	wbuf_u8(w, AML_BYTE);
	wbuf_u8(w, (uint8_t)(PCI_GSI_BASE + slot % PCI_GSIS));
}

/* Scope (\_SB.PCI0) { Name (_PRT, Package { routes }) }: only the slots in use, since a guest
 * interprets it while it boots. */
static void aml_prt(struct wbuf *w, uint32_t slots)
{
	SCOPE(wbuf_done) struct wbuf routes = wbuf_make(ACPI_LEN);
	unsigned n = 0;
	for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
		if ((slots >> slot & 1) != 0) {
			aml_route(&routes, slot);
			n++;
		}
	}
	SCOPE(wbuf_done) struct wbuf body = wbuf_make(ACPI_LEN);
	wbuf_u8(&body, AML_ROOT);
	wbuf_u8(&body, AML_DUAL_NAME);
	wbuf_put(&body, "_SB_PCI0", 8);
	wbuf_u8(&body, AML_NAME);
	wbuf_put(&body, "_PRT", 4);
	wbuf_u8(&body, AML_PACKAGE);
	aml_length(&body, 1 + routes.len);
	wbuf_u8(&body, (uint8_t)n);
	wbuf_put(&body, routes.p, routes.len);
	wbuf_u8(w, AML_SCOPE);
	aml_length(w, body.len);
	wbuf_put(w, body.p, body.len);
}

/* Sets first address, last address and length of the one QWordMemory in the SSDT of PCI. */
static void set_win64(uint8_t *p, size_t len, struct pci_window win)
{
	for (size_t i = 0; i + 40 <= len; i++) {
		if (get_le64(p + i) == PCI_WIN64_MIN &&
		    get_le64(p + i + 8) == 2 * PCI_WIN64_MIN - 1) {
			put_le64(p + i, win.base);
			put_le64(p + i + 8, win.base + win.len - 1);
			put_le64(p + i + 24, win.len);
			return;
		}
	}
	BUG_ON(true); /* core/pci.asl says the smallest window */
}

static size_t ssdt_pci(struct wbuf *w, uint32_t slots, struct pci_window win)
{
	align(w, TABLE_ALIGN);
	size_t at = w->len;
	wbuf_put(w, pci_aml_code, sizeof(pci_aml_code));
	if (w->failed == 0) {
		set_win64(w->p + at, w->len - at, win);
		w->p[at + HEADER_SUM_AT] = 0;
	}
	aml_prt(w, slots);
	table_end(w, at);
	return at;
}

/*
 * Scope (\_GPE) { Method (_EXX, 0) {} ... }: an empty method for every event but the generation
 * id's. A guest enables and counts no event without a method.
 */
static size_t ssdt_gpes(struct wbuf *w)
{
	enum { METHOD_BODY = 4 + 1 };
	SCOPE(wbuf_done) struct wbuf body = wbuf_make(ACPI_LEN);
	wbuf_u8(&body, AML_ROOT);
	wbuf_put(&body, "_GPE", 4);
	for (unsigned i = 0; i < ACPI_PM_GPES; i++) {
		char name[8];
		if (i == ACPI_VMGENID_GPE) {
			continue;
		}
		snprintf(name, sizeof(name), "_E%02X", i);
		wbuf_u8(&body, AML_METHOD);
		aml_length(&body, METHOD_BODY);
		wbuf_put(&body, name, 4);
		wbuf_u8(&body, 0); /* no arguments */
	}
	size_t at = table_begin(w, "SSDT", SSDT_REVISION);
	wbuf_u8(w, AML_SCOPE);
	aml_length(w, body.len);
	wbuf_put(w, body.p, body.len);
	table_end(w, at);
	return at;
}

/* A table as iasl made it. */
static size_t compiled(struct wbuf *w, const void *aml, size_t len)
{
	align(w, TABLE_ALIGN);
	size_t at = w->len;
	wbuf_put(w, aml, len);
	return at;
}

static size_t xsdt(struct wbuf *w, const size_t *tables, size_t n)
{
	size_t at = table_begin(w, "XSDT", XSDT_REVISION);
	for (size_t i = 0; i < n; i++) {
		wbuf_u64(w, address(tables[i]));
	}
	table_end(w, at);
	return at;
}

static void rsdp(uint8_t *p, size_t xsdt_at)
{
	memcpy(p, "RSD PTR ", 8);
	memcpy(p + 9, "TORPOR", 6);
	p[15] = 2; /* revision; no RSDT, whose address stays 0 */
	put_le32(p + 20, RSDP_BYTES);
	put_le64(p + 24, address(xsdt_at));
	p[8] = checksum(p, RSDP_V1_BYTES);
	p[32] = checksum(p, RSDP_BYTES);
}

struct err *acpi_build(struct gmem *gmem, const struct acpi_opts *opts, gpa_t *ret_rsdp)
{
	BUG_ON(opts->ncpus == 0);
	size_t room = ACPI_LEN - (opts->vmgenid ? PAGE_BYTES : 0);
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(room);
	size_t tables[TABLES_MAX];
	size_t n = 0;
	pad_to(&w, RSDP_BYTES);
	size_t facs_at = facs(&w);
	size_t dsdt_at = compiled(&w, dsdt_aml_code, sizeof(dsdt_aml_code));
	tables[n++] = fadt(&w, facs_at, dsdt_at, opts->s2idle);
	tables[n++] = madt(&w, opts->ncpus);
	if (opts->pci_slots != 0) {
		struct pci_window win = pci_win64(gmem_gfn_end(gmem) << PAGE_SHIFT);
		tables[n++] = mcfg(&w);
		tables[n++] = ssdt_pci(&w, opts->pci_slots, win);
	}
	if (opts->pcie_ports) {
		tables[n++] = compiled(&w, pcie_aml_code, sizeof(pcie_aml_code));
	}
	if (opts->vmgenid) {
		tables[n++] = compiled(&w, vmgenid_aml_code, sizeof(vmgenid_aml_code));
	}
	if (opts->gpe_methods) {
		tables[n++] = ssdt_gpes(&w);
	}
	if (opts->battery) {
		tables[n++] = compiled(&w, battery_aml_code, sizeof(battery_aml_code));
	}
	if (opts->s2idle) {
		tables[n++] = compiled(&w, s2idle_aml_code, sizeof(s2idle_aml_code));
	}
	size_t xsdt_at = xsdt(&w, tables, n);
	TRY(err_wrap(wbuf_check(&w), "ACPI tables for %u CPUs", opts->ncpus));
	rsdp(w.p, xsdt_at);
	TRY(err_wrap(gmem_write(gmem, GPA(ACPI_BASE), w.p, w.len), "ACPI tables"));
	*ret_rsdp = GPA(ACPI_BASE);
	return NULL;
}
