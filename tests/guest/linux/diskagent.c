/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /init of the Linux guest of the disk tests: mounts the file system on /dev/vda, writes files whose
 * content says which and when, each with fsync, and reads another one back from the disk itself. What
 * every file must hold it knows from memory, so a disk of another time than memory is seen. Per round
 * "disk: round N", else "disk: FAIL ..." and no more. Input, single characters: h takes
 * 32 MiB of memory ("disk: holds"), g gives them back ("disk: gave"), e draws from /dev/hwrng ("disk: drew HEX"), c drops the
 * kernel's caches ("disk: dropped"), u unmounts ("disk: unmounted") and stops.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

enum { FILES = 8, WORDS = 4096, BYTES = WORDS * 8, PERIOD_MS = 20 };
enum { HOLD_BYTES = 32 << 20, HUGE = 2 << 20 };

static uint64_t buf[WORDS] __attribute__((aligned(4096)));
static uint64_t last[FILES]; /* round of its last write, 0: none */

static void fail(const char *what, uint64_t a, uint64_t b)
{
	dprintf(1, "disk: FAIL %s %llu %llu: %s\n", what, (unsigned long long)a,
		(unsigned long long)b, strerror(errno));
	for (;;) {
		pause();
	}
}

static uint64_t word(uint64_t file, uint64_t round, uint64_t i)
{
	return (file << 56 | round << 16) * 0x9e3779b97f4a7c15ull + i;
}

static int open_file(uint64_t file, int flags)
{
	char path[32];
	snprintf(path, sizeof(path), "/mnt/f%llu", (unsigned long long)file);
	int fd = open(path, flags, 0600);
	if (fd < 0) {
		fail("open", file, 0);
	}
	return fd;
}

static void write_file(uint64_t file, uint64_t round)
{
	int fd = open_file(file, O_WRONLY | O_CREAT);
	for (uint64_t i = 0; i < WORDS; i++) {
		buf[i] = word(file, round, i);
	}
	if (pwrite(fd, buf, BYTES, 0) != BYTES || fsync(fd) != 0) {
		fail("write", file, round);
	}
	close(fd);
	last[file] = round;
}

static void check_file(uint64_t file)
{
	int fd = open_file(file, O_RDONLY | O_DIRECT);
	memset(buf, 0, sizeof(buf));
	if (pread(fd, buf, BYTES, 0) != BYTES) {
		fail("read", file, last[file]);
	}
	close(fd);
	for (uint64_t i = 0; i < WORDS; i++) {
		if (buf[i] != word(file, last[file], i)) {
			errno = 0;
			fail("another content", file, last[file]);
		}
	}
}

/* Takes memory, all of it touched, or gives it back. */
static void hold(int on)
{
	static char *at;
	if (on) {
		at = mmap(NULL, HOLD_BYTES + HUGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (at == MAP_FAILED) {
			fail("mmap", 0, 0);
		}
		/* Huge pages: one fault per 2 MiB instead of 512. */
		char *from = (char *)(((uintptr_t)at + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
		madvise(from, HOLD_BYTES, MADV_HUGEPAGE);
		for (uint64_t i = 0; i < HOLD_BYTES; i += 4096) {
			from[i] = 1;
		}
	} else {
		munmap(at, HOLD_BYTES + HUGE);
	}
	dprintf(1, "disk: %s\n", on ? "holds" : "gave");
}

static void draw(void)
{
	uint64_t v[2] = { 0, 0 };
	int fd = open("/dev/hwrng", O_RDONLY);
	if (fd < 0 || read(fd, v, sizeof(v)) != sizeof(v)) {
		fail("/dev/hwrng", 0, 0);
	}
	close(fd);
	dprintf(1, "disk: drew %016llx%016llx\n", (unsigned long long)v[0],
		(unsigned long long)v[1]);
}

static void drop_caches(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
	if (fd < 0 || write(fd, "3", 1) != 1) {
		fail("drop_caches", 0, 0);
	}
	close(fd);
	dprintf(1, "disk: dropped\n");
}

static void answer(char c)
{
	if (c == 'h' || c == 'g') {
		hold(c == 'h');
	} else if (c == 'e') {
		draw();
	} else if (c == 'c') {
		drop_caches();
	} else if (c == 'u') {
		if (umount("/mnt") != 0) {
			fail("umount", 0, 0);
		}
		dprintf(1, "disk: unmounted\n");
		for (;;) {
			pause();
		}
	}
}

int main(void)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };
	struct termios t;

	mkdir("/dev", 0755);
	mkdir("/mnt", 0755);
	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	int fd = open("/dev/console", O_RDWR | O_NOCTTY);
	for (int i = 0; i < 3; i++) {
		dup2(fd, i);
	}
	if (tcgetattr(0, &t) == 0) {
		t.c_lflag &= (tcflag_t) ~(ICANON | ECHO | ISIG);
		tcsetattr(0, TCSANOW, &t);
	}
	if (mount("/dev/vda", "/mnt", "ext4", 0, NULL) != 0) {
		fail("mount", 0, 0);
	}
	dprintf(1, "disk: mounted\n");
	for (uint64_t round = 1;; round++) {
		char c;
		write_file(round * 5 % FILES, round);
		if (last[round % FILES] != 0) {
			check_file(round % FILES);
		}
		dprintf(1, "disk: round %llu\n", (unsigned long long)round);
		if (poll(&in, 1, PERIOD_MS) > 0 && read(0, &c, 1) == 1) {
			answer(c);
		}
	}
}
