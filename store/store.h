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
	struct sha256 digest;              /* root over the pages' content: equal content, equal digest */
	uint8_t user[32];                  /* opaque to the store, e.g. SHA-256 of a source file */
	uint64_t root_id;                  /* node record; 0: all zero */
	uint8_t height;
};

struct snap_info {
	uint64_t id;      /* within the family, never reused */
	uint8_t vm[16];
	uint64_t number;  /* 1.. per VM, never reused */
	char tag[NAME_BYTES_MAX + 1]; /* "" if none; unique per VM */
	uint64_t created_ns;   /* CLOCK_REALTIME at publish */
	uint64_t frozen_at_ns; /* CLOCK_REALTIME at the freeze, from snap_meta */
	uint64_t parent;       /* snapshot id or 0; informative */
	uint64_t pages_stored; /* pages whose bytes this take wrote */
	uint64_t bytes_stored; /* bytes of the frames this take wrote */
	uint32_t nblobs;
	uint32_t nmaps;
	struct snap_map maps[STORE_MAPS_MAX];
	struct sha256 root; /* over everything above that is content, all map digests and blobs */
};

/* All published, not hidden snapshots of the family by (vm, number); *ret is malloc'ed. */
MUST_USE struct err *family_snaps(struct family *f, struct snap_info **ret, size_t *ret_n);
MUST_USE struct err *family_snap_by_id(struct family *f, uint64_t id, bool *ret_found,
				       struct snap_info *ret_info);
/*
 * Removes snapshots (leased ones are hidden now and freed later), then collects what no published
 * map, living session or lease reaches, in transactions of bounded size beside running takes.
 * All ids must exist, else ERR_NOTFOUND and nothing is removed.
 */
MUST_USE struct err *family_remove(struct family *f, const uint64_t *ids, size_t n);
/* Collection alone (also of what dead writers left). */
struct gc_result {
	uint64_t frames_freed;
	uint64_t bytes_freed;
	uint64_t sessions_cleared;
};
MUST_USE struct err *family_gc(struct family *f, struct gc_result *ret_result);

struct store_usage {
	uint64_t file_bytes;      /* allocated blocks of the family's data file */
	uint64_t frame_bytes;     /* bytes in frame records */
	uint64_t frames, leaves, nodes, blobs, snaps;
};
MUST_USE struct err *family_usage(struct family *f, struct store_usage *ret_usage);

/* "NAME", "NAME@TAG" or "NAME@NUMBER" to one snapshot. ERR_NOTFOUND names what is missing and lists
 * what there is. The family is opened and handed over. A tag that is all digits is refused at take. */
struct store_ref {
	struct store_vm vm;
	struct snap_info snap;
	struct family *family; /* owned */
};
MUST_USE struct err *store_ref_resolve(struct store *s, const char *ref, struct store_ref *ret_ref);
void store_ref_done(struct store_ref *r);

/* ---- writing: one session makes one snapshot ---- */

struct session_opts {
	unsigned workers; /* compressor threads; 0: one per online CPU, at most 8 */
	int level;        /* zstd level; 0: the default, 1 */
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
 * Queues npages whole pages as pages [index, index + npages) of the open map; ranges ascend and do
 * not overlap. The memory must stay mapped and unchanged until session_settle returns. Blocks while
 * the queue is full. An error of the writer (disk full, ...) shows here or at the next call.
 */
MUST_USE struct err *session_map_pages(struct session *s, uint64_t index, const void *pages,
				       uint64_t npages);
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
};
/*
 * Waits for the writer, then publishes in one transaction and syncs. After success the session is
 * over (still to be freed). A taken tag is ERR_NOT_NOW. On failure nothing is listed.
 */
MUST_USE struct err *session_publish(struct session *s, const struct snap_meta *meta,
				     struct snap_info *ret_info);
/* Ends the session; without a publish everything it wrote is dropped. NULL is fine. */
void session_free(struct session *s);
DEFINE_SCOPE(struct session, session_free)

/* ---- reading ---- */

/* Opens a snapshot under a lease (except in STORE_READ mode): while it is open, removal hides only. */
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
 * Reads every non-zero page of a map, in frame order, with threads of its own, each frame decoded
 * once and its checksums verified. place() is called from those threads for disjoint runs of pages;
 * pages that are zero are not mentioned. Progress (may be NULL) is called now and then from one of
 * those threads. An error of place ends it.
 */
struct read_opts {
	unsigned workers; /* 0: one per online CPU, at most 8 */
	struct err *(*place)(void *arg, uint64_t index, const void *pages, uint64_t npages);
	void (*progress)(void *arg, uint64_t pages_done, uint64_t pages_total);
	void *arg;
};
MUST_USE struct err *reader_map_read(struct reader *r, const char *name,
				     const struct read_opts *opts);
/* One page, verified down to its sub-frame; for single look-ups. */
MUST_USE struct err *reader_map_page(struct reader *r, const char *name, uint64_t index,
				     uint8_t ret_page[PAGE_BYTES]);

/* ---- verification ---- */

/* Called for each finding: "frame 17 sub-frame 2: checksum differs (pages 0x120-0x123 of memory)". */
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
