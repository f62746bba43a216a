/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a fuzz target is: libFuzzer's entry point, which takes any bytes, and must not crash, leak,
 * or break a property it checks (that is an abort). Linked with libFuzzer (TORPOR_FUZZ=ON, clang)
 * or with replay.c, which runs the files of a corpus. One thread.
 */
#ifndef TORPOR_TESTS_FUZZ_H
#define TORPOR_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#endif
