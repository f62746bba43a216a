/* SPDX-License-Identifier: Apache-2.0 */
/* Pressure stall information. See psi.h. */
#include "tools/psi.h"

#include <stdio.h>

/* "some avg10=1.23 ..." of a file, in percent; 0 where there is none. */
static double some_avg10(const char *path)
{
	FILE *f = fopen(path, "re");
	double v = 0;
	if (f != NULL) {
		if (fscanf(f, "some avg10=%lf", &v) != 1) {
			v = 0;
		}
		fclose(f);
	}
	return v;
}

bool psi_busy(unsigned memory_percent, unsigned io_percent)
{
	return some_avg10("/proc/pressure/memory") > memory_percent ||
	       some_avg10("/proc/pressure/io") > io_percent;
}
