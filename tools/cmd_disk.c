/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor disk export`: a captured disk of a snapshot as a raw file. Called by main. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/config.h"
#include "core/disk_layer.h"
#include "snapshot/snapshot.h"
#include "tools/cmd.h"
#include "tools/opts.h"
#include "tools/out.h"
#include "tools/storecmd.h"

static const char about[] =
	"Writes a disk as it was at a snapshot to a raw file: what the snapshot holds of it over "
	"the\n"
	"file that the VM was given. Zeros become holes. FILE appears under its name when it is "
	"whole\n"
	"and durable. ID is the disk's name: the one given by id=, or disk0, disk1...";

struct out_disk {
	struct disk_reader *in;
	struct snap_disk_info info;
	int base; /* -1: none of it is seen */
	int fd;
	struct bits held;
	struct progress *progress;
	uint64_t written;
};

static void on_held(void *arg, uint64_t first, uint64_t bits)
{
	struct out_disk *o = arg;
	o->held.w[first / 64] |= bits;
}

static bool all_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static struct err *put(struct out_disk *o, uint64_t block, const uint8_t *p)
{
	uint64_t at = block * PAGE_BYTES;
	size_t n = (size_t)MIN(o->info.len_bytes - at, (uint64_t)PAGE_BYTES);
	if (all_zero(p, n)) {
		return NULL;
	}
	o->written += n;
	return io_pwrite_full(o->fd, p, n, at);
}

/* The next block at or after `block`, before `end`, for which the base has something. */
static uint64_t skip_holes(const struct out_disk *o, uint64_t block, uint64_t end)
{
	off_t data = o->base >= 0 && block * PAGE_BYTES < o->info.base_end
			     ? lseek(o->base, (off_t)(block * PAGE_BYTES), SEEK_DATA)
			     : -1;
	if (data >= 0) {
		return MIN(MAX(block, (uint64_t)data / PAGE_BYTES), end);
	}
	bool unknown = o->base >= 0 && block * PAGE_BYTES < o->info.base_end && errno != ENXIO;
	return unknown ? block : end; /* a block device does not tell */
}

static struct err *copy_base(struct out_disk *o, uint64_t block, uint64_t end)
{
	for (uint64_t b = skip_holes(o, block, end); b < end; b = skip_holes(o, b + 1, end)) {
		uint8_t buf[PAGE_BYTES] = { 0 };
		uint64_t at = b * PAGE_BYTES;
		uint64_t n = MIN(o->info.base_end - at, (uint64_t)PAGE_BYTES);
		TRY(io_pread_full(o->base, buf, (size_t)n, at));
		TRY(put(o, b, buf));
	}
	return NULL;
}

static struct err *copy_all(struct out_disk *o)
{
	uint64_t n = o->held.n;
	uint64_t b = 0;
	while (b < n) {
		uint64_t next = bits_next(&o->held, b);
		TRY(copy_base(o, b, next));
		if (next >= n) {
			break;
		}
		struct piece p;
		TRY(disk_reader_piece(o->in, next, &p));
		b = next;
		while (b < n && b < p.first + p.npages && bit_get(&o->held, b)) {
			TRY(put(o, b, p.pages + (b - p.first) * PAGE_BYTES));
			b++;
		}
		progress_show(o->progress, "disk", b * PAGE_BYTES, o->info.len_bytes);
	}
	return NULL;
}

/* What the VM was given, unless another path is; it is to be what it was. */
static struct err *open_base(const struct snap_image *img, const struct snap_disk_info *info,
			     const char *path, bool accept, struct fd *ret)
{
	SCOPE(config_done) struct config c = { 0 };
	const struct bytes text = snap_image_config(img);
	if (info->base_end == 0) {
		return NULL;
	}
	TRY(config_parse(text.p, text.len, &c));
	const struct config_dev *d = config_dev_find(&c.devs, info->id);
	ENSURE(path != NULL || d != NULL, ERR_NOTFOUND, "give the file below it with --base");
	const char *from = path != NULL ? path : d->path;
	TRY(io_open(from, O_RDONLY | O_NONBLOCK, 0, ret));
	struct stat st;
	uint64_t bytes = 0;
	if (fstat(ret->n, &st) != 0) {
		return ERR_ERRNO("'%s'", from);
	}
	ENSURE(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode), ERR_USAGE,
	       "'%s' is neither a regular file nor a block device", from);
	TRY(io_size(ret->n, &bytes));
	uint64_t mtime = (uint64_t)st.st_mtim.tv_sec * 1000000000ull + (uint64_t)st.st_mtim.tv_nsec;
	bool same = bytes == info->base_bytes && S_ISREG(st.st_mode) == info->base_is_file &&
		    (!info->base_is_file || mtime == info->base_mtime_ns);
	ENSURE(same || accept, ERR_NOT_NOW,
	       "'%s' is not what it was at the snapshot: --disk-changed=accept takes it as it is",
	       from);
	ENSURE(bytes >= info->base_end, ERR_INCOMPAT, "'%s' has become too short: %llu bytes", from,
	       (unsigned long long)bytes);
	return NULL;
}

static struct err *write_file(struct out_disk *o, const char *file)
{
	char part[4096];
	int n = snprintf(part, sizeof(part), "%s.part", file);
	ENSURE(n > 0 && (size_t)n < sizeof(part), ERR_USAGE, "path too long: %.64s...", file);
	SCOPE(fd_close) struct fd fd = FD_NONE;
	TRY(io_open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600, &fd));
	o->fd = fd.n;
	struct err *e = ftruncate(fd.n, (off_t)o->info.len_bytes) == 0
				? copy_all(o)
				: ERR_ERRNO("%llu bytes", (unsigned long long)o->info.len_bytes);
	e = e != NULL ? e : io_sync_file(fd.n);
	if (e == NULL && rename(part, file) < 0) {
		e = ERR_ERRNO("naming it");
	}
	if (e != NULL) {
		unlink(part);
	}
	return err_wrap(e, "'%s'", file);
}

static UNUSED void out_disk_done(struct out_disk *o)
{
	disk_reader_free(o->in);
	bits_done(&o->held);
}

struct err *cmd_disk_export(struct args *a, int *ret_status)
{
	(void)ret_status;
	const char *base = NULL;
	const char *changed = "refuse";
	const struct opt opts[] = {
		{ "base", "PATH", OPT_TEXT, &base,
		  "where the file below the disk is now; default: where it was" },
		{ "disk-changed", "refuse|accept", OPT_CHOICE, &changed,
		  "what to do if that file is not as it was" },
	};
	TRY(opts_parse(a, about, opts, ARRAY_LEN(opts), 3, 3));
	if (a->help) {
		return NULL;
	}
	const char *ref = a->pos[0], *id = a->pos[1], *file = a->pos[2];
	SCOPE(store_closep) struct store *s = NULL;
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	SCOPE(progress_freep) struct progress *progress = progress_new();
	SCOPE(fd_close) struct fd base_fd = FD_NONE;
	SCOPE(out_disk_done) struct out_disk o = { .progress = progress };
	TRY(storecmd_open(a, STORE_WRITE, &s)); /* for the lease */
	TRY(snap_image_open(s, ref, &img));
	TRY(snap_image_disk_find(img, id, &o.info));
	TRY(err_wrap(open_base(img, &o.info, base, strcmp(changed, "accept") == 0, &base_fd),
		     "disk '%s'", id));
	o.base = base_fd.n;
	TRY(disk_reader_new(img, id, &o.in));
	TRY(bits_init(&o.held, round_up_u64(o.info.len_bytes, PAGE_BYTES) / PAGE_BYTES));
	TRY(disk_reader_held(o.in, on_held, &o));
	TRY(write_file(&o, file));
	if (a->json) {
		return out_json(json_pack("{s:s,s:s,s:s,s:I,s:I}", "ref", ref, "disk", id, "file",
					  file, "bytes", (json_int_t)o.info.len_bytes,
					  "bytes_written", (json_int_t)o.written));
	}
	char text[16];
	printf("%s: %s\n", file, out_size(o.info.len_bytes, text));
	return NULL;
}
