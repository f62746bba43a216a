/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lock files: the one sign of life of a session or lease, and the presence and creation locks of
 * directories. A holder lives exactly as long as its open-file-description lock is held: it ends
 * with the process, is not fooled by a reused pid, and needs no clean-up that could be missed.
 *
 * A holder's file is empty; its name is <32 hex digits>-<text>, where the text says what it holds
 * ("session", "lease-17"). So it needs no block of a full disk, and is complete as soon as it is.
 * Used by store/ on any thread; a struct holder belongs to one.
 */
#ifndef TORPOR_STORE_HOLDER_H
#define TORPOR_STORE_HOLDER_H

#include "core/base/err.h"

#define HOLDER_ID_BYTES 16u
#define HOLDER_TEXT_MAX 63u

struct holder {
	uint8_t id[HOLDER_ID_BYTES];
	struct fd file; /* n < 0: none */
	char text[HOLDER_TEXT_MAX + 1];
	char dir[3700];
};

/* Makes and locks a new file with a fresh random id. text: lower-case letters, digits, '-'. */
MUST_USE struct err *holder_take(const char *dir, const char *text, struct holder *ret_holder);
/* Removes the file and ends the lock. None is fine. */
void holder_drop(struct holder *h);
/*
 * Is the holder with that id and text alive? A dead one's file is removed when `clear` is set. An
 * absent file is dead.
 */
MUST_USE struct err *holder_alive(const char *dir, const uint8_t id[HOLDER_ID_BYTES],
				  const char *text, bool clear, bool *ret_alive);
/*
 * Calls fn with the id and text of every living holder; files of dead ones are removed when `clear`
 * is set. An error of fn ends it.
 */
MUST_USE struct err *holder_each(const char *dir, bool clear,
				 struct err *(*fn)(void *arg, const uint8_t id[HOLDER_ID_BYTES],
						   const char *text),
				 void *arg);

/* How a directory's lock file is taken. */
enum holder_lock {
	HOLDER_SHARED, /* waits */
	HOLDER_ALONE,  /* waits */
	HOLDER_TRY,    /* alone or not at all: *ret_got false */
};
/*
 * Locks the file `path` (made unless `create` is false), which may be removed by whoever holds it
 * alone: a lock on a file that is gone meanwhile is tried again on the new one. Errors:
 * ERR_NOTFOUND (absent and not create, or its directory is gone), ERR_SYS.
 */
MUST_USE struct err *holder_lock_file(const char *path, enum holder_lock how, bool create,
				      struct fd *ret_file, bool *ret_got);
/* The same with a limit other than HOLDER_WAIT_MS. */
MUST_USE struct err *holder_lock_file_for(const char *path, enum holder_lock how, bool create,
					  unsigned wait_ms, struct fd *ret_file, bool *ret_got);

#endif
