/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the control socket share: ctl.c (connections, packets), ctl_handlers.c (one
 * handler per variant), ctl_job.c (what is answered later), ctl_balloon.c, ctl_event.c (listeners).
 * Main loop's thread only.
 */
#ifndef TORPOR_CORE_CTL_INTERNAL_H
#define TORPOR_CORE_CTL_INTERNAL_H

#include "core/ctl.h"
#include "core/ctl_proto.h"

struct answer {
	struct answer *next;
	char *text;   /* owned, see ctl_answer_free */
	struct fd fd; /* goes along; -1: none */
};

struct conn {
	struct conn *next;
	struct ctl *ctl;
	struct fd fd;
	struct loop_fd *watch;
	struct answer *queue; /* answers that the socket did not take yet, oldest first */
	bool eof;             /* the peer sends no more, but still waits for a take's answer */
	bool readonly;
	bool subscribed; /* gets all events after its answers */
};

enum ctl_wait { WAIT_OTHER, WAIT_ADJUST, WAIT_STATS };

/*
 * What was asked for here and is not answered yet: a take, a rewind, a step of the life that waits
 * for an automatic take to give way, what the guest's balloon has to do, or the end of one of
 * these. ctl_pending_end ends it exactly once and frees it.
 */
struct pending {
	struct pending *next; /* in ctl->pending */
	struct ctl *ctl;      /* NULL once the ctl is gone */
	struct conn *conn;    /* NULL once the asker is gone, or was answered at its deadline */
	const char *kind;     /* the request's name; const text */
	uint64_t id;          /* of the job; 0: none (yet) */
	uint64_t waits_for;   /* id of another job; 0: it is one itself */
	uint64_t begun_at_ns; /* since 1970 */
	uint64_t since_ns;
	uint64_t limit_ms;                   /* for an answer */
	bool detach;                         /* answered as soon as it has begun */
	struct err *(*step)(struct life *l); /* NULL for a take */
	struct life_waiter waiter;           /* for a step */
	enum ctl_wait balloon;               /* what of the balloon it waits for */
	uint64_t want; /* WAIT_ADJUST: bytes; WAIT_STATS: more answers of the guest than this */
	bool typed;    /* answer with the result's fields, not "Ok" */
	char tag[NAME_BYTES_MAX + 1];
	char name[NAME_BYTES_MAX + 1];
};

enum {
	JOBS_KEPT = 16,
	/* Deadlines of requests that say none. */
	LIMIT_STEP_MS = 60 * 1000,
	LIMIT_BALLOON_MS = 600 * 1000,
	LIMIT_SLOW_MS = 3600 * 1000,
};

/* What a job came to. */
struct job_end {
	uint64_t id; /* 0: none */
	const char *kind;
	const char *state;
	uint64_t begun_at_ns;
	uint64_t elapsed_us;
	char *answer; /* owned; NULL: there was no memory to keep it */
};

/* A client's socket that we have connected to. */
struct listener {
	struct listener *next;
	struct ctl *ctl;
	struct fd fd;
	struct loop_fd *watch;
	uint32_t events; /* bit = enum ctl_event */
	char addr[CTL_SOCKET_PATH_MAX + 1];
};

/* A listening socket: the control socket, and that of monitors. */
struct door {
	struct ctl *ctl;
	struct fd listen;
	/* Given up for a moment to turn a client away when no descriptor is left. */
	struct fd spare;
	struct loop_fd *watch;
	bool readonly;
};

struct ctl {
	struct loop *loop;
	struct door doors[2];
	unsigned ndoors;
	struct life *life;
	struct conn *conns;
	unsigned nconns;
	struct pending *pending;
	struct job_end ends[JOBS_KEPT];
	uint64_t last_job;
	struct loop_timer *job_timer;     /* the first deadline */
	struct loop_timer *balloon_timer; /* runs while somebody waits for the balloon */
	uint64_t balloon_moved_ns;
	uint64_t balloon_actual;
	uint64_t balloon_ooms;
	struct listener *listeners;
	unsigned nlisteners;
	uint8_t *buf; /* CTL_PACKET_BYTES_MAX, for the packet being read */
};

/* One request being served: its descriptors are closed after the handler, unless moved out. */
struct call {
	struct conn *conn;
	struct ctl *ctl;
	const struct ctl_request *req;
	struct fd fds[CTL_FDS_MAX];
	unsigned nfds;
};

/* ---- ctl.c: answers ---- */
void ctl_reply(struct conn *c, char *text); /* takes over text */
void ctl_reply_fd(struct conn *c, char *text, struct fd *fd);
void ctl_reply_err(struct conn *c, struct err *e);    /* frees e */
void ctl_reply_result(struct conn *c, struct err *e); /* "Ok" for NULL */
/* Frees a connection whose peer sends no more once it has all its answers. */
void ctl_conn_end_if_done(struct conn *c);

/* ---- ctl_handlers.c ---- */
/* Serves one request: exactly one answer, now or, for a take, when it is done. */
void ctl_serve(struct call *call);
/* Answers a request for a device that this VM does not have. */
void ctl_reply_absent(struct call *call, const char *what);

/* ---- ctl_job.c ---- */
/* Something that may have to be answered later, at most after limit_ms unless the request says
 * another time; NULL: out of memory, which the client has been told. */
struct pending *ctl_pending_new(const struct call *call, const char *kind, uint64_t limit_ms);
/* It is going to last: a job from now on. p may not be used for an answer any more but by
 * ctl_pending_end. */
void ctl_pending_begun(struct pending *p);
/* Answers whoever waits: with text, or with e; takes over both, and frees p. */
void ctl_pending_end(struct pending *p, char *text, struct err *e);
/* Jobs, Job, JobWait, JobCancel. */
void ctl_job_request(const struct call *call);
void ctl_job_timer(void *arg);
/* c is about to be freed. */
void ctl_jobs_conn_gone(struct ctl *ctl, const struct conn *c);
/* For ctl_free; the connections are gone. */
void ctl_jobs_done(struct ctl *ctl);
/* ---- ctl_swap.c ---- */
void ctl_swap(struct call *call);
void ctl_swap_typed(struct call *call); /* torpor's own forms of it */

/* ---- ctl_balloon.c ---- */
void ctl_balloon(struct call *call);
/* The balloon may have changed: answers who waited for that, and tells the events. arg is the ctl.
 */
void ctl_balloon_look(void *arg);

/* ---- ctl_hotplug.c ---- */
/* HotPlugNetCommand; and torpor's own, for disks too. */
void ctl_hotplug_net(struct call *call);
void ctl_hotplug(struct call *call);

/* ---- ctl_event.c ---- */
MUST_USE struct err *ctl_listener_add(struct ctl *ctl, const char *addr, enum ctl_event ev);
/* Takes events away; the connection goes with the last. Unknown ones are no error. */
void ctl_listener_remove(struct ctl *ctl, const char *addr, uint32_t events);
/* Sends the event to who asked for it; takes over body. Never waits. */
void ctl_event_emit(struct ctl *ctl, enum ctl_event ev, json_t *body);
void ctl_listeners_free(struct ctl *ctl);
/* The news of the VM's life, as events; arg is the ctl. */
void ctl_on_news(void *arg, const struct life_news *news);
/* The figures of a rewind, as its answer and its event have them. */
json_t *ctl_rewind_json(const char *name, const struct life_rewound *r);
/* The figures of a take, as its answer and its event have them. */
json_t *ctl_take_json(const char *name, const char *tag, const struct snap_result *r);

#endif
