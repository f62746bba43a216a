/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ACPI tables. See acpi.h. Written into one buffer in the order RSDP, FACS, DSDT, FADT, MADT, XSDT,
 * each after those it points to, and copied to guest memory at once.
 * Layouts: ACPI 6.4, 5.2.5.3 (RSDP), 5.2.8 (XSDT), 5.2.9 (FADT), 5.2.10 (FACS), 5.2.12 (MADT).
 */
#include "core/acpi.h"

#include <string.h>

#include "core/base/bytes.h"
#include "devices/acpi_pm.h"
#include "devices/rtc.h"
#include "dsdt.hex"

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
	MADT_REVISION = 5,

	/* FADT boot architecture flags (5.2.9.3). The keyboard controller is not announced: nothing
	 * is plugged in, and a guest that knows so saves the probe. */
	BOOT_LEGACY_DEVICES = 1 << 0,
	BOOT_NO_VGA = 1 << 2,
	BOOT_NO_ASPM = 1 << 4,

	/* FADT feature flags. The power button is fixed hardware (bit 4 clear). */
	FADT_WBINVD = 1 << 0,
	FADT_PROC_C1 = 1 << 2,
	FADT_NO_SLEEP_BUTTON = 1 << 5,
	FADT_NO_FIXED_RTC = 1 << 6,
	FADT_TIMER_32 = 1 << 8,
	FADT_RESET_REG = 1 << 10,
	FADT_FLAGS = FADT_WBINVD | FADT_PROC_C1 | FADT_NO_SLEEP_BUTTON | FADT_NO_FIXED_RTC |
		     FADT_TIMER_32 | FADT_RESET_REG,

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

static size_t dsdt(struct wbuf *w)
{
	align(w, TABLE_ALIGN);
	size_t at = w->len;
	wbuf_put(w, dsdt_aml_code, sizeof(dsdt_aml_code));
	return at;
}

/* The part of the FADT that ACPI 1.0 had: 32-bit addresses and port numbers. */
static void fadt_legacy(struct wbuf *w, size_t facs_at, size_t dsdt_at)
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
	wbuf_u64(w, 0); /* GPE0, GPE1 */
	wbuf_u8(w, 4);  /* lengths: PM1 event, PM1 control, PM2, timer */
	wbuf_u8(w, 2);
	wbuf_u8(w, 0);
	wbuf_u8(w, 4);
	wbuf_u32(w, 0); /* GPE lengths, GPE1 base, CST_CNT */
	wbuf_u16(w, LATENCY_NO_C2);
	wbuf_u16(w, LATENCY_NO_C3);
	wbuf_u32(w, 0); /* flush size and stride: WBINVD works */
	wbuf_u16(w, 0); /* duty cycle */
	wbuf_u8(w, 0);  /* no day-of-month and month alarm */
	wbuf_u8(w, 0);
	wbuf_u8(w, RTC_CENTURY);
	wbuf_u16(w, BOOT_LEGACY_DEVICES | BOOT_NO_VGA | BOOT_NO_ASPM);
	wbuf_u8(w, 0);
	wbuf_u32(w, FADT_FLAGS);
}

static size_t fadt(struct wbuf *w, size_t facs_at, size_t dsdt_at)
{
	size_t at = table_begin(w, "FACP", FADT_REVISION);
	fadt_legacy(w, facs_at, dsdt_at);
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
	gas_port(w, 0, 0); /* GPE0, GPE1 */
	gas_port(w, 0, 0);
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

static size_t xsdt(struct wbuf *w, size_t fadt_at, size_t madt_at)
{
	size_t at = table_begin(w, "XSDT", XSDT_REVISION);
	wbuf_u64(w, address(fadt_at));
	wbuf_u64(w, address(madt_at));
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

struct err *acpi_build(struct gmem *gmem, unsigned ncpus, gpa_t *ret_rsdp)
{
	BUG_ON(ncpus == 0);
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(ACPI_LEN);
	pad_to(&w, RSDP_BYTES);
	size_t facs_at = facs(&w);
	size_t dsdt_at = dsdt(&w);
	size_t fadt_at = fadt(&w, facs_at, dsdt_at);
	size_t madt_at = madt(&w, ncpus);
	size_t xsdt_at = xsdt(&w, fadt_at, madt_at);
	TRY(err_wrap(wbuf_check(&w), "ACPI tables for %u CPUs", ncpus));
	rsdp(w.p, xsdt_at);
	TRY(err_wrap(gmem_write(gmem, GPA(ACPI_BASE), w.p, w.len), "ACPI tables"));
	*ret_rsdp = GPA(ACPI_BASE);
	return NULL;
}
