/* SPDX-License-Identifier: Apache-2.0 */
/* Port and MMIO dispatch over two sorted range tables. See bus.h. vCPU threads look up, no lock. */
#include "core/bus.h"

#include <string.h>

enum { BUS_ACCESS_MAX = 8 }; /* bytes in one access: the widest that KVM reports */

struct bus_range {
	uint64_t base;
	uint64_t len;
	struct device *dev; /* borrowed */
	unsigned index;     /* in dev->ranges */
};

/* Invariant I1: sorted by base, no two overlap, none is empty or wraps. */
struct bus_table {
	struct bus_range *ranges; /* owned */
	unsigned n;
};

enum { BUS_WHOLE_MAX = 4 };

struct bus {
	struct bus_table tables[2]; /* by enum dev_space; const while vCPUs run */
	/* Ranges that take only an access of their own base and length, and come first. */
	struct bus_range whole[2][BUS_WHOLE_MAX];
	unsigned nwhole[2];
};

struct err *bus_new(struct bus **ret_bus)
{
	struct bus *b = calloc(1, sizeof(*b));
	ENSURE(b != NULL, ERR_SYS, "out of memory");
	*ret_bus = b;
	return NULL;
}

void bus_free(struct bus *b)
{
	if (b == NULL) {
		return;
	}
	free(b->tables[DEV_PIO].ranges);
	free(b->tables[DEV_MMIO].ranges);
	free(b);
}

/* Index of the first range whose base is above addr: the range before it is the only candidate. */
static unsigned first_above(const struct bus_table *t, uint64_t addr)
{
	unsigned lo = 0;
	unsigned hi = t->n;
	while (lo < hi) {
		unsigned mid = lo + (hi - lo) / 2;
		if (t->ranges[mid].base <= addr) {
			lo = mid + 1;
		} else {
			hi = mid;
		}
	}
	return lo;
}

static const struct bus_range *find(const struct bus_table *t, uint64_t addr)
{
	unsigned i = first_above(t, addr);
	if (i == 0) {
		return NULL;
	}
	const struct bus_range *r = &t->ranges[i - 1];
	return addr - r->base < r->len ? r : NULL;
}

static struct err *insert(struct bus_table *t, struct device *dev, unsigned index)
{
	const struct dev_range *want = &dev->ranges[index];
	unsigned at = first_above(t, want->base);
	const struct bus_range *clash = find(t, want->base);
	if (clash == NULL && at < t->n && t->ranges[at].base - want->base < want->len) {
		clash = &t->ranges[at];
	}
	ENSURE(clash == NULL, ERR_NOT_NOW,
	       "%s: %s range 0x%llx+0x%llx overlaps that of %s at 0x%llx; give it another base",
	       dev->ops->name, want->space == DEV_PIO ? "port" : "MMIO",
	       (unsigned long long)want->base, (unsigned long long)want->len, clash->dev->ops->name,
	       (unsigned long long)clash->base);

	struct bus_range *grown = realloc(t->ranges, (t->n + 1u) * sizeof(*grown));
	ENSURE(grown != NULL, ERR_SYS, "out of memory");
	t->ranges = grown;
	memmove(&grown[at + 1], &grown[at], (t->n - at) * sizeof(*grown));
	grown[at] = (struct bus_range){
		.base = want->base,
		.len = want->len,
		.dev = dev,
		.index = index,
	};
	t->n++;
	return NULL;
}

static void remove_device(struct bus_table *t, const struct device *dev)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < t->n; i++) {
		if (t->ranges[i].dev != dev) {
			t->ranges[kept++] = t->ranges[i];
		}
	}
	t->n = kept;
}

static struct err *insert_whole(struct bus *b, struct device *dev, unsigned index)
{
	const struct dev_range *r = &dev->ranges[index];
	unsigned *n = &b->nwhole[r->space];
	BUG_ON(*n == BUS_WHOLE_MAX || r->len > BUS_ACCESS_MAX);
	b->whole[r->space][(*n)++] = (struct bus_range){
		.base = r->base,
		.len = r->len,
		.dev = dev,
		.index = index,
	};
	return NULL;
}

static const struct bus_range *find_whole(const struct bus *b, enum dev_space space, uint64_t addr,
					  unsigned len)
{
	for (unsigned i = 0; i < b->nwhole[space]; i++) {
		const struct bus_range *r = &b->whole[space][i];
		if (r->base == addr && r->len == len) {
			return r;
		}
	}
	return NULL;
}

/* On failure none of the device's ranges is on the bus. */
struct err *bus_add(struct bus *b, struct device *dev)
{
	BUG_ON(dev->nranges > ARRAY_LEN(dev->ranges));
	for (unsigned i = 0; i < dev->nranges; i++) {
		const struct dev_range *r = &dev->ranges[i];
		uint64_t last;
		BUG_ON(r->space != DEV_PIO && r->space != DEV_MMIO);
		BUG_ON(r->len == 0 || ADD_OVERFLOWS(r->base, r->len - 1, &last));
		struct err *e =
			r->whole ? insert_whole(b, dev, i) : insert(&b->tables[r->space], dev, i);
		if (e != NULL) {
			remove_device(&b->tables[DEV_PIO], dev);
			remove_device(&b->tables[DEV_MMIO], dev);
			return e;
		}
	}
	return NULL;
}

/* The largest piece of 1, 2, 4 or 8 bytes that fits what is left of the access and of the range. */
static unsigned piece_of(const struct bus_range *r, uint64_t addr, unsigned left)
{
	uint64_t room = MIN((uint64_t)left, r->len - (addr - r->base));
	unsigned piece = BUS_ACCESS_MAX;
	while (piece > room) {
		piece /= 2;
	}
	return piece;
}

void bus_read(struct bus *b, enum dev_space space, uint64_t addr, void *data, unsigned len)
{
	uint8_t *out = data;
	BUG_ON(len > BUS_ACCESS_MAX);
	const struct bus_range *whole = find_whole(b, space, addr, len);
	if (whole != NULL) {
		uint64_t v = UINT64_MAX;
		whole->dev->ops->read(whole->dev, whole->index, 0, len, &v);
		memcpy(out, &v, len);
		return;
	}
	for (unsigned done = 0; done < len;) {
		const struct bus_range *r = find(&b->tables[space], addr + done);
		if (r == NULL) {
			out[done++] = 0xff;
			continue;
		}
		unsigned piece = piece_of(r, addr + done, len - done);
		uint64_t v = UINT64_MAX;
		r->dev->ops->read(r->dev, r->index, addr + done - r->base, piece, &v);
		memcpy(out + done, &v, piece);
		done += piece;
	}
}

void bus_write(struct bus *b, enum dev_space space, uint64_t addr, const void *data, unsigned len)
{
	const uint8_t *in = data;
	BUG_ON(len > BUS_ACCESS_MAX);
	const struct bus_range *whole = find_whole(b, space, addr, len);
	if (whole != NULL) {
		uint64_t v = 0;
		memcpy(&v, in, len);
		whole->dev->ops->write(whole->dev, whole->index, 0, len, v);
		return;
	}
	for (unsigned done = 0; done < len;) {
		const struct bus_range *r = find(&b->tables[space], addr + done);
		if (r == NULL) {
			done++;
			continue;
		}
		unsigned piece = piece_of(r, addr + done, len - done);
		uint64_t v = 0;
		memcpy(&v, in + done, piece);
		r->dev->ops->write(r->dev, r->index, addr + done - r->base, piece, v);
		done += piece;
	}
}
