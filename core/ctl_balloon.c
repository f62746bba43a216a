/* SPDX-License-Identifier: Apache-2.0 */
/*
 * BalloonCommand: adjusting the balloon, waiting for it, the guest's figures, and the balloon's
 * events. Called by ctl*.c and by the loop's timer, on the main loop's thread.
 *
 * Who waits is on the list of what is pending. It is answered when the balloon has news
 * (ctl_balloon_look), or by the timer when the guest does nothing for some time.
 */
#include <errno.h>

#include "core/base/clock.h"
#include "core/ctl_internal.h"
#include "devices/virtio_balloon.h"

enum {
	LOOK_NS = 500000000, /* how often limits are looked at */
};
#define STILL_NS                                                                                   \
	20000000000ull /* a balloon that does not move for so long does not get further            \
			*/
#define STATS_NS 15000000000ull

static struct device *device(struct ctl *ctl)
{
	return life_device(ctl->life, "virtio_balloon");
}

static json_t *stats_json(const struct virtio_balloon_info *i)
{
	static const char *const names[BALLOON__STATS] = {
		[BALLOON_SWAP_IN] = "swap_in",
		[BALLOON_SWAP_OUT] = "swap_out",
		[BALLOON_MAJOR_FAULTS] = "major_faults",
		[BALLOON_MINOR_FAULTS] = "minor_faults",
		[BALLOON_FREE] = "free_memory",
		[BALLOON_TOTAL] = "total_memory",
		[BALLOON_AVAILABLE] = "available_memory",
		[BALLOON_CACHES] = "disk_caches",
		[BALLOON_HUGE_GIVEN] = "hugetlb_allocations",
		[BALLOON_HUGE_FAILED] = "hugetlb_failures",
	};
	/* The last two have no tag in virtio. */
	json_t *stats = json_pack("{s:n,s:n}", "shared_memory", "unevictable_memory");
	for (unsigned tag = 0; tag < BALLOON__STATS; tag++) {
		bool told = (i->valid >> tag & 1) != 0 && i->stat[tag] <= INT64_MAX;
		json_object_set_new(stats, names[tag],
				    told ? json_integer((json_int_t)i->stat[tag]) : json_null());
	}
	return json_pack("{s:{s:o,s:I}}", "BalloonStats", "stats", stats, "balloon_actual",
			 (json_int_t)i->actual_bytes);
}

/* ---- who waits ---- */

static bool wants(const struct pending *p)
{
	return p->balloon != WAIT_OTHER;
}

static struct err *not_ready(void)
{
	return err_set_errno(ERR(ERR_NOT_NOW, "BalloonCommand: the guest's driver for the balloon "
					      "is not at work: try again when it is"),
			     ENOTCONN);
}

/* True: p was answered, and is gone. */
static bool settle(struct pending *p, const struct virtio_balloon_info *i, uint64_t now)
{
	bool stats = p->balloon == WAIT_STATS;
	uint64_t since = stats ? p->since_ns : MAX(p->since_ns, p->ctl->balloon_moved_ns);
	if (stats && i->told > p->want) {
		ctl_pending_end(p, ctl_answer_json(stats_json(i)), NULL);
	} else if (!stats && i->actual_bytes == p->want) {
		ctl_pending_end(p, ctl_answer_ok(), NULL);
	} else if (stats ? !i->can_tell : !i->ready) {
		ctl_pending_end(p, NULL, not_ready());
	} else if (now - since < (stats ? STATS_NS : STILL_NS)) {
		return false;
	} else if (stats) {
		struct err *e = ERR(ERR_NOT_NOW, "BalloonCommand: the guest does not tell its "
						 "figures; does it run?");
		ctl_pending_end(p, NULL, err_set_errno(e, ETIMEDOUT));
	} else {
		struct err *e =
			ERR(ERR_NOT_NOW,
			    "BalloonCommand: the balloon has %llu of %llu bytes and does "
			    "not get further; it stays asked for them",
			    (unsigned long long)i->actual_bytes, (unsigned long long)p->want);
		ctl_pending_end(p, NULL, err_set_errno(e, ETIMEDOUT));
	}
	return true;
}

static struct pending *first_of(const struct ctl *ctl, enum ctl_wait what)
{
	struct pending *p = ctl->pending;
	while (p != NULL && p->balloon != what) {
		p = p->next;
	}
	return p;
}

static void tell_events(struct ctl *ctl, const struct virtio_balloon_info *i, uint64_t now)
{
	json_int_t actual = (json_int_t)i->actual_bytes;
	if (i->actual_bytes != ctl->balloon_actual) {
		ctl->balloon_actual = i->actual_bytes;
		ctl->balloon_moved_ns = now;
		ctl_event_emit(ctl, CTL_EVENT_BALLOON_RESIZE,
			       json_pack("{s:I}", "balloon_actual", actual));
	}
	if (i->ooms != ctl->balloon_ooms) {
		ctl->balloon_ooms = i->ooms;
		if (i->ooms > 0) { /* not a new device after a reset */
			ctl_event_emit(ctl, CTL_EVENT_BALLOON_OOM,
				       json_pack("{s:I}", "balloon_actual", actual));
		}
	}
}

void ctl_balloon_look(void *arg)
{
	struct ctl *ctl = arg;
	struct device *dev = device(ctl);
	uint64_t now = clock_mono_ns();
	if (dev == NULL) {
		return; /* the VM ends: ctl_jobs_done */
	}
	const struct virtio_balloon_info i = virtio_balloon_look(dev);
	tell_events(ctl, &i, now);
	bool waits = false;
	for (struct pending *p = ctl->pending; p != NULL;) {
		if (!wants(p)) {
			p = p->next;
		} else if (settle(p, &i, now)) {
			p = ctl->pending; /* an answer may free more than p */
			waits = false;
		} else {
			waits = true;
			p = p->next;
		}
	}
	loop_timer_set(ctl->balloon_timer, waits ? now + LOOK_NS : UINT64_MAX);
}

/* ---- requests ---- */

static void wait_for(struct call *call, enum ctl_wait what, uint64_t want)
{
	struct pending *p = ctl_pending_new(call, "BalloonCommand", LIMIT_BALLOON_MS);
	if (p != NULL) {
		p->balloon = what;
		p->want = want;
		if (what == WAIT_ADJUST) { /* figures come soon or not at all: no job */
			ctl_pending_begun(p);
		}
		ctl_balloon_look(call->ctl);
	}
}

static void adjust(struct call *call, struct device *dev)
{
	const struct config *config = life_config(call->ctl->life);
	uint64_t bytes = call->req->balloon.adjust.num_bytes / PAGE_BYTES * PAGE_BYTES;
	if (bytes > config->mem_bytes) {
		ctl_reply_err(
			call->conn,
			ERR(ERR_USAGE, "BalloonCommand: %llu bytes are more than the VM has, %llu",
			    (unsigned long long)bytes, (unsigned long long)config->mem_bytes));
		return;
	}
	for (struct pending *p; (p = first_of(call->ctl, WAIT_ADJUST)) != NULL;) {
		struct err *e = ERR(ERR_CANCELLED, "BalloonCommand: overridden by a later one");
		ctl_pending_end(p, NULL, err_set_errno(e, ECANCELED));
	}
	virtio_balloon_target(dev, bytes);
	if (call->req->balloon.adjust.wait_for_success) {
		wait_for(call, WAIT_ADJUST, bytes);
	} else {
		ctl_reply(call->conn, ctl_answer_ok());
	}
}

void ctl_balloon(struct call *call)
{
	struct device *dev = device(call->ctl);
	if (dev == NULL) {
		ctl_reply_absent(call, "it has no balloon");
		return;
	}
	switch ((enum ctl_balloon_cmd)call->req->balloon.cmd) {
	case CTL_BALLOON_ADJUST:
		adjust(call, dev);
		break;
	case CTL_BALLOON_STATS:
		virtio_balloon_ask(dev);
		wait_for(call, WAIT_STATS, virtio_balloon_look(dev).told);
		break;
	case CTL_BALLOON_WS:
	case CTL_BALLOON_WS_CONFIG: {
		struct err *e = ERR(ERR_NOT_NOW, "BalloonCommand: the balloon has no reports of "
						 "the working set: virtio knows none");
		ctl_reply_err(call->conn, err_set_errno(e, EOPNOTSUPP));
		break;
	}
	}
}
