/* SPDX-License-Identifier: Apache-2.0 */
/* `torpor snapshot show`: prints a snapshot from its own bytes. Called by main; reads only. */
#include "core/machine.h"
#include "snapshot/snapshot.h"
#include "tools/cmd.h"
#include "tools/out.h"
#include "tools/storecmd.h"

static const char about[] =
	"Prints what a snapshot holds, as one JSON document: the VM's configuration, facts of the\n"
	"host it was taken on, every vCPU, interrupt controller and device field by field, and "
	"its\n"
	"maps. Memory pages are not printed.";

enum { SHOW_BYTES_MAX = 256 * 1024 * 1024 }; /* 64 vCPUs with all fields as text */

struct err *cmd_show(struct args *a, int *ret_status)
{
	(void)ret_status;
	TRY(opts_parse(a, about, NULL, 0, 1, 1));
	if (a->help) {
		return NULL;
	}
	SCOPE(store_closep) struct store *s = NULL;
	TRY(storecmd_open(a, STORE_READ, &s));
	SCOPE(snap_image_freep) struct snap_image *img = NULL;
	TRY(snap_image_open(s, a->pos[0], &img));
	SCOPE(wbuf_done) struct wbuf text = wbuf_make(SHOW_BYTES_MAX);
	TRY(snap_image_show(img, machine_find_desc, &text));
	TRY(wbuf_check(&text));
	json_error_t why;
	json_t *doc = json_loadb((const char *)text.p, text.len, 0, &why);
	ENSURE(doc != NULL, ERR_CORRUPT, "snapshot '%s' has text that is no JSON at byte %d: %s",
	       a->pos[0], why.position, why.text);
	return out_json(doc);
}
