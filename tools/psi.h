/* SPDX-License-Identifier: Apache-2.0 */
/* How much work waits for memory or the disk on this host, as the kernel tells. One thread. */
#ifndef TORPOR_TOOLS_PSI_H
#define TORPOR_TOOLS_PSI_H

#include <stdbool.h>

/*
 * Is there so much pressure that a further restore would only make all slower: in the last ten
 * seconds some task waited for memory during more than memory_percent of the time, or for the disk
 * during more than io_percent? False where the kernel does not tell (no /proc/pressure).
 */
bool psi_busy(unsigned memory_percent, unsigned io_percent);

#endif
