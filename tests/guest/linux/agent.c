/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /init of the Linux test guest: holds data in memory, counts, and answers on the console.
 *
 * Environment (from the kernel's command line): agent_mib=N data to hold (4), agent_ms=N between
 * lines (200). Each period one line:
 *	agent: count N time SECONDS sum HEX [peer N]
 * where time is CLOCK_MONOTONIC, sum a checksum over all data, computed anew each time, and peer
 *the count of a second process pinned to the second processor, if there is one. Input, single
 *characters: s checksum now, d clocks, r reboot, p power off, x panic;
 *and lines: fPATH shows the first line of a file. Input events are told as they come:
 *	agent: event TYPE CODE VALUE
 *
 * With agent_vsock=1 a second process echoes what comes in on port 7 of its virtual socket, telling
 * each connection's end, and v asks port 9 of the host for a line.
 *
 * A software KVM interprets the kernel: system calls and first-touched pages are dear, so this is
 *one static program that computes in user space and touches little.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define HUGE (2ul << 20)

static uint64_t *data;
static size_t nwords;

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15ull;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
	return x ^ (x >> 31);
}

static uint64_t sum(void)
{
	uint64_t s = 0;

	for (size_t i = 0; i < nwords; i++) {
		s = (s << 7 | s >> 57) + data[i];
	}
	return s;
}

static unsigned long env(const char *name, unsigned long dflt)
{
	const char *v = getenv(name);

	return v ? strtoul(v, NULL, 10) : dflt;
}

/* Raw console on descriptors 0 to 2, whatever the kernel could open before /dev was there. */
static void console(void)
{
	struct termios t;
	int fd;

	mkdir("/dev", 0755);
	mkdir("/proc", 0755);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("proc", "/proc", "proc", 0, NULL);
	fd = open("/dev/console", O_RDWR | O_NOCTTY);
	if (fd < 0) {
		reboot(RB_HALT_SYSTEM);
	}
	for (int i = 0; i < 3; i++) {
		dup2(fd, i);
	}
	if (tcgetattr(0, &t) == 0) {
		t.c_lflag &= (tcflag_t) ~(ICANON | ECHO | ISIG);
		t.c_cc[VMIN] = 0;
		t.c_cc[VTIME] = 0;
		tcsetattr(0, TCSANOW, &t);
	}
}

static void fill(size_t mib)
{
	char *p;

	/* Huge pages: one fault per 2 MiB instead of 512. */
	p = mmap(NULL, (mib << 20) + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		 0);
	if (p == MAP_FAILED) {
		dprintf(1, "agent: no memory for %zu MiB\n", mib);
		reboot(RB_POWER_OFF);
	}
	p = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
	madvise(p, mib << 20, MADV_HUGEPAGE);
	data = (uint64_t *)p;
	nwords = (mib << 20) / sizeof(*data);
	for (size_t i = 0; i < nwords; i++) {
		data[i] = mix(i);
	}
}

/* A process on the second processor that counts in shared memory; NULL when there is only one. */
static volatile uint64_t *peer(void)
{
	volatile uint64_t *count;
	cpu_set_t set;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2) {
		return NULL;
	}
	count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (count == MAP_FAILED || fork() != 0) {
		return count == MAP_FAILED ? NULL : count;
	}
	CPU_ZERO(&set);
	CPU_SET(1, &set);
	sched_setaffinity(0, sizeof(set), &set);
	for (;;) {
		poll(NULL, 0, 50);
		(*count)++;
	}
}

/* First line of a file, without its end; "" if there is none. */
static void first_line(const char *path, char *ret, size_t size)
{
	ssize_t n = -1;
	int fd = open(path, O_RDONLY);

	if (fd >= 0) {
		n = read(fd, ret, size - 1);
		close(fd);
	}
	ret[n > 0 ? n : 0] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
}

static void sysfs(void)
{
	static int done;

	if (!done) {
		done = 1;
		mkdir("/sys", 0755);
		mount("sys", "/sys", "sysfs", 0, NULL);
	}
}

static int event_fd[4] = { -1, -1, -1, -1 };

static void open_events(void)
{
	char path[32];

	for (int i = 0; i < 4; i++) {
		snprintf(path, sizeof(path), "/dev/input/event%d", i);
		event_fd[i] = open(path, O_RDONLY | O_NONBLOCK);
	}
}

static void tell_events(void)
{
	struct input_event e;

	for (int i = 0; i < 4; i++) {
		while (event_fd[i] >= 0 && read(event_fd[i], &e, sizeof(e)) == sizeof(e)) {
			if (e.type != EV_SYN) {
				dprintf(1, "agent: event %u %u %d\n", e.type, e.code, e.value);
			}
		}
	}
}

/* The rest of a line that began with f; true while it goes on. */
static int take_path(char c)
{
	static char path[200];
	static size_t len;
	static int on;
	char text[200];

	if (!on) {
		on = c == 'f';
		len = 0;
		return on;
	}
	if (c != '\n' && len < sizeof(path) - 1) {
		path[len++] = c;
		return 1;
	}
	path[len] = '\0';
	on = 0;
	sysfs();
	first_line(path, text, sizeof(text));
	dprintf(1, "agent: file %s %s\n", path, text);
	return 1;
}

/* One after the other: each gets back what it sends, until it ends. */
static void echo(void)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_port = 7, .svm_cid = VMADDR_CID_ANY };
	static char buf[16384];
	int l = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fork() != 0) {
		return;
	}
	if (l < 0 || bind(l, (const struct sockaddr *)&a, sizeof(a)) != 0 || listen(l, 8) != 0) {
		dprintf(1, "agent: vsock: %s\n", strerror(errno));
		_exit(1);
	}
	dprintf(1, "agent: vsock listens\n");
	for (;;) {
		int fd = accept(l, NULL, NULL);
		unsigned long long total = 0;
		ssize_t n;

		while ((n = read(fd, buf, sizeof(buf))) > 0) {
			for (ssize_t at = 0; at < n;) {
				ssize_t w = write(fd, buf + at, (size_t)(n - at));
				at += w > 0 ? w : n;
			}
			total += (unsigned long long)n;
		}
		dprintf(1, "agent: vsock end after %llu bytes %s\n", total,
			n < 0 ? strerror(errno) : "");
		close(fd);
	}
}

static void ask_host(void)
{
	struct sockaddr_vm a = { .svm_family = AF_VSOCK, .svm_port = 9, .svm_cid = VMADDR_CID_HOST };
	char text[100] = "";
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) == 0 &&
	    dprintf(fd, "the guest asks\n") > 0 && read(fd, text, sizeof(text) - 1) >= 0) {
		text[strcspn(text, "\n")] = '\0';
		dprintf(1, "agent: host says %s\n", text);
	} else {
		dprintf(1, "agent: host says nothing: %s\n", strerror(errno));
	}
	close(fd);
}

static void answer(char c)
{
	struct timespec real, mono;
	int fd;

	if (take_path(c)) {
		return;
	}
	switch (c) {
	case 's':
		dprintf(1, "agent: sum %016llx\n", (unsigned long long)sum());
		break;
	case 'd':
		clock_gettime(CLOCK_REALTIME, &real);
		clock_gettime(CLOCK_MONOTONIC, &mono);
		dprintf(1, "agent: clock realtime %lld.%09ld monotonic %lld.%09ld\n",
			(long long)real.tv_sec, real.tv_nsec, (long long)mono.tv_sec, mono.tv_nsec);
		break;
	case 'r':
		dprintf(1, "agent: rebooting\n");
		reboot(RB_AUTOBOOT);
		break;
	case 'p':
		dprintf(1, "agent: power off\n");
		reboot(RB_POWER_OFF);
		break;
	case 'v':
		ask_host();
		break;
	case 'x':
		fd = open("/proc/sysrq-trigger", O_WRONLY);
		if (fd < 0 || write(fd, "c", 1) != 1) {
			_exit(1); /* the end of init is a panic, too */
		}
		break;
	default:
		break;
	}
}

int main(void)
{
	struct pollfd in = { .fd = 0, .events = POLLIN };
	int period_ms;
	volatile uint64_t *peer_count;

	console();
	dprintf(1, "agent: start\n");
	fill(env("agent_mib", 4));
	period_ms = (int)env("agent_ms", 200);
	peer_count = peer();
	open_events();
	if (env("agent_vsock", 0)) {
		echo();
	}
	for (uint64_t n = 1;; n++) {
		struct timespec t;
		char c[16];
		uint64_t s = sum();

		tell_events();
		clock_gettime(CLOCK_MONOTONIC, &t);
		if (peer_count) {
			dprintf(1, "agent: count %llu time %lld.%03ld sum %016llx peer %llu\n",
				(unsigned long long)n, (long long)t.tv_sec, t.tv_nsec / 1000000,
				(unsigned long long)s, (unsigned long long)*peer_count);
		} else {
			dprintf(1, "agent: count %llu time %lld.%03ld sum %016llx\n",
				(unsigned long long)n, (long long)t.tv_sec, t.tv_nsec / 1000000,
				(unsigned long long)s);
		}
		if (poll(&in, 1, period_ms) > 0) {
			ssize_t got = read(0, c, sizeof(c));
			for (ssize_t i = 0; i < got; i++) {
				answer(c[i]);
			}
		}
	}
}
