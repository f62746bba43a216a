/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The only writer of log lines: "torpor: level: text" on stderr, one write(2) per line, so lines of
 * several threads and processes do not mix. Called by main, the control dispatcher and thread tops;
 * library code returns errors instead. Any thread.
 */
#ifndef TORPOR_BASE_LOG_H
#define TORPOR_BASE_LOG_H

#include "core/base/err.h"

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level); /* before threads start; default LOG_WARN */
void log_line(enum log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Prints the error (with its trace at LOG_DEBUG) and frees it. */
void log_err(struct err *e);

#define LOG_E(...) log_line(LOG_ERROR, __VA_ARGS__)
#define LOG_W(...) log_line(LOG_WARN, __VA_ARGS__)
#define LOG_I(...) log_line(LOG_INFO, __VA_ARGS__)
#define LOG_D(...) log_line(LOG_DEBUG, __VA_ARGS__)

#endif
