/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opens a snapshot and loads it into a freshly built VM. Called by core on the main thread before
 * any vCPU runs.
 *
 * Two phases: all part records are read, decoded and checked into side structs, and the memory is
 * placed (unless it comes lazily, lazy.c), before the first part is given its state. Nothing of the
 * VM's parts has changed until then; after a later error the VM is destroyed anyway.
 */
#include <string.h>

#include "snapshot/disks.h"
#include "snapshot/image.h"
#include "snapshot/keep.h"
#include "snapshot/pages.h"
#include "snapshot/quiesce.h"

/* ---- opening ---- */

static const struct snap_map *image_map(const struct snap_image *img, const char *name)
{
	const struct snap_info *info = reader_info(img->reader);
	for (uint32_t i = 0; i < info->nmaps && i < STORE_MAPS_MAX; i++) {
		if (strcmp(info->maps[i].name, name) == 0) {
			return &info->maps[i];
		}
	}
	return NULL;
}

/* The maps are exactly the memory and the files of the manifest. */
static struct err *check_maps(const struct snap_image *img)
{
	const struct manifest *m = img->manifest;
	const struct snap_info *info = reader_info(img->reader);
	const struct snap_map *memory = image_map(img, "memory");
	ENSURE(memory != NULL, ERR_CORRUPT, "it has no map of memory");
	ENSURE(memory->len_bytes == manifest_gfn_end(m) * PAGE_BYTES, ERR_CORRUPT,
	       "map of memory has %llu bytes, its manifest tells of %llu",
	       (unsigned long long)memory->len_bytes,
	       (unsigned long long)(manifest_gfn_end(m) * PAGE_BYTES));
	uint32_t nmaps = m->nfiles + m->ndisks + 1;
	ENSURE(info->nmaps == nmaps, ERR_CORRUPT, "it has %u maps, its manifest tells of %u",
	       info->nmaps, nmaps);
	for (uint32_t i = 0; i < m->ndisks; i++) {
		const struct manifest_disk *d = &m->disks[i];
		const struct snap_map *map = image_map(img, (const char *)d->map);
		ENSURE(map != NULL && map != memory &&
			       map->len_bytes == disks_map_bytes(d->len_bytes),
		       ERR_CORRUPT, "it has no map of disk %s", (const char *)d->id);
	}
	for (uint32_t i = 0; i < m->nfiles; i++) {
		const struct manifest_file *f = &m->files[i];
		const struct snap_map *map = image_map(img, (const char *)f->name);
		ENSURE(map != NULL && map != memory, ERR_CORRUPT, "it has no map of file %s",
		       (const char *)f->name);
		ENSURE(map->len_bytes == f->len_bytes &&
			       memcmp(map->user, f->sha256, sizeof(f->sha256)) == 0,
		       ERR_CORRUPT, "map and manifest differ about file %s", (const char *)f->name);
	}
	return NULL;
}

/* Every blob is one that the manifest tells of. */
static struct err *check_blob(void *arg, uint16_t kind, uint16_t index)
{
	const struct snap_image *img = arg;
	bool known = false;
	if (kind == SNAP_BLOB_MANIFEST || kind == SNAP_BLOB_CONFIG) {
		known = index == 0;
	} else if (kind == SNAP_BLOB_PART) {
		known = index < img->manifest->nparts;
	}
	ENSURE(known, ERR_CORRUPT, "it has blob %u/%u, of which its manifest knows nothing", kind,
	       index);
	return NULL;
}

static struct err *open_image(struct snap_image *img, struct store *s, const char *ref)
{
	SCOPE(freep) uint8_t *blob = NULL;
	size_t len = 0;
	TRY(store_ref_resolve(s, ref, &img->ref));
	img->have_ref = true;
	TRY(reader_open(img->ref.family, img->ref.snap.id, &img->reader));
	TRY(err_wrap(reader_blob(img->reader, SNAP_BLOB_MANIFEST, 0, &blob, &len), "manifest"));
	img->manifest = malloc(sizeof(*img->manifest));
	ENSURE(img->manifest != NULL, ERR_SYS, "out of memory for the manifest");
	struct err *e = desc_decode(&manifest_desc, 0, blob, len, img->manifest);
	if (e != NULL) {
		free(MOVE(img->manifest)); /* not filled */
		return e;
	}
	manifest_get_host(img->manifest, &img->host);
	TRY(check_maps(img));
	TRY(reader_blobs(img->reader, check_blob, img));
	return err_wrap(
		reader_blob(img->reader, SNAP_BLOB_CONFIG, 0, &img->config, &img->config_len),
		"configuration");
}

struct err *snap_image_open(struct store *s, const char *ref, struct snap_image **ret_img)
{
	SCOPE(snap_image_freep) struct snap_image *img = calloc(1, sizeof(*img));
	ENSURE(img != NULL, ERR_SYS, "out of memory");
	TRY(err_wrap(open_image(img, s, ref), "snapshot %s", ref));
	*ret_img = MOVE(img);
	return NULL;
}

void snap_image_free(struct snap_image *img)
{
	if (img == NULL) {
		return;
	}
	reader_close(img->reader);
	if (img->have_ref) {
		store_ref_done(&img->ref);
	}
	free(img->manifest);
	free(img->config);
	free(img);
}

const struct snap_info *snap_image_info(const struct snap_image *img)
{
	return reader_info(img->reader);
}

const struct store_vm *snap_image_vm(const struct snap_image *img)
{
	return &img->ref.vm;
}

struct bytes snap_image_config(const struct snap_image *img)
{
	return (struct bytes){ img->config, img->config_len };
}

const struct snap_host *snap_image_host(const struct snap_image *img)
{
	return &img->host;
}

static struct err *find_file(const struct snap_image *img, const char *name,
			     const struct manifest_file **ret_file)
{
	const struct manifest_file *f = manifest_find_file(img->manifest, name);
	ENSURE(f != NULL, ERR_NOTFOUND, "the snapshot keeps no file %s", name);
	*ret_file = f;
	return NULL;
}

struct err *snap_image_file_len(const struct snap_image *img, const char *name,
				uint64_t *ret_len_bytes)
{
	const struct manifest_file *f = NULL;
	TRY(find_file(img, name, &f));
	*ret_len_bytes = f->len_bytes;
	return NULL;
}

struct err *snap_image_file(struct snap_image *img, const char *name, struct fd *ret_fd)
{
	const struct manifest_file *f = NULL;
	TRY(find_file(img, name, &f));
	return keep_read(img->reader, f, ret_fd);
}

/* ---- loading ---- */

/* Decoded states beside the parts, one per part of the VM. */
struct sides {
	uint8_t **state;
	size_t n;
};

static void sides_done(struct sides *s)
{
	for (size_t i = 0; i < s->n; i++) {
		free(s->state[i]);
	}
	free(s->state);
}

/* Each part of the VM is there once, and in the snapshot. */
static struct err *match_part(const struct manifest *m, struct snap_part *const *parts, size_t i)
{
	for (size_t k = 0; k < i; k++) {
		ENSURE(strcmp(parts[i]->name, parts[k]->name) != 0 ||
			       parts[i]->instance != parts[k]->instance,
		       ERR_USAGE, "part %s/%u is twice in the VM", parts[i]->name,
		       parts[i]->instance);
	}
	ENSURE(manifest_find_part(m, parts[i]->name, parts[i]->instance) >= 0, ERR_CORRUPT,
	       "part %s/%u of the VM is missing in the snapshot", parts[i]->name,
	       parts[i]->instance);
	return NULL;
}

static struct err *match_saved(const struct manifest_part *p, struct snap_part *const *parts,
			       size_t nparts)
{
	bool known = false;
	for (size_t k = 0; k < nparts && !known; k++) {
		known = parts[k]->instance == p->instance &&
			strcmp(parts[k]->name, (const char *)p->name) == 0;
	}
	ENSURE(known, ERR_CORRUPT, "the snapshot has part %s/%u, which the VM has not",
	       (const char *)p->name, p->instance);
	return NULL;
}

/* The VM's parts and the snapshot's are the same set. */
static void match_all(const struct manifest *m, struct snap_part *const *parts, size_t nparts,
		      const struct findings *f)
{
	for (size_t i = 0; i < nparts; i++) {
		finding(f, "device", match_part(m, parts, i));
	}
	for (uint32_t i = 0; i < m->nparts; i++) {
		finding(f, "device", match_saved(&m->parts[i], parts, nparts));
	}
}

static struct err *match_parts(const struct manifest *m, struct snap_part *const *parts,
			       size_t nparts)
{
	struct err *first = NULL;
	match_all(m, parts, nparts, &(struct findings){ finding_keep_first, &first });
	return first;
}

static struct err *decode_part(struct snap_image *img, const struct snap_part *p, void *side)
{
	SCOPE(freep) uint8_t *blob = NULL;
	size_t len = 0;
	struct desc_head head;
	int index = manifest_find_part(img->manifest, p->name, p->instance);
	BUG_ON(index < 0 || strcmp(p->name, p->desc->name) != 0);
	TRY(err_wrap(reader_blob(img->reader, SNAP_BLOB_PART, (uint16_t)index, &blob, &len),
		     "part %s/%u", p->name, p->instance));
	TRY(err_wrap(desc_peek(blob, len, &head), "part %s/%u", p->name, p->instance));
	ENSURE(head.version == img->manifest->parts[index].version, ERR_CORRUPT,
	       "part %s/%u: version %u in its record, %u in the manifest", p->name, p->instance,
	       head.version, img->manifest->parts[index].version);
	return desc_decode(p->desc, p->instance, blob, len, side);
}

static struct err *decode_all(struct snap_image *img, struct snap_part *const *parts, size_t nparts,
			      struct sides *sides)
{
	sides->state = calloc(nparts, sizeof(*sides->state));
	ENSURE(sides->state != NULL, ERR_SYS, "out of memory");
	sides->n = nparts;
	for (size_t i = 0; i < nparts; i++) {
		sides->state[i] = calloc(1, parts[i]->desc->size);
		ENSURE(sides->state[i] != NULL, ERR_SYS, "out of memory");
		TRY(decode_part(img, parts[i], sides->state[i]));
		if (parts[i]->ops->check != NULL) {
			TRY(parts[i]->ops->check(parts[i]->self, sides->state[i]));
		}
	}
	return NULL;
}

static struct err *commit_all(struct snap_part *const *parts, size_t nparts,
			      const struct sides *sides)
{
	SCOPE(freep) struct snap_part **order = NULL;
	TRY(quiesce_sort(parts, nparts, true, &order));
	for (size_t i = 0; i < nparts; i++) {
		memcpy(parts[i]->state, sides->state[i], parts[i]->desc->size);
	}
	for (size_t i = 0; i < nparts; i++) {
		TRY(err_wrap(order[i]->ops->commit(order[i]->self), "setting the state of %s/%u",
			     order[i]->name, order[i]->instance));
	}
	return NULL;
}

/* Everything but memory, before anything is changed. */
static struct err *decode(struct snap_image *img, const struct gmem *gmem,
			  struct snap_part *const *parts, size_t nparts, struct sides *sides)
{
	TRY(match_parts(img->manifest, parts, nparts));
	TRY(manifest_match_regions(img->manifest, gmem));
	return decode_all(img, parts, nparts, sides);
}

/* What a reboot will need is looked at while refusing costs nothing. */
static struct err *check_files(struct snap_image *img)
{
	for (uint32_t i = 0; i < img->manifest->nfiles; i++) {
		TRY(keep_check(img->reader, &img->manifest->files[i], NULL));
	}
	return NULL;
}

static struct err *load(struct snap_image *img, struct gmem *gmem, struct snap_part *const *parts,
			size_t nparts, const struct snap_load_opts *opts)
{
	SCOPE(sides_done) struct sides sides = { 0 };
	TRY(decode(img, gmem, parts, nparts, &sides));
	if (opts->present != NULL) {
		const struct pages_present present = { opts->present->reader, opts->changed };
		TRY(pages_load_diff(img->reader, gmem, false, &present, &opts->progress,
				    opts->ret_written));
	} else if (!opts->lazy) {
		TRY(opts->placed ? NULL : pages_load(img->reader, gmem, &opts->progress));
		TRY(check_files(img));
	}
	return commit_all(parts, nparts, &sides);
}

static struct err *about(const struct snap_image *img, struct err *e)
{
	return err_wrap(e, "snapshot %llu of %s", (unsigned long long)img->ref.snap.number,
			img->ref.vm.name);
}

static struct err *check(struct snap_image *img, const struct gmem *gmem,
			 struct snap_part *const *parts, size_t nparts)
{
	SCOPE(sides_done) struct sides sides = { 0 };
	TRY(decode(img, gmem, parts, nparts, &sides));
	return check_files(img);
}

struct err *snap_image_check(struct snap_image *img, struct gmem *gmem,
			     struct snap_part *const *parts, size_t nparts)
{
	return about(img, check(img, gmem, parts, nparts));
}

struct err *snap_image_check_diff(struct snap_image *img, struct snap_image *present,
				  struct gmem *gmem, const struct snap_progress *progress,
				  uint64_t *ret_pages)
{
	const struct pages_present p = { present->reader, NULL };
	return about(img, pages_load_diff(img->reader, gmem, true, &p, progress, ret_pages));
}

struct err *snap_image_load(struct snap_image *img, struct gmem *gmem,
			    struct snap_part *const *parts, size_t nparts,
			    const struct snap_load_opts *opts)
{
	return about(img, load(img, gmem, parts, nparts, opts));
}

/* ---- asking first ---- */

static void probe_part(struct snap_image *img, struct snap_part *p, const struct findings *f)
{
	if (manifest_find_part(img->manifest, p->name, p->instance) < 0) {
		return; /* told by match_all */
	}
	SCOPE(freep) void *side = calloc(1, p->desc->size);
	struct err *e = side != NULL ? decode_part(img, p, side) : ERR(ERR_SYS, "out of memory");
	if (e != NULL) {
		finding(f, "state", e);
		return;
	}
	if (p->ops->probe != NULL) {
		memcpy(p->state, side, p->desc->size);
		p->ops->probe(p->self, f);
	}
}

void snap_image_probe(struct snap_image *img, struct gmem *gmem, struct snap_part *const *parts,
		      size_t nparts, const struct findings *f)
{
	SCOPE(freep) struct snap_part **order = NULL;
	match_all(img->manifest, parts, nparts, f);
	finding(f, "memory", manifest_match_regions(img->manifest, gmem));
	finding(f, "state", quiesce_sort(parts, nparts, true, &order));
	for (size_t i = 0; order != NULL && i < nparts; i++) {
		probe_part(img, order[i], f);
	}
}
