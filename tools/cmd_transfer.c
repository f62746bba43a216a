/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor snapshot export|import`: one snapshot as one stream. Called by main. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/config.h"
#include "tools/cmd.h"
#include "tools/out.h"
#include "tools/storecmd.h"

static const char about_export[] =
	"Writes a snapshot to a file, or with - to stdout: whole by itself, with checksums. A "
	"file\n"
	"appears under its name when it is whole and durable.";

static const char about_import[] = "Reads a snapshot from a file, or with - from stdin, into the "
				   "store. It keeps its VM, number\n"
				   "and tag. The stream is taken for a stranger's: nothing is "
				   "listed unless all of it is sound\n"
				   "and the content is what its root says.";

static void on_progress(void *arg, uint64_t done, uint64_t total)
{
	progress_show(arg, "memory", done, total);
}

/* To FILE.part, which gets its name at the end. */
static struct err *export_file(struct store *s, const char *ref, const char *file,
			       const struct transfer_opts *to, uint64_t *ret_bytes)
{
	char part[4096];
	int n = snprintf(part, sizeof(part), "%s.part", file);
	ENSURE(n > 0 && (size_t)n < sizeof(part), ERR_USAGE, "path too long: %.64s...", file);
	SCOPE(fd_close) struct fd fd = FD_NONE;
	TRY(io_open(part, O_WRONLY | O_CREAT | O_TRUNC, 0600, &fd));
	struct err *e = store_export(s, ref, fd.n, to, ret_bytes);
	if (e == NULL) {
		e = io_sync_file(fd.n);
	}
	if (e == NULL && rename(part, file) < 0) {
		e = ERR_ERRNO("naming '%s'", file);
	}
	if (e != NULL) {
		unlink(part);
	}
	return err_wrap(e, "exporting to '%s'", file);
}

struct err *cmd_export(struct args *a, int *ret_status)
{
	(void)ret_status;
	TRY(opts_parse(a, about_export, NULL, 0, 2, 2));
	if (a->help) {
		return NULL;
	}
	bool pipe = strcmp(a->pos[1], "-") == 0;
	ENSURE(!pipe || !a->json, ERR_USAGE, "--json: stdout is the stream");
	ENSURE(!pipe || !isatty(STDOUT_FILENO), ERR_USAGE,
	       "the stream is no text: send stdout to a file or a pipe");
	SCOPE(store_closep) struct store *s = NULL;
	TRY(storecmd_open(a, STORE_WRITE, &s)); /* for the lease */
	SCOPE(progress_freep) struct progress *p = progress_new();
	struct transfer_opts to = { .progress = on_progress, .arg = p };
	uint64_t bytes = 0;
	if (pipe) {
		return err_wrap(store_export(s, a->pos[0], STDOUT_FILENO, &to, &bytes),
				"exporting '%s'", a->pos[0]);
	}
	TRY(export_file(s, a->pos[0], a->pos[1], &to, &bytes));
	if (a->json) {
		return out_json(json_pack("{s:s,s:s,s:I}", "ref", a->pos[0], "file", a->pos[1],
					  "bytes", (json_int_t)bytes));
	}
	char text[16];
	printf("%s: %s\n", a->pos[1], out_size(bytes, text));
	return NULL;
}

struct err *cmd_import(struct args *a, int *ret_status)
{
	(void)ret_status;
	const char *name = NULL;
	uint64_t max_bytes = 0;
	const struct opt opts[] = {
		{ "name", "NAME", OPT_TEXT, &name, "what its VM is called here, if it is new" },
		{ "max-size", "SIZE", OPT_SIZE, &max_bytes,
		  "refuse memory and state of more than SIZE (default: what the disk has free)" },
	};
	TRY(opts_parse(a, about_import, opts, ARRAY_LEN(opts), 1, 1));
	if (a->help) {
		return NULL;
	}
	if (name != NULL) {
		TRY(config_check_name(name));
	}
	SCOPE(fd_close) struct fd fd = FD_NONE;
	int in = STDIN_FILENO;
	if (strcmp(a->pos[0], "-") != 0) {
		TRY(io_open(a->pos[0], O_RDONLY, 0, &fd));
		in = fd.n;
	}
	char dir[4096];
	TRY(opts_store_dir(a, dir, sizeof(dir)));
	SCOPE(store_closep) struct store *s = NULL;
	TRY(store_open(dir, STORE_CREATE, &s));
	SCOPE(progress_freep) struct progress *p = progress_new();
	struct transfer_opts to = {
		.name = name,
		.max_bytes = max_bytes,
		.progress = on_progress,
		.arg = p,
	};
	struct store_vm vm;
	struct snap_info info;
	uint64_t bytes = 0;
	TRY(err_wrap(store_import(s, in, &to, &vm, &info, &bytes), "importing '%s'", a->pos[0]));
	if (a->json) {
		return out_json(storecmd_json(&vm, &info));
	}
	char ref[128];
	storecmd_ref(&vm, &info, ref, sizeof(ref));
	printf("%s: number %llu\n", ref, (unsigned long long)info.number);
	return NULL;
}
