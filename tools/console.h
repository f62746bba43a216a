/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --serial WHERE and --console WHERE: opens what the guest's serial port or virtio console is tied
 * to, and puts a terminal into raw mode for as long as the guest has it. Used by vmm.c on its one
 * thread.
 */
#ifndef TORPOR_TOOLS_CONSOLE_H
#define TORPOR_TOOLS_CONSOLE_H

#include <termios.h>

#include "core/base/err.h"

struct console {
	const char *option; /* "--serial" or "--console", for messages */
	int in;             /* borrowed or in `file`, -1: none */
	int out;            /* likewise */
	struct fd file;     /* owned */
	struct fd listen;   /* owned; -1: none */
	bool raw;
	struct termios saved; /* of `in`, while raw */
};

void console_init(struct console *c, const char *option);
/* where: "stdio", "null", "file:PATH", "unix:PATH". ERR_USAGE for anything else. */
MUST_USE struct err *console_open(struct console *c, const char *where);
/* A terminal on `in` gives every key to the guest from now on. */
MUST_USE struct err *console_raw(struct console *c);
/* Gives the terminal back and closes what was opened. */
void console_done(struct console *c);

#endif
