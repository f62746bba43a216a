/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes the initramfs of the Linux test guest: an uncompressed newc cpio with /dev/console, /proc
 * and one file as /init. A program of its own because making the device node needs no root this
 * way. Usage: mkinitrd AGENT OUT. Run by the build.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned ino = 1;

static void pad(FILE *f, size_t n)
{
	while (n++ % 4) {
		fputc(0, f);
	}
}

static void entry(FILE *f, const char *name, unsigned mode, unsigned rdev_major,
		  unsigned rdev_minor, const void *body, size_t len)
{
	size_t name_len = strlen(name) + 1;

	fprintf(f, "070701%08X%08X%08X%08X%08X%08X%08zX%08X%08X%08X%08X%08zX%08X", ino++, mode, 0u,
		0u, 1u, 0u, len, 0u, 0u, rdev_major, rdev_minor, name_len, 0u);
	fwrite(name, 1, name_len, f);
	pad(f, 110 + name_len);
	if (len) {
		fwrite(body, 1, len, f);
		pad(f, len);
	}
}

int main(int argc, char **argv)
{
	FILE *in = argc == 3 ? fopen(argv[1], "rb") : NULL;
	FILE *out = in ? fopen(argv[2], "wb") : NULL;
	size_t len, max = 64 << 20;
	char *body = malloc(max);

	if (!in || !out || !body) {
		fprintf(stderr, "usage: mkinitrd AGENT OUT\n");
		return 2;
	}
	len = fread(body, 1, max, in);
	entry(out, "dev", 040755, 0, 0, NULL, 0);
	entry(out, "dev/console", 020600, 5, 1, NULL, 0);
	entry(out, "proc", 040755, 0, 0, NULL, 0);
	entry(out, "init", 0100755, 0, 0, body, len);
	entry(out, "TRAILER!!!", 0, 0, 0, NULL, 0);
	free(body);
	fclose(in);
	return ferror(out) | fclose(out) ? 1 : 0;
}
