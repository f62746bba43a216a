/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk that fails on demand, to be preloaded: while the first byte of the file that EIO_FLAG
 * names is '1', every pread fails with EIO. The file is mapped at the start, so that looking at it
 * takes no call. While it is '2', writes to memory files fail (those without a name: a VM's
 * memory), as often as EIO_WRITES says, once without it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static const volatile char *flag = "0";
static ssize_t (*real)(int fd, void *buf, size_t n, off_t off);
static ssize_t (*real_write)(int fd, const void *buf, size_t n, off_t off);
static int writes = 1;

__attribute__((constructor)) static void start(void)
{
	const char *path = getenv("EIO_FLAG");
	int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	real = (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread");
	real_write = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
	writes = getenv("EIO_WRITES") != NULL ? atoi(getenv("EIO_WRITES")) : 1;
	if (fd >= 0) {
		void *p = mmap(NULL, 1, PROT_READ, MAP_SHARED, fd, 0);
		if (p != MAP_FAILED) {
			flag = p;
		}
		close(fd);
	}
}

ssize_t pread(int fd, void *buf, size_t n, off_t off)
{
	if (*flag == '1') {
		errno = EIO;
		return -1;
	}
	return real(fd, buf, n, off);
}

ssize_t pread64(int fd, void *buf, size_t n, off_t off)
{
	return pread(fd, buf, n, off);
}

ssize_t pwrite(int fd, const void *buf, size_t n, off_t off)
{
	struct stat st;
	if (*flag == '2' && fstat(fd, &st) == 0 && st.st_nlink == 0 &&
	    __atomic_fetch_sub(&writes, 1, __ATOMIC_SEQ_CST) > 0) {
		errno = EIO;
		return -1;
	}
	return real_write(fd, buf, n, off);
}

ssize_t pwrite64(int fd, const void *buf, size_t n, off_t off)
{
	return pwrite(fd, buf, n, off);
}
