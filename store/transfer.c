/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exporting a snapshot to a stream and importing one. Implements store_export and store_import of
 * store.h; any thread.
 *
 * An import writes only what a session makes of decoded pages and blobs, and publishes only if the
 * root over all of it is the one that the stream's head names. Until then nothing is listed. A few
 * bytes of a stream can stand for any number of pages, so each map's size is held against a limit
 * before its first page is looked at.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/io.h"
#include "store/family.h"
#include "store/stream.h"

enum {
	SETTLE_PAGES = 2048, /* 8 MiB of pages are gathered before they are packed */
};

/* ---- export ---- */

struct exporting {
	struct reader *r;
	struct stream_out out;
	int fd;
	const struct transfer_opts *opts;
	uint64_t bytes;
};

static struct err *fd_write(void *arg, const void *p, size_t len)
{
	struct exporting *x = arg;
	x->bytes += len;
	return io_write_full(x->fd, p, len);
}

static struct err *export_pieces(struct exporting *x, struct piece_reader *r,
				 const struct snap_map *map)
{
	uint64_t npages = map->len_bytes / PAGE_BYTES + (map->len_bytes % PAGE_BYTES != 0);
	for (uint64_t at = 0; at < npages; at += STORE_PIECE_PAGES) {
		struct piece p;
		TRY(piece_read(r, at, &p));
		if (p.nzero < p.npages) {
			TRY(stream_put_pages(&x->out, p.first, p.pages, p.npages));
		}
		if (x->opts->progress != NULL && at % SETTLE_PAGES == 0) {
			x->opts->progress(x->opts->arg, at * PAGE_BYTES, map->len_bytes);
		}
	}
	return NULL;
}

static struct err *export_map(struct exporting *x, const struct snap_map *map)
{
	SCOPE(piece_reader_freep) struct piece_reader *r = NULL;
	TRY(stream_put_map(&x->out, map));
	TRY(piece_reader_new(x->r, map->name, &r));
	return err_wrap(export_pieces(x, r, map), "map %s", map->name);
}

static struct err *export_blob(void *arg, uint16_t kind, uint16_t index)
{
	struct exporting *x = arg;
	SCOPE(freep) uint8_t *p = NULL;
	size_t len;
	TRY(reader_blob(x->r, kind, index, &p, &len));
	return stream_put_blob(&x->out, kind, index, p, len);
}

static struct err *export_all(struct exporting *x, const struct store_vm *vm)
{
	const struct snap_info *info = reader_info(x->r);
	struct stream_head h = { .info = *info };
	snprintf(h.name, sizeof(h.name), "%s", vm->name);
	memcpy(h.family, vm->family, sizeof(h.family));
	TRY(stream_out_init(&x->out));
	x->out.write = fd_write;
	x->out.arg = x;
	TRY(stream_put_head(&x->out, &h));
	for (uint32_t i = 0; i < info->nmaps; i++) {
		TRY(export_map(x, &info->maps[i]));
	}
	TRY(reader_blobs(x->r, export_blob, x));
	return stream_put_end(&x->out);
}

struct err *store_export(struct store *s, const char *ref, int fd, const struct transfer_opts *opts,
			 uint64_t *ret_bytes)
{
	struct store_ref r;
	TRY(store_ref_resolve(s, ref, &r));
	struct exporting x = { .fd = fd, .opts = opts };
	struct err *e = reader_open(r.family, r.snap.id, &x.r);
	if (e == NULL) {
		e = export_all(&x, &r.vm);
	}
	stream_out_done(&x.out);
	reader_close(x.r);
	store_ref_done(&r);
	TRY(e);
	*ret_bytes = x.bytes;
	return NULL;
}

/* ---- import ---- */

struct importing {
	struct store *s;
	const struct transfer_opts *opts;
	int fd;
	uint64_t bytes;
	struct store_vm vm;
	bool fresh;      /* the VM is not in the store yet */
	bool registered; /* by this import */
	struct family *f;
	struct session *session;
	struct snap_meta meta;
	struct sha256 root;
	bool map_open;
	uint64_t map_bytes;
	uint64_t claimed_bytes; /* of maps and blobs, so far */
	uint64_t room_bytes;    /* on the disk, at the beginning */
	/* Pages that wait to be packed: runs of them, in memory that lasts until the next settle.
	 */
	uint8_t *buf; /* owned: SETTLE_PAGES */
	uint64_t nbuf;
};

static struct err *fd_read(void *arg, void *buf, size_t cap, size_t *ret_len)
{
	struct importing *x = arg;
	for (;;) {
		ssize_t n = read(x->fd, buf, cap);
		if (n >= 0) {
			*ret_len = (size_t)n;
			x->bytes += (uint64_t)n;
			return NULL;
		}
		if (errno != EINTR) {
			return ERR_ERRNO("reading the stream");
		}
	}
}

/* Who it is here: a VM of that uuid, or a new one under a name that nobody has. */
static struct err *find_vm(struct importing *x, const struct stream_head *h)
{
	bool found;
	TRY(store_vm_by_uuid(x->s, h->info.vm, &found, &x->vm));
	if (found) {
		ENSURE(x->opts->name == NULL, ERR_NOT_NOW,
		       "VM %s is in the store already; it cannot get another name by an import",
		       x->vm.name);
		return NULL;
	}
	struct store_vm other;
	x->vm = (struct store_vm){ .created_ns = clock_real_ns() };
	memcpy(x->vm.uuid, h->info.vm, sizeof(x->vm.uuid));
	memcpy(x->vm.family, h->family, sizeof(x->vm.family));
	snprintf(x->vm.name, sizeof(x->vm.name), "%s",
		 x->opts->name != NULL ? x->opts->name : h->name);
	TRY(store_vm_by_name(x->s, x->vm.name, &found, &other));
	ENSURE(!found, ERR_NOT_NOW,
	       "the name %s belongs to another VM of the store: give one with --name", x->vm.name);
	x->fresh = true;
	return NULL;
}

static struct err *claim(struct importing *x, uint64_t bytes)
{
	uint64_t max = x->opts->max_bytes;
	bool over = ADD_OVERFLOWS(x->claimed_bytes, bytes, &x->claimed_bytes);
	unsigned long long mib = x->claimed_bytes / MIB;
	ENSURE(max == 0 || (!over && x->claimed_bytes <= max), ERR_LIMIT,
	       "the stream is for %llu MiB of memory and state or more, at most %llu are allowed "
	       "(--max-size)",
	       mib, (unsigned long long)(max / MIB));
	ENSURE(max != 0 || (!over && x->claimed_bytes <= x->room_bytes), ERR_NOSPACE,
	       "the stream is for %llu MiB of memory and state or more, the disk has %llu free: "
	       "make room, or if most of it is empty say what is allowed with --max-size",
	       mib, (unsigned long long)(x->room_bytes / MIB));
	return NULL;
}

static struct err *on_head(void *arg, const struct stream_head *h)
{
	struct importing *x = arg;
	TRY(find_vm(x, h));
	TRY(family_check_tag(h->info.tag));
	TRY(family_open(x->s, x->vm.family, true, &x->f));
	struct lenv_space sp;
	TRY(lenv_space(x->f->env, &sp));
	x->room_bytes = sp.disk_free_bytes + sp.backed_bytes;
	TRY(session_open(x->f, &(struct session_opts){ 0 }, &x->session));
	memcpy(x->meta.vm, h->info.vm, sizeof(x->meta.vm));
	snprintf(x->meta.tag, sizeof(x->meta.tag), "%s", h->info.tag);
	x->meta.frozen_at_ns = h->info.frozen_at_ns;
	x->meta.number = h->info.number;
	x->root = h->info.root;
	x->meta.root = &x->root;
	return NULL;
}

static struct err *end_map(struct importing *x)
{
	if (!x->map_open) {
		return NULL;
	}
	x->map_open = false;
	TRY(session_map_end(x->session));
	x->nbuf = 0;
	return session_settle(x->session);
}

static struct err *on_map(void *arg, const struct snap_map *m)
{
	struct importing *x = arg;
	TRY(end_map(x));
	TRY(claim(x, m->len_bytes));
	TRY(session_map_begin(x->session, m->name, m->len_bytes, m->user));
	x->map_open = true;
	x->map_bytes = m->len_bytes;
	return NULL;
}

static struct err *on_pages(void *arg, uint64_t index, const uint8_t *pages, uint64_t npages)
{
	struct importing *x = arg;
	BUG_ON(npages > SETTLE_PAGES);
	if (x->nbuf + npages > SETTLE_PAGES) {
		TRY(session_settle(x->session));
		x->nbuf = 0;
		if (x->opts->progress != NULL) {
			x->opts->progress(x->opts->arg, index * PAGE_BYTES, x->map_bytes);
		}
	}
	uint8_t *to = x->buf + x->nbuf * PAGE_BYTES;
	memcpy(to, pages, npages * PAGE_BYTES);
	x->nbuf += npages;
	return session_map_pages(x->session, index, to, npages);
}

static struct err *on_blob(void *arg, uint16_t kind, uint16_t index, const uint8_t *p, size_t len)
{
	struct importing *x = arg;
	TRY(end_map(x));
	TRY(claim(x, len));
	return session_blob(x->session, kind, index, p, len);
}

static struct err *import_all(struct importing *x, struct snap_info *ret_info)
{
	struct stream_in in = {
		.read = fd_read,
		.head = on_head,
		.map = on_map,
		.pages = on_pages,
		.blob = on_blob,
		.arg = x,
	};
	x->buf = malloc((size_t)SETTLE_PAGES * PAGE_BYTES);
	ENSURE(x->buf != NULL, ERR_SYS, "out of memory");
	TRY(stream_decode(&in));
	TRY(end_map(x));
	/* A VM without a snapshot is no harm; a snapshot without its VM could not be named. */
	if (x->fresh) {
		TRY(store_vm_put(x->s, &x->vm));
		x->registered = true;
	}
	return session_publish(x->session, &x->meta, ret_info);
}

/* Another import of the same VM may have succeeded meanwhile. */
static struct err *unregister(struct importing *x)
{
	SCOPE(freep) struct snap_info *list = NULL;
	size_t n;
	TRY(family_snaps(x->f, &list, &n));
	for (size_t i = 0; i < n; i++) {
		if (memcmp(list[i].vm, x->vm.uuid, sizeof(x->vm.uuid)) == 0) {
			return NULL;
		}
	}
	return store_vm_forget(x->s, x->vm.uuid);
}

struct err *store_import(struct store *s, int fd, const struct transfer_opts *opts,
			 struct store_vm *ret_vm, struct snap_info *ret_info, uint64_t *ret_bytes)
{
	struct importing x = { .s = s, .fd = fd, .opts = opts };
	struct err *e = import_all(&x, ret_info);
	session_free(x.session);
	if (e != NULL && x.registered) {
		err_drop(unregister(&x), "a name without a snapshot stays");
	}
	family_close(x.f);
	free(x.buf);
	if (e != NULL && x.fresh) {
		err_drop(family_remove_empty(s, x.vm.family), "an empty directory stays");
	}
	TRY(e);
	x.vm.holds_name = x.fresh || x.vm.holds_name;
	*ret_vm = x.vm;
	*ret_bytes = x.bytes;
	return NULL;
}
