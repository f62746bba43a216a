/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a fuzz target is: libFuzzer's entry point, which takes any bytes, and must not crash, leak,
 * or break a property it checks (that is an abort). Linked with libFuzzer (TORPOR_FUZZ=ON, clang)
 * or with replay.c, which runs the files of a corpus. One thread.
 */
#ifndef TORPOR_TESTS_FUZZ_H
#define TORPOR_TESTS_FUZZ_H

#include <string.h>

#include "core/base/check.h"

/* A message for people: one line, nothing that moves a terminal's cursor. */
static inline UNUSED void fuzz_check_text(const char *text)
{
	BUG_ON(text[0] == 0);
	for (const char *p = text; *p != 0; p++) {
		BUG_ON((unsigned char)*p < 0x20 || *p == 0x7f);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#endif
