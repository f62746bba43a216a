/* SPDX-License-Identifier: Apache-2.0 */
/* Writes one snapshot anew in another store. See salvage_copy.h; called by salvage.c. */
#include "store/salvage_copy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "store/family.h"

void salvage_copied_done(struct salvage_copied *c)
{
	free(c->pair);
	c->pair = NULL;
}

/* A map's content in memory. */
struct image {
	uint8_t *bytes; /* owned, mapped: npages whole pages; NULL: none */
	uint8_t *used;  /* owned: 1 for each page that is not zero */
	uint64_t npages;
};

static void image_done(struct image *m)
{
	if (m->bytes != NULL) {
		munmap(m->bytes, m->npages * PAGE_BYTES);
	}
	free(m->used);
	*m = (struct image){ 0 };
}

static struct err *image_make(uint64_t len_bytes, struct image *m)
{
	uint64_t npages = len_bytes / PAGE_BYTES + (len_bytes % PAGE_BYTES != 0);
	uint8_t *used = calloc(MAX(npages, (uint64_t)1), 1);
	ENSURE(used != NULL, ERR_SYS, "out of memory");
	void *p = mmap(NULL, MAX(npages, (uint64_t)1) * PAGE_BYTES, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED) {
		free(used);
		return ERR_ERRNO("memory for a map of %llu bytes", (unsigned long long)len_bytes);
	}
	*m = (struct image){ .bytes = p, .used = used, .npages = MAX(npages, (uint64_t)1) };
	return NULL;
}

/* Called from several threads, for disjoint pages. */
static struct err *place(void *arg, uint64_t index, const void *pages, uint64_t npages)
{
	struct image *m = arg;
	ENSURE(index <= m->npages && npages <= m->npages - index, ERR_CORRUPT,
	       "page 0x%llx lies outside of its map", (unsigned long long)index);
	memcpy(m->bytes + index * PAGE_BYTES, pages, npages * PAGE_BYTES);
	memset(m->used + index, 1, npages);
	return NULL;
}

static struct err *write_pages(struct session *s, const struct image *m)
{
	uint64_t at = 0;
	while (at < m->npages) {
		uint64_t end = at;
		while (end < m->npages && m->used[end] != 0) {
			end++;
		}
		if (end > at) {
			TRY(session_map_pages(s, at, m->bytes + at * PAGE_BYTES, end - at));
		}
		at = MAX(end, at + 1);
	}
	return NULL;
}

static bool same_map(const struct snap_map *a, const struct snap_map *b)
{
	return strcmp(a->name, b->name) == 0 && a->len_bytes == b->len_bytes &&
	       a->height == b->height && sha256_equal(&a->digest, &b->digest) &&
	       memcmp(a->user, b->user, sizeof(a->user)) == 0;
}

/* A copied snapshot that has the same map, or NULL. */
static const struct snap_info *with_map(const struct salvage_copied *done, const struct snap_map *m)
{
	for (size_t i = 0; i < done->n; i++) {
		for (uint32_t k = 0; k < done->pair[i].to.nmaps; k++) {
			if (same_map(&done->pair[i].to.maps[k], m)) {
				return &done->pair[i].to;
			}
		}
	}
	return NULL;
}

static struct err *copy_map(struct reader *r, struct session *s, const struct snap_map *m,
			    const struct salvage_copied *done)
{
	const struct snap_info *other = with_map(done, m);
	if (other != NULL) {
		return session_map_share(s, other->id, m->name);
	}
	SCOPE(image_done) struct image image = { 0 };
	TRY(image_make(m->len_bytes, &image));
	struct read_opts opts = { .place = place, .arg = &image };
	TRY(reader_map_read(r, m->name, &opts));
	TRY(session_map_begin(s, m->name, m->len_bytes, m->user));
	struct err *e = write_pages(s, &image);
	if (e == NULL) {
		e = session_map_end(s);
	}
	/* The memory goes away with this function. */
	return err_first(e, session_settle(s));
}

struct blob_copy {
	struct reader *r;
	struct session *s;
};

static struct err *copy_blob(void *arg, uint16_t kind, uint16_t index)
{
	struct blob_copy *b = arg;
	SCOPE(freep) uint8_t *p = NULL;
	size_t len;
	TRY(reader_blob(b->r, kind, index, &p, &len));
	return session_blob(b->s, kind, index, p, len);
}

/* The number that the next publish of the VM counts on from. */
static struct err *number_put(struct family *f, const uint8_t vm[16], uint64_t last, bool only_up)
{
	struct family_key_number key = family_key_number(vm);
	uint64_t have;
	uint64_t unused;
	SCOPE(ltxn_abortp) struct ltxn *t = NULL;
	TRY(ltxn_begin(f->env, true, &t));
	TRY(family_meta_get(f, t, KEY_BYTES(key), &have, &unused));
	if (have == last || (only_up && have > last)) {
		return NULL;
	}
	TRY(family_meta_put(f, t, KEY_BYTES(key), last, 0));
	return ltxn_commit(MOVE(t));
}

struct err *salvage_number_reserve(struct family *to, const struct snap_info *info)
{
	return number_put(to, info->vm, info->number, true);
}

static uint64_t parent_of(const struct salvage_copied *done, uint64_t old)
{
	for (size_t i = 0; i < done->n; i++) {
		if (done->pair[i].from.id == old) {
			return done->pair[i].to.id;
		}
	}
	return 0;
}

static struct err *publish(struct session *s, struct family *to, const struct snap_info *info,
			   const struct salvage_copied *done, struct snap_info *ret_info)
{
	struct snap_meta meta = {
		.frozen_at_ns = info->frozen_at_ns,
		.parent = parent_of(done, info->parent),
	};
	memcpy(meta.vm, info->vm, sizeof(meta.vm));
	snprintf(meta.tag, sizeof(meta.tag), "%s", info->tag);
	ENSURE(info->number > 0, ERR_CORRUPT, "a snapshot without a number");
	TRY(number_put(to, info->vm, info->number - 1, false));
	TRY(session_publish(s, &meta, ret_info));
	if (!sha256_equal(&ret_info->root, &info->root)) {
		TRY(family_remove(to, &ret_info->id, 1));
		return ERR(ERR_CORRUPT, "what was copied has another root than what was read");
	}
	return NULL;
}

struct err *salvage_copy_snap(struct family *from, struct family *to, const struct snap_info *info,
			      struct salvage_copied *done)
{
	struct salvage_pair *more = realloc(done->pair, (done->n + 1) * sizeof(*more));
	ENSURE(more != NULL, ERR_SYS, "out of memory");
	done->pair = more;
	SCOPE(reader_closep) struct reader *r = NULL;
	TRY(reader_open(from, info->id, &r));
	SCOPE(session_freep) struct session *s = NULL;
	TRY(session_open(to, &(struct session_opts){ 0 }, &s));
	for (uint32_t i = 0; i < info->nmaps; i++) {
		TRY(copy_map(r, s, &info->maps[i], done));
	}
	struct blob_copy b = { .r = r, .s = s };
	TRY(reader_blobs(r, copy_blob, &b));
	struct salvage_pair *pair = &done->pair[done->n];
	pair->from = *info;
	TRY(publish(s, to, info, done, &pair->to));
	done->n++;
	return NULL;
}
