/* SPDX-License-Identifier: Apache-2.0 */
/* Checked reads of a kernel or initrd file. See boot_file.h. */
#include "core/boot_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/base/io.h"

struct err *boot_file_init(const char *name, int fd, uint64_t max_bytes, struct boot_file *ret_file)
{
	struct boot_file f = { .name = name, .fd = fd };
	struct err *e = io_size(fd, &f.size);
	if (e != NULL) {
		return err_wrap(e, "%s", name);
	}
	ENSURE(f.size > 0, ERR_CORRUPT, "%s: the file is empty", name);
	ENSURE(f.size <= max_bytes, ERR_LIMIT,
	       "%s: %" PRIu64 " bytes, at most %" PRIu64 " are read", name, f.size, max_bytes);
	*ret_file = f;
	return NULL;
}

void boot_file_done(struct boot_file *f)
{
	free(f->mem);
	f->mem = NULL;
}

struct err *boot_file_check(const struct boot_file *f, uint64_t off, uint64_t len, const char *fmt,
			    ...)
{
	if (off <= f->size && len <= f->size - off) {
		return NULL;
	}
	char thing[128];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(thing, sizeof(thing), fmt, ap);
	va_end(ap);
	uint64_t end;
	if (ADD_OVERFLOWS(off, len, &end)) {
		return ERR(ERR_CORRUPT,
			   "%s: %s of %" PRIu64 " bytes at byte %" PRIu64
			   " ends beyond 64-bit offsets",
			   f->name, thing, len, off);
	}
	return ERR(ERR_CORRUPT, "%s: %s ends at byte %" PRIu64 " of %" PRIu64, f->name, thing, end,
		   f->size);
}

struct err *boot_file_read(const struct boot_file *f, uint64_t off, void *ret, size_t len)
{
	TRY(boot_file_check(f, off, len, "truncated file: data"));
	if (f->mem != NULL) {
		memcpy(ret, f->mem + off, len);
		return NULL;
	}
	/* May still fail when somebody shortens the file while we read it. */
	struct err *e = io_pread_full(f->fd, ret, len, off);
	return e == NULL ? NULL : err_wrap(e, "%s", f->name);
}
