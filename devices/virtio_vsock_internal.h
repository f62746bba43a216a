/* SPDX-License-Identifier: Apache-2.0 */
/* Between virtio_vsock.c (device, packets) and virtio_vsock_conn.c (connections with the host).
 * Includable only by virtio_vsock*.c. */
#ifndef TORPOR_DEVICES_VIRTIO_VSOCK_INTERNAL_H
#define TORPOR_DEVICES_VIRTIO_VSOCK_INTERNAL_H

#include "devices/virtio_vsock.h"

enum {
	VSOCK_CONNS_MAX = 256,
	VSOCK_BUF_BYTES = 262144, /* of a connection: from the guest, not yet taken by the host */
	VSOCK_HELLO_MAX = 32,    /* "CONNECT 4294967295\n" and some */
	VSOCK_TAG_LISTEN = 1,
	VSOCK_TAG_CONN = 2, /* and above: connection n */

	/* Packets that are owed to the guest, in the order in which they are sent. */
	VSOCK_OWE_RST = 1, /* the last one: the connection is forgotten then */
	VSOCK_OWE_REQUEST = 2,
	VSOCK_OWE_RESPONSE = 4,
	VSOCK_OWE_CREDIT = 8,
	VSOCK_OWE_SHUTDOWN = 16,

	VSOCK_SHUT_RCV = 1, /* the sender of it will receive no more */
	VSOCK_SHUT_SEND = 2,
	VSOCK_SHUT_BOTH = 3,
};

enum vsock_conn_state {
	VSOCK_FREE,
	VSOCK_HELLO, /* the host has not yet said which port */
	VSOCK_ASKED, /* the guest has not yet answered */
	VSOCK_OPEN,
	VSOCK_GONE, /* the host's end is closed, the guest was or will be told to close its own */
	VSOCK_DEAD, /* owes a reset, nothing else */
};

struct vsock_conn {
	enum vsock_conn_state state;
	int fd; /* owned, -1: none */
	uint32_t watched;
	uint32_t guest_port;
	uint32_t host_port;
	unsigned owes;
	uint32_t shut_flags; /* of the SHUTDOWN that is owed */
	char hello[VSOCK_HELLO_MAX];
	unsigned hello_len;
	/* From the guest to the host. */
	uint8_t *buf; /* ring of VSOCK_BUF_BYTES, NULL until needed; owned */
	uint32_t head;
	uint32_t len;
	uint32_t own;       /* of len, at the front: not from the guest */
	uint32_t forwarded; /* bytes of the guest that the host has taken, modulo 2^32 */
	uint32_t told;      /* `forwarded` as the guest knows it */
	bool guest_ended;   /* it sends no more */
	bool guest_deaf;    /* it takes no more */
	bool end_passed_on;
	/* From the host to the guest. */
	bool readable;      /* there may be something in fd */
	bool host_ended;    /* it sends no more */
	uint32_t sent;      /* bytes, modulo 2^32 */
	uint32_t peer_room; /* what the guest says of its buffer */
	uint32_t peer_taken;
};

struct virtio_vsock {
	struct virtio v;                 /* first */
	struct virtio_vsock_state saved; /* part.state */
	uint32_t cid;
	int listen_fd;
	const char *path;
	/* [lock] */
	bool tell_reset; /* the guest's connections are no more, and it has not been told */
	uint32_t next_port;
	unsigned turn; /* connection that is served next */
	unsigned nloose;
	struct vsock_loose { /* resets for what is no connection */
		uint32_t guest_port;
		uint32_t host_port;
	} loose[64];
	bool tx_held; /* chains wait until `loose` has room */
	struct vsock_conn conn[VSOCK_CONNS_MAX];
	struct virtq_chain chain;         /* the one at hand */
	struct iovec iov[VIRTQ_SEGS_MAX]; /* of the system call at hand */
};

/* ---- virtio_vsock_conn.c; all with the lock ---- */

struct vsock_conn *vsock_find(struct virtio_vsock *s, uint32_t guest_port, uint32_t host_port);
/* Somebody on the host connected to the listening socket. */
void vsock_accept(struct virtio_vsock *s);
/* The guest asks for host_port. False: there is no room, or nobody listens. */
bool vsock_connect(struct virtio_vsock *s, uint32_t guest_port, uint32_t host_port,
		   struct vsock_conn **ret);
/* The connection's descriptor is ready. */
void vsock_ready(struct virtio_vsock *s, struct vsock_conn *c, uint32_t epoll_events);
/* The guest took the host's connection. */
void vsock_answered(struct virtio_vsock *s, struct vsock_conn *c);
/* len bytes of the chain at hand, from byte `at` on, go to the host. */
void vsock_forward(struct virtio_vsock *s, struct vsock_conn *c, uint64_t at, uint32_t len);
void vsock_guest_shutdown(struct virtio_vsock *s, struct vsock_conn *c, uint32_t flags);
/* Up to `most` bytes (at least 1) of the host into the chain at hand, from byte `at` on; 0: none
 * now, but maybe owes more. */
uint32_t vsock_receive(struct virtio_vsock *s, struct vsock_conn *c, uint64_t at, uint32_t most);
/* How many bytes the guest has room for, if there may be some for it. */
uint32_t vsock_wanted(const struct vsock_conn *c);
/* Ends it on both sides: the guest is owed a reset. */
void vsock_reset(struct virtio_vsock *s, struct vsock_conn *c);
/* Forgets it; the guest knows. */
void vsock_drop(struct virtio_vsock *s, struct vsock_conn *c);
/* Watches what has to be watched now. After any change. */
void vsock_watch(struct virtio_vsock *s, struct vsock_conn *c);

#endif
