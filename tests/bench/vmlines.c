/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Times a VM by the lines of its console, for tests/bench/run.
 *
 *   vmlines run LOG CMD...          runs CMD; each line of its stdout goes to LOG with its time of
 *                                   arrival in front. LOG begins with "NS @exec PID", NS taken just
 *                                   before the fork. CMD dies with vmlines.
 *   vmlines wait LOG PREFIX FROM SECONDS   waits for a line that begins so, from time FROM on (0:
 *                                   any); prints its time and its text.
 *   vmlines gap LOG FROM TO KHZ     the longest time between two "beat" lines of which one lies
 *                                   between FROM and TO; prints it in us by arrival and by guest
 *                                   TSC
 *   vmlines rate LOG FROM TO        "beat" lines per second between the first and the last of them
 *   vmlines now                     the time
 *   vmlines time FILE CMD...        runs CMD with its own stdout and stderr; writes "elapsed_ns
 *                                   user_us sys_us" to FILE and exits as CMD did.
 * All times are CLOCK_MONOTONIC in nanoseconds.
 */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 4096u

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "vmlines: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t number(const char *s)
{
	char *end;
	uint64_t v = strtoull(s, &end, 10);

	if (*s == 0 || *end != 0) {
		fprintf(stderr, "vmlines: %s is not a number\n", s);
		exit(2);
	}
	return v;
}

static int exit_code(int status)
{
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- run ---- */

static void copy_lines(int in, FILE *log)
{
	static char line[LINE_MAX_BYTES];
	char buf[4096];
	size_t n = 0;
	ssize_t got;

	while ((got = read(in, buf, sizeof(buf))) > 0 || (got < 0 && errno == EINTR)) {
		uint64_t t = now_ns();
		for (ssize_t i = 0; i < got; i++) {
			if (buf[i] == '\n' || n == sizeof(line)) {
				fprintf(log, "%llu %.*s\n", (unsigned long long)t, (int)n, line);
				n = 0;
			}
			if (buf[i] != '\n' && buf[i] != '\r') {
				line[n++] = buf[i];
			}
		}
		fflush(log);
	}
}

static int run(const char *path, char **cmd)
{
	FILE *log = fopen(path, "we");
	int out[2];

	if (log == NULL) {
		fail(path);
	}
	if (pipe(out) != 0) {
		fail("pipe");
	}
	uint64_t t = now_ns();
	pid_t pid = fork();
	if (pid < 0) {
		fail("fork");
	}
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(out[1], STDOUT_FILENO);
		close(out[0]);
		close(out[1]);
		execvp(cmd[0], cmd);
		fail(cmd[0]);
	}
	close(out[1]);
	fprintf(log, "%llu @exec %d\n", (unsigned long long)t, (int)pid);
	fflush(log);
	copy_lines(out[0], log);
	int status;
	if (waitpid(pid, &status, 0) != pid) {
		fail("waitpid");
	}
	fprintf(log, "%llu @exit %d\n", (unsigned long long)now_ns(), exit_code(status));
	fclose(log);
	return 0;
}

/* ---- reading a log ---- */

struct entry {
	uint64_t ns;
	char text[LINE_MAX_BYTES];
};

/* The next whole line; false at the end so far, with the position kept for another try. */
static bool next(FILE *log, struct entry *e)
{
	char line[LINE_MAX_BYTES + 32];
	long at = ftell(log);
	char *rest;

	clearerr(log);
	if (fgets(line, sizeof(line), log) == NULL || strchr(line, '\n') == NULL) {
		fseek(log, at, SEEK_SET);
		return false;
	}
	*strchr(line, '\n') = 0;
	e->ns = strtoull(line, &rest, 10);
	snprintf(e->text, sizeof(e->text), "%s", *rest == ' ' ? rest + 1 : rest);
	return true;
}

static FILE *open_log(const char *path)
{
	FILE *log = fopen(path, "re");

	if (log == NULL) {
		fail(path);
	}
	return log;
}

static int wait_line(const char *path, const char *prefix, uint64_t from, uint64_t seconds)
{
	uint64_t end = now_ns() + seconds * 1000000000u;
	FILE *log = NULL;
	struct entry e;

	while (now_ns() < end) {
		if (log == NULL) {
			log = fopen(path, "re");
		}
		while (log != NULL && next(log, &e)) {
			if (e.ns >= from && strncmp(e.text, prefix, strlen(prefix)) == 0) {
				printf("%llu %s\n", (unsigned long long)e.ns, e.text);
				return 0;
			}
			if (strncmp(e.text, "@exit", 5) == 0) {
				fprintf(stderr, "vmlines: ended before \"%s\"\n", prefix);
				return 1;
			}
		}
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
	fprintf(stderr, "vmlines: no line \"%s\" within %llu s\n", prefix,
		(unsigned long long)seconds);
	return 1;
}

static bool beat_tsc(const struct entry *e, uint64_t *ret_tsc)
{
	unsigned long long n;
	unsigned long long tsc;

	if (sscanf(e->text, "beat %llu tsc %llu sum", &n, &tsc) != 2) {
		return false;
	}
	*ret_tsc = tsc;
	return true;
}

static int gap(const char *path, uint64_t from, uint64_t to, uint64_t khz)
{
	FILE *log = open_log(path);
	struct entry e;
	bool have = false;
	uint64_t ns = 0;
	uint64_t tsc = 0;
	uint64_t longest_ns = 0;
	uint64_t longest_tsc = 0;

	while (next(log, &e)) {
		uint64_t e_tsc;
		if (!beat_tsc(&e, &e_tsc)) {
			continue;
		}
		if (have && e.ns >= from && ns <= to) {
			longest_ns = e.ns - ns > longest_ns ? e.ns - ns : longest_ns;
			longest_tsc = e_tsc - tsc > longest_tsc ? e_tsc - tsc : longest_tsc;
		}
		have = true;
		ns = e.ns;
		tsc = e_tsc;
	}
	fclose(log);
	if (longest_ns == 0 || khz == 0) {
		fprintf(stderr, "vmlines: no beats in that time\n");
		return 1;
	}
	printf("%llu %llu\n", (unsigned long long)(longest_ns / 1000),
	       (unsigned long long)(longest_tsc * 1000 / khz));
	return 0;
}

static int rate(const char *path, uint64_t from, uint64_t to)
{
	FILE *log = open_log(path);
	struct entry e;
	unsigned n = 0;
	uint64_t first = 0;
	uint64_t last = 0;
	uint64_t tsc;

	while (next(log, &e)) {
		if (e.ns >= from && e.ns <= to && beat_tsc(&e, &tsc)) {
			first = n == 0 ? e.ns : first;
			last = e.ns;
			n++;
		}
	}
	fclose(log);
	if (last == first) {
		fprintf(stderr, "vmlines: no beats in that time\n");
		return 1;
	}
	printf("%.3f\n", (n - 1) * 1e9 / (double)(last - first));
	return 0;
}

/* ---- time ---- */

static int time_cmd(const char *path, char **cmd)
{
	struct rusage u;
	int status;
	uint64_t t = now_ns();
	pid_t pid = fork();

	if (pid < 0) {
		fail("fork");
	}
	if (pid == 0) {
		execvp(cmd[0], cmd);
		fail(cmd[0]);
	}
	if (wait4(pid, &status, 0, &u) != pid) {
		fail("wait4");
	}
	t = now_ns() - t;
	FILE *out = fopen(path, "we");
	if (out == NULL) {
		fail(path);
	}
	fprintf(out, "%llu %lld %lld\n", (unsigned long long)t,
		(long long)u.ru_utime.tv_sec * 1000000 + u.ru_utime.tv_usec,
		(long long)u.ru_stime.tv_sec * 1000000 + u.ru_stime.tv_usec);
	fclose(out);
	return exit_code(status);
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";

	if (strcmp(verb, "now") == 0) {
		printf("%llu\n", (unsigned long long)now_ns());
		return 0;
	}
	if (strcmp(verb, "run") == 0 && argc > 3) {
		return run(argv[2], argv + 3);
	}
	if (strcmp(verb, "time") == 0 && argc > 3) {
		return time_cmd(argv[2], argv + 3);
	}
	if (strcmp(verb, "wait") == 0 && argc == 6) {
		return wait_line(argv[2], argv[3], number(argv[4]), number(argv[5]));
	}
	if (strcmp(verb, "gap") == 0 && argc == 6) {
		return gap(argv[2], number(argv[3]), number(argv[4]), number(argv[5]));
	}
	if (strcmp(verb, "rate") == 0 && argc == 5) {
		return rate(argv[2], number(argv[3]), number(argv[4]));
	}
	fprintf(stderr, "usage: see the head of vmlines.c\n");
	return 2;
}
