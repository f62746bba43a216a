/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copies lines from stdin to stdout, each with its time of arrival in front: CLOCK_REALTIME in
 * nanoseconds, a space, the line. A last line without a newline is written at the end of input with
 * "~" behind its time, so that half a line is told from a whole one. On a busy machine it runs
 * before others, where it may: a time that comes late is a wrong one. Used by tests, benchmarks and
 * the quickstart on serial consoles.
 */
#include <stdint.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(void)
{
	static char line[8192];
	char in[4096];
	size_t n = 0;
	ssize_t got;

	const struct sched_param first = { .sched_priority = 1 };
	(void)sched_setscheduler(0, SCHED_FIFO, &first); /* as far as this user may */
	while ((got = read(0, in, sizeof(in))) > 0) {
		uint64_t t = now_ns();
		for (ssize_t i = 0; i < got; i++) {
			if (in[i] == '\r') {
				continue;
			}
			if (in[i] == '\n' || n == sizeof(line)) {
				printf("%llu %.*s\n", (unsigned long long)t, (int)n, line);
				n = 0;
			}
			if (in[i] != '\n') {
				line[n++] = in[i];
			}
		}
		fflush(stdout);
	}
	if (n > 0) {
		printf("%llu~ %.*s\n", (unsigned long long)now_ns(), (int)n, line);
	}
	return 0;
}
