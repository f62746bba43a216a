/* SPDX-License-Identifier: Apache-2.0 */
/* Log lines. See log.h. */
#include "core/base/log.h"

#include <stdio.h>
#include <string.h>

static enum log_level log_level = LOG_WARN; /* const after start-up */

void log_set_level(enum log_level level)
{
	log_level = level;
}

void log_line(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = { "error: ", "warning: ", "", "debug: " };
	if (level > log_level) {
		return;
	}
	char line[2048];
	int head = snprintf(line, sizeof(line), "torpor: %s", names[level]);
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(line + head, sizeof(line) - (size_t)head - 1, fmt, ap);
	va_end(ap);
	size_t len = (size_t)head + (n > 0 ? (size_t)n : 0);
	len = MIN(len, sizeof(line) - 2);
	line[len++] = '\n';
	ssize_t ignored = write(STDERR_FILENO, line, len);
	(void)ignored; /* there is nobody left to tell */
}

void log_err(struct err *e)
{
	if (e == NULL) {
		return;
	}
	log_line(LOG_ERROR, "%s", err_msg(e));
	log_line(LOG_DEBUG, "at %s", err_trace_text(e));
	err_free(e);
}
