/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The clockwork of continuous checkpoints. See checkpoint.h. Main loop only.
 *
 * I1: while `taking`, done is still to come, and the timer is off.
 * I2: due_ns is when the next take is to freeze. It is counted from the last freeze, not from the
 *     end of the take, so a slow disk does not stretch the interval.
 */
#include "core/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/log.h"

enum { RETRY_NS = 200000000 }; /* something else is under way: look again */

struct checkpoint {
	struct loop *loop;
	const struct checkpoint_ops *ops;
	void *self;
	struct loop_timer *timer;
	struct checkpoint_status s;
	uint64_t due_ns;     /* CLOCK_MONOTONIC */
	uint64_t begun_ns;   /* of the take under way */
	uint64_t last_tag_s; /* second in the last tag, so that no two are equal */
};

static void arm(struct checkpoint *c)
{
	loop_timer_set(c->timer, c->s.policy.every_ns == 0 || c->s.taking ? UINT64_MAX : c->due_ns);
}

static void note_error(struct checkpoint *c, struct err *e)
{
	c->s.failed++;
	snprintf(c->s.last_error, sizeof(c->s.last_error), "%s", err_msg(e));
	log_err(err_wrap(e, "automatic checkpoint, the VM goes on"));
}

static void on_done(void *arg, struct err *e, const struct snap_result *result)
{
	struct checkpoint *c = arg;
	c->s.taking = false;
	uint64_t now = clock_mono_ns();
	bool soon = e != NULL && err_class(e) == ERR_NOT_NOW;
	bool failed = e != NULL && err_class(e) != ERR_CANCELLED && !soon;
	if (failed) {
		note_error(c, e);
	} else if (e != NULL) {
		err_drop(e, "tried again soon, or an explicit take bounds the loss as well");
	} else {
		c->s.taken++;
		c->s.last_number = result->number;
		c->s.last_frozen_ns = result->frozen_at_ns;
		c->s.last_error[0] = 0;
	}
	/* A take that lasts longer than the interval is followed by the next at once. */
	c->due_ns = MAX(c->begun_ns + c->s.policy.every_ns, now);
	if (failed) {
		c->due_ns = MAX(c->due_ns, now + CHECKPOINT_EVERY_MIN_NS);
	} else if (soon) {
		c->due_ns = now + RETRY_NS;
	}
	arm(c);
}

/* "auto-20261122T175501Z": sorts by time, and a second never comes twice. */
static void make_tag(struct checkpoint *c, char *ret_tag, size_t len)
{
	uint64_t s = MAX(clock_real_ns() / 1000000000u, c->last_tag_s + 1);
	c->last_tag_s = s;
	time_t t = (time_t)s;
	struct tm tm;
	gmtime_r(&t, &tm);
	char text[32];
	size_t n = strftime(text, sizeof(text), "%Y%m%dT%H%M%SZ", &tm);
	BUG_ON(n == 0);
	snprintf(ret_tag, len, CHECKPOINT_TAG_PREFIX "%s", text);
}

static void on_timer(void *arg)
{
	struct checkpoint *c = arg;
	uint64_t now = clock_mono_ns();
	if (!c->ops->ran(c->self)) {
		c->due_ns = now + MIN(c->s.policy.every_ns, CHECKPOINT_EVERY_MIN_NS);
		arm(c);
		return;
	}
	char tag[NAME_BYTES_MAX + 1];
	make_tag(c, tag, sizeof(tag));
	c->begun_ns = now;
	c->s.taking = true;
	struct err *e = c->ops->take(c->self, tag, &c->s.policy.keep, on_done, c);
	if (e == NULL) {
		return;
	}
	c->s.taking = false;
	if (err_class(e) == ERR_NOT_NOW) {
		err_drop(e, "tried again in a moment");
		c->due_ns = now + RETRY_NS;
	} else {
		note_error(c, e);
		c->due_ns = now + c->s.policy.every_ns;
	}
	arm(c);
}

struct err *checkpoint_new(struct loop *loop, const struct checkpoint_ops *ops, void *self,
			   struct checkpoint **ret_c)
{
	SCOPE(checkpoint_freep) struct checkpoint *c = calloc(1, sizeof(*c));
	ENSURE(c != NULL, ERR_SYS, "out of memory");
	c->loop = loop;
	c->ops = ops;
	c->self = self;
	TRY(loop_timer_add(loop, on_timer, c, &c->timer));
	*ret_c = MOVE(c);
	return NULL;
}

void checkpoint_free(struct checkpoint *c)
{
	if (c == NULL) {
		return;
	}
	BUG_ON(c->s.taking);
	if (c->timer != NULL) {
		loop_timer_del(c->timer);
	}
	free(c);
}

struct err *checkpoint_set(struct checkpoint *c, const struct checkpoint_policy *p)
{
	ENSURE(p->every_ns == 0 || (p->every_ns >= CHECKPOINT_EVERY_MIN_NS &&
				    p->every_ns <= CHECKPOINT_EVERY_MAX_NS),
	       ERR_LIMIT, "a checkpoint every %" PRIu64 " ms: at least 1 s, at most 366 days",
	       p->every_ns / 1000000);
	unsigned most = MAX(p->keep.keep_last, p->keep.keep_hourly);
	most = MAX(most, p->keep.keep_daily);
	ENSURE(most <= CHECKPOINT_KEEP_MAX, ERR_LIMIT, "%u checkpoints to keep: at most %u", most,
	       CHECKPOINT_KEEP_MAX);
	c->s.policy = *p;
	c->due_ns = clock_mono_ns() + p->every_ns;
	arm(c);
	return NULL;
}

void checkpoint_status(const struct checkpoint *c, struct checkpoint_status *ret)
{
	*ret = c->s;
}

static const struct {
	char unit;
	uint64_t s;
} units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 } };

struct err *checkpoint_parse_every(const char *text, uint64_t *ret_ns)
{
	uint64_t n = 0;
	const char *p = text;
	if (strcmp(text, "off") == 0) {
		*ret_ns = 0;
		return NULL;
	}
	for (; *p >= '0' && *p <= '9' && n < 1000000000; p++) {
		n = n * 10 + (uint64_t)(*p - '0');
	}
	for (size_t i = 0; i < ARRAY_LEN(units); i++) {
		if (p > text && n > 0 && n < 1000000000 && p[0] == units[i].unit && p[1] == 0) {
			ENSURE(n * units[i].s <= CHECKPOINT_EVERY_MAX_NS / 1000000000u, ERR_LIMIT,
			       "'%.40s' is too long: at most 366 days", text);
			*ret_ns = n * units[i].s * 1000000000u;
			return NULL;
		}
	}
	return ERR(ERR_USAGE,
		   "'%.40s' is no interval: give a number with s, m, h or d, like 30s, "
		   "or off",
		   text);
}

/* The number at the start of text, at most CHECKPOINT_KEEP_MAX and not 0; its length, 0: none. */
static size_t parse_count(const char *text, unsigned *ret)
{
	unsigned n = 0;
	size_t i = 0;
	for (; text[i] >= '0' && text[i] <= '9' && n <= CHECKPOINT_KEEP_MAX; i++) {
		n = n * 10 + (unsigned)(text[i] - '0');
	}
	*ret = n;
	return n == 0 || n > CHECKPOINT_KEEP_MAX ? 0 : i;
}

struct err *checkpoint_parse_keep(const char *text, struct prune_policy *ret)
{
	struct prune_policy p = { 0 };
	const struct {
		const char *word;
		unsigned *to;
	} rules[] = { { "hourly=", &p.keep_hourly },
		      { "daily=", &p.keep_daily },
		      { "last=", &p.keep_last },
		      { "", &p.keep_last } };
	const char *at = text;
	bool good = *text != 0;
	if (strcmp(text, "all") == 0) {
		*ret = p;
		return NULL;
	}
	while (good && *at != 0) {
		size_t i = 0;
		while (strncmp(at, rules[i].word, strlen(rules[i].word)) != 0) {
			i++; /* the last one is always there */
		}
		at += strlen(rules[i].word);
		good = *rules[i].to == 0; /* each once */
		size_t len = parse_count(at, rules[i].to);
		good = good && len > 0 && (at[len] == 0 || (at[len] == ',' && at[len + 1] != 0));
		at += good ? len + (at[len] == ',') : 0;
	}
	ENSURE(good, ERR_USAGE,
	       "'%.40s' is no rule of what to keep: give all, or a number and "
	       "hourly=N, daily=N with commas, N from 1 to %u",
	       text, CHECKPOINT_KEEP_MAX);
	*ret = p;
	return NULL;
}

void checkpoint_every_text(uint64_t ns, char ret[CHECKPOINT_TEXT_MAX + 1])
{
	uint64_t s = ns / 1000000000u;
	size_t i = ARRAY_LEN(units) - 1;
	while (s % units[i].s != 0) {
		i--; /* seconds divide all */
	}
	if (s == 0) {
		snprintf(ret, CHECKPOINT_TEXT_MAX + 1, "off");
	} else {
		snprintf(ret, CHECKPOINT_TEXT_MAX + 1, "%" PRIu64 "%c", s / units[i].s,
			 units[i].unit);
	}
}

void checkpoint_keep_text(const struct prune_policy *p, char ret[CHECKPOINT_TEXT_MAX + 1])
{
	const struct {
		const char *word;
		unsigned n;
	} rules[] = { { "", p->keep_last },
		      { "hourly=", p->keep_hourly },
		      { "daily=", p->keep_daily } };
	size_t len = 0;
	for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
		if (rules[i].n > 0) {
			len += (size_t)snprintf(ret + len, CHECKPOINT_TEXT_MAX + 1 - len, "%s%s%u",
						len > 0 ? "," : "", rules[i].word, rules[i].n);
		}
	}
	if (len == 0) {
		snprintf(ret, CHECKPOINT_TEXT_MAX + 1, "all");
	}
}
