/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes the small, sound files that the fuzz targets start from: kernels of every kind and
 * packing, a record of every field table, map records, a frame, the small records of a family, a
 * family of all of them, control packets, command lines, configurations, a virtio driver's steps.
 *Run by hand when a format grows:
 *
 *	make_corpus tests/fuzz/corpus
 *
 * Built with the tests so that it cannot rot. One thread.
 */
#include <stdio.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/config.h"
#include "tests/fuzz/fuzz_tables.h"
#include "tests/fuzz/make_corpus.h"
#include "tests/lib/fake_kernel.h"

struct err *corpus_put(const char *root, const char *dir, const char *name, const struct wbuf *w)
{
	char path[4096];
	TRY(wbuf_check(w));
	snprintf(path, sizeof(path), "%s/%s", root, dir);
	TRY(io_mkdirs(path));
	snprintf(path, sizeof(path), "%s/%s/%s", root, dir, name);
	SCOPE(fd_close) struct fd fd = FD_NONE;
	TRY(io_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644, &fd));
	return io_write_full(fd.n, w->p, w->len);
}

static struct err *make_boot(const char *root)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(FK_FILE_MAX);
	struct fk_elf k = fk_small(true);
	fk_make_elf(&w, &k);
	TRY(corpus_put(root, "boot", "elf64", &w));
	static const char *const packs[] = { "bzimage-gzip", "bzimage-xz", "bzimage-zstd",
					     "bzimage-lz4" };
	for (unsigned i = 0; i < ARRAY_LEN(packs); i++) {
		wbuf_reset(&w);
		fk_make_bzimage_of(&w, (enum boot_pack)i, &k);
		TRY(corpus_put(root, "boot", packs[i], &w));
	}
	for (unsigned is64 = 0; is64 < 2; is64++) {
		k = fk_small(is64);
		k.pvh_bytes = is64 ? 8 : 4;
		k.pvh_entry = 0x100000;
		k.nsegs = 3;
		k.seg[1] = (struct fk_seg){ 0x8000, 0x8000, 16, 16 };
		k.seg[2] = (struct fk_seg){ 0, 0x400000, 16, 1u << 20 };
		wbuf_reset(&w);
		fk_make_elf(&w, &k);
		TRY(corpus_put(root, "boot", is64 ? "pvh64" : "pvh32", &w));
	}
	k = fk_small(false);
	k.multiboot = true;
	wbuf_reset(&w);
	fk_make_elf(&w, &k);
	TRY(corpus_put(root, "boot", "multiboot-elf", &w));
	wbuf_reset(&w);
	fk_make_mb_raw(&w);
	return corpus_put(root, "boot", "multiboot-raw", &w);
}

/* Fixed-width scalar at p. */
static void put_scalar(uint8_t *p, uint64_t v, size_t size)
{
	memcpy(p, &v, size);
}

/* The least value of every ranged member; everything else is zero. */
static void fill_least(const struct state_desc *d, uint8_t *state)
{
	for (size_t i = 0; i < d->nfields; i++) {
		const struct state_field *f = &d->fields[i];
		if (f->sub != NULL) {
			for (uint32_t n = 0; n < f->max; n++) {
				fill_least(f->sub, state + f->offset + n * f->elem_size);
			}
		} else if (f->ranged) {
			put_scalar(state + f->offset, f->lo, f->size);
		}
	}
}

static void fill_manifest(struct manifest *m)
{
	memset(m, 0, sizeof(*m));
	manifest_text(m->torpor, sizeof(m->torpor), "0.1.0");
	manifest_text(m->vm_name, sizeof(m->vm_name), "vm");
	m->page_bytes = PAGE_BYTES;
	m->nregions = 1;
	m->regions[0].len_bytes = GMEM_MIN_BYTES;
	m->host.xcr0_mask = 7;
	m->host.xcr0_used = 3;
	m->host.tsc_khz = 1000000;
	manifest_text(m->host.kernel, sizeof(m->host.kernel), "6.1");
	manifest_text(m->host.cpu_model, sizeof(m->host.cpu_model), "cpu");
	m->nparts = 1;
	manifest_text(m->parts[0].name, sizeof(m->parts[0].name), "pit");
	m->parts[0].version = 1;
	m->nfiles = 1;
	manifest_text(m->files[0].name, sizeof(m->files[0].name), "kernel");
	m->files[0].len_bytes = 1;
}

static struct err *make_desc(const char *root)
{
	for (size_t i = 0; i < ARRAY_LEN(fuzz_tables); i++) {
		const struct state_desc *d = fuzz_tables[i];
		SCOPE(freep) uint8_t *state = calloc(1, d->size);
		ENSURE(state != NULL, ERR_SYS, "no memory");
		fill_least(d, state);
		if (d == &manifest_desc) {
			fill_manifest((struct manifest *)(void *)state);
		} else if (d == &i8042_desc) {
			((struct i8042_state *)(void *)state)->outport = 1; /* not in reset */
		}
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(PART_BYTES_MAX);
		struct err *e = desc_encode(d, 0, state, &w);
		if (e != NULL) {
			return err_wrap(e, "%s", d->name);
		}
		TRY(corpus_put(root, "desc", d->name, &w));
	}
	return NULL;
}

static struct err *make_manifest(const char *root)
{
	SCOPE(freep) struct manifest *m = malloc(sizeof(*m));
	ENSURE(m != NULL, ERR_SYS, "no memory");
	fill_manifest(m);
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(PART_BYTES_MAX);
	TRY(desc_encode(&manifest_desc, 0, m, &w));
	TRY(corpus_put(root, "manifest", "small", &w));
	m->nregions = 2;
	m->regions[1] = (struct manifest_region){ GMEM_HIGH_START, 1u << 30 };
	m->nparts = 3;
	manifest_text(m->parts[1].name, sizeof(m->parts[1].name), "vcpu");
	manifest_text(m->parts[2].name, sizeof(m->parts[2].name), "vcpu");
	m->parts[2].instance = 1;
	wbuf_reset(&w);
	TRY(desc_encode(&manifest_desc, 0, m, &w));
	return corpus_put(root, "manifest", "large", &w);
}

/* ---- texts ---- */

static struct err *put_text(const char *root, const char *dir, const char *name, const char *text)
{
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(MIB);
	wbuf_put(&w, text, strlen(text));
	return corpus_put(root, dir, name, &w);
}

static struct err *make_texts(const char *root)
{
	static const struct {
		const char *dir, *name, *text;
	} texts[] = {
		{ "ctl", "unit", "\"SuspendVm\"" },
		{ "ctl", "unit-null", "{\"ResumeVcpus\":null}" },
		{ "ctl", "snapshot",
		  "{\"Snapshot\":{\"Take\":{\"snapshot_path\":\"tag-1\",\"compress_memory\":true,"
		  "\"encrypt\":false}}}" },
		{ "ctl", "torpor-take",
		  "{\"Torpor\":{\"v\":1,\"cmd\":{\"Take\":{\"tag\":\"t\"}}}}" },
		{ "ctl", "torpor-status", "{\"Torpor\":{\"v\":1,\"cmd\":\"TakeStatus\"}}" },
		{ "ctl", "torpor-job",
		  "{\"Torpor\":{\"v\":1,\"deadline_ms\":5000,\"detach\":false,"
		  "\"cmd\":{\"JobWait\":{\"id\":7}}}}" },
		{ "ctl", "no-device", "{\"BalloonCommand\":{\"Adjust\":{\"num_bytes\":1}}}" },
		{ "ctl", "gpe", "{\"Gpe\":{\"gpe\":5,\"clear_evt\":0}}" },
		{ "ctl", "battery", "{\"BatCommand\":[\"goldfish\",{\"SetHealth\":\"Dead\"}]}" },
		{ "ctl", "displays",
		  "{\"GpuCommand\":{\"AddDisplays\":{\"displays\":[{\"mode\":{\"windowed\":[1,2]},"
		  "\"hidden\":true,\"dpi\":[3,4],\"refresh-rate\":60}]}}}" },
		{ "ctl", "vfio",
		  "{\"HotPlugVfioCommand\":{\"device\":{\"device_type\":\"EndPoint\",\"path\":"
		  "\"/sys/x\",\"hp_interrupt\":true},\"add\":true}}" },
		{ "ctl", "memory",
		  "{\"RegisterMemory\":{\"fd\":0,\"offset\":0,\"range_start\":4294967296,"
		  "\"range_end\":4294971392,\"cache_coherent\":false}}" },
		{ "ctl", "listener",
		  "{\"RegisterListener\":{\"socket_addr\":\"/a\",\"event\":\"StateChange\"}}" },
		{ "ctl", "ws-config",
		  "{\"BalloonCommand\":{\"WorkingSetConfig\":{\"bins\":[1,2],"
		  "\"refresh_threshold\":3,\"report_threshold\":4}}}" },
		{ "ctl", "unknown-lines", "\"a\\nb\\u001b[2J\"" },
		{ "cmdline", "options",
		  "name\n--flag\n--text=a "
		  "b\n--number\n42\n--size=512M\n--choice\ntwo\n--store\n/x" },
		{ "cmdline", "words", "vm-1.a_b\n--\n--flag" },
		{ "cmdline", "help", "a\n--json\n--help" },
		{ "cmdline", "uuid", "12345678-9abc-4ef0-8123-456789abcdef\n18446744073709551615" },
		{ "cmdline", "bad", "--nope\nx" },
		{ "cmdline", "bad-value", "--number\n-1\n--size\n1T" },
	};
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		TRY(put_text(root, texts[i].dir, texts[i].name, texts[i].text));
	}
	struct config c = {
		.name = "vm",
		.ncpus = 1,
		.mem_bytes = GMEM_MIN_BYTES,
		.cpu_model = "host",
		.cmdline = "console=ttyS0",
		.kernel_name = "vmlinux",
	};
	static const char *const names[] = { "small", "other", "devices" };
	for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
		if (i == 2) {
			c.vmgenid = true;
			c.battery = true;
			c.s2idle = true;
			c.exit_device = true;
			for (unsigned k = 0; k < CONFIG__KINDS; k++) {
				const struct config_dev d = { .kind = (enum config_kind)k,
							      .queues = 1,
							      .cid = 3 };
				TRY(config_dev_add(&c.devs, &d, NULL));
			}
		}
		SCOPE(freep) char *text = NULL;
		TRY(config_text(&c, &text));
		TRY(put_text(root, "config", names[i], text));
		c.kernel_name = NULL;
		c.has_initrd = true;
		c.ncpus = VCPUS_MAX;
		snprintf(c.cpu_model, sizeof(c.cpu_model), "x86-64-v3");
	}
	return NULL;
}

/* Operations of fuzz_virtio.c: a kind of device, start or not, then 12 bytes each. */
static struct err *make_virtio(const char *root)
{
	static const uint8_t ops[][12] = {
		{ 4, 0, 0, 0, 0, 0, 0x10, 0, 4, 2, 0, 0 }, /* a writable descriptor */
		{ 6, 0, 0, 0 },                            /* offered and kicked */
		{ 4, 1, 0, 0, 0, 0, 0x10, 0, 4, 0, 0, 0 }, /* a readable one in the second queue */
		{ 6, 1, 0, 0 },
		{ 7 },                                     /* served */
		{ 2, 1, 0x14, 0, 0 },                      /* reset */
		{ 0, 2, 4, 0, 0x04 },                      /* memory decoding off */
		{ 0xf3, 2, 0, 0x20, 0 },                   /* save and load */
		{ 4, 0, 1, 0, 0, 0, 0x10, 0, 4, 1, 1, 0 }, /* a loop */
		{ 6, 0, 1, 0 },
		{ 7 },
	};
	for (unsigned kind = 0; kind < CONFIG_PORT; kind++) {
		SCOPE(wbuf_done) struct wbuf w = wbuf_make(KIB);
		wbuf_u8(&w, (uint8_t)kind);
		wbuf_u8(&w, 3 | 8); /* started, with all that the device offers */
		wbuf_put(&w, ops, sizeof(ops));
		TRY(corpus_put(root, "virtio", config_kind_name((enum config_kind)kind), &w));
	}
	return NULL;
}

/* Operations of fuzz_pcie.c: kind, bus, width, offset, value. */
static struct err *make_pcie(const char *root)
{
	static const uint8_t ops[][8] = {
		{ 7, 0, 1, 0x04, 6 },                /* memory and messages on */
		{ 5, 0, 2, 0x00, 0, 0, 0xe0, 0xfe }, /* a vector of the port, wherever its BAR is */
		{ 7, 0, 1, 0x58, 0x39, 0x14 },       /* interrupts of the slot; power stays off */
		{ 7, 0, 1, 0x5c, 8 },                /* PME's */
		{ 0 },                               /* a device comes */
		{ 7, 0, 1, 0x5a, 0xff, 0x01 },       /* events cleared */
		{ 4 },
		{ 7, 0, 1, 0x58, 0x39, 0x10 }, /* power on */
		{ 7, 0, 2, 0x20, 0x10, 0xc0, 0x10, 0xc0 },
		{ 6, 1, 2, 0x10, 0, 0, 0x10, 0xc0 }, /* the device's BAR in the port's window */
		{ 6, 1, 1, 0x04, 6 },
		{ 5, 1, 0, 0x01, 1 },
		{ 4 },
		{ 2, 0, 0, 0, 0x00, 0x01 }, /* two PMEs */
		{ 2, 0, 0, 0, 0x08, 0x01 },
		{ 3 },
		{ 7, 0, 2, 0x60, 0, 0, 1 }, /* the first is seen */
		{ 7, 0, 1, 0x3e, 0x40 },    /* the bus is reset */
		{ 7, 0, 1, 0x3e, 0 },
		{ 7, 0, 1, 0x50, 0x10 }, /* the link off and on */
		{ 7, 0, 1, 0x50, 0 },
		{ 1 }, /* the button */
		{ 7, 0, 1, 0x58, 0x39, 0x14 },
		{ 0 },                /* it goes */
		{ 7, 0, 0, 0x19, 9 }, /* another bus number */
		{ 0 },
		{ 0 }, /* a surprise */
		{ 4 },
	};
	SCOPE(wbuf_done) struct wbuf w = wbuf_make(KIB);
	wbuf_put(&w, ops, sizeof(ops));
	TRY(corpus_put(root, "pcie", "empty", &w));
	wbuf_u8(&w, 0); /* an odd length: something is in from the start */
	return corpus_put(root, "pcie", "cold", &w);
}

static struct err *make_all(const char *root)
{
	TRY(make_boot(root));
	TRY(make_desc(root));
	TRY(corpus_store(root));
	TRY(make_manifest(root));
	TRY(make_virtio(root));
	TRY(make_pcie(root));
	return make_texts(root);
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: %s DIR\n", argv[0]);
		return 2;
	}
	struct err *e = make_all(argv[1]);
	if (e != NULL) {
		fprintf(stderr, "%s\n", err_msg(e));
		err_free(e);
		return 1;
	}
	return 0;
}
