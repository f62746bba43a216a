/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the verbs print: JSON documents, tables, sizes, times, and progress on a terminal's stderr.
 * One thread at a time; out_progress may be called from the loading threads of a restore (it takes
 * a lock of its own).
 */
#ifndef TORPOR_TOOLS_OUT_H
#define TORPOR_TOOLS_OUT_H

#include <jansson.h>

#include "core/base/err.h"

/* Prints one JSON document and a newline; frees it. NULL (no memory) is an error. */
MUST_USE struct err *out_json(json_t *doc);
/* The error as {"error":{"class":...,"message":...}}; for --json. */
void out_error(const struct err *e);
/* 0, or 1 with a message when stdout did not take everything. */
int out_flush(void);

/* "1.5 GiB"; out is returned. */
const char *out_size(uint64_t bytes, char out[16]);
/* "2026-11-22 14:27:03", local time. */
const char *out_time(uint64_t real_ns, char out[24]);

/* A table: the first row is the head; columns are as wide as their widest cell. */
struct table;
struct table *table_new(size_t ncols); /* aborts without memory */
void table_cell(struct table *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
void table_print(const struct table *t);
void table_free(struct table *t);
DEFINE_SCOPE(struct table, table_free)

/* Progress of one operation; silent unless stderr is a terminal and half a second has passed. */
struct progress;
struct progress *progress_new(void);
void progress_free(struct progress *p); /* wipes the line */
DEFINE_SCOPE(struct progress, progress_free)
/* arg is a struct progress (for snap_progress.fn). */
void progress_show(void *arg, const char *step, uint64_t done, uint64_t total);

#endif
