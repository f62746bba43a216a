/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs print. See out.h. */
#include "tools/out.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/log.h"

struct err *out_json(json_t *doc)
{
	ENSURE(doc != NULL, ERR_SYS, "the answer cannot be put as JSON");
	int rc = json_dumpf(doc, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	json_decref(doc);
	ENSURE(rc == 0, ERR_SYS, "writing JSON to stdout failed");
	printf("\n");
	return NULL;
}

void out_error(const struct err *e)
{
	json_t *msg = json_string(err_msg(e));
	if (msg == NULL) { /* the message quotes bytes that are not UTF-8 */
		char text[1024];
		snprintf(text, sizeof(text), "%s", err_msg(e));
		for (size_t i = 0; text[i] != 0; i++) {
			if ((unsigned char)text[i] >= 0x80) {
				text[i] = '?';
			}
		}
		msg = json_string(text);
	}
	err_drop(out_json(json_pack("{s:{s:s,s:o}}", "error", "class", err_class_name(err_class(e)),
				    "message", msg)),
		 "the same error goes to stderr");
	fflush(stdout);
}

int out_flush(void)
{
	if (fflush(stdout) != 0 || ferror(stdout)) {
		LOG_E("writing to stdout: %s", strerror(errno));
		return 1;
	}
	return 0;
}

const char *out_size(uint64_t bytes, char out[16])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double v = (double)bytes;
	size_t u = 0;
	while (v >= 1000.0 && u + 1 < ARRAY_LEN(units)) {
		v /= 1024.0;
		u++;
	}
	snprintf(out, 16, u == 0 || v >= 100.0 ? "%.0f %s" : "%.1f %s", v, units[u]);
	return out;
}

const char *out_time(uint64_t real_ns, char out[24])
{
	time_t t = (time_t)(real_ns / 1000000000ull);
	struct tm tm;
	if (localtime_r(&t, &tm) == NULL || strftime(out, 24, "%Y-%m-%d %H:%M:%S", &tm) == 0) {
		snprintf(out, 24, "?");
	}
	return out;
}

struct table {
	size_t ncols;
	size_t ncells;
	size_t cap;
	char **cells; /* owned texts, row by row */
};

struct table *table_new(size_t ncols)
{
	struct table *t = calloc(1, sizeof(*t));
	BUG_ON(t == NULL || ncols == 0);
	t->ncols = ncols;
	return t;
}

void table_cell(struct table *t, const char *fmt, ...)
{
	if (t->ncells == t->cap) {
		t->cap = t->cap == 0 ? 64 : t->cap * 2;
		char **cells = realloc(t->cells, t->cap * sizeof(*cells));
		BUG_ON(cells == NULL);
		t->cells = cells;
	}
	va_list ap;
	va_start(ap, fmt);
	int n = vasprintf(&t->cells[t->ncells], fmt, ap);
	va_end(ap);
	BUG_ON(n < 0);
	t->ncells++;
}

void table_print(const struct table *t)
{
	for (size_t i = 0; i < t->ncells; i++) {
		size_t col = i % t->ncols;
		if (col + 1 == t->ncols) {
			printf("%s\n", t->cells[i]);
			continue;
		}
		size_t width = 0;
		for (size_t k = col; k < t->ncells; k += t->ncols) {
			width = MAX(width, strlen(t->cells[k]));
		}
		printf("%-*s  ", (int)width, t->cells[i]);
	}
}

void table_free(struct table *t)
{
	if (t == NULL) {
		return;
	}
	for (size_t i = 0; i < t->ncells; i++) {
		free(t->cells[i]);
	}
	free(t->cells);
	free(t);
}

enum {
	PROGRESS_FIRST_NS = 500000000, /* shorter work shows nothing */
	PROGRESS_STEP_NS = 100000000,
};

struct progress {
	bool tty;
	uint64_t start_ns;
	pthread_mutex_t m;
	uint64_t last_ns; /* [m] */
	uint64_t step_ns; /* [m] when this step began */
	char step[32];    /* [m] */
	bool shown;       /* [m] a line is on the terminal */
};

struct progress *progress_new(void)
{
	struct progress *p = calloc(1, sizeof(*p));
	BUG_ON(p == NULL);
	p->tty = isatty(STDERR_FILENO) == 1;
	p->start_ns = clock_mono_ns();
	pthread_mutex_init(&p->m, NULL);
	return p;
}

void progress_free(struct progress *p)
{
	if (p == NULL) {
		return;
	}
	if (p->shown) {
		fprintf(stderr, "\r\033[K");
	}
	pthread_mutex_destroy(&p->m);
	free(p);
}

static void print_progress(struct progress *p, uint64_t now, uint64_t done, uint64_t total)
{
	double seconds = (double)(now - p->step_ns) / 1e9;
	if (total == 0 || done == 0 || seconds <= 0) {
		fprintf(stderr, "\r\033[K%s ...", p->step);
		return;
	}
	double percent = 100.0 * (double)done / (double)total;
	double left = seconds * (double)(total - MIN(done, total)) / (double)done;
	fprintf(stderr, "\r\033[K%s %3.0f %%, %.1f %%/s, %.1f s left", p->step, percent,
		percent / seconds, left);
}

void progress_show(void *arg, const char *step, uint64_t done, uint64_t total)
{
	struct progress *p = arg;
	if (!p->tty) {
		return;
	}
	uint64_t now = clock_mono_ns();
	pthread_mutex_lock(&p->m);
	if (strncmp(p->step, step, sizeof(p->step) - 1) != 0) {
		snprintf(p->step, sizeof(p->step), "%s", step);
		p->step_ns = now;
	}
	if (now - p->start_ns >= PROGRESS_FIRST_NS && now - p->last_ns >= PROGRESS_STEP_NS) {
		print_progress(p, now, done, total);
		p->last_ns = now;
		p->shown = true;
	}
	pthread_mutex_unlock(&p->m);
}
