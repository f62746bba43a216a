/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A split virtqueue as the device sees it: takes chains of buffers from the guest's ring and gives
 * them back. Virtio 1.2, 2.7.
 *
 * The ring and everything it points to belong to a hostile guest that may change them at any time:
 * each index, length and address is read once, checked, and used from the copy. Chains that loop,
 * are too long, or leave RAM make the queue bad, which stays so until it is set up anew. All guest
 * memory is reached through gmem, and every write is marked dirty. No host pointer outlives a call.
 *
 * Threads: the device's lock is held over each call.
 */
#ifndef TORPOR_DEVICES_VIRTQ_H
#define TORPOR_DEVICES_VIRTQ_H

#include <sys/uio.h>

#include "core/gmem.h"
#include "snapshot/desc.h"

enum {
	VIRTQ_SIZE_MAX = 256, /* entries of a ring */
	VIRTQ_SEGS_MAX = 256, /* buffers in a chain, indirect ones included */
};

/* What is saved of a queue: the registers, and how far each side is. */
struct virtq_state {
	uint64_t desc; /* guest addresses of the three parts */
	uint64_t avail;
	uint64_t used;
	uint16_t size; /* entries, a power of two */
	uint16_t vector;
	uint16_t next_avail; /* index of the next chain to take */
	uint16_t next_used;  /* index of the next entry to give back */
	uint16_t told_used;  /* next_used when the driver was last told */
	bool told;           /* told_used means something */
	bool ready;
	uint8_t pad[4];
};
extern const struct state_desc virtq_desc;

struct virtq {
	struct gmem *gmem; /* borrowed */
	struct virtq_state st;
	bool event_idx;  /* negotiated */
	bool indirect;   /* negotiated */
	const char *bad; /* why it takes no part any more; NULL: sound */
};

struct virtq_seg {
	uint64_t gpa;
	uint32_t len;
};

/* A chain: nread buffers that the device reads, then nwrite that it writes. */
struct virtq_chain {
	uint16_t head;
	uint16_t nread;
	uint16_t nwrite;
	uint64_t read_bytes;
	uint64_t write_bytes;
	struct virtq_seg seg[VIRTQ_SEGS_MAX];
};

/* The driver enabled the queue: checks sizes, alignment and that the ring lies in RAM. */
void virtq_start(struct virtq *q);

enum virtq_got { VIRTQ_GOT, VIRTQ_EMPTY, VIRTQ_BAD };
/* Takes the next chain. EMPTY leaves kicks as they are. */
enum virtq_got virtq_pop(struct virtq *q, struct virtq_chain *ret);
/* Takes back the last pop, or another one before it: nothing was done with the chain. */
void virtq_unpop(struct virtq *q);
/* Asks the driver for kicks, or for none. After true the caller looks at the ring once more: it
 * says whether there is something in it. */
bool virtq_kicks(struct virtq *q, bool on);
/* Chains that wait to be taken. */
unsigned virtq_waiting(const struct virtq *q);
/* Gives a chain back with the number of bytes written into it. */
void virtq_push(struct virtq *q, uint16_t head, uint32_t written);
/* The same for several chains that the driver must see at once: each is put, counted from 0, then
 * all n are published. */
void virtq_put(struct virtq *q, unsigned k, uint16_t head, uint32_t written);
void virtq_publish(struct virtq *q, unsigned n);
/* After pushes: does the driver want an interrupt? Not when there was none since the last time. */
bool virtq_wants_irq(struct virtq *q);

/* Copies from the read part, or into the write part, from byte `at` on; returns how many bytes,
 * less than len at the end of the chain. */
uint64_t virtq_read(const struct virtq *q, const struct virtq_chain *c, uint64_t at, void *ret,
		    uint64_t len);
uint64_t virtq_write(struct virtq *q, const struct virtq_chain *c, uint64_t at, const void *p,
		     uint64_t len);
/* The same without a copy: host addresses of these bytes, at most one per buffer of the part, for a
 * system call that is made at once. How many; what was written there is marked by virtq_mark. */
unsigned virtq_map(const struct virtq *q, const struct virtq_chain *c, bool writable, uint64_t at,
		   uint64_t len, struct iovec *ret);
void virtq_mark(struct virtq *q, const struct virtq_chain *c, uint64_t at, uint64_t len);

#endif
