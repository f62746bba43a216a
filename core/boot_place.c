/* SPDX-License-Identifier: Apache-2.0 */
/* Who lies where in guest memory at boot. See boot_place.h. */
#include "core/boot_place.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/boot_e820.h"

#define LOW_FIRST 0x10000u
#define LOW_LAST_RESORT 0x1000u

static const struct boot_claim *overlapping(const struct boot_place *p, uint64_t lo, uint64_t hi)
{
	for (unsigned i = 0; i < p->n; i++) {
		if (lo < p->claim[i].hi && p->claim[i].lo < hi) {
			return &p->claim[i];
		}
	}
	return NULL;
}

static struct err *add(struct boot_place *p, uint64_t lo, uint64_t hi, const char *what)
{
	ENSURE(p->n < BOOT_CLAIMS_MAX, ERR_LIMIT, "more than %u pieces to place in guest memory",
	       BOOT_CLAIMS_MAX);
	struct boot_claim *c = &p->claim[p->n++];
	c->lo = lo;
	c->hi = hi;
	snprintf(c->what, sizeof(c->what), "%s", what);
	return NULL;
}

struct err *boot_place_init(struct boot_place *p, const struct gmem *gmem, gpa_t acpi_base,
			    uint64_t acpi_len)
{
	*p = (struct boot_place){ .gmem = gmem };
	/* Page 0 belongs to nobody: a null pointer of the guest must not name boot data. */
	TRY(add(p, 0, PAGE_BYTES, "the first page"));
	TRY(add(p, BOOT_EBDA_START, BOOT_HIGH_START, "the reserved area below 1 MiB"));
	if (acpi_len == 0) {
		return NULL;
	}
	ENSURE(gmem_at(gmem, acpi_base, acpi_len) != NULL, ERR_LIMIT,
	       "ACPI tables at 0x%" PRIx64 " lie outside of guest memory", acpi_base.v);
	return add(p, acpi_base.v, acpi_base.v + acpi_len, "the ACPI tables");
}

struct err *boot_place_claim(struct boot_place *p, uint64_t lo, uint64_t len, const char *fmt, ...)
{
	BUG_ON(len == 0);
	char what[sizeof(p->claim[0].what)];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	uint64_t hi;
	if (ADD_OVERFLOWS(lo, len, &hi) || gmem_at(p->gmem, GPA(lo), len) == NULL) {
		return ERR(ERR_LIMIT,
			   "%s of %" PRIu64 " bytes at address 0x%" PRIx64
			   " lies outside of the guest's memory of %llu MiB; give the VM more "
			   "(--mem) or link the kernel lower",
			   what, len, lo, gmem_bytes(p->gmem) / MIB);
	}
	const struct boot_claim *c = overlapping(p, lo, hi);
	if (c != NULL) {
		return ERR(ERR_CORRUPT,
			   "%s [0x%" PRIx64 ", 0x%" PRIx64 ") overlaps %s [0x%" PRIx64
			   ", 0x%" PRIx64 ")",
			   what, lo, hi, c->what, c->lo, c->hi);
	}
	return add(p, lo, hi, what);
}

/* First fit upwards in [lo, hi). True when found. */
static bool find_up(const struct boot_place *p, uint64_t lo, uint64_t hi, uint64_t len,
		    uint64_t align, uint64_t *ret_at)
{
	uint64_t at = round_up_u64(lo, align);
	while (at <= hi && len <= hi - at) {
		const struct boot_claim *c = overlapping(p, at, at + len);
		if (c == NULL) {
			*ret_at = at;
			return true;
		}
		at = round_up_u64(c->hi, align);
	}
	return false;
}

struct err *boot_place_low(struct boot_place *p, const char *what, uint64_t len, uint64_t align,
			   gpa_t *ret_gpa)
{
	BUG_ON(len == 0 || align == 0 || (align & (align - 1)) != 0);
	uint64_t at = 0;
	if (!find_up(p, LOW_FIRST, BOOT_EBDA_START, len, align, &at) &&
	    !find_up(p, LOW_LAST_RESORT, LOW_FIRST, len, align, &at)) {
		return ERR(ERR_LIMIT,
			   "no room below 640 KiB for %s (%" PRIu64
			   " bytes); link the kernel above 1 MiB",
			   what, len);
	}
	TRY(add(p, at, at + len, what));
	*ret_gpa = GPA(at);
	return NULL;
}

struct err *boot_place_high(struct boot_place *p, const char *what, uint64_t len, uint64_t limit,
			    gpa_t *ret_gpa, bool *ret_found)
{
	BUG_ON(len == 0);
	struct gmem_region low = gmem_region(p->gmem, 0);
	uint64_t top = MIN(limit, low.base.v + low.len_bytes);
	for (;;) {
		if (top < BOOT_HIGH_START || len > top - BOOT_HIGH_START) {
			*ret_found = false;
			return NULL;
		}
		uint64_t at = (top - len) / PAGE_BYTES * PAGE_BYTES;
		const struct boot_claim *c = overlapping(p, at, at + len);
		if (c == NULL) {
			TRY(add(p, at, at + len, what));
			*ret_gpa = GPA(at);
			*ret_found = true;
			return NULL;
		}
		top = c->lo;
	}
}
