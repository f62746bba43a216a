/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spin model of the compressor pool (store/pack.c, pack_worker.c) and of the session's writer thread
 * that empties it (store/session.c, twrite). Checked exhaustively by tests/models/run. What a death of
 * the process leaves in the store is in session.pml: of this model it sees only that any part of the
 * records, in any order, may have been committed.
 *
 * What is kept: every critical section as one atomic step, its four conditions with a flag per waiter
 * (a wake-up that goes to the wrong condition, or is forgotten, is seen); jobs, the bound of finished
 * records with its exception for a consumer that holds them all; settle, finish, cancel from either
 * side, errors of a worker and of a commit, the end of a session at any moment, and the joins.
 *
 * What is left out: what is in a record; costs other than 1; stats; spare buffers.
 *
 * Properties: no invalid end state; page memory is read only between put and settle; a settle without
 * an error means that every chunk's pages are in frames; the bound holds;
 * after a finish and a writer without an error, everything that was made has been committed.
 *
 * -DBROKEN_TAKER: the consumer that waits gets nothing over the bound. -DBROKEN_SETTLE: settle looks
 * at queued jobs only. -DBROKEN_CANCEL: cancel does not wake those who wait for room. -DBROKEN_GONE:
 * the last worker does not wake the consumer. -DBROKEN_LATE: a worker tells that a chunk has been read
 * before it tells its error. Each must give an error.
 */
#ifndef W
#define W 2 /* workers */
#endif
#ifndef JOBS
#define JOBS 2 /* slots for chunks */
#endif
#ifndef CHUNKS
#define CHUNKS 3
#endif
#ifndef OUT_MAX
#define OUT_MAX 2 /* bound of finished records */
#endif
#ifndef BATCH
#define BATCH 3 /* more than the bound: the consumer may hold all there is */
#endif

byte idle = JOBS;
byte todo = 0;
byte reading = 0;
byte running = W;
bool closing = false;
bool failed = false;
byte out = 0;
byte out_bytes = 0;
bool taker_waits = false;

/* Waiters of the conditions work, read, out_filled, out_drained: woken since they began to wait? */
bool w_work[W];
bool w_read;
bool w_filled;
bool w_drained[W];

bool mapped = false; /* may page memory be read? */
byte made = 0;       /* records pushed */
byte committed = 0;
bool writer_over = false;
bool writer_failed = false;
bool lost = false;    /* pages of a chunk were not stored */
bool faulted = false; /* at most one error begins by itself */

inline wake_work() { w_work[0] = true; w_work[W - 1] = true }
inline wake_drained() { w_drained[0] = true; w_drained[W - 1] = true }

inline cancel()
{
	atomic {
		if
		:: !failed ->
			failed = true;
			idle = idle + todo;
			todo = 0;
			wake_work();
			w_read = true;
			w_filled = true;
#ifndef BROKEN_CANCEL
			wake_drained()
#endif
		:: else -> skip
		fi
	}
}

/* pack_out_get and pack_out_push of one record; what lies between is done without the lock. */
inline emit(id)
{
	atomic {
		do
#ifdef BROKEN_TAKER
		:: !failed && out_bytes >= OUT_MAX ->
#else
		:: !failed && out_bytes >= OUT_MAX && !(taker_waits && out == 0) ->
#endif
			w_drained[id] = false;
			w_drained[id]
		:: else -> break
		od;
		if
		:: failed -> bad = true
		:: else -> out_bytes++
		fi
	}
	assert(out_bytes <= OUT_MAX + BATCH + W);
	if
	:: bad -> skip
	:: else ->
		atomic {
			out++;
			made++;
			w_filled = true
		}
	fi
}

proctype worker(byte id)
{
	bool bad = false;
	do
	:: true ->
		atomic {
			do
			:: !failed && !closing && todo == 0 ->
				w_work[id] = false;
				w_work[id]
			:: else -> break
			od;
			if
			:: failed -> goto fail
			:: !failed && todo == 0 -> goto drain
			:: else ->
				todo--;
				reading++
			fi
		}
		assert(mapped);
		if
		:: skip
		:: true -> emit(id) /* an open frame was full */
		:: !faulted -> faulted = true; lost = true; bad = true /* no id, no memory */
		fi;
		assert(mapped);
#ifndef BROKEN_LATE
		if
		:: bad -> cancel() /* a settle that waits for this chunk is to see it */
		:: else -> skip
		fi;
#endif
		atomic {
			reading--;
			idle++;
			w_read = true
		}
		if
		:: bad -> goto fail
		:: else -> skip
		fi;
		if
		:: skip /* all zero: no leaf */
		:: true -> emit(id)
		fi;
		if
		:: bad -> goto fail
		:: else -> skip
		fi
	od;
drain:
	if
	:: skip
	:: true -> emit(id) /* the open frame */
	fi;
	if
	:: !bad -> goto gone
	:: else -> skip
	fi;
fail:
	cancel();
gone:
	atomic {
		running--;
		w_read = true;
#ifndef BROKEN_GONE
		w_filled = true
#endif
	}
}

proctype writer()
{
	byte held = 0;
	byte uncommitted = 0;
	bool last = false;
	bool bad = false;
	do
	:: !last ->
		do
		:: held < BATCH ->
			atomic {
				do
				:: !failed && out == 0 && (!closing || running > 0) ->
					taker_waits = true;
					wake_drained();
					w_filled = false;
					w_filled
				:: else -> break
				od;
				taker_waits = false;
				if
				:: failed -> bad = true
				:: !failed && out > 0 ->
					out--;
					held++
				:: else -> last = true
				fi
			}
			if
			:: bad || last -> break
			:: else -> skip
			fi
		:: else -> break
		od;
		if
		:: bad -> break
		:: !bad && held > 0 ->
			do
			:: held > 0 -> /* ltxn_put, pack_give_back */
				atomic {
					held--;
					uncommitted++;
					out_bytes--;
					wake_drained()
				}
			:: else -> break
			od;
			if
			:: committed = committed + uncommitted; uncommitted = 0
			:: !faulted -> faulted = true; bad = true; break /* disk full */
			fi
		:: else -> skip
		fi
	:: else -> break
	od;
	/* batch_give_back */
	do
	:: held > 0 ->
		atomic {
			held--;
			out_bytes--;
			wake_drained()
		}
	:: else -> break
	od;
	if
	:: bad ->
		cancel();
		writer_failed = true
	:: else -> skip
	fi;
	writer_over = true
}

inline settle()
{
	atomic {
		do
#ifdef BROKEN_SETTLE
		:: todo > 0 ->
#else
		:: todo > 0 || reading > 0 ->
#endif
			w_read = false;
			w_read
		:: else -> break
		od;
		if
		:: failed -> bad = true
		:: else -> assert(!lost)
		fi
	}
}

proctype producer()
{
	byte n = 0;
	bool bad = false;
	bool done = false;
	do
	:: n < CHUNKS && !bad ->
		n++;
		mapped = true;
		atomic { /* pack_put */
			do
			:: !failed && idle == 0 ->
				w_read = false;
				w_read
			:: else -> break
			od;
			if
			:: failed -> bad = true
			:: else ->
				idle--;
				todo++;
				wake_work()
			fi
		}
		if
		:: skip
		:: !bad -> settle(); mapped = false /* also after an error nothing is read any more */
		fi
	:: else -> break
	:: break /* the take is called off */
	od;
	if
	:: n == CHUNKS && !bad -> /* pack_finish */
		settle();
		mapped = false;
		if
		:: bad -> skip
		:: else ->
			atomic {
				closing = true;
				wake_work()
			}
			atomic {
				do
				:: running > 0 ->
					w_read = false;
					w_read
				:: else -> break
				od;
				if
				:: failed -> bad = true
				:: else -> skip
				fi
			}
		fi;
		if
		:: bad -> cancel()
		:: else -> skip
		fi;
		writer_over; /* pthread_join */
		if
		:: !bad && !writer_failed ->
			assert(committed == made && todo == 0 && out == 0 && out_bytes == 0);
			done = true
		:: else -> skip
		fi
	:: else -> skip
	fi;
	/* session_free, pack_free */
	if
	:: !done -> cancel()
	:: else -> skip
	fi;
	writer_over;
	running == 0;
	mapped = false;
	assert(reading == 0)
}

init
{
	byte i = 0;
	atomic {
		do
		:: i < W -> run worker(i); i++
		:: else -> break
		od;
		run writer();
		run producer()
	}
}
