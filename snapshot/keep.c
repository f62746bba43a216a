/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kept files in and out of the store. See keep.h.
 *
 * A host file is read with pread into a buffer of ours, never mapped: a file that is cut short
 * while it is read is an error then, not a signal. It is read twice (digest, content); the digest
 * is taken again with the second reading, so a file that changed between is found out.
 */
#include "snapshot/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "snapshot/image.h"
#include "snapshot/pages.h"

enum {
	BUFFER_BYTES = 8 * 1024 * 1024, /* several compressors have work between two settles */
	CHUNK_BYTES = 2 * 1024 * 1024,
};

/* Called with each piece of the file; off is a multiple of BUFFER_BYTES. */
typedef struct err *piece_fn(void *arg, uint64_t off, uint8_t *p, size_t len);

static struct err *read_pieces(const struct snap_file *file, const bool *cancel, piece_fn *fn,
			       void *arg, struct sha256 *ret_digest)
{
	SCOPE(freep) uint8_t *buf = malloc(BUFFER_BYTES);
	SCOPE(sha256_freep) struct sha256_ctx *sha = sha256_new();
	ENSURE(buf != NULL && sha != NULL, ERR_SYS, "out of memory");
	for (uint64_t off = 0; off < file->len_bytes;) {
		size_t n = (size_t)MIN(file->len_bytes - off, (uint64_t)BUFFER_BYTES);
		TRY(pages_check_cancel(cancel));
		TRY(io_pread_full(file->fd, buf, n, off));
		sha256_update(sha, buf, n);
		if (fn != NULL) {
			TRY(fn(arg, off, buf, n));
		}
		off += n;
	}
	*ret_digest = sha256_final(sha);
	return NULL;
}

static const struct snap_map *find_map(const struct snap_info *info, const char *name)
{
	for (uint32_t i = 0; i < info->nmaps && i < STORE_MAPS_MAX; i++) {
		if (strcmp(info->maps[i].name, name) == 0) {
			return &info->maps[i];
		}
	}
	return NULL;
}

/* Newest snapshot of the family that keeps the same file; 0 if there is none. */
static struct err *find_same(struct family *f, const struct manifest_file *want, uint64_t *ret_snap)
{
	SCOPE(freep) struct snap_info *infos = NULL;
	size_t n = 0;
	uint64_t found = 0;
	TRY(family_snaps(f, &infos, &n));
	for (size_t i = 0; i < n; i++) {
		const struct snap_map *map = find_map(&infos[i], (const char *)want->name);
		if (map != NULL && map->len_bytes == want->len_bytes &&
		    memcmp(map->user, want->sha256, sizeof(map->user)) == 0) {
			found = MAX(found, infos[i].id);
		}
	}
	*ret_snap = found;
	return NULL;
}

static struct err *plan_host_file(struct family *f, const struct snap_file *file,
				  const bool *cancel, struct manifest_file *mf, uint64_t *ret_snap)
{
	struct sha256 digest;
	mf->len_bytes = file->len_bytes;
	ENSURE(file->len_bytes > 0 && file->len_bytes <= INITRD_BYTES_MAX, ERR_LIMIT,
	       "%llu bytes, 1..%llu can be kept", (unsigned long long)file->len_bytes,
	       INITRD_BYTES_MAX);
	TRY(read_pieces(file, cancel, NULL, NULL, &digest));
	memcpy(mf->sha256, digest.b, sizeof(mf->sha256));
	return find_same(f, mf, ret_snap);
}

/* The store may list the image's snapshot no more (removed under the image's lease). */
static struct err *plan_stored_file(const struct snap_vm *vm, const struct snap_file *file,
				    struct manifest_file *mf, uint64_t *ret_snap)
{
	const struct snap_image *img = file->image;
	const struct manifest_file *kept = manifest_find_file(img->manifest, file->name);
	ENSURE(kept != NULL, ERR_NOTFOUND,
	       "the snapshot that %s was restored from does not keep it", vm->name);
	ENSURE(memcmp(img->ref.vm.family, vm->family, sizeof(vm->family)) == 0, ERR_NOT_NOW,
	       "the snapshot that keeps it is of another family than %s", vm->name);
	mf->len_bytes = kept->len_bytes;
	memcpy(mf->sha256, kept->sha256, sizeof(mf->sha256));
	*ret_snap = img->ref.snap.id;
	return NULL;
}

struct err *keep_plan(struct family *f, const struct snap_vm *vm, const bool *cancel,
		      struct manifest *m, struct keep_plan *ret_plan)
{
	struct keep_plan plan = { 0 };
	ENSURE(vm->nfiles <= MANIFEST_FILES_MAX, ERR_LIMIT, "%zu files to keep, %u are possible",
	       vm->nfiles, MANIFEST_FILES_MAX);
	for (size_t i = 0; i < vm->nfiles; i++) {
		const struct snap_file *file = &vm->files[i];
		struct manifest_file *mf = &m->files[i];
		uint64_t share = 0;
		manifest_text(mf->name, sizeof(mf->name), file->name);
		if (file->image != NULL) {
			TRY(err_wrap(plan_stored_file(vm, file, mf, &share), "file %s",
				     file->name));
		} else {
			TRY(err_wrap(plan_host_file(f, file, cancel, mf, &share), "file %s",
				     file->name));
		}
		plan.items[i].file = file;
		plan.items[i].share_snap = share;
		plan.write_bytes += share == 0 ? mf->len_bytes : 0;
	}
	plan.nitems = vm->nfiles;
	m->nfiles = (uint32_t)vm->nfiles;
	*ret_plan = plan;
	return NULL;
}

struct write_state {
	struct session *session;
	const struct snap_progress *progress;
	uint64_t total;
};

static struct err *queue_piece(struct session *s, uint64_t off, const uint8_t *p, size_t padded)
{
	for (size_t at = 0; at < padded; at += CHUNK_BYTES) {
		size_t n = MIN(padded - at, (size_t)CHUNK_BYTES);
		TRY(session_map_pages(s, (off + at) / PAGE_BYTES, p + at, n / PAGE_BYTES));
	}
	return NULL;
}

/*
 * The buffer is used again or freed when this returns, so it settles at its end, also after an
 * error: compressors may still read what was queued before it.
 */
static struct err *write_piece(void *arg, uint64_t off, uint8_t *p, size_t len)
{
	struct write_state *st = arg;
	size_t padded = (size_t)round_up_u64(len, PAGE_BYTES);
	memset(p + len, 0, padded - len); /* BUFFER_BYTES is a multiple of PAGE_BYTES */
	struct err *e = queue_piece(st->session, off, p, padded);
	TRY(err_first(e, session_settle(st->session)));
	if (st->progress->fn != NULL) {
		st->progress->fn(st->progress->arg, "files", off + len, st->total);
	}
	return NULL;
}

static struct err *write_file(const struct snap_file *file, const struct manifest_file *mf,
			      struct session *s, const bool *cancel,
			      const struct snap_progress *progress)
{
	struct write_state st = { .session = s, .progress = progress, .total = mf->len_bytes };
	struct sha256 digest;
	TRY(session_map_begin(s, file->name, mf->len_bytes, mf->sha256));
	TRY(read_pieces(file, cancel, write_piece, &st, &digest));
	ENSURE(memcmp(digest.b, mf->sha256, sizeof(digest.b)) == 0, ERR_NOT_NOW,
	       "it changed while it was read: take again");
	return session_map_end(s);
}

struct err *keep_write(const struct keep_plan *plan, struct session *s, const struct manifest *m,
		       const bool *cancel, const struct snap_progress *progress)
{
	for (size_t i = 0; i < plan->nitems; i++) {
		const struct snap_file *file = plan->items[i].file;
		uint64_t share = plan->items[i].share_snap;
		struct err *e = NULL;
		if (share != 0) {
			e = session_map_share(s, share, file->name);
			if (e != NULL && err_class(e) == ERR_NOTFOUND && file->image == NULL) {
				err_drop(e, "removed since the plan; the host has the file");
				share = 0;
				e = NULL;
			}
		}
		if (e == NULL && share == 0) {
			e = write_file(file, &m->files[i], s, cancel, progress);
		}
		TRY(err_wrap(e, "file %s", file->name));
	}
	return NULL;
}

/* ---- the way out ---- */

struct read_state {
	int fd;
	uint64_t len_bytes;
};

static struct err *place_file(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	const struct read_state *st = arg;
	uint64_t all = round_up_u64(st->len_bytes, PAGE_BYTES) / PAGE_BYTES;
	ENSURE(index < all && npages <= all - index, ERR_CORRUPT,
	       "page 0x%llx lies past the end of the file", (unsigned long long)index);
	uint64_t off = index * PAGE_BYTES;
	uint64_t n = MIN(npages * PAGE_BYTES, st->len_bytes - off);
	return io_pwrite_full(st->fd, pages, (size_t)n, off);
}

struct look_state {
	uint64_t all;
	const bool *cancel;
};

static struct err *look_only(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	(void)pages;
	const struct look_state *st = arg;
	TRY(pages_check_cancel(st->cancel));
	ENSURE(index < st->all && npages <= st->all - index, ERR_CORRUPT,
	       "page 0x%llx lies past the end of the file", (unsigned long long)index);
	return NULL;
}

struct err *keep_check(struct reader *r, const struct manifest_file *file, const bool *cancel)
{
	const char *name = (const char *)file->name;
	struct look_state st = {
		.all = round_up_u64(file->len_bytes, PAGE_BYTES) / PAGE_BYTES,
		.cancel = cancel,
	};
	/* Whoever can cancel has a thread of its own, which is meant to stand back. */
	struct read_opts opts = {
		.workers = cancel != NULL ? 1 : 0,
		.place = look_only,
		.arg = &st,
	};
	return err_wrap(reader_map_read(r, name, &opts), "file %s", name);
}

struct err *keep_read(struct reader *r, const struct manifest_file *file, struct fd *ret_fd)
{
	const char *name = (const char *)file->name;
	SCOPE(fd_close) struct fd fd = { memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING) };
	if (fd.n < 0) {
		return ERR_ERRNO("memory for file %s", name);
	}
	if (ftruncate(fd.n, (off_t)file->len_bytes) != 0) {
		return ERR_ERRNO("%llu bytes of memory for file %s",
				 (unsigned long long)file->len_bytes, name);
	}
	struct read_state st = { .fd = fd.n, .len_bytes = file->len_bytes };
	struct read_opts opts = { .place = place_file, .arg = &st };
	TRY(err_wrap(reader_map_read(r, name, &opts), "file %s", name));
	/* Sealed first, so that what is digested is what the caller gets. */
	if (fcntl(fd.n, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) !=
	    0) {
		return ERR_ERRNO("sealing file %s", name);
	}
	const struct snap_file copy = { .fd = fd.n, .len_bytes = file->len_bytes };
	struct sha256 digest;
	TRY(err_wrap(read_pieces(&copy, NULL, NULL, NULL, &digest), "file %s", name));
	ENSURE(memcmp(digest.b, file->sha256, sizeof(digest.b)) == 0, ERR_CORRUPT,
	       "file %s: its SHA-256 differs from the one kept with it", name);
	*ret_fd = fd_move(&fd);
	return NULL;
}
