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

#define ROUNDS_MAX 256u
#define SIDES 3u

static const char *const side_name[SIDES] = { "torpor", "qemu", "qemu300" };

/* goal_ratio: torpor by QEMU at most; goal_abs: torpor's own value at most; 0: for information. */
struct measure {
	const char *name;
	const char *label;
	double goal_ratio;
	double goal_abs;
	size_t n[SIDES];
	double v[SIDES][ROUNDS_MAX];
};

static struct measure measures[] = {
	{ .name = "take_ms", .label = "take, suspended, durable (ms)", .goal_ratio = 1.1 },
	{ .name = "take_cpu_ms", .label = "  CPU time of it (ms)" },
	{ .name = "disk_mib", .label = "  bytes on disk (MiB)", .goal_ratio = 0.37 },
	{ .name = "restore_ms", .label = "restore to next line (ms)", .goal_ratio = 0.75 },
	{ .name = "resident_ms", .label = "restore to fully resident (ms)" },
	{ .name = "restore_cpu_ms", .label = "  CPU time to the next line (ms)" },
	{ .name = "first_ms", .label = "run to first output (ms)", .goal_ratio = 0.5 },
	{ .name = "memory_mib", .label = "memory beyond the guest (MiB)", .goal_abs = 4 },
	{ .name = "memory_after_take_mib", .label = "  after a take (MiB)", .goal_abs = 4 },
	{ .name = "memory_restored_mib", .label = "  after a restore (MiB)", .goal_abs = 4 },
	{ .name = "live_take_ms", .label = "take, running, durable (ms)" },
	{ .name = "pause_ms", .label = "  longest pause by arrival (ms)" },
	{ .name = "pause_tsc_ms", .label = "  longest pause by guest TSC (ms)" },
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
	double v[ROUNDS_MAX];
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
			    m->n[s] < ROUNDS_MAX) {
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
	if (m->n[0] > 0 && m->goal_abs > 0) {
		return median(m, 0) <= m->goal_abs;
	}
	if (m->n[0] > 0 && m->n[1] > 0 && m->goal_ratio > 0) {
		return median(m, 0) <= m->goal_ratio * median(m, 1);
	}
	return -1;
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
	if (m->goal_ratio > 0) {
		snprintf(goal, sizeof(goal), "x %.2f", m->goal_ratio);
	} else if (m->goal_abs > 0) {
		snprintf(goal, sizeof(goal), "%.0f", m->goal_abs);
	}
	fprintf(stderr, " %7s  %s\n", goal, verdict[reached(m) + 1]);
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
	while (scanf("%63s %63s %lf", name, side, &value) == 3) {
		add(name, side, value);
	}
	fprintf(stderr, "\n%-36s %9s %9s %9s %7s %7s\n", "median of rounds", "torpor", "QEMU",
		"QEMU300", "ratio", "goal");
	for (size_t i = 0; i < NMEASURES; i++) {
		print_row(&measures[i]);
		json_object_set_new(all, measures[i].name, measure_json(&measures[i]));
	}
	json_t *doc = json_pack("{s:o,s:o}", "host", host, "measures", all);
	json_dumpf(doc, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(6));
	putchar('\n');
	json_decref(doc);
	return 0;
}
