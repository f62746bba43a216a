/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Flips one bit of a file. Usage: flip FILE OFFSET BIT | flip FILE --find HEX (prints the offsets
 * at which the byte string occurs). For tests of damage.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
	FILE *f = argc == 4 ? fopen(argv[1], "r+b") : NULL;

	if (!f) {
		fprintf(stderr, "usage: flip FILE OFFSET BIT | flip FILE --find HEX\n");
		return 2;
	}
	if (strcmp(argv[2], "--find") == 0) {
		unsigned char want[64], *body;
		size_t n = strlen(argv[3]) / 2, len;
		for (size_t i = 0; i < n && i < sizeof(want); i++) {
			sscanf(argv[3] + 2 * i, "%2hhx", &want[i]);
		}
		fseek(f, 0, SEEK_END);
		len = (size_t)ftell(f);
		rewind(f);
		body = malloc(len + 1);
		if (!body || fread(body, 1, len, f) != len) {
			return 1;
		}
		for (unsigned char *p = body; n && p + n <= body + len; p++) {
			if (memcmp(p, want, n) == 0) {
				printf("%zu\n", (size_t)(p - body));
			}
		}
		free(body);
		return fclose(f) ? 1 : 0;
	}
	long at = strtol(argv[2], NULL, 10);
	int c;
	if (fseek(f, at, SEEK_SET) != 0 || (c = fgetc(f)) == EOF) {
		fprintf(stderr, "flip: %s has no byte %ld\n", argv[1], at);
		return 1;
	}
	c ^= 1 << (atoi(argv[3]) & 7);
	if (fseek(f, at, SEEK_SET) != 0 || fputc(c, f) == EOF) {
		return 1;
	}
	return fclose(f) ? 1 : 0;
}
