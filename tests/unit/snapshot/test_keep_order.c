/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing a kept file when the store fails in the middle: compressors may still read the buffer, so
 * it must live until session_settle has returned. The session is replaced by one that fails.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "store/store.h"

static const volatile uint8_t *queued; /* what the pool reads until a settle */
static size_t queued_len;
static unsigned settled;
static unsigned reads;

static struct err *fake_map_begin(struct session *s, const char *name, uint64_t len,
				  const uint8_t user[32])
{
	(void)s;
	(void)name;
	(void)len;
	(void)user;
	return NULL;
}

/* The first piece is queued, the second is refused: the disk is full. */
static struct err *fake_map_pages(struct session *s, uint64_t index, const void *pages, uint64_t n)
{
	(void)s;
	if (index > 0) {
		return ERR(ERR_NOSPACE, "the disk is full");
	}
	queued = pages;
	queued_len = n * PAGE_BYTES;
	return NULL;
}

static struct err *fake_map_end(struct session *s)
{
	(void)s;
	return NULL;
}

/* Reads what is queued, as the pool does until then. */
static struct err *fake_settle(struct session *s)
{
	(void)s;
	for (size_t i = 0; i < queued_len; i += 512) {
		reads += queued[i] == 7;
	}
	queued_len = 0;
	settled++;
	return ERR(ERR_NOSPACE, "the disk is full");
}

#define session_map_begin fake_map_begin
#define session_map_pages fake_map_pages
#define session_map_end fake_map_end
#define session_settle fake_settle
#include "snapshot/keep.c"

static void the_buffer_lives_until_it_is_settled(void **state)
{
	(void)state;
	enum {
		LEN = 3 * CHUNK_BYTES,
	};
	SCOPE(fd_close) struct fd fd = { memfd_create("kernel", MFD_CLOEXEC) };
	uint8_t *p = malloc(LEN);
	assert_non_null(p);
	memset(p, 7, LEN);
	assert_int_equal(write(fd.n, p, LEN), LEN);
	free(p);
	struct snap_file file = { .name = "kernel", .fd = fd.n, .len_bytes = LEN };
	struct snap_progress progress = { 0 };
	struct keep_plan plan = { .nitems = 1, .items = { { .file = &file } } };
	struct manifest m = { .nfiles = 1 };
	struct err *e = keep_write(&plan, NULL, &m, NULL, &progress);
	assert_non_null(e);
	assert_int_equal(err_class(e), ERR_NOSPACE);
	err_free(e);
	assert_true(settled >= 1);
	assert_int_equal(reads, CHUNK_BYTES / 512);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_buffer_lives_until_it_is_settled),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
