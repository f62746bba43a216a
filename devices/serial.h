/* SPDX-License-Identifier: Apache-2.0 */
/*
 * 16550A serial port (National Semiconductor PC16550D), joined to two descriptors of the host or to
 * a listening Unix socket that serves one client at a time.
 *
 * What the guest writes goes out at once as far as the host's end takes it: at each newline, at 64
 * bytes, and a millisecond after the first that waits. What the host's end does not take waits in a
 * bounded backlog that is part of the saved state; a full backlog keeps the transmitter busy, so a
 * guest that looks at LSR loses nothing. Without a client on the socket the oldest bytes make room.
 * A broken pipe drops the output, and the guest goes on.
 *
 * Input is read only while the receive FIFO has room and stays in the descriptor otherwise.
 * The process ignores SIGPIPE. Threads as in dev.h.
 */
#ifndef TORPOR_DEVICES_SERIAL_H
#define TORPOR_DEVICES_SERIAL_H

#include "devices/dev.h"

#define SERIAL_PORTS 8u         /* length of the port range */
#define SERIAL_FIFO_BYTES 16u   /* receive FIFO, and what a guest may write when THR is empty */
#define SERIAL_OUT_BYTES 16384u /* backlog of output */

struct serial_state {
	uint8_t ier; /* 4 bits */
	uint8_t fcr; /* enable and trigger level bits */
	uint8_t lcr;
	uint8_t mcr;       /* 5 bits */
	uint8_t lsr_err;   /* OE, PE, FE, BI not read yet */
	uint8_t msr_delta; /* low half of MSR; the high half follows from MCR */
	uint8_t scr;
	uint8_t dll;
	uint8_t dlm;
	bool thre_pending; /* transmitter-empty interrupt not acknowledged yet */
	uint8_t pad[2];
	uint32_t rx_count;
	uint8_t rx[SERIAL_FIFO_BYTES]; /* oldest first */
	uint32_t out_count;
	uint8_t out[SERIAL_OUT_BYTES]; /* written by the guest, not yet taken by the host's end */
};

extern const struct state_desc serial_desc;

/*
 * port: first of SERIAL_PORTS ports. in_fd, out_fd: -1 for none; or listen_fd >= 0: a listening
 * Unix stream socket, then the other two are not used. All are borrowed and outlive the device.
 * out_fd and listen_fd are made non-blocking (out_fd gets its old flags back at the end), so give
 * out_fd an open file description of its own where that matters.
 */
MUST_USE struct err *serial_new(const struct dev_host *host, uint16_t port, unsigned gsi, int in_fd,
				int out_fd, int listen_fd, struct device **ret_dev);

/*
 * The same on a link that outlives the device (borrowed): a guest reset builds a new device on it, and
 * the client on the socket and output that nobody took yet stay.
 */
struct serial_link;
MUST_USE struct err *serial_new_on(const struct dev_host *host, uint16_t port, unsigned gsi,
				   struct serial_link *link, struct device **ret_dev);

#endif
