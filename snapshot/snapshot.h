/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The snapshot engine: take a VM into the store, and load one from it.
 *
 * The engine sees parts (part.h), guest memory (gmem.h) and the store (store.h); never a device or
 * a KVM call. Core fills struct snap_vm. One take of a VM at a time (core sees to it).
 *
 * Blobs of a snapshot: kind SNAP_BLOB_MANIFEST (what it consists of, host facts, versions), kind
 * SNAP_BLOB_CONFIG (configuration text, opaque here), kind SNAP_BLOB_PART with index = position.
 * Maps: "memory" (page index = gfn), one per kept file ("kernel", "initrd"), and one per captured
 * disk (disks.h).
 */
#ifndef TORPOR_SNAPSHOT_SNAPSHOT_H
#define TORPOR_SNAPSHOT_SNAPSHOT_H

#include "core/base/finding.h"
#include "core/gmem.h"
#include "snapshot/page_source.h"
#include "snapshot/part.h"
#include "store/store.h"

enum snap_blob {
	SNAP_BLOB_MANIFEST = 1,
	SNAP_BLOB_CONFIG = 2,
	SNAP_BLOB_PART = 3,
};

/* A file that the VM needs to boot again: kept with the snapshot. */
struct snap_image;
struct snap_file {
	const char *name; /* map name: "kernel", "initrd" */
	/* Either from the host: */
	int fd; /* borrowed; -1 if kept comes from the store */
	uint64_t len_bytes;
	/*
	 * or shared with the snapshot that it was restored from (same family): borrowed, NULL if
	 * none. While the image lives its snapshot's maps do, also after somebody removed the
	 * snapshot.
	 */
	const struct snap_image *image;
};

/* Facts about the host that a restore compares (what the snapshot uses against what is there). */
struct snap_host {
	char kernel[65];    /* uname release, informative */
	char cpu_model[49]; /* informative: never a reason to refuse */
	uint32_t tsc_khz;   /* guest TSC frequency at the take */
	bool tsc_scaling;   /* host can give a guest another frequency */
	bool software_kvm;  /* CPUID of the host shows through */
	uint64_t xcr0_mask; /* XSAVE components that the host supports */
};

/* How a running VM was stopped; CLOCK_MONOTONIC. */
struct snap_stop {
	uint64_t asked_ns;
	uint64_t out_ns;     /* the first vCPU had left the guest: the pause begins */
	uint64_t parked_ns;  /* the last one had */
	uint64_t resumed_ns; /* they were let go */
	bool resumed;        /* false: still frozen */
};

/*
 * What core does around a take. Called on the thread that runs the take, but for what `work` calls
 * (xcr0_used, flush_irqs).
 */
struct snap_vm_ops {
	/*
	 * Parks all vCPUs (counted rendezvous) and reads the guest clock right after; a VM that was
	 * suspended already stays as it is. On failure the VM is as before.
	 */
	struct err *(*freeze)(void *self);
	/*
	 * Like freeze, for a VM that runs: work(arg) is called at once by the thread that came to
	 * stand still last, so that no hand-over to another thread lies within the pause. If it
	 * returns true the VM runs on as soon as it has returned, else it stays frozen until thaw.
	 * On failure work was not called and the VM is as before. NULL: freeze will do (a VM that
	 * is suspended).
	 */
	struct err *(*freeze_and)(void *self, bool (*work)(void *arg), void *arg,
				  struct snap_stop *ret_stop);
	/* Undoes exactly what freeze did. */
	void (*thaw)(void *self);
	/* Between device park and fetch: interrupts on their way reach the irqchip. May be NULL. */
	struct err *(*flush_irqs)(void *self);
	/*
	 * XSAVE components that the guest can have in use (those its CPUID shows, or its XCR0
	 * values), while frozen. NULL: all that the host has. May be NULL.
	 */
	uint64_t (*xcr0_used)(void *self);
};

/*
 * Which pages changed. Bitmaps are per region of gmem, one bit per page, in 64-bit words; ranges
 * are multiples of 64 pages, but at a region's end. Called on the thread of the take and in its
 * `work`.
 */
struct snap_dirty_ops {
	/*
	 * Begins to look. *ret_base: the snapshot that the memory equals but for what fetch tells,
	 * 0: none is known, everything touched is to be stored.
	 */
	struct err *(*begin)(void *self, uint64_t *ret_base);
	/*
	 * Adds to bits the pages that may have changed since they were cleared last. What it has
	 * told once is told again to the next take, unless this one is published.
	 */
	struct err *(*fetch)(void *self, unsigned region, uint64_t *bits);
	/* Pages in [first, first + npages) whose bit is set are about to be read. */
	struct err *(*clear)(void *self, unsigned region, uint64_t first, uint64_t npages,
			     const uint64_t *bits);
};

/* ---- captured disks ---- */

/* What a snapshot says of a disk beside its blocks. */
struct snap_disk_info {
	char id[NAME_BYTES_MAX + 1];
	uint64_t len_bytes;
	/* Blocks that the snapshot does not hold are those of a file that nobody writes, up to
	 * there; zeros behind. And what that file was. */
	uint64_t base_end;
	uint64_t base_bytes;
	uint64_t base_dev, base_ino, base_mtime_ns;
	bool base_is_file;
};

/*
 * A disk whose content goes into the snapshot: blocks of 4096 bytes, of which only those that
 * changed since `base` are read. freeze is called in the pause, on the thread that does the stop
 * work; the others on the take's thread, while the guest goes on writing. What they say is the
 * disk as it was at the freeze, until end.
 */
struct snap_disk_ops {
	/* At once, and without a failure; never twice without an end. */
	void (*freeze)(void *self, struct snap_disk_info *ret_info);
	/* The snapshot whose map of this disk the next one starts from; 0: none. Before a freeze.
	 */
	uint64_t (*base)(void *self);
	/* The next run of blocks at or after `from` that the base's map does not have as they are
	 * (all that there are, without a base). False: no more. */
	bool (*changed)(void *self, uint64_t from, uint64_t *ret_first, uint64_t *ret_n);
	struct err *(*read)(void *self, uint64_t first, uint64_t n, uint8_t *buf);
	/* Which of the 32768 blocks from page * 32768 on the snapshot holds, a bit for each. False:
	 * those that the base's does. */
	bool (*held)(void *self, uint64_t page, uint8_t bits[PAGE_BYTES]);
	/* The capture is over. snap_id: it is in that snapshot; 0: it came to nothing. */
	void (*end)(void *self, uint64_t snap_id);
};

struct snap_disk {
	const char *id; /* unique in the VM */
	const struct snap_disk_ops *ops;
	void *self;
};

struct snap_vm {
	uint8_t uuid[16];
	uint8_t family[16];
	const char *name;
	struct gmem *gmem;
	struct snap_part *const *parts;
	size_t nparts;
	const struct snap_vm_ops *ops;
	void *self;
	const struct snap_dirty_ops *dirty; /* NULL: nothing is known of changes */
	void *dirty_self;
	/* Pages may be missing yet: a take whose base is gone fails (ERR_NOTFOUND) instead of
	 * storing everything. */
	bool partial;
	struct bytes config; /* configuration text */
	const struct snap_file *files;
	size_t nfiles;
	const struct snap_disk *disks;
	size_t ndisks;   /* with the files at most STORE_MAPS_MAX - 1 */
	uint64_t parent; /* snapshot it descends from, 0 if none */
};

struct snap_progress {
	/* Called now and then, never twice at once, from the thread that takes or loads or from one
	 * of the store's; units are bytes. May be NULL. */
	void (*fn)(void *arg, const char *step, uint64_t done, uint64_t total);
	void *arg;
};

struct snap_take_opts {
	const char *tag; /* NULL or "": none */
	struct snap_progress progress;
	/* Set from another thread (atomic) to give up; NULL: cannot be cancelled. */
	const bool *cancel;
	uint64_t max_pause_us; /* of a running VM; 0: SNAP_MAX_PAUSE_US */
};
#define SNAP_MAX_PAUSE_US 10000u
#define SNAP_ROUNDS_MAX 16u /* of one take: pages are copied at most so often before the stop */

/* What the pause was spent on, in microseconds. */
struct snap_pause {
	uint64_t kick_us;  /* from asking to the first vCPU out of the guest: before the pause */
	uint64_t park_us;  /* until the last one was */
	uint64_t state_us; /* reading and copying the parts' state */
	uint64_t dirty_us; /* asking for the last changed pages */
	uint64_t copy_us;  /* copying them; or writing them, if they were too many */
	uint64_t resume_us;
	uint64_t pages; /* copied in the pause */
};

struct snap_result {
	uint64_t snap_id;
	uint64_t number;
	uint64_t frozen_at_ns;
	uint64_t pause_us; /* freeze to thaw, host clock; core sets 0 for a VM suspended before */
	uint64_t elapsed_us;
	uint64_t pages_stored;
	uint64_t bytes_stored;
	uint64_t disk_blocks; /* that were read: changed ones */
	bool incremental;     /* only changed pages were read */
	uint32_t rounds;      /* pages[i] were copied in round i, while the guest ran */
	uint64_t round_pages[SNAP_ROUNDS_MAX];
	struct snap_pause pause; /* zeros for a VM that did not run */
	char missed[160];        /* why pause_us is above the bound; "" if it is not */
};

/*
 * Takes one snapshot. Registers the VM in the store's catalog if it is not there yet. A running VM
 * stands still only for its state and the last changed pages; success is returned once the snapshot
 * is durable. On failure the guest runs as before and the store lists nothing new. ERR_CORRUPT of
 * an incremental take may mean that its base is damaged.
 */
MUST_USE struct err *snap_take(struct store *s, const struct snap_vm *vm,
			       const struct snap_take_opts *opts, struct snap_result *ret_result);

/* ---- load ---- */

/* Opens a snapshot and decodes its manifest; holds a lease until snap_image_free. */
MUST_USE struct err *snap_image_open(struct store *s, const char *ref, struct snap_image **ret_img);
void snap_image_free(struct snap_image *img);
DEFINE_SCOPE(struct snap_image, snap_image_free)

const struct snap_info *snap_image_info(const struct snap_image *img);
const struct store_vm *snap_image_vm(const struct snap_image *img);
struct bytes snap_image_config(const struct snap_image *img);
const struct snap_host *snap_image_host(const struct snap_image *img);
/* Length of a kept file, ERR_NOTFOUND if there is none. */
MUST_USE struct err *snap_image_file_len(const struct snap_image *img, const char *name,
					 uint64_t *ret_len_bytes);
/* Copies a kept file into new memory: *ret_fd is a sealed memfd. */
MUST_USE struct err *snap_image_file(struct snap_image *img, const char *name, struct fd *ret_fd);

/*
 * Can it run here? ERR_INCOMPAT naming the first thing that the snapshot uses and this host lacks.
 * Part-level checks (CPUID bits, MSRs) are in the parts' own check functions.
 */
MUST_USE struct err *snap_image_compat(const struct snap_image *img, const struct snap_host *here);
/* The same, with everything that is lacking. */
void snap_image_compat_all(const struct snap_image *img, const struct snap_host *here,
			   const struct findings *f);

struct pages_set;
struct snap_load_opts {
	struct snap_progress progress;
	bool placed; /* memory is there already, verified by whoever placed it */
	/* Memory comes from snap_image_pages when it is touched: a server of it runs already. */
	bool lazy;
	/*
	 * Memory is what this snapshot of the same family says, but for the pages in `changed`
	 * (pages.h; NULL: none): only what differs is written, and kept files are not looked at.
	 * *ret_written: pages that were.
	 */
	struct snap_image *present;
	const struct pages_set *changed;
	uint64_t *ret_written;
};
/*
 * Could it be loaded into this VM, which may run and stays as it is? Every part is decoded and
 * checked, kept files are read; an error says what does not fit or is damaged. Memory is not
 * looked at.
 */
MUST_USE struct err *snap_image_check(struct snap_image *img, struct gmem *gmem,
				      struct snap_part *const *parts, size_t nparts);
/* Reads and verifies what a load with `present` will write; memory is not touched. */
MUST_USE struct err *snap_image_check_diff(struct snap_image *img, struct snap_image *present,
					   struct gmem *gmem, const struct snap_progress *progress,
					   uint64_t *ret_pages);
/*
 * Loads into a freshly built VM: decode and check every part into side structs, then memory, then
 * commit in rank order. The list of parts must match the snapshot's exactly (name and instance).
 * After an error the VM is to be destroyed.
 */
MUST_USE struct err *snap_image_load(struct snap_image *img, struct gmem *gmem,
				     struct snap_part *const *parts, size_t nparts,
				     const struct snap_load_opts *opts);

/*
 * Would snap_image_load succeed? Decodes every part and asks each what it would refuse (part.h,
 * probe); reads no memory. For a VM that is made for this and never runs. Reports everything.
 */
void snap_image_probe(struct snap_image *img, struct gmem *gmem, struct snap_part *const *parts,
		      size_t nparts, const struct findings *f);

/* The memory as a page source; the image is to outlive it. */
MUST_USE struct err *snap_image_pages(struct snap_image *img, struct page_source *ret_source);

/*
 * The pieces that guests have waited for after lazy restores of this snapshot, in that order; empty
 * if nothing is known. Any pieces of its memory, without any promise. To be done.
 */
void snap_image_wset(struct snap_image *img, struct page_order *ret);
/*
 * Remembers what one has waited for, beside what is known already; writes only if something is new.
 * Any thread, beside readers of the image. ERR_NOTFOUND: the snapshot is being removed.
 */
MUST_USE struct err *snap_image_wset_put(struct snap_image *img, const struct page_order *now);

/* The captured disks of a snapshot. */
size_t snap_image_ndisks(const struct snap_image *img);
void snap_image_disk(const struct snap_image *img, size_t i, struct snap_disk_info *ret);
/* ERR_NOTFOUND if it holds no disk of that id. */
MUST_USE struct err *snap_image_disk_find(const struct snap_image *img, const char *id,
					  struct snap_disk_info *ret);
/*
 * Reads the blocks of one, on demand, each verified; the image outlives it. Belongs to one thread
 * at a time; an image may have several.
 */
struct disk_reader;
MUST_USE struct err *disk_reader_new(struct snap_image *img, const char *id,
				     struct disk_reader **ret);
void disk_reader_free(struct disk_reader *r);
DEFINE_SCOPE(struct disk_reader, disk_reader_free)
/* The blocks around `block`, up to STORE_PIECE_PAGES of them; borrowed until the next call. Those
 * that the snapshot does not hold are zero. */
MUST_USE struct err *disk_reader_piece(struct disk_reader *r, uint64_t block, struct piece *ret);
/* Calls fn for every 64 blocks of which the snapshot holds some, ascending. */
MUST_USE struct err *disk_reader_held(struct disk_reader *r,
				      void (*fn)(void *arg, uint64_t first, uint64_t bits),
				      void *arg);

/* Facts of this host, for the manifest and the check. Filled by core from KVM and /proc. */
void snap_set_host(const struct snap_host *here); /* once, before threads start */

/* Prints a whole snapshot as a JSON document from its own bytes; `find` names a part's table, NULL
 * for an unknown part (then only its head is shown). */
typedef const struct state_desc *snap_find_desc_fn(const char *part_name);
MUST_USE struct err *snap_image_show(struct snap_image *img, snap_find_desc_fn *find,
				     struct wbuf *out);

#endif
