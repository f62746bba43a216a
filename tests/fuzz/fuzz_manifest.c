/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzz target: a manifest record, and everything that a load asks a decoded one before it looks at
 * any other byte of the snapshot. The checksum is set right first. Properties: answers lie within
 * the manifest, texts end within their arrays, and the regions can be compared.
 */
#include <string.h>

#include "core/base/hash.h"
#include "core/base/limits.h"
#include "snapshot/image.h"
#include "snapshot/manifest.h"
#include "tests/fuzz/fuzz.h"

static bool decoded(struct err *e)
{
	if (e == NULL) {
		return true;
	}
	fuzz_check_text(err_msg(e));
	err_drop(e, "hostile input is refused");
	return false;
}

static void use(struct manifest *m)
{
	static struct gmem *gmem;
	if (gmem == NULL) {
		struct err *e = gmem_new(GMEM_MIN_BYTES, &gmem);
		BUG_ON(e != NULL);
	}
	BUG_ON(m->nregions < 1 || m->nregions > GMEM_REGIONS_MAX || m->nparts > PARTS_MAX ||
	       m->nfiles > MANIFEST_FILES_MAX);
	BUG_ON(manifest_gfn_end(m) > UINT64_MAX / PAGE_BYTES);
	if (decoded(manifest_match_regions(m, gmem))) {
		BUG_ON(m->regions[0].len_bytes != GMEM_MIN_BYTES);
	}
	for (uint32_t i = 0; i < m->nfiles; i++) {
		const char *name = (const char *)m->files[i].name;
		BUG_ON(strnlen(name, sizeof(m->files[i].name)) >= sizeof(m->files[i].name));
		BUG_ON(manifest_find_file(m, name) != &m->files[i]);
	}
	for (uint32_t i = 0; i < m->nparts; i++) {
		const char *name = (const char *)m->parts[i].name;
		BUG_ON(manifest_find_part(m, name, m->parts[i].instance) != (int)i);
	}
	BUG_ON(manifest_find_file(m, "") != NULL);
	struct snap_image img = { .manifest = m };
	manifest_get_host(m, &img.host);
	BUG_ON(memchr(img.host.kernel, 0, sizeof(img.host.kernel)) == NULL);
	const struct snap_host here = { .xcr0_mask = 7, .tsc_khz = 2000000 };
	(void)decoded(snap_image_compat(&img, &here));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static struct manifest m; /* 180 KiB */
	SCOPE(freep) uint8_t *p = malloc(len > 0 ? len : 1);
	BUG_ON(p == NULL);
	memcpy(p, data, len);
	if (len >= 16) {
		put_le32(p + 4, (uint32_t)len);
		put_le64(p + len - 8, hash_xxh3_64(p, len - 8, 0));
	}
	if (decoded(desc_decode(&manifest_desc, 0, p, len, &m))) {
		use(&m);
	}
	return 0;
}
