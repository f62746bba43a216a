/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trace that recorder.c writes and replay.c reads: one head per operation on files below
 * CRASH_DIR, in the order in which they took effect, each followed by its paths and bytes.
 */
#ifndef TORPOR_TEST_CRASH_TRACE_H
#define TORPOR_TEST_CRASH_TRACE_H

#include <stdint.h>

enum trace_op {
	TRACE_OPEN = 1, /* handle, path; arg: flags of open; made: this call created the file */
	TRACE_CLOSE,    /* handle */
	TRACE_WRITE,    /* handle, off, bytes; made: through an O_DSYNC or O_SYNC descriptor */
	TRACE_SYNC,     /* handle: fsync or fdatasync returned */
	TRACE_TRUNCATE, /* handle, off: the new length */
	TRACE_MKDIR,    /* path */
	TRACE_RENAME,   /* path, second path in the bytes */
	TRACE_LINK,     /* path, second path in the bytes */
	TRACE_UNLINK,   /* path; also rmdir */
	TRACE_MAPPED,   /* handle: a shared writable map, whose stores nobody sees */
	TRACE_MARK,     /* off: kind, arg: number; made by scenario.c */
};

struct trace_head {
	uint8_t op;
	uint8_t made;
	uint16_t path_len; /* bytes of path behind the head, without NUL */
	uint32_t handle;
	int32_t arg;
	uint32_t len; /* bytes behind the path */
	uint64_t off;
};

/* Kinds of marks: a lower-case one follows when the call has returned. */
enum trace_mark {
	MARK_STORE = 'c',   /* store_open made the store */
	MARK_VM = 'v',      /* the VM's row is there */
	MARK_FAMILY = 'f',  /* family_open made the family */
	MARK_TAKE = 'T',    /* number: seed of the take */
	MARK_TAKEN = 't',
	MARK_REMOVE = 'R',
	MARK_REMOVED = 'r',
};

#endif
