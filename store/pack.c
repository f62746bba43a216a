/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The compressor pool. See pack.h. The queues live here, the work on one chunk in pack_worker.c.
 *
 * Threads: producer, consumer, and the workers ("tpack"), which meet at one lock of rank
 * RANK_QUEUE. It is never held while pages are read, compressed, or an id is asked for.
 */
#include "store/pack.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "core/base/clock.h"
#include "store/pack_internal.h"

/* Chunks waiting beyond the ones being worked on, so that a worker finds the next one at once. */
#define CHUNKS_PER_WORKER 2u

/* ---- failure ---- */

void pack_cancel(struct pack *p, const struct err *why)
{
	LOCK_SCOPE(&p->lock);
	if (p->failed) {
		return;
	}
	p->failed = true;
	p->fail_class = err_class(why);
	snprintf(p->fail_msg, sizeof(p->fail_msg), "%s", err_msg(why));
	/* What was not begun is not read any more. */
	while (p->todo != NULL) {
		struct pack_job *job = p->todo;
		p->todo = job->next;
		job->next = p->idle;
		p->idle = job;
	}
	p->todo_last = NULL;
	cond_wake_all(&p->work);
	cond_wake_all(&p->read);
	cond_wake_all(&p->out_filled);
	cond_wake_all(&p->out_drained);
}

/* NULL while the pool is sound. Must hold p->lock. */
static struct err *failure(const struct pack *p)
{
	lock_assert_held(&p->lock);
	return p->failed ? ERR(p->fail_class, "%s", p->fail_msg) : NULL;
}

/* ---- producer ---- */

struct err *pack_put(struct pack *p, const struct pack_chunk *c)
{
	LOCK_SCOPE(&p->lock);
	BUG_ON(p->closing);
	while (!p->failed && p->idle == NULL) {
		cond_wait(&p->read, &p->lock);
	}
	TRY(failure(p));
	struct pack_job *job = p->idle;
	p->idle = job->next;
	job->next = NULL;
	job->chunk = *c;
	if (p->todo_last != NULL) {
		p->todo_last->next = job;
	} else {
		p->todo = job;
	}
	p->todo_last = job;
	cond_wake_all(&p->work);
	return NULL;
}

/* Must hold p->lock. After an error nothing is queued, but some may still be read. */
static struct err *wait_read(struct pack *p)
{
	while (p->todo != NULL || p->reading > 0) {
		cond_wait(&p->read, &p->lock);
	}
	return failure(p);
}

struct err *pack_settle(struct pack *p)
{
	LOCK_SCOPE(&p->lock);
	return wait_read(p);
}

struct err *pack_finish(struct pack *p)
{
	LOCK_SCOPE(&p->lock);
	TRY(wait_read(p));
	p->closing = true;
	cond_wake_all(&p->work);
	while (p->running > 0) {
		cond_wait(&p->read, &p->lock);
	}
	return failure(p);
}

/* ---- workers ---- */

struct err *pack_next_job(struct pack *p, struct pack_job **ret_job)
{
	LOCK_SCOPE(&p->lock);
	while (!p->failed && !p->closing && p->todo == NULL) {
		cond_wait(&p->work, &p->lock);
	}
	TRY(failure(p));
	struct pack_job *job = p->todo;
	if (job != NULL) {
		p->todo = job->next;
		if (p->todo == NULL) {
			p->todo_last = NULL;
		}
		p->reading++;
	}
	*ret_job = job;
	return NULL;
}

void pack_job_read(struct pack *p, struct pack_job *job, const struct pack_stats *add)
{
	LOCK_SCOPE(&p->lock);
	p->reading--;
	job->next = p->idle;
	p->idle = job;
	p->stats.pages_zero += add->pages_zero;
	p->stats.pages_value += add->pages_value;
	p->stats.pages_stored += add->pages_stored;
	cond_wake_all(&p->read);
}

static size_t out_map_bytes(size_t room)
{
	return round_up_u64(sizeof(struct pack_out) + room, PAGE_BYTES);
}

struct err *pack_out_get(struct pack *p, enum pack_item_kind kind, size_t room,
			 struct pack_out **ret_out)
{
	struct pack_out *out = NULL;
	size_t cost = sizeof(*out) + room;
	{
		LOCK_SCOPE(&p->lock);
		/* A consumer that waits while it holds all there is must get more. */
		while (!p->failed && p->out_bytes >= p->out_bytes_max &&
		       !(p->taker_waits && p->out == NULL)) {
			cond_wait(&p->out_drained, &p->lock);
		}
		TRY(failure(p));
		p->out_bytes += cost;
		if (kind == PACK_FRAME && p->spare != NULL) {
			out = p->spare;
			p->spare = out->next;
		}
	}
	if (out == NULL && kind == PACK_FRAME) {
		/* Mapped, not malloc'ed: all of it goes back to the host at the end. */
		void *m = mmap(NULL, out_map_bytes(room), PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		out = m == MAP_FAILED ? NULL : m;
	} else if (out == NULL) {
		out = malloc(sizeof(*out) + room);
	}
	if (out == NULL) {
		return ERR_SYSNO(ENOMEM, "%zu bytes of queue for compressed pages", cost);
	}
	*out = (struct pack_out){ .cost = cost, .kind = kind };
	*ret_out = out;
	return NULL;
}

static void out_release(struct pack_out *out)
{
	if (out->kind == PACK_FRAME) {
		munmap(out, out_map_bytes(out->cost - sizeof(*out)));
	} else {
		free(out);
	}
}

void pack_out_push(struct pack *p, struct pack_out *out)
{
	LOCK_SCOPE(&p->lock);
	out->next = NULL;
	if (p->out_last != NULL) {
		p->out_last->next = out;
	} else {
		p->out = out;
	}
	p->out_last = out;
	if (out->kind == PACK_FRAME) {
		p->stats.frames++;
		p->stats.frame_bytes += out->len;
	} else {
		p->stats.leaves++;
		p->stats.leaf_bytes += out->len;
	}
	cond_wake_all(&p->out_filled);
}

void pack_worker_gone(struct pack *p)
{
	LOCK_SCOPE(&p->lock);
	p->running--;
	cond_wake_all(&p->read);
	cond_wake_all(&p->out_filled);
}

/* ---- consumer ---- */

struct err *pack_take(struct pack *p, uint64_t timeout_ns, struct pack_item *ret_item)
{
	uint64_t now = clock_mono_ns();
	uint64_t until;
	if (ADD_OVERFLOWS(now, timeout_ns, &until)) {
		until = UINT64_MAX;
	}
	LOCK_SCOPE(&p->lock);
	bool in_time = true;
	while (!p->failed && p->out == NULL && (!p->closing || p->running > 0) && in_time) {
		p->taker_waits = true;
		cond_wake_all(&p->out_drained);
		if (until == UINT64_MAX) {
			cond_wait(&p->out_filled, &p->lock);
		} else {
			in_time = cond_wait_until(&p->out_filled, &p->lock, until);
		}
	}
	p->taker_waits = false;
	TRY(failure(p));
	struct pack_out *out = p->out;
	if (out == NULL) {
		bool ended = p->closing && p->running == 0;
		*ret_item = (struct pack_item){ .kind = ended ? PACK_END : PACK_NONE };
		return NULL;
	}
	p->out = out->next;
	if (p->out == NULL) {
		p->out_last = NULL;
	}
	*ret_item = (struct pack_item){
		.kind = out->kind,
		.id = out->id,
		.map = out->map,
		.leaf = out->leaf,
		.digest = out->digest,
		.pages = out->pages,
		.p = out->data,
		.len = out->len,
		.own = out,
	};
	return NULL;
}

void pack_give_back(struct pack *p, struct pack_item *item)
{
	struct pack_out *out = item->own;
	if (out == NULL) {
		return;
	}
	bool keep = out->kind == PACK_FRAME;
	size_t cost = out->cost;
	if (!keep) {
		out_release(out);
	}
	*item = (struct pack_item){ .kind = PACK_NONE };
	LOCK_SCOPE(&p->lock);
	p->out_bytes -= cost;
	if (keep) {
		out->next = p->spare;
		p->spare = out;
	}
	cond_wake_all(&p->out_drained);
}

void pack_stats(struct pack *p, struct pack_stats *ret_stats)
{
	LOCK_SCOPE(&p->lock);
	*ret_stats = p->stats;
}

/* ---- life ---- */

static void out_list_free(struct pack_out *out)
{
	while (out != NULL) {
		struct pack_out *next = out->next;
		out_release(out);
		out = next;
	}
}

void pack_free(struct pack *p)
{
	if (p == NULL) {
		return;
	}
	SCOPE(err_freep) struct err *e = ERR(ERR_CANCELLED, "packing ended before it was done");
	pack_cancel(p, e); /* harmless when all workers have gone */
	for (unsigned i = 0; i < p->nworkers; i++) {
		BUG_ON(pthread_join(p->worker[i], NULL) != 0);
	}
	out_list_free(p->out);
	out_list_free(p->spare);
	free(p->jobs);
	cond_done(&p->work);
	cond_done(&p->read);
	cond_done(&p->out_filled);
	cond_done(&p->out_drained);
	lock_done(&p->lock);
	free(p);
}

/*
 * Starts one worker with all signals blocked from its first instruction, but those that report
 * its own faults (and SIGSYS, by which a refused system call shows).
 */
static struct err *start_worker(struct pack *p)
{
	static const int open_signals[] = { SIGSEGV, SIGBUS,  SIGSYS, SIGILL,
					    SIGFPE,  SIGTRAP, SIGABRT };
	sigset_t block;
	sigset_t before;
	sigfillset(&block);
	for (size_t i = 0; i < ARRAY_LEN(open_signals); i++) {
		sigdelset(&block, open_signals[i]);
	}
	BUG_ON(pthread_sigmask(SIG_SETMASK, &block, &before) != 0);
	int rc = pthread_create(&p->worker[p->nworkers], NULL, pack_worker_main, p);
	BUG_ON(pthread_sigmask(SIG_SETMASK, &before, NULL) != 0);
	if (rc != 0) {
		LOCK_SCOPE(&p->lock);
		p->running--;
		return ERR_SYSNO(rc, "starting compressor thread %u", p->nworkers);
	}
	p->nworkers++;
	return NULL;
}

struct err *pack_new(const struct pack_opts *opts, struct pack **ret_pack)
{
	ENSURE(opts->workers >= 1 && opts->workers <= PACK_WORKERS_MAX, ERR_LIMIT,
	       "%u compressor threads asked for, not 1..%u", opts->workers, PACK_WORKERS_MAX);
	struct pack *new = calloc(1, sizeof(*new));
	if (new == NULL) {
		return ERR_SYSNO(ENOMEM, "compressor pool");
	}
	lock_init(&new->lock, RANK_QUEUE);
	cond_init(&new->work);
	cond_init(&new->read);
	cond_init(&new->out_filled);
	cond_init(&new->out_drained);
	SCOPE(pack_freep) struct pack *p = new;
	p->opts = *opts;
	p->out_bytes_max = opts->out_bytes_max > 0 ? opts->out_bytes_max : PACK_OUT_BYTES_DEFAULT;
	map_zero_init(&p->zero);

	/* A level that zstd does not know must fail here, not in the workers. */
	SCOPE(zcodec_freep) struct zcodec *probe = NULL;
	TRY(zcodec_new(opts->level, &probe));

	size_t njobs = (size_t)opts->workers * (1 + CHUNKS_PER_WORKER);
	p->jobs = calloc(njobs, sizeof(*p->jobs));
	if (p->jobs == NULL) {
		return ERR_SYSNO(ENOMEM, "queue of %zu chunks", njobs);
	}
	for (size_t i = 0; i < njobs; i++) {
		p->jobs[i].next = p->idle;
		p->idle = &p->jobs[i];
	}
	p->running = opts->workers; /* counted down by each at its end */
	for (unsigned i = 0; i < opts->workers; i++) {
		TRY(start_worker(p));
	}
	*ret_pack = MOVE(p);
	return NULL;
}
