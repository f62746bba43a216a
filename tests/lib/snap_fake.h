/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM that is none, for unit tests of the snapshot engine: real guest memory and a real store,
 * parts that only note in a log what was done to them, and any operation made to fail by its number.
 * Each test program includes it once. One thread.
 */
#ifndef TORPOR_TESTS_SNAP_FAKE_H
#define TORPOR_TESTS_SNAP_FAKE_H

#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/io.h"
#include "snapshot/manifest.h"
#include "tests/lib/tmp_root.h"

enum { FAKE_PARTS = 4 };

struct fake_state {
	uint64_t a;
	uint32_t b; /* below 1000 */
	uint32_t n;
	uint8_t fifo[16];
};

static UNUSED struct err *fake_state_check(const void *state)
{
	const struct fake_state *s = state;
	ENSURE(s->b != 666, ERR_CORRUPT, "666 is never right");
	return NULL;
}

static const struct state_field fake_fields[] = {
	FIELD(struct fake_state, 1, a),
	FIELD(struct fake_state, 2, b, FIELD_RANGE(0, 999)),
	FIELD(struct fake_state, 3, n),
	FIELD_VBLOB(struct fake_state, 4, fifo, n),
};
#define FAKE_DESC(name_)                                                                           \
	{                                                                                          \
		.name = name_, .version = 1, .oldest = 1, .size = sizeof(struct fake_state),       \
		.fields = fake_fields, .nfields = ARRAY_LEN(fake_fields),                          \
		.check = fake_state_check,                                                         \
	}
static const struct state_desc fake_cpu_desc = FAKE_DESC("cpu");
static const struct state_desc fake_serial_desc = FAKE_DESC("serial");
static const struct state_desc fake_clock_desc = FAKE_DESC("clock");

struct fake_vm;

struct fake_part {
	struct fake_vm *vm;
	struct snap_part part;
	struct fake_state live;  /* what the thing is */
	struct fake_state state; /* what is saved and loaded */
};

struct fake_vm {
	struct gmem *gmem;
	struct fake_part p[FAKE_PARTS];
	struct snap_part *list[FAKE_PARTS];
	char log[1024];
	int ops;     /* operations so far */
	int fail_at; /* this one fails; 0: none */
	bool *cancel_flag;
	int cancel_at; /* at this one *cancel_flag is set */
	struct snap_vm vm;
	char dir[256];
	char store_dir[300];
	struct store *store;
};

/* Notes the operation; an error when it is the one that must fail. */
static UNUSED struct err *fake_op(struct fake_vm *f, const char *what, const struct snap_part *p)
{
	size_t used = strlen(f->log);
	snprintf(f->log + used, sizeof(f->log) - used, "%s%s%s%s", used > 0 ? " " : "", what,
		 p != NULL ? ":" : "", p != NULL ? p->name : "");
	if (p != NULL) {
		used = strlen(f->log);
		snprintf(f->log + used, sizeof(f->log) - used, "%u", p->instance);
	}
	f->ops++;
	if (f->ops == f->cancel_at) {
		*f->cancel_flag = true;
	}
	ENSURE(f->ops != f->fail_at, ERR_NOT_NOW, "made to fail at %s", what);
	return NULL;
}

static UNUSED struct err *fake_park(void *self)
{
	struct fake_part *p = self;
	return fake_op(p->vm, "park", &p->part);
}

static UNUSED void fake_unpark(void *self)
{
	struct fake_part *p = self;
	struct err *e = fake_op(p->vm, "unpark", &p->part);
	if (e != NULL) {
		err_drop(e, "it cannot fail");
	}
}

static UNUSED struct err *fake_fetch(void *self)
{
	struct fake_part *p = self;
	TRY(fake_op(p->vm, "fetch", &p->part));
	p->state = p->live;
	return NULL;
}

static UNUSED struct err *fake_commit(void *self)
{
	struct fake_part *p = self;
	TRY(fake_op(p->vm, "commit", &p->part));
	p->live = p->state;
	return NULL;
}

static UNUSED struct err *fake_freeze(void *self)
{
	return fake_op(self, "freeze", NULL);
}

static UNUSED void fake_thaw(void *self)
{
	struct err *e = fake_op(self, "thaw", NULL);
	if (e != NULL) {
		err_drop(e, "it cannot fail");
	}
}

static UNUSED struct err *fake_flush(void *self)
{
	return fake_op(self, "flush", NULL);
}

static const struct snap_part_ops fake_part_ops = {
	.park = fake_park,
	.unpark = fake_unpark,
	.fetch = fake_fetch,
	.commit = fake_commit,
};
static const struct snap_vm_ops fake_vm_ops = {
	.freeze = fake_freeze,
	.thaw = fake_thaw,
	.flush_irqs = fake_flush,
};

static UNUSED void fake_fail(struct err *e, const char *file, int line)
{
	if (e != NULL) {
		print_error("%s:%d: %s\n", file, line, err_msg(e));
		err_free(e);
		fail();
	}
}
/* The call must succeed. */
#define OK(expr) fake_fail((expr), __FILE__, __LINE__)
/* The call must fail with that class and that text in its message. */
#define REFUSED(expr, class_, text_)                                                               \
	do {                                                                                       \
		struct err *re_ = (expr);                                                          \
		assert_non_null(re_);                                                              \
		if (err_class(re_) != (class_) || strstr(err_msg(re_), (text_)) == NULL) {         \
			print_error("%s:%d: %s: %s\n", __FILE__, __LINE__,                         \
				    err_class_name(err_class(re_)), err_msg(re_));                 \
			err_free(re_);                                                             \
			fail();                                                                    \
		}                                                                                  \
		err_free(re_);                                                                     \
	} while (0)

static UNUSED void fake_part_init(struct fake_vm *f, int i, const struct state_desc *d,
				  uint32_t instance, int park_rank, int commit_rank)
{
	struct fake_part *p = &f->p[i];
	p->vm = f;
	p->live = (struct fake_state){ .a = 0x1111111111111111ull * (unsigned)(i + 1),
				       .b = (uint32_t)i * 10,
				       .n = (uint32_t)i };
	memcpy(p->live.fifo, "abcdefgh", (size_t)i);
	p->part = (struct snap_part){
		.name = d->name,
		.instance = instance,
		.park_rank = park_rank,
		.commit_rank = commit_rank,
		.desc = d,
		.state = &p->state,
		.ops = &fake_part_ops,
		.self = p,
	};
	f->list[i] = &p->part;
}

/* A VM whose parts, listed in an order that is neither of the ranks', are all different. */
static UNUSED void fake_init(struct fake_vm *f, uint64_t mem_bytes)
{
	static const uint8_t config[] = "{\"name\":\"fake\",\"ncpus\":2}";
	memset(f, 0, sizeof(*f));
	OK(gmem_new(mem_bytes, &f->gmem));
	fake_part_init(f, 0, &fake_cpu_desc, 0, SNAP_RANK_VCPU, SNAP_RANK_VCPU);
	fake_part_init(f, 1, &fake_cpu_desc, 1, SNAP_RANK_VCPU, SNAP_RANK_VCPU);
	fake_part_init(f, 2, &fake_clock_desc, 0, SNAP_RANK_CLOCK, SNAP_RANK_CLOCK);
	fake_part_init(f, 3, &fake_serial_desc, 0, SNAP_RANK_DEVICE, SNAP_RANK_IRQCHIP);
	f->vm = (struct snap_vm){
		.uuid = { 1, 2, 3 },
		.family = { 9, 8, 7 },
		.name = "fake",
		.gmem = f->gmem,
		.parts = f->list,
		.nparts = FAKE_PARTS,
		.ops = &fake_vm_ops,
		.self = f,
		.config = { config, sizeof(config) - 1 },
	};
}

static UNUSED void fake_open_store(struct fake_vm *f)
{
	snprintf(f->dir, sizeof(f->dir), "%s/torpor-snap-XXXXXX", tmp_root());
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->store_dir, sizeof(f->store_dir), "%s/store", f->dir);
	OK(store_open(f->store_dir, STORE_CREATE, &f->store));
}

static UNUSED int fake_rm(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	(void)ftw;
	return remove(path);
}

static UNUSED void fake_done(struct fake_vm *f)
{
	store_close(f->store);
	gmem_free(f->gmem);
	if (f->dir[0] != '\0') {
		nftw(f->dir, fake_rm, 16, FTW_DEPTH | FTW_PHYS);
	}
	f->store = NULL;
	f->gmem = NULL;
}

/* Recognizable bytes in some pages: the first, the last, a run over a 2 MiB border, one zero page. */
static UNUSED void fake_fill(struct fake_vm *f, uint8_t seed)
{
	uint8_t page[PAGE_BYTES];
	uint64_t end = gmem_gfn_end(f->gmem);
	const uint64_t gfns[] = { 0, 5, 510, 511, 512, 513, 1000, end - 1 };
	for (size_t i = 0; i < ARRAY_LEN(gfns); i++) {
		for (size_t k = 0; k < sizeof(page); k++) {
			page[k] = (uint8_t)(seed + i * 31 + k * (k >> 5));
		}
		OK(gmem_write(f->gmem, GPA(gfns[i] * PAGE_BYTES), page, sizeof(page)));
	}
	memset(page, 0, sizeof(page));
	OK(gmem_write(f->gmem, GPA(700 * PAGE_BYTES), page, sizeof(page)));
}

/* How many snapshots all VMs of the store have together. */
static UNUSED size_t fake_count_snaps(struct fake_vm *f)
{
	struct family *fam = NULL;
	struct snap_info *infos = NULL;
	size_t n = 0;
	struct err *e = family_open(f->store, f->vm.family, false, &fam);
	if (e != NULL) {
		assert_int_equal(err_class(e), ERR_NOTFOUND);
		err_free(e);
		return 0;
	}
	OK(family_snaps(fam, &infos, &n));
	free(infos);
	family_close(fam);
	return n;
}

#endif
