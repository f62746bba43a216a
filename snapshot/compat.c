/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Can a snapshot run on this host? Called by core before it builds a VM for it, and by the check
 * before a restore, which wants to hear of everything.
 *
 * Refused is what the snapshot uses and the host lacks, never a name: kernel release and CPU model
 * are for people to read. Versions are checked where records are decoded; CPUID bits and MSRs where
 * the vCPU's state is.
 */
#include <string.h>

#include "snapshot/image.h"

/* Guests measure time against the frequency they were told. NTP corrects up to 500 ppm; half of
 * that stays out of its way, and is the bound that KVM uses for its own scaling. */
#define TSC_PPM_MAX 250ull

/* Architectural names of XCR0 bits (Intel SDM volume 1, 13.1). */
static const char *const xcr0_names[] = {
	[0] = "x87",        [1] = "SSE",           [2] = "AVX",           [3] = "MPX bounds",
	[4] = "MPX config", [5] = "AVX-512 masks", [6] = "AVX-512 upper", [7] = "AVX-512 high",
	[9] = "PKRU",       [17] = "AMX config",   [18] = "AMX tiles",
};

static void check_xcr0(const struct manifest_host *was, const struct snap_host *here,
		       const struct findings *f)
{
	uint64_t missing = was->xcr0_used & ~here->xcr0_mask;
	for (unsigned bit = 0; bit < 64; bit++) {
		if ((missing >> bit & 1) == 0) {
			continue;
		}
		const char *name = bit < ARRAY_LEN(xcr0_names) ? xcr0_names[bit] : NULL;
		finding(f, "cpu",
			ERR(ERR_INCOMPAT,
			    "the snapshot uses processor state that this host lacks: XSAVE "
			    "component %u (%s), mask 0x%llx; restore it on a host that has it",
			    bit, name != NULL ? name : "unnamed", (unsigned long long)missing));
	}
}

static struct err *check_tsc(const struct manifest_host *was, const struct snap_host *here)
{
	if (was->tsc_khz == 0 || here->tsc_khz == 0 || here->tsc_scaling) {
		return NULL; /* unknown, or the host gives the guest its frequency */
	}
	uint64_t a = was->tsc_khz;
	uint64_t b = here->tsc_khz;
	uint64_t diff = a > b ? a - b : b - a;
	ENSURE(diff * 1000000 <= a * TSC_PPM_MAX, ERR_INCOMPAT,
	       "the guest's TSC runs at %llu kHz, this host's at %llu kHz, and this host cannot "
	       "scale it (no TSC scaling): restore it on a host that can, or of that frequency",
	       (unsigned long long)a, (unsigned long long)b);
	return NULL;
}

void snap_image_compat_all(const struct snap_image *img, const struct snap_host *here,
			   const struct findings *f)
{
	check_xcr0(&img->manifest->host, here, f);
	finding(f, "clock", check_tsc(&img->manifest->host, here));
}

struct err *snap_image_compat(const struct snap_image *img, const struct snap_host *here)
{
	struct err *first = NULL;
	snap_image_compat_all(img, here, &(struct findings){ finding_keep_first, &first });
	return first;
}
