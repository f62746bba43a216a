/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The host's end of a serial port: an input and an output descriptor, or a listening Unix socket
 * with one client at a time. Knows bytes and descriptors, nothing of registers.
 *
 * All its descriptors are in one epoll set of its own, whose descriptor the device hands to the
 * main loop once: interest changes from any thread without a call into the loop. Called by serial.c
 * with the device's lock held; nothing here blocks.
 */
#ifndef TORPOR_DEVICES_SERIAL_LINK_H
#define TORPOR_DEVICES_SERIAL_LINK_H

#include "core/base/bytes.h"

struct serial_link;

MUST_USE struct err *serial_link_new(int in_fd, int out_fd, int listen_fd,
				     struct serial_link **ret_link);
void serial_link_free(struct serial_link *l);
DEFINE_SCOPE(struct serial_link, serial_link_free)

/* Readable when serial_link_poll has something to do. */
int serial_link_fd(const struct serial_link *l);
/* Looks what happened: readiness, a new client, a client that left. */
void serial_link_poll(struct serial_link *l);

enum serial_sent {
	SERIAL_SENT,   /* *ret_n bytes were taken */
	SERIAL_WAIT,   /* the other end is busy; poll tells when to go on */
	SERIAL_NOBODY, /* no client yet: keep the bytes */
	SERIAL_LOST,   /* nobody will take them, now or ever: drop the bytes */
};
enum serial_sent serial_link_send(struct serial_link *l, const void *p, size_t len, size_t *ret_n);
/* Forgets that the other end was busy: the next send tries again. */
void serial_link_retry(struct serial_link *l);
/* Reads at most `room` bytes that are there; 0 if none. */
size_t serial_link_recv(struct serial_link *l, void *ret, size_t room);
/* Whether input is wanted; call after each change, also after send and recv. */
void serial_link_want(struct serial_link *l, bool input);
/* False while output has nobody to wait for. */
bool serial_link_has_taker(const struct serial_link *l);

/* Bytes that outlive a device: kept when it goes (up to SERIAL_LINK_KEEP in sum, the rest is dropped),
 * given to the next one, once. */
#define SERIAL_LINK_KEEP 16384u
void serial_link_keep(struct serial_link *l, const void *p, size_t len);
size_t serial_link_kept(struct serial_link *l, void *ret, size_t room);

#endif
