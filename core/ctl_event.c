/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Events: what happens to the VM, told as JSON packets to listeners (sockets of clients, to which
 * the VM connects back) and to connections that subscribed. Called by ctl*.c and, through
 * life_watch, by life, on the main loop's thread.
 *
 * Nobody is waited for: a listener or subscriber whose socket is full, or who has gone, is dropped.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/ctl_internal.h"

enum {
	LISTENERS_MAX = 16, /* each costs a descriptor */
	DISCARDS = 16,      /* packets of a chatty listener thrown away per turn */
};
_Static_assert(CTL_EVENT__COUNT <= 32, "a listener's events are bits of one word");

static void listener_free(struct listener *l)
{
	for (struct listener **at = &l->ctl->listeners; *at != NULL; at = &(*at)->next) {
		if (*at == l) {
			*at = l->next;
			l->ctl->nlisteners--;
			break;
		}
	}
	loop_fd_del(l->watch);
	fd_close(&l->fd);
	free(l);
}

/* A listener says nothing; what it says all the same is thrown away, and its end is noticed. */
static void on_listener(void *arg, uint32_t events)
{
	struct listener *l = arg;
	if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
		listener_free(l);
		return;
	}
	char byte;
	for (int i = 0; i < DISCARDS; i++) {
		ssize_t n = recv(l->fd.n, &byte, sizeof(byte), MSG_DONTWAIT);
		if (n < 0) {
			return;
		}
		if (n == 0) {
			listener_free(l);
			return;
		}
	}
}

static struct err *connect_to(const char *addr, struct fd *ret_fd)
{
	SCOPE(fd_close)
	struct fd fd = { socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0) };
	if (fd.n < 0) {
		return ERR_ERRNO("RegisterListener: making a socket");
	}
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	BUG_ON(strlen(addr) >= sizeof(sa.sun_path));
	memcpy(sa.sun_path, addr, strlen(addr) + 1);
	if (connect(fd.n, (struct sockaddr *)&sa, sizeof(sa)) != 0) {
		return ERR_ERRNO("RegisterListener: connecting to '%s': listen there with a "
				 "SOCK_SEQPACKET socket first",
				 addr);
	}
	*ret_fd = fd_move(&fd);
	return NULL;
}

static bool has_gone(const struct listener *l)
{
	struct pollfd p = { .fd = l->fd.n };
	return poll(&p, 1, 0) != 0;
}

static struct listener *find(const struct ctl *ctl, const char *addr)
{
	struct listener *l = ctl->listeners;
	while (l != NULL && strcmp(l->addr, addr) != 0) {
		l = l->next;
	}
	return l;
}

struct err *ctl_listener_add(struct ctl *ctl, const char *addr, enum ctl_event ev)
{
	struct listener *known = find(ctl, addr);
	if (known != NULL && !has_gone(known)) {
		known->events |= 1u << ev;
		return NULL;
	}
	uint32_t events = 1u << ev;
	if (known != NULL) { /* somebody new listens where a dead one did */
		listener_free(known);
	}
	ENSURE(ctl->nlisteners < LISTENERS_MAX, ERR_LIMIT,
	       "RegisterListener: %u sockets are told events already: unregister one",
	       ctl->nlisteners);
	SCOPE(freep) struct listener *l = calloc(1, sizeof(*l));
	ENSURE(l != NULL, ERR_SYS, "out of memory");
	SCOPE(fd_close) struct fd fd = FD_NONE;
	TRY(connect_to(addr, &fd));
	TRY(loop_fd_add(ctl->loop, fd.n, EPOLLIN, on_listener, l, &l->watch));
	l->ctl = ctl;
	l->fd = fd_move(&fd);
	l->events = events;
	snprintf(l->addr, sizeof(l->addr), "%s", addr);
	l->next = ctl->listeners;
	ctl->listeners = l;
	ctl->nlisteners++;
	l = NULL;
	return NULL;
}

void ctl_listener_remove(struct ctl *ctl, const char *addr, uint32_t events)
{
	struct listener *l = find(ctl, addr);
	if (l == NULL) {
		return;
	}
	l->events &= ~events;
	if (l->events == 0) {
		listener_free(l);
	}
}

void ctl_listeners_free(struct ctl *ctl)
{
	while (ctl->listeners != NULL) {
		listener_free(ctl->listeners);
	}
}

static bool send_event(int fd, const char *text)
{
	ssize_t n;
	do {
		n = send(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n >= 0;
}

/*
 * A subscriber that fell behind: its sending and receiving sides are shut down, so that it sees the
 * end; the connection is freed by its own callback, since a request of its may be in progress.
 */
static void drop_subscriber(struct conn *c)
{
	LOG_I("control: a subscriber does not read its events and is dropped");
	c->subscribed = false;
	shutdown(c->fd.n, SHUT_RDWR);
}

void ctl_event_emit(struct ctl *ctl, enum ctl_event ev, json_t *body)
{
	char *text = ctl_answer_json(json_pack("{s:o}", ctl_event_name(ev), body));
	for (struct listener *l = ctl->listeners; l != NULL;) {
		struct listener *next = l->next;
		if ((l->events & (1u << ev)) != 0 && !send_event(l->fd.n, text)) {
			LOG_I("control: the listener '%s' does not read its events or has gone, "
			      "and is dropped",
			      l->addr);
			listener_free(l);
		}
		l = next;
	}
	for (struct conn *c = ctl->conns; c != NULL; c = c->next) {
		/* An answer that waits goes first: then the socket is full anyway. */
		if (c->subscribed && (c->queue != NULL || !send_event(c->fd.n, text))) {
			drop_subscriber(c);
		}
	}
	ctl_answer_free(text);
}

/* ---- the VM's news ---- */

static json_t *pause_json(const struct snap_pause *p)
{
	return json_pack("{s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "kick_us", (json_int_t)p->kick_us,
			 "park_us", (json_int_t)p->park_us, "state_us", (json_int_t)p->state_us,
			 "dirty_us", (json_int_t)p->dirty_us, "copy_us", (json_int_t)p->copy_us,
			 "resume_us", (json_int_t)p->resume_us, "pages", (json_int_t)p->pages);
}

json_t *ctl_take_json(const char *name, const char *tag, const struct snap_result *r)
{
	char ref[2 * NAME_BYTES_MAX + 24];
	if (tag[0] != 0) {
		snprintf(ref, sizeof(ref), "%s@%s", name, tag);
	} else {
		snprintf(ref, sizeof(ref), "%s@%llu", name, (unsigned long long)r->number);
	}
	json_t *rounds = json_array();
	for (uint32_t i = 0; i < r->rounds; i++) {
		json_array_append_new(rounds, json_integer((json_int_t)r->round_pages[i]));
	}
	json_t *take =
		json_pack("{s:s,s:s,s:I,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:o,s:o}", "ref", ref,
			  "name", name, "number", (json_int_t)r->number, "tag", tag, "frozen_at_ns",
			  (json_int_t)r->frozen_at_ns, "pause_us", (json_int_t)r->pause_us,
			  "elapsed_us", (json_int_t)r->elapsed_us, "pages_stored",
			  (json_int_t)r->pages_stored, "bytes_stored", (json_int_t)r->bytes_stored,
			  "disk_blocks", (json_int_t)r->disk_blocks, "incremental",
			  (int)r->incremental, "rounds", rounds, "pause", pause_json(&r->pause));
	if (take != NULL && r->missed[0] != 0) {
		json_object_set_new(take, "pause_bound_missed", json_string(r->missed));
	}
	return take;
}

json_t *ctl_rewind_json(const char *name, const struct life_rewound *r)
{
	char safety[REF_BYTES_MAX + 1];
	snprintf(safety, sizeof(safety), "%s@%s", name, r->safety_tag);
	return json_pack("{s:s,s:s,s:I,s:s,s:I,s:I,s:I,s:I}", "ref", r->ref, "name", name, "number",
			 (json_int_t)r->number, "safety", safety, "safety_number",
			 (json_int_t)r->safety_number, "pages_written",
			 (json_int_t)r->pages_written, "stopped_us", (json_int_t)r->stopped_us,
			 "elapsed_us", (json_int_t)r->elapsed_us);
}

void ctl_on_news(void *arg, const struct life_news *news)
{
	struct ctl *ctl = arg;
	const char *name = life_config(ctl->life)->name;
	json_int_t now = (json_int_t)clock_real_ns();
	switch (news->kind) {
	case NEWS_STATE:
		ctl_event_emit(ctl, CTL_EVENT_STATE,
			       json_pack("{s:s,s:s,s:I}", "from", news->from, "to", news->to,
					 "time_ns", now));
		break;
	case NEWS_TAKE_BEGUN:
		ctl_event_emit(
			ctl, CTL_EVENT_SNAPSHOT_BEGUN,
			json_pack("{s:s,s:s,s:I}", "name", name, "tag", news->tag, "time_ns", now));
		break;
	case NEWS_TAKE_DONE:
		ctl_event_emit(ctl, CTL_EVENT_SNAPSHOT_PUBLISHED,
			       ctl_take_json(name, news->tag, news->result));
		break;
	case NEWS_TAKE_FAILED:
		ctl_event_emit(ctl, CTL_EVENT_SNAPSHOT_FAILED,
			       json_pack("{s:s,s:s,s:s,s:I}", "name", name, "tag", news->tag,
					 "error", err_msg(news->e), "time_ns", now));
		break;
	case NEWS_BALLOON:
		ctl_balloon_look(ctl);
		break;
	case NEWS_SWAP:
		ctl_event_emit(ctl, CTL_EVENT_SWAP_STATE,
			       json_pack("{s:s,s:I,s:s*}", "state", news->to, "time_ns", now,
					 "error", news->error));
		break;
	case NEWS_PANIC:
		ctl_event_emit(ctl, CTL_EVENT_GUEST_PANIC, json_pack("{s:I}", "time_ns", now));
		break;
	case NEWS_NEEDS_RESET:
		ctl_event_emit(ctl, CTL_EVENT_NEEDS_RESET,
			       json_pack("{s:s,s:s,s:I}", "device", news->device, "error",
					 news->why, "time_ns", now));
		break;
	case NEWS_REWOUND:
		ctl_event_emit(ctl, CTL_EVENT_REWOUND, ctl_rewind_json(name, news->rewound));
		break;
	case NEWS_REWIND_FAILED:
		ctl_event_emit(ctl, CTL_EVENT_REWIND_FAILED,
			       json_pack("{s:s,s:s,s:s,s:I}", "name", name, "ref", news->ref,
					 "error", err_msg(news->e), "time_ns", now));
		break;
	}
}
