/* SPDX-License-Identifier: Apache-2.0 */
/* virtio entropy device. See virtio_rng.h. All on the main loop, with the device's lock held. */
#include "devices/virtio_rng.h"

#include <sys/random.h>

enum {
	QUEUE_SIZE = 64,
	PIECE_BYTES = 256, /* getrandom gives this much in one go without a short read */
	/* Per request: more would hold up the main loop. A short answer is allowed. */
	REQUEST_BYTES_MAX = 64 * 1024,
	CLASS_RNG = 0x00ff00, /* no class of its own */
};

struct virtio_rng {
	struct virtio v;               /* first */
	struct virtio_rng_state saved; /* part.state */
	struct virtq_chain chain;      /* [lock] the one at hand */
};

static struct virtio_rng *rng_of(struct virtio *v)
{
	return CONTAINER_OF(v, struct virtio_rng, v);
}

static uint64_t fill(struct virtio_rng *r)
{
	uint64_t want = MIN(r->chain.write_bytes, (uint64_t)REQUEST_BYTES_MAX);
	uint64_t done = 0;
	while (done < want) {
		uint8_t piece[PIECE_BYTES];
		ssize_t n = getrandom(piece, MIN(want - done, (uint64_t)sizeof(piece)), 0);
		if (n <= 0) {
			break; /* cannot be once the host's pool is ready, which it is by now */
		}
		done += virtq_write(&r->v.q[0], &r->chain, done, piece, (uint64_t)n);
	}
	return done;
}

static void rng_work(struct virtio *v)
{
	struct virtio_rng *r = rng_of(v);
	while (virtio_pop(v, 0, &r->chain)) {
		if (r->chain.nwrite == 0) {
			virtio_break(v, "a request for entropy has no room for any");
			return;
		}
		virtio_push(v, 0, &r->chain, fill(r));
	}
	virtio_tell(v, 0);
}

static void rng_free(struct device *dev)
{
	if (dev != NULL) {
		struct virtio_rng *r = rng_of(virtio_of(dev));
		virtio_done(&r->v);
		free(r);
	}
}

static struct err *rng_fetch(void *self)
{
	struct virtio_rng *r = self;
	LOCK_SCOPE(&r->v.pci.lock);
	virtio_fetch(&r->v, &r->saved.virtio);
	return NULL;
}

static struct err *rng_commit(void *self)
{
	struct virtio_rng *r = self;
	LOCK_SCOPE(&r->v.pci.lock);
	return virtio_commit(&r->v, &r->saved.virtio);
}

static void rng_probe(void *self, const struct findings *f)
{
	struct virtio_rng *r = self;
	LOCK_SCOPE(&r->v.pci.lock);
	finding(f, "device", virtio_match(&r->v, &r->saved.virtio));
}

static const struct state_field rng_fields[] = {
	FIELD_SUB(struct virtio_rng_state, 1, virtio, &virtio_desc),
};

const struct state_desc virtio_rng_desc = {
	.name = "virtio_rng",
	.version = 1,
	.oldest = 1,
	.size = sizeof(struct virtio_rng_state),
	.fields = rng_fields,
	.nfields = ARRAY_LEN(rng_fields),
};

static const struct snap_part_ops rng_part_ops = {
	.fetch = rng_fetch,
	.commit = rng_commit,
	.probe = rng_probe,
};

static const struct virtio_ops rng_ops = {
	.work = rng_work,
};

static const struct dev_ops rng_dev_ops = {
	.name = "virtio_rng",
	.on_fd = virtio_on_fd,
	.free = rng_free,
};

struct err *virtio_rng_new(const struct dev_host *host, const char *id, struct pci_dev **ret_dev)
{
	struct virtio_rng *r = calloc(1, sizeof(*r));
	ENSURE(r != NULL, ERR_SYS, "out of memory");
	const struct virtio_opts opts = {
		.ops = &rng_ops,
		.dev_ops = &rng_dev_ops,
		.id = id,
		.type = VIRTIO_ID_RNG,
		.class = CLASS_RNG,
		.nqueues = 1,
		.queue_size = QUEUE_SIZE,
	};
	struct err *e = virtio_init(&r->v, host, &opts);
	if (e != NULL) {
		rng_free(&r->v.pci.dev);
		return e;
	}
	r->v.pci.dev.part = virtio_part(&r->v, &virtio_rng_desc, &r->saved, &rng_part_ops);
	*ret_dev = &r->v.pci;
	return NULL;
}
