/* SPDX-License-Identifier: Apache-2.0 */
/* A set of record ids. See idset.h; called by gc.c and verify.c. */
#include "store/idset.h"

enum {
	IDSET_CAP_FIRST = 1024,
};

void idset_done(struct idset *s)
{
	free(s->slot);
	*s = (struct idset){ 0 };
}

/* Ids come in dense runs; multiplying spreads them over the table. */
static size_t slot_of(const struct idset *s, uint64_t id)
{
	size_t at = (size_t)(id * 0x9E3779B97F4A7C15ull >> 20) & (s->cap - 1);
	while (s->slot[at] != 0 && s->slot[at] != id) {
		at = (at + 1) & (s->cap - 1);
	}
	return at;
}

static struct err *grow(struct idset *s)
{
	struct idset bigger = { .cap = s->cap == 0 ? IDSET_CAP_FIRST : s->cap * 2, .n = s->n };
	bigger.slot = calloc(bigger.cap, sizeof(*bigger.slot));
	ENSURE(bigger.slot != NULL, ERR_SYS, "out of memory");
	for (size_t i = 0; i < s->cap; i++) {
		if (s->slot[i] != 0) {
			bigger.slot[slot_of(&bigger, s->slot[i])] = s->slot[i];
		}
	}
	free(s->slot);
	*s = bigger;
	return NULL;
}

struct err *idset_add(struct idset *s, uint64_t id, bool *ret_new)
{
	BUG_ON(id == 0);
	if (s->n >= s->cap / 2) {
		TRY(grow(s));
	}
	size_t at = slot_of(s, id);
	*ret_new = s->slot[at] == 0;
	if (*ret_new) {
		s->slot[at] = id;
		s->n++;
	}
	return NULL;
}

bool idset_has(const struct idset *s, uint64_t id)
{
	return s->cap > 0 && s->slot[slot_of(s, id)] != 0;
}
