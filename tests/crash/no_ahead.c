/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes the place of fallocate in the crash tests: their files are in memory, where the 64 MiB that
 * a take allocates ahead cost more than everything else. The store may go without (lenv_prealloc),
 * and blocks without a length hold no bytes that a crash could lose.
 */
#include <errno.h>
#include <fcntl.h>

int fallocate(int fd, int mode, off_t off, off_t len)
{
	(void)fd;
	(void)mode;
	(void)off;
	(void)len;
	errno = EOPNOTSUPP;
	return -1;
}
