/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tags and pins of published snapshots. Implements family_label of store.h, and the rule for tags
 * that session.c shares. Any thread; one small durable transaction, also on a full disk.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "store/family.h"
#include "store/gc.h"

struct err *family_check_tag(const char *tag)
{
	size_t len = strnlen(tag, NAME_BYTES_MAX + 1);
	ENSURE(len <= NAME_BYTES_MAX, ERR_USAGE, "tag: longer than %u bytes", NAME_BYTES_MAX);
	bool digits = len > 0;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)tag[i];
		ENSURE(c > ' ' && c < 0x7f && c != '@' && c != '/', ERR_USAGE,
		       "tag %s: only visible ASCII without @ and /", tag);
		digits = digits && isdigit(c);
	}
	ENSURE(!digits, ERR_USAGE, "tag %s: only digits, which would read as a number", tag);
	return NULL;
}

static struct err *tag_differs(void *arg, const struct snap_rec *r)
{
	const struct snap_rec *mine = arg;
	ENSURE(r->hidden || r->info.id == mine->info.id || mine->info.tag[0] == 0 ||
		       memcmp(r->info.vm, mine->info.vm, sizeof(r->info.vm)) != 0 ||
		       strcmp(r->info.tag, mine->info.tag) != 0,
	       ERR_NOT_NOW, "the tag %s is taken by snapshot %llu of this VM", r->info.tag,
	       (unsigned long long)r->info.number);
	return NULL;
}

static struct err *tag_unknown(void *arg, uint64_t id, struct err *e)
{
	(void)arg;
	(void)id;
	err_drop(e, "a damaged snapshot does not keep others from being named; verify names it");
	return NULL;
}

struct err *family_tag_free(struct family *f, struct ltxn *t, const struct snap_rec *r)
{
	return family_snap_each(f, t,
				&(struct family_snap_visit){
					.snap = tag_differs,
					.damaged = tag_unknown,
					.arg = (void *)(uintptr_t)r,
				});
}

struct labelling {
	struct family *f;
	uint64_t id;
	const struct snap_label *label;
};

static struct err *label_txn(void *arg, struct ltxn *t)
{
	const struct labelling *k = arg;
	bool found;
	SCOPE(snaprec_done) struct snap_rec r = { 0 };
	TRY(family_snap_get(k->f, t, k->id, &found, &r));
	ENSURE(found && !r.hidden, ERR_NOTFOUND, "snapshot id %llu does not exist",
	       (unsigned long long)k->id);
	if (k->label->tag != NULL) {
		memset(r.info.tag, 0, sizeof(r.info.tag));
		snprintf(r.info.tag, sizeof(r.info.tag), "%s", k->label->tag);
		TRY(family_tag_free(k->f, t, &r));
	}
	if (k->label->set_pin) {
		r.info.pinned = k->label->pinned;
	}
	return family_snap_put(k->f, t, &r);
}

struct err *family_label(struct family *f, uint64_t snap_id, const struct snap_label *label)
{
	ENSURE(!f->rdonly, ERR_NOT_NOW, "store: opened for reading only");
	if (label->tag != NULL) {
		TRY(family_check_tag(label->tag));
	}
	struct labelling k = { .f = f, .id = snap_id, .label = label };
	return gc_write_small(f, label_txn, &k);
}
