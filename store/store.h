/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The store: a directory that keeps snapshots of VM families.
 *
 * It knows frames (compressed pages), slots in frames, maps of slots, opaque blobs, and snapshots
 * made of named maps and blobs. It knows nothing of guest addresses, vCPUs or devices.
 *
 *	DIR/FORMAT              one line: "torpor-store 1 <uuid>", written last at creation
 *	DIR/catalog/            LMDB: registry of VMs and names
 *	DIR/families/<uuid>/    LMDB environment of one VM family (a VM and its clones)
 *	DIR/families/<uuid>/holders/<id>   lock files of living sessions and leases
 *
 * Durability: everything that returned from session_publish survives power loss. A snapshot exists
 * if and only if its record does, and that record is written by one final transaction.
 * Failure: a failed or killed writer leaves earlier snapshots untouched and nothing listed; its
 * space is used again later. A damaged, truncated or failing data file is an error that names what
 * is lost, never a signal.
 *
 * Threads: a struct store and a struct family may be used from any thread; a session, a reader and
 * what they return belong to one thread at a time (they use threads of their own inside). After
 * fork only the child or only the parent goes on with them.
 */
#ifndef TORPOR_STORE_STORE_H
#define TORPOR_STORE_STORE_H

#include "core/base/err.h"
#include "core/base/hash.h"
#include "core/base/limits.h"

struct store;
struct family;
struct session;
struct reader;

/* ---- the store ---- */

enum store_mode {
	STORE_CREATE, /* make it if the directory is absent or empty, then read and write */
	STORE_WRITE,  /* must exist */
	STORE_READ,   /* must exist; nothing is written, also no lease */
};

/* Errors: ERR_NOTFOUND, ERR_CORRUPT (no store), ERR_INCOMPAT (another format version), ERR_SYS. */
MUST_USE struct err *store_open(const char *dir, enum store_mode mode, struct store **ret_store);
void store_close(struct store *s);
const char *store_dir(const struct store *s);
DEFINE_SCOPE(struct store, store_close)

/* One registered VM. A name is held by at most one VM; a replaced VM keeps its row, nameless. */
struct store_vm {
	uint8_t uuid[16];
	uint8_t family[16];
	char name[NAME_BYTES_MAX + 1]; /* last name it had */
	bool holds_name;               /* false once another VM took the name */
	uint64_t created_ns;           /* CLOCK_REALTIME */
};
/* Registers the VM, taking its name over from whoever held it. One durable transaction. */
MUST_USE struct err *store_vm_put(struct store *s, const struct store_vm *vm);
MUST_USE struct err *store_vm_by_name(struct store *s, const char *name, bool *ret_found,
				      struct store_vm *ret_vm);
MUST_USE struct err *store_vm_by_uuid(struct store *s, const uint8_t uuid[16], bool *ret_found,
				      struct store_vm *ret_vm);
/* All VMs by name, then creation; *ret_vms is malloc'ed. */
MUST_USE struct err *store_vm_list(struct store *s, struct store_vm **ret_vms, size_t *ret_n);
MUST_USE struct err *store_vm_forget(struct store *s, const uint8_t uuid[16]);

/* ---- families ---- */

/* create: make its environment if absent. ERR_NOTFOUND without create. */
MUST_USE struct err *family_open(struct store *s, const uint8_t uuid[16], bool create,
				 struct family **ret_family);
void family_close(struct family *f);
DEFINE_SCOPE(struct family, family_close)
/* Removes the family's directory if it holds no snapshot, session or lease; else does nothing. */
MUST_USE struct err *family_remove_empty(struct store *s, const uint8_t uuid[16]);

/* ---- snapshots ---- */

#define STORE_MAPS_MAX 16u
#define STORE_MAP_NAME_MAX 15u

struct snap_map {
	char name[STORE_MAP_NAME_MAX + 1]; /* "memory", "kernel", "initrd", "disk0" ... */
	uint64_t len_bytes;                /* length of the content; pages past it do not exist */
	struct sha256 digest; /* root over the pages' content: equal content, equal digest */
	uint8_t user[32];     /* opaque to the store, e.g. SHA-256 of a source file */
	uint64_t root_id;     /* node record; 0: all zero */
	uint8_t height;
};

struct snap_info {
	uint64_t id; /* within the family, never reused */
	uint8_t vm[16];
	uint64_t number;              /* 1.. per VM, never reused */
	char tag[NAME_BYTES_MAX + 1]; /* "" if none; unique per VM */
	bool pinned;                  /* not to be removed unless asked for by force */
	uint64_t created_ns;          /* CLOCK_REALTIME at publish */
	uint64_t frozen_at_ns;        /* CLOCK_REALTIME at the freeze, from snap_meta */
	uint64_t parent;              /* snapshot id or 0; informative */
	uint64_t pages_stored;        /* pages whose bytes this take wrote */
	uint64_t bytes_stored;        /* bytes of the frames this take wrote */
	uint32_t nblobs;
	uint32_t nmaps;
	struct snap_map maps[STORE_MAPS_MAX];
	struct sha256 root; /* over everything above that is content, all map digests and blobs */
};

/* All published, not hidden snapshots of the family by (vm, number); *ret is malloc'ed. */
MUST_USE struct err *family_snaps(struct family *f, struct snap_info **ret, size_t *ret_n);
/*
 * Like family_snaps, but damaged records are left out and counted; *ret_damage (owned) is the first
 * one's error, or NULL.
 */
MUST_USE struct err *family_snaps_sound(struct family *f, struct snap_info **ret, size_t *ret_n,
					struct err **ret_damage);
MUST_USE struct err *family_snap_by_id(struct family *f, uint64_t id, bool *ret_found,
				       struct snap_info *ret_info);
/*
 * Removes snapshots (leased ones are hidden now and freed later), then collects what no published
 * map, living session or lease reaches, in transactions of bounded size beside running takes.
 * All ids must exist, else ERR_NOTFOUND and nothing is removed.
 */
MUST_USE struct err *family_remove(struct family *f, const uint64_t *ids, size_t n);
/* The same, but ERR_NOT_NOW, with nothing removed, if one of them is pinned. */
MUST_USE struct err *family_remove_unpinned(struct family *f, const uint64_t *ids, size_t n);
/* Changes what a snapshot is called and whether it is pinned. ERR_NOT_NOW: another one of the VM
 * has that tag. Its root does not cover either. */
struct snap_label {
	const char *tag; /* NULL: as it is; "": none */
	bool set_pin;
	bool pinned;
};
MUST_USE struct err *family_label(struct family *f, uint64_t snap_id,
				  const struct snap_label *label);
/*
 * What a policy does not keep of one VM's n snapshots, oldest first: ret_doomed[i]. Pinned ones and
 * the newest are always kept, and all without any rule. Periods are of UTC, by the time of the
 * freeze.
 */
struct prune_policy {
	unsigned keep_last;
	unsigned keep_hourly;
	unsigned keep_daily;
};
void prune_choose(const struct snap_info *snaps, size_t n, const struct prune_policy *p,
		  bool *ret_doomed);
/* Bytes of all records that a VM's published snapshots use, but for those of ids[] with without[].
 */
MUST_USE struct err *vm_bytes(struct family *f, const uint8_t vm[16], const uint64_t *ids,
			      const bool *without, size_t n, uint64_t *ret_bytes);
/* Collection alone (also of what dead writers left). */
struct gc_result {
	uint64_t frames_freed;
	uint64_t bytes_freed;
	uint64_t sessions_cleared;
};
MUST_USE struct err *family_gc(struct family *f, struct gc_result *ret_result);
/*
 * Gives blocks of free pages back to the file system: always, and those that a killed writer had
 * allocated ahead, or (not all) when it is much. Takes the write lock for about a tenth of a second
 * per quarter of a GiB. *ret_bytes: given back.
 */
MUST_USE struct err *family_punch(struct family *f, bool all, uint64_t *ret_bytes);
/*
 * Moves what is used of partly dead frames into new ones, round by round beside takes and readers,
 * then collects and punches. Snapshots keep their ids, numbers and roots. What somebody was reading
 * when a round began is left for another time. ERR_NOT_NOW: another one is at it.
 */
struct compact_opts {
	unsigned live_percent; /* frames with less of their bytes in use are moved; 0: the default,
				  75 */
	/* One round of at most so many bytes in use, and holes only where they are many; 0: all
	 * there is. */
	uint64_t max_bytes;
	const bool *cancel; /* ERR_CANCELLED soon after it is set (atomic access); may be NULL */
	void (*progress)(void *arg, uint64_t done, uint64_t total); /* bytes; may be NULL */
	void *arg;
};
struct compact_result {
	uint64_t rounds;
	uint64_t frames_moved; /* old ones that were given up */
	uint64_t frames_made;
	uint64_t pages_moved;
	uint64_t bytes_freed;   /* of the old frames, less those of the new ones */
	uint64_t bytes_punched; /* blocks given back to the file system */
};
MUST_USE struct err *family_compact(struct family *f, const struct compact_opts *opts,
				    struct compact_result *ret_result);

struct store_usage {
	uint64_t file_bytes;  /* allocated blocks of the family's data file */
	uint64_t frame_bytes; /* bytes in frame records */
	uint64_t frames, leaves, nodes, blobs, snaps;
};
MUST_USE struct err *family_usage(struct family *f, struct store_usage *ret_usage);

/*
 * Where a family's bytes are. Bytes are those of records, page by page: the part of a frame that
 * belongs to a dead page is dead. What LMDB adds (about a tenth) is only in disk_bytes.
 */
struct snap_usage {
	struct snap_info info;
	uint64_t unique_bytes; /* nothing else uses them: freed by removing it, and compacting */
	uint64_t rm_bytes;     /* of them and of dead pages: freed by removing it alone */
	uint64_t shared_bytes; /* other snapshots use them, too */
	bool leased;
};
struct family_stat {
	uint64_t disk_bytes;        /* allocated blocks of the data file */
	uint64_t file_bytes;        /* its length */
	uint64_t free_bytes;        /* free pages inside of it, with blocks or without */
	uint64_t record_bytes;      /* all records below */
	uint64_t live_bytes;        /* what snapshots use, hidden ones too */
	uint64_t shared_bytes;      /* part of them: more than one uses it */
	uint64_t partly_dead_bytes; /* dead pages in frames that are in use: for compact */
	uint64_t dead_bytes;        /* records that nothing uses: for gc */
	uint64_t pending_bytes;     /* of sessions that are writing */
	uint64_t live_pages;        /* slots */
	uint64_t dead_pages;
	uint64_t frames, partly_dead_frames, leaves, nodes, blobs;
	uint64_t hidden; /* snapshots that wait for a reader's end */
	uint64_t
		damaged; /* records that could not be read: the figures lack what they would tell */
	struct snap_usage *snap; /* owned; published, by (vm, number) */
	size_t nsnaps;
};
MUST_USE struct err *family_stat(struct family *f, struct family_stat *ret_stat);
void family_stat_done(struct family_stat *st);

/* "NAME", "NAME@TAG" or "NAME@NUMBER" to one snapshot. ERR_NOTFOUND names what is missing and lists
 * what there is. The family is opened and handed over. A tag that is all digits is refused at take.
 */
struct store_ref {
	struct store_vm vm;
	struct snap_info snap;
	struct family *family; /* owned */
};
MUST_USE struct err *store_ref_resolve(struct store *s, const char *ref, struct store_ref *ret_ref);
void store_ref_done(struct store_ref *r);

/* ---- writing: one session makes one snapshot ---- */

struct session_opts {
	unsigned workers;      /* compressor threads; 0: one per online CPU, at most 8 */
	int level;             /* zstd level; 0: the default, 1 */
	uint64_t expect_bytes; /* content to be written at most; checked against free space first */
};
MUST_USE struct err *session_open(struct family *f, const struct session_opts *opts,
				  struct session **ret_session);
/*
 * Starts a named map of len_bytes of content, all zero to begin with. One map at a time is open.
 */
MUST_USE struct err *session_map_begin(struct session *s, const char *name, uint64_t len_bytes,
				       const uint8_t user[32]);
/*
 * The same, with more to say. base: the id of a snapshot whose map of this name and length the new
 * one starts from, 0: all zero. Nothing of it is read but where pages change; it may be removed
 * meanwhile. ERR_NOTFOUND if there is no such snapshot or map. rounds: pages may be given again,
 * see session_map_round.
 */
struct map_opts {
	uint64_t base;
	bool rounds;
};
MUST_USE struct err *session_map_begin_as(struct session *s, const char *name, uint64_t len_bytes,
					  const uint8_t user[32], const struct map_opts *opts);
/*
 * Queues npages whole pages as pages [index, index + npages) of the open map; ranges ascend and do
 * not overlap. The memory must stay mapped and unchanged until session_settle returns; in a map of
 * rounds a page that is changed is stored as something in between, but soundly. Blocks while the
 * queue is full. An error of the writer (disk full, ...) shows here or at the next call.
 */
MUST_USE struct err *session_map_pages(struct session *s, uint64_t index, const void *pages,
				       uint64_t npages);
/*
 * Settles, and lets pages be given again from the start: of each, what was given last counts. Keeps
 * 16 KiB in memory for each 2 MiB that got a page, until session_map_end.
 */
MUST_USE struct err *session_map_round(struct session *s);
MUST_USE struct err *session_map_end(struct session *s);
/* Takes over a map of an existing snapshot of this family as it is (shared records). */
MUST_USE struct err *session_map_share(struct session *s, uint64_t snap_id, const char *name);
/* All page memory given so far has been read and is no longer needed. */
MUST_USE struct err *session_settle(struct session *s);
/* kind and index name the blob within the snapshot; at most BLOB_BYTES_MAX. Copied. */
MUST_USE struct err *session_blob(struct session *s, uint16_t kind, uint16_t index, const void *p,
				  size_t len);
struct snap_meta {
	uint8_t vm[16];
	char tag[NAME_BYTES_MAX + 1];
	uint64_t frozen_at_ns;
	uint64_t parent;
	/* For a snapshot that comes from elsewhere: */
	uint64_t number;           /* 0: the VM's next one; ERR_NOT_NOW if it has that one */
	const struct sha256 *root; /* NULL: whatever it is; else ERR_CORRUPT when it is another */
};
/*
 * Waits for the writer, then publishes in one transaction and syncs. After success the session is
 * over (still to be freed). A taken tag is ERR_NOT_NOW. On failure nothing is listed.
 */
MUST_USE struct err *session_publish(struct session *s, const struct snap_meta *meta,
				     struct snap_info *ret_info);
/*
 * The same for what nobody is to find: it has no number and no name, is in no list, and lives as
 * long as *ret_reader is open. Then, or when the process is killed, the next collection frees it.
 */
MUST_USE struct err *session_publish_unlisted(struct session *s, const uint8_t vm[16],
					      struct reader **ret_reader);
/* Ends the session; without a publish everything it wrote is dropped. NULL is fine. */
void session_free(struct session *s);
DEFINE_SCOPE(struct session, session_free)

/* ---- reading ---- */

/* Opens a snapshot under a lease (except in STORE_READ mode): while it is open, removal hides only.
 */
MUST_USE struct err *reader_open(struct family *f, uint64_t snap_id, struct reader **ret_reader);
void reader_close(struct reader *r);
DEFINE_SCOPE(struct reader, reader_close)
const struct snap_info *reader_info(const struct reader *r);
/* Verified copy, malloc'ed. ERR_NOTFOUND if there is none, ERR_CORRUPT if damaged. */
MUST_USE struct err *reader_blob(struct reader *r, uint16_t kind, uint16_t index, uint8_t **ret_p,
				 size_t *ret_len);
/* Calls fn for each blob's (kind, index), ascending. */
MUST_USE struct err *reader_blobs(struct reader *r,
				  struct err *(*fn)(void *arg, uint16_t kind, uint16_t index),
				  void *arg);
/*
 * A hint: opaque bytes that make reading a snapshot faster, and that nothing depends on. One per
 * snapshot, the last one counts; its root does not cover it; it goes with the snapshot, and no
 * stream and no salvage has it. ERR_NOTFOUND when the snapshot is gone. One durable transaction.
 */
#define STORE_HINT_BYTES_MAX (128u * 1024u)
MUST_USE struct err *family_hint_put(struct family *f, uint64_t snap_id, const void *p, size_t len);
/* *ret_p is malloc'ed; NULL: there is none, or none that can be read. Its content is to be decoded
 * as a stranger's. */
void reader_hint(struct reader *r, uint8_t **ret_p, size_t *ret_len);
/*
 * Reads every non-zero page of a map, in frame order, with threads of its own, each frame decoded
 * once and its checksums verified. place() is called from those threads for disjoint runs of pages;
 * pages that are zero are not mentioned. Progress (may be NULL) is called now and then from one of
 * those threads. An error of place ends it.
 */
struct read_opts {
	unsigned workers; /* 0: one per online CPU, at most 8 */
	struct err *(*place)(void *arg, uint64_t index, const void *pages, uint64_t npages);
	void (*progress)(void *arg, uint64_t pages_done, uint64_t pages_total);
	/* Called before a run of pages is decoded, from the same threads; false leaves it out.
	 * NULL: all are wanted. */
	bool (*wanted)(void *arg, uint64_t index, uint64_t npages);
	/*
	 * Only what differs from this reader's map of that name, which is of the same family and
	 * length: pages that both maps find in the same place are left out, and pages that are zero
	 * now are told by zero(), on the caller's thread. NULL: all pages.
	 */
	struct reader *since;
	struct err *(*zero)(void *arg, uint64_t index, uint64_t npages);
	/* With since: those of the 64 pages from `index` that are read all the same. NULL: none. */
	uint64_t (*also)(void *arg, uint64_t index);
	void *arg;
};
MUST_USE struct err *reader_map_read(struct reader *r, const char *name,
				     const struct read_opts *opts);
/* One page, verified down to its sub-frame; for single look-ups. */
MUST_USE struct err *reader_map_page(struct reader *r, const char *name, uint64_t index,
				     uint8_t ret_page[PAGE_BYTES]);

/*
 * Reading on demand: one aligned piece of a map at a time, verified down to the sub-frames that it
 * lies in. Leaves and nodes are loaded and checked when the first page below them is asked for, so
 * opening costs the same for any size. Keeps about 0.4 MiB. Belongs to one thread at a time; a
 * reader may have several, and outlives them.
 */
#define STORE_PIECE_PAGES 16u
struct piece_reader;
struct piece {
	uint64_t first;       /* page index, a multiple of STORE_PIECE_PAGES */
	uint32_t npages;      /* fewer than STORE_PIECE_PAGES at the map's end only */
	uint32_t nzero;       /* how many of them are zero */
	const uint8_t *pages; /* borrowed until the next call */
};
MUST_USE struct err *piece_reader_new(struct reader *r, const char *name,
				      struct piece_reader **ret_p);
void piece_reader_free(struct piece_reader *p);
DEFINE_SCOPE(struct piece_reader, piece_reader_free)
/* The piece that holds page `index`. ERR_CORRUPT names page and record; after ERR_SYS (the disk
 * failed) it may be asked for again. */
MUST_USE struct err *piece_read(struct piece_reader *p, uint64_t index, struct piece *ret_piece);

/* Has the kernel read what the piece that holds page `index` needs, soon; may do nothing. */
void piece_will_need(struct piece_reader *p, uint64_t index);

/* ---- one snapshot as a stream ---- */

struct transfer_opts {
	const char *
		name; /* import: what a VM that is not there yet shall be called; NULL: as it was */
	/* import: maps and blobs together, decoded; 0: what the disk has free */
	uint64_t max_bytes;
	void (*progress)(void *arg, uint64_t done,
			 uint64_t total); /* of the map in hand; may be NULL */
	void *arg;
};
/* Writes a snapshot, whole by itself, in little memory. */
MUST_USE struct err *store_export(struct store *s, const char *ref, int fd,
				  const struct transfer_opts *opts, uint64_t *ret_bytes);
/*
 * Reads one up to the end of fd, which may be a stranger's; publishes it under its VM's uuid,
 * number and tag if it is sound to the last byte. On failure nothing is listed and nothing
 * registered. ERR_CORRUPT, ERR_INCOMPAT (another version), ERR_NOT_NOW (name, number or tag are
 * taken), ERR_LIMIT and ERR_NOSPACE (more than may be: told as soon as the stream says so).
 */
MUST_USE struct err *store_import(struct store *s, int fd, const struct transfer_opts *opts,
				  struct store_vm *ret_vm, struct snap_info *ret_info,
				  uint64_t *ret_bytes);

/* ---- verification ---- */

/* Called for each finding: "frame 17 sub-frame 2: checksum differs (pages 0x120-0x123 of memory)".
 */
typedef void verify_report_fn(void *arg, const char *finding);
/*
 * Full check of one snapshot: record, blobs, nodes, leaves, frames, sub-frame checksums, page
 * digests, map digests, root. *ret_findings counts reports; an error means it could not go on.
 */
MUST_USE struct err *family_verify_snap(struct family *f, uint64_t snap_id,
					verify_report_fn *report, void *arg,
					uint64_t *ret_findings);
/* Every record of the family: structure, and every published snapshot. */
MUST_USE struct err *family_verify(struct family *f, verify_report_fn *report, void *arg,
				   uint64_t *ret_findings);
/* The catalog: structure, every VM's row, every name. Families are verified one by one. */
MUST_USE struct err *store_verify(struct store *s, verify_report_fn *report, void *arg,
				  uint64_t *ret_findings);

#endif
