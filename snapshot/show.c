/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints a whole snapshot as one JSON document from its own bytes, without building a VM. Called by
 * the `snapshot show` verb. 64-bit values of parts are hex strings, see desc_show_json.
 */
#include <jansson.h>
#include <string.h>

#include "core/base/hash.h"
#include "snapshot/image.h"

#define JSON_TEXT_MAX (8 * MIB) /* one part as text: 1 MiB of record at the very most */

static void decrefp(json_t **j)
{
	json_decref(*j);
}

/* Puts a value into an object or array that owns it from then on. */
static struct err *put(json_t *obj, const char *key, json_t *value)
{
	int rc = json_is_array(obj) ? json_array_append_new(obj, value)
				    : json_object_set_new(obj, key, value);
	ENSURE(rc == 0, ERR_SYS, "description of %s: no memory, or a text that is no UTF-8",
	       key != NULL ? key : "a list");
	return NULL;
}

static struct err *put_text(json_t *obj, const char *key, const char *text)
{
	return put(obj, key, json_string(text));
}

static struct err *put_int(json_t *obj, const char *key, uint64_t v)
{
	return put(obj, key, json_integer((json_int_t)v));
}

static struct err *put_hex64(json_t *obj, const char *key, uint64_t v)
{
	return put(obj, key, json_sprintf("0x%llx", (unsigned long long)v));
}

static struct err *put_sha(json_t *obj, const char *key, const void *digest)
{
	struct sha256 d;
	char hex[65];
	memcpy(d.b, digest, sizeof(d.b));
	sha256_hex(&d, hex);
	return put_text(obj, key, hex);
}

static struct err *put_uuid(json_t *obj, const char *key, const uint8_t uuid[16])
{
	char text[37];
	uuid_text(uuid, text);
	return put_text(obj, key, text);
}

/* An empty container inside `obj`; borrowed from it. */
static struct err *put_child(json_t *obj, const char *key, json_t *child, json_t **ret_child)
{
	TRY(put(obj, key, child));
	*ret_child = child;
	return NULL;
}

static struct err *show_maps(json_t *doc, const struct snap_info *info)
{
	json_t *list = NULL;
	TRY(put_child(doc, "maps", json_array(), &list));
	for (uint32_t i = 0; i < info->nmaps && i < STORE_MAPS_MAX; i++) {
		const struct snap_map *map = &info->maps[i];
		json_t *o = NULL;
		TRY(put_child(list, NULL, json_object(), &o));
		TRY(put_text(o, "name", map->name));
		TRY(put_int(o, "bytes", map->len_bytes));
		TRY(put_sha(o, "digest", map->digest.b));
	}
	return NULL;
}

static struct err *show_info(json_t *doc, const struct snap_image *img)
{
	const struct snap_info *info = snap_image_info(img);
	const struct store_vm *vm = snap_image_vm(img);
	const struct manifest *m = img->manifest;
	TRY(put_text(doc, "name", vm->name));
	TRY(put_int(doc, "number", info->number));
	TRY(put_text(doc, "tag", info->tag));
	TRY(put_uuid(doc, "vm", vm->uuid));
	TRY(put_uuid(doc, "family", vm->family));
	TRY(put_int(doc, "id", info->id));
	TRY(put_int(doc, "parent", info->parent));
	TRY(put_int(doc, "created_ns", info->created_ns));
	TRY(put_int(doc, "frozen_at_ns", info->frozen_at_ns));
	TRY(put_int(doc, "pages_stored", info->pages_stored));
	TRY(put_int(doc, "bytes_stored", info->bytes_stored));
	TRY(put_sha(doc, "root", info->root.b));
	TRY(put_text(doc, "torpor", (const char *)m->torpor));
	TRY(put_text(doc, "name_at_take", (const char *)m->vm_name));
	return show_maps(doc, info);
}

/* What restores have waited for. */
static struct err *show_wset(json_t *doc, struct snap_image *img)
{
	SCOPE(page_order_done) struct page_order o = { 0 };
	snap_image_wset(img, &o);
	return put_int(doc, "working_set_bytes", o.n * STORE_PIECE_PAGES * PAGE_BYTES);
}

static struct err *show_manifest(json_t *doc, const struct manifest *m)
{
	json_t *host = NULL, *regions = NULL, *files = NULL, *o = NULL;
	TRY(put_child(doc, "host", json_object(), &host));
	TRY(put_text(host, "kernel", (const char *)m->host.kernel));
	TRY(put_text(host, "cpu_model", (const char *)m->host.cpu_model));
	TRY(put_int(host, "tsc_khz", m->host.tsc_khz));
	TRY(put(host, "tsc_scaling", json_boolean(m->host.tsc_scaling)));
	TRY(put(host, "software_kvm", json_boolean(m->host.software_kvm)));
	TRY(put_hex64(host, "xcr0_mask", m->host.xcr0_mask));
	TRY(put_hex64(host, "xcr0_used", m->host.xcr0_used));
	TRY(put_child(doc, "regions", json_array(), &regions));
	for (uint32_t i = 0; i < m->nregions; i++) {
		TRY(put_child(regions, NULL, json_object(), &o));
		TRY(put_hex64(o, "base", m->regions[i].base));
		TRY(put_int(o, "bytes", m->regions[i].len_bytes));
	}
	TRY(put_child(doc, "files", json_array(), &files));
	for (uint32_t i = 0; i < m->nfiles; i++) {
		TRY(put_child(files, NULL, json_object(), &o));
		TRY(put_text(o, "name", (const char *)m->files[i].name));
		TRY(put_int(o, "bytes", m->files[i].len_bytes));
		TRY(put_sha(o, "sha256", m->files[i].sha256));
	}
	return NULL;
}

/* The configuration as JSON if it is JSON, else as text if it is UTF-8, else null. */
static struct err *show_config(json_t *doc, const struct snap_image *img)
{
	const char *text = (const char *)img->config;
	json_t *j = json_loadb(text, img->config_len, JSON_REJECT_DUPLICATES, NULL);
	if (j == NULL) {
		j = json_stringn(text, img->config_len);
	}
	return put(doc, "config", j != NULL ? j : json_null());
}

static struct err *show_state(json_t *o, const struct state_desc *d, uint32_t instance,
			      const uint8_t *blob, size_t len)
{
	SCOPE(freep) void *state = calloc(1, d->size);
	SCOPE(wbuf_done) struct wbuf text = wbuf_make(JSON_TEXT_MAX);
	json_error_t why;
	ENSURE(state != NULL, ERR_SYS, "out of memory");
	TRY(desc_decode(d, instance, blob, len, state));
	desc_show_json(d, state, &text);
	TRY(wbuf_check(&text));
	json_t *j = json_loadb((const char *)text.p, text.len, 0, &why);
	ENSURE(j != NULL, ERR_SYS, "description of %s: %s", d->name, why.text);
	return put(o, "state", j);
}

/* A damaged part is shown with what is wrong with it: the rest is still worth seeing. */
static struct err *show_part(json_t *list, struct snap_image *img, uint32_t i,
			     snap_find_desc_fn *find)
{
	const struct manifest_part *p = &img->manifest->parts[i];
	const struct state_desc *d = find != NULL ? find((const char *)p->name) : NULL;
	SCOPE(freep) uint8_t *blob = NULL;
	size_t len = 0;
	json_t *o = NULL;
	TRY(put_child(list, NULL, json_object(), &o));
	TRY(put_text(o, "name", (const char *)p->name));
	TRY(put_int(o, "instance", p->instance));
	TRY(put_int(o, "version", p->version));
	struct err *e = reader_blob(img->reader, SNAP_BLOB_PART, (uint16_t)i, &blob, &len);
	if (e == NULL) {
		TRY(put_int(o, "bytes", len));
		if (d != NULL) {
			e = show_state(o, d, p->instance, blob, len);
		} else {
			struct desc_head head;
			e = desc_peek(blob, len, &head);
		}
	}
	if (e != NULL) {
		struct err *failed = put_text(o, "error", err_msg(e));
		err_drop(e, "told in the document");
		return failed;
	}
	return NULL;
}

static int write_out(const char *text, size_t len, void *arg)
{
	struct wbuf *out = arg;
	wbuf_put(out, text, len);
	return out->failed != 0 ? -1 : 0;
}

static struct err *show(struct snap_image *img, snap_find_desc_fn *find, struct wbuf *out)
{
	SCOPE(decrefp) json_t *doc = json_object();
	json_t *parts = NULL;
	ENSURE(doc != NULL, ERR_SYS, "out of memory for the description");
	TRY(show_info(doc, img));
	TRY(show_wset(doc, img));
	TRY(show_manifest(doc, img->manifest));
	TRY(show_config(doc, img));
	TRY(put_child(doc, "parts", json_array(), &parts));
	for (uint32_t i = 0; i < img->manifest->nparts; i++) {
		TRY(show_part(parts, img, i, find));
	}
	int rc = json_dump_callback(doc, write_out, out, JSON_INDENT(2));
	TRY(wbuf_check(out));
	ENSURE(rc == 0, ERR_SYS, "out of memory for the description");
	return NULL;
}

struct err *snap_image_show(struct snap_image *img, snap_find_desc_fn *find, struct wbuf *out)
{
	return err_wrap(show(img, find, out), "snapshot %llu of %s",
			(unsigned long long)img->ref.snap.number, img->ref.vm.name);
}
