/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes the report of tests/bench/run out of what it measured.
 *
 *   report [KEY=VALUE...] <FILE     lines "measure side value", one per round and side; prints one
 *                                   JSON document on stdout (KEY=VALUE go into its "host"), a table
 *                                   on stderr.
 * The measures, their goals and their order are the table below. A ratio is the median of torpor's
 * values by the median of QEMU's.
 */
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUES_MAX 1024u
#define SIDES 3u

static const char *const side_name[SIDES] = { "torpor", "qemu", "qemu300" };

/* goal_ratio: torpor by QEMU at most; goal_least: the same at least; goal_abs: torpor's own value
 * at most; several: all. 0: for information. */
struct measure {
	const char *name;
	const char *label;
	double goal_ratio;
	double goal_least;
	double goal_abs;
	size_t n[SIDES];
	double v[SIDES][VALUES_MAX];
};

/* A kind of device work: how much of it per second, and what one of it costs. */
#define DEVICE_WORK(id, what)                                                                      \
	{ .name = "dev_" id "_rate", .label = what " (/s)", .goal_least = 1 },                     \
		{ .name = "dev_" id "_cpu", .label = "  CPU of one (us)", .goal_ratio = 1 },       \
	{                                                                                          \
		.name = "dev_" id "_own", .label = "  without the vCPU's thread"                   \
	}

static struct measure measures[] = {
	{ .name = "take_ms", .label = "take, suspended, durable (ms)", .goal_ratio = 1.1 },
	{ .name = "take_cpu_ms", .label = "  CPU time of it (ms)" },
	{ .name = "disk_mib", .label = "  bytes on disk (MiB)", .goal_ratio = 0.37 },
	{ .name = "restore_ms", .label = "restore to next line (ms)", .goal_ratio = 0.75 },
	{ .name = "resident_ms", .label = "restore to fully resident (ms)", .goal_ratio = 0.8 },
	{ .name = "restore_cpu_ms", .label = "  CPU time to the next line (ms)" },
	{ .name = "first_ms", .label = "run to first output (ms)", .goal_ratio = 0.5 },
	{ .name = "memory_mib", .label = "memory beyond the guest (MiB)", .goal_abs = 4 },
	{ .name = "memory_after_take_mib", .label = "  after a take (MiB)", .goal_abs = 4 },
	{ .name = "memory_restored_mib", .label = "  after a restore (MiB)", .goal_abs = 4 },
	{ .name = "live_take_ms", .label = "take, running, durable (ms)" },
	{ .name = "pause_ms", .label = "  longest pause by arrival (ms)" },
	{ .name = "pause_tsc_ms", .label = "  longest pause by guest TSC (ms)" },
	/* --generations */
	{ .name = "pause64_ms",
	  .label = "pause, 64 pages / 10 ms (ms)",
	  .goal_ratio = 0.1,
	  .goal_abs = 0.5 },
	{ .name = "pause64_worst_ms", .label = "  the worst of the takes", .goal_abs = 3 },
	{ .name = "pause64_lines_ms", .label = "  by the guest's lines", .goal_ratio = 0.1 },
	{ .name = "pause64_lines_worst_ms", .label = "    the worst" },
	{ .name = "pause64_quiet_ms", .label = "  lines where there is no take" },
	{ .name = "pause64_quiet_worst_ms", .label = "    the worst" },
	{ .name = "pause64_take_ms", .label = "  the whole take (ms)" },
	{ .name = "pause1000_ms", .label = "pause, 1000 pages / 10 ms (ms)" },
	{ .name = "pause1000_worst_ms", .label = "  the worst of the takes", .goal_abs = 2 },
	{ .name = "pause1000_lines_ms", .label = "  by the guest's lines" },
	{ .name = "pause1000_lines_worst_ms", .label = "    the worst" },
	{ .name = "pause1000_quiet_ms", .label = "  lines where there is no take" },
	{ .name = "pause1000_quiet_worst_ms", .label = "    the worst" },
	{ .name = "pause1000_take_ms", .label = "  the whole take (ms)" },
	{ .name = "inc_take_ms", .label = "take of 16 MiB, guest halted (ms)" },
	{ .name = "inc_take_of_goal", .label = "  by 2 x zstd time + commit", .goal_abs = 1 },
	{ .name = "inc_zstd_ms", .label = "  zstd -1 of the pages (ms)" },
	{ .name = "commit_ms", .label = "  a durable commit (ms)" },
	{ .name = "inc_pause_ms", .label = "  its pause (ms)", .goal_abs = 0.5 },
	{ .name = "inc_pages", .label = "  pages that changed" },
	{ .name = "inc_growth_mib", .label = "  the store grows by (MiB)" },
	{ .name = "inc_growth_of_zstd", .label = "  by the size of zstd -1", .goal_abs = 1.15 },
	{ .name = "ten_of_one", .label = "ten snapshots of an idle VM by one", .goal_abs = 1.05 },
	{ .name = "eager_ms", .label = "restore eager, guest halts (ms)", .goal_ratio = 0.5 },
	{ .name = "guest_slow", .label = "guest, never taken by between takes", .goal_abs = 1.01 },
	{ .name = "guest_slow_linger", .label = "  in the half second after a take" },
	{ .name = "guest_slow_control", .label = "  never taken by never taken" },
	{ .name = "clone_last_ms", .label = "20 clones at once, last line (ms)", .goal_abs = 250 },
	{ .name = "clone_one_ms", .label = "  one alone (ms)" },
	{ .name = "clone_cpu_ms", .label = "  CPU time of each (ms)", .goal_abs = 10 },
	{ .name = "clone_mib", .label = "  memory of each (MiB)", .goal_abs = 3 },
	{ .name = "share_last_ms",
	  .label = "20 that share memory, last line (ms)",
	  .goal_abs = 250 },
	{ .name = "share_mib", .label = "  memory of each (MiB)", .goal_abs = 3 },
	{ .name = "wset_ms", .label = "64 MiB touched, cold, recorded (ms)" },
	{ .name = "wset_none_ms", .label = "  without the record (ms)" },
	{ .name = "wset_of_none", .label = "  by that", .goal_abs = 0.5 },
	/* --guests */
	{ .name = "guests_save_ms", .label = "10 idle guests saved (ms)", .goal_ratio = 0.2 },
	{ .name = "guests_back_ms",
	  .label = "  back, last line, verified (ms)",
	  .goal_ratio = 0.1 },
	{ .name = "guests_back_quick_ms",
	  .label = "  back, --verify crash (ms)",
	  .goal_ratio = 0.1 },
	/* --devices; of sockets the column QEMU is a plain pair of Unix sockets */
	DEVICE_WORK("read1", "disk, 4 KiB reads, 1 at a time"),
	DEVICE_WORK("read", "disk, 4 KiB reads, 32 at a time"),
	DEVICE_WORK("write", "disk, 4 KiB writes, 32 at a time"),
	DEVICE_WORK("big", "disk, 64 KiB reads, 8 at a time"),
	DEVICE_WORK("send", "tap, frames of 1514 sent"),
	DEVICE_WORK("receive", "tap, frames of 1514 received"),
	DEVICE_WORK("stream", "sockets, 4 KiB to the host"),
	DEVICE_WORK("drink", "sockets, 4 KiB from the host"),
};
#define NMEASURES (sizeof(measures) / sizeof(measures[0]))

static int by_value(const void *pa, const void *pb)
{
	const double *a = pa;
	const double *b = pb;

	return (*a > *b) - (*a < *b);
}

static double median(const struct measure *m, size_t side)
{
	double v[VALUES_MAX];
	size_t n = m->n[side];

	memcpy(v, m->v[side], n * sizeof(*v));
	qsort(v, n, sizeof(*v), by_value);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

static void add(const char *name, const char *side, double value)
{
	for (size_t i = 0; i < NMEASURES; i++) {
		for (size_t s = 0; s < SIDES; s++) {
			struct measure *m = &measures[i];
			if (strcmp(m->name, name) == 0 && strcmp(side_name[s], side) == 0 &&
			    m->n[s] < VALUES_MAX) {
				m->v[s][m->n[s]++] = value;
				return;
			}
		}
	}
	fprintf(stderr, "report: no measure %s of %s\n", name, side);
	exit(1);
}

static json_t *side_json(const struct measure *m, size_t side)
{
	json_t *all = json_array();

	for (size_t i = 0; i < m->n[side]; i++) {
		json_array_append_new(all, json_real(m->v[side][i]));
	}
	return json_pack("{s:f,s:o}", "median", median(m, side), "all", all);
}

/* -1: no goal or nothing measured, else whether it is reached. */
static int reached(const struct measure *m)
{
	int is = -1;

	if (m->n[0] > 0 && m->goal_abs > 0) {
		is = median(m, 0) <= m->goal_abs;
	}
	if (is != 0 && m->n[0] > 0 && m->n[1] > 0 && m->goal_ratio > 0) {
		is = median(m, 0) <= m->goal_ratio * median(m, 1);
	}
	if (is != 0 && m->n[0] > 0 && m->n[1] > 0 && m->goal_least > 0) {
		is = median(m, 0) >= m->goal_least * median(m, 1);
	}
	return is;
}

static json_t *measure_json(const struct measure *m)
{
	json_t *o = json_object();

	for (size_t s = 0; s < SIDES; s++) {
		if (m->n[s] > 0) {
			json_object_set_new(o, side_name[s], side_json(m, s));
		}
	}
	if (m->n[0] > 0 && m->n[1] > 0 && median(m, 1) > 0) {
		json_object_set_new(o, "ratio", json_real(median(m, 0) / median(m, 1)));
	}
	if (m->goal_ratio > 0) {
		json_object_set_new(o, "goal_ratio", json_real(m->goal_ratio));
	}
	if (m->goal_least > 0) {
		json_object_set_new(o, "goal_least", json_real(m->goal_least));
	}
	if (m->goal_abs > 0) {
		json_object_set_new(o, "goal_torpor", json_real(m->goal_abs));
	}
	if (reached(m) >= 0) {
		json_object_set_new(o, "reached", json_boolean(reached(m)));
	}
	return o;
}

static void print_row(const struct measure *m)
{
	static const char *const verdict[] = { "", "short", "reached" };
	char goal[32] = "";

	fprintf(stderr, "%-36s", m->label);
	for (size_t s = 0; s < SIDES; s++) {
		if (m->n[s] > 0) {
			fprintf(stderr, " %9.2f", median(m, s));
		} else {
			fprintf(stderr, " %9s", "-");
		}
	}
	if (m->n[0] > 0 && m->n[1] > 0 && median(m, 1) > 0) {
		fprintf(stderr, " %7.3f", median(m, 0) / median(m, 1));
	} else {
		fprintf(stderr, " %7s", "-");
	}
	if (m->goal_ratio > 0 && m->goal_abs > 0) {
		snprintf(goal, sizeof(goal), "%g, x %g", m->goal_abs, m->goal_ratio);
	} else if (m->goal_least > 0) {
		snprintf(goal, sizeof(goal), ">= x %g", m->goal_least);
	} else if (m->goal_ratio > 0) {
		snprintf(goal, sizeof(goal), "x %.2f", m->goal_ratio);
	} else if (m->goal_abs > 0) {
		snprintf(goal, sizeof(goal), "%g", m->goal_abs);
	}
	fprintf(stderr, " %10s  %s\n", goal, verdict[reached(m) + 1]);
}

int main(int argc, char **argv)
{
	char name[64];
	char side[64];
	double value;
	json_t *host = json_object();
	json_t *all = json_object();

	for (int i = 1; i < argc; i++) {
		char *eq = strchr(argv[i], '=');
		if (eq == NULL) {
			fprintf(stderr, "usage: report [KEY=VALUE...]\n");
			return 2;
		}
		*eq = 0;
		json_object_set_new(host, argv[i], json_string(eq + 1));
		fprintf(stderr, "%s: %s\n", argv[i], eq + 1);
	}
	int got;
	while ((got = scanf("%63s %63s %lf", name, side, &value)) == 3) {
		add(name, side, value);
	}
	if (got != EOF) {
		fprintf(stderr, "report: no number behind %s %s\n", name, side);
		return 1;
	}
	fprintf(stderr, "\n%-36s %9s %9s %9s %7s %10s\n", "median of rounds", "torpor", "QEMU",
		"QEMU300", "ratio", "goal");
	for (size_t i = 0; i < NMEASURES; i++) {
		if (measures[i].n[0] + measures[i].n[1] > 0) {
			print_row(&measures[i]);
			json_object_set_new(all, measures[i].name, measure_json(&measures[i]));
		}
	}
	json_t *doc = json_pack("{s:o,s:o}", "host", host, "measures", all);
	json_dumpf(doc, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(doc);
	return 0;
}
