/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the two halves of the compressor pool: pack.c (queues) and pack_worker.c (the work on
 * one chunk). Not for others.
 */
#ifndef TORPOR_STORE_PACK_INTERNAL_H
#define TORPOR_STORE_PACK_INTERNAL_H

#include <stdio.h>

#include "core/base/lock.h"
#include "store/pack.h"

/* A queued chunk. On one list at a time (idle, todo), or held by a worker. */
struct pack_job {
	struct pack_job *next;
	struct pack_chunk chunk;
};

/* A finished record. Frames are mapped and used again, leaves are malloc'ed. */
struct pack_out {
	struct pack_out *next;
	enum pack_item_kind kind;
	uint32_t pages;
	size_t cost; /* bytes that it counts against out_bytes_max */
	uint64_t id;
	uint64_t map;
	uint64_t leaf;
	struct sha256 digest;
	size_t len;
	uint8_t data[];
};

struct pack {
	struct pack_opts opts; /* const after init */
	struct map_zero zero;  /* const after init */
	size_t out_bytes_max;  /* const after init */
	struct pack_job *jobs; /* const after init; the array, owned */
	unsigned nworkers;     /* started; [producer] */
	pthread_t worker[PACK_WORKERS_MAX];

	struct lock lock;        /* RANK_QUEUE; all below */
	struct cond work;        /* a job came, or the end: workers wait */
	struct cond read;        /* a job was read, or a worker left: the producer waits */
	struct cond out_filled;  /* a record came, or the end: the consumer waits */
	struct cond out_drained; /* room for records: workers wait */
	struct pack_job *idle;
	struct pack_job *todo;
	struct pack_job *todo_last;
	unsigned reading; /* jobs held by workers */
	unsigned running; /* workers that have not ended */
	bool closing;     /* no more jobs will come */
	struct pack_out *out;
	struct pack_out *out_last;
	struct pack_out *spare; /* frame buffers to use again */
	size_t out_bytes;       /* cost of records queued, being filled or held by the consumer */
	bool taker_waits;       /* the consumer waits for a record */
	struct pack_stats stats;
	bool failed;
	enum err_class fail_class;
	char fail_msg[1024];
};

/* Thread top of a worker; arg is the struct pack. */
void *pack_worker_main(void *arg);

/* Waits for a job; NULL: no more will come. */
MUST_USE struct err *pack_next_job(struct pack *p, struct pack_job **ret_job);
/* The job's pages have been read (or given up on). */
void pack_job_read(struct pack *p, struct pack_job *job, const struct pack_stats *add);
/* Waits for room. A frame always has room FRAME_BYTES_MAX. To be pushed: it counts from here on. */
MUST_USE struct err *pack_out_get(struct pack *p, enum pack_item_kind kind, size_t room,
				  struct pack_out **ret_out);
/* Takes ownership. Never waits. */
void pack_out_push(struct pack *p, struct pack_out *out);
void pack_worker_gone(struct pack *p);

#endif
