/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spin model of the writers' turns of a family, store/store_lmdb_turn.c. Checked exhaustively by
 * tests/models/run.
 *
 * What is kept: two threads of one process and further processes with one thread; the two flags of a
 * process; the two locked bytes, which belong to the process (so its second thread could lock them
 * too) and end with it; a process that dies or is stopped for ever at any step; passing by a stopped
 * head of the queue; giving up, which here happens only while a stopped process has the turn.
 *
 * What is left out: time (a wait is a condition; the deadline and the idle polls are "sooner or
 * later"), conditions and their wake-ups, the turn that is kept after LMDB was found dead, fork.
 *
 * Properties: one writer at a time; no invalid end state: whoever lives has its turn, or gives up
 * because a stopped process has it.
 *
 * -DBROKEN_FLAG: threads of a process do not take turns. -DBROKEN_HEAD: a stopped head of the queue is
 * not passed by. -DBROKEN_REFUSED: who gives up keeps its process's flag. -DBROKEN_DEATH: the turn
 * outlives its process. Each must give an error.
 */
#ifndef PROCS
#define PROCS 3
#endif
#ifndef ROUNDS
#define ROUNDS 2 /* transactions of each thread */
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef STOPS
#define STOPS 1
#endif

mtype = { RUNS, STOPPED, DEAD };

mtype state[PROCS] = RUNS;
bool flag_queued[PROCS]; /* turn_queued */
bool flag_taken[PROCS];  /* turn_taken */
byte byte_queue = 0;     /* 0: free, else 1 + process */
byte byte_turn = 0;
byte writers[PROCS];     /* threads inside a write transaction */
byte deaths = 0;
byte stops = 0;

#define RUNNING(p) (state[p] == RUNS)
#define MINE_OR_FREE(b, p) (b == 0 || b == 1 + p)

/* Between any two steps the process may end or stop, with all its threads. */
inline step(p)
{
	if
	:: skip
	:: atomic {
		RUNNING(p) && deaths < DEATHS ->
		deaths++;
		state[p] = DEAD;
		writers[p] = 0;
		flag_queued[p] = false;
		flag_taken[p] = false;
		if
		:: byte_queue == 1 + p -> byte_queue = 0
		:: else -> skip
		fi;
#ifndef BROKEN_DEATH
		if
		:: byte_turn == 1 + p -> byte_turn = 0
		:: else -> skip
		fi
#endif
	}
	:: atomic { RUNNING(p) && stops < STOPS -> stops++; state[p] = STOPPED }
	fi
}

proctype writer(byte p)
{
	byte round = 0;
	byte i;
	byte all;
	bool queued = false;
	bool got = false;
	do
	:: round == ROUNDS || !RUNNING(p) -> break
	:: round < ROUNDS && RUNNING(p) ->
		round++;
#ifndef BROKEN_FLAG
		/* thread_take */
		if
		:: atomic { RUNNING(p) && !flag_queued[p] -> flag_queued[p] = true }
		:: !RUNNING(p) -> break
		fi;
		step(p);
		if
		:: atomic {
			RUNNING(p) && !flag_taken[p] ->
			flag_taken[p] = true;
			flag_queued[p] = false
		}
		:: !RUNNING(p) -> break
		fi;
#endif
		/* bytes_take */
		do
		:: atomic { RUNNING(p) && !queued && MINE_OR_FREE(byte_queue, p) ->
			byte_queue = 1 + p;
			queued = true
		}
			step(p)
		:: atomic { RUNNING(p) && queued && MINE_OR_FREE(byte_turn, p) ->
			byte_turn = 1 + p;
			got = true
		}
			break
#ifndef BROKEN_HEAD
		:: atomic { RUNNING(p) && !queued && byte_queue != 0 && MINE_OR_FREE(byte_turn, p) ->
			byte_turn = 1 + p;
			got = true
		}
			break
#endif
		:: RUNNING(p) && byte_turn != 0 && byte_turn != 1 + p && state[byte_turn - 1] == STOPPED ->
			break /* the deadline */
		:: !RUNNING(p) -> break
		od;
		step(p);
		if
		:: atomic { RUNNING(p) && queued -> byte_queue = 0; queued = false }
		:: RUNNING(p) && !queued -> skip
		:: !RUNNING(p) -> break
		fi;
		step(p);
		if
		:: !RUNNING(p) -> break
		:: RUNNING(p) && !got -> skip
		:: atomic {
			RUNNING(p) && got ->
			writers[p]++;
			i = 0;
			all = 0;
			do
			:: i < PROCS -> all = all + writers[i]; i++
			:: else -> break
			od;
			assert(all == 1)
		}
			step(p);
			if
			:: atomic { RUNNING(p) -> writers[p]--; byte_turn = 0 }
			:: !RUNNING(p) -> break
			fi;
			step(p)
		fi;
#ifdef BROKEN_REFUSED
		if
		:: got -> skip
		:: !got -> break
		fi;
#endif
		/* thread_drop */
		atomic {
			if
			:: RUNNING(p) -> flag_taken[p] = false
			:: else -> skip
			fi;
			got = false
		}
	od
}

init
{
	byte n = 0;
	atomic {
		run writer(0);
		do
		:: n < PROCS -> run writer(n); n++
		:: else -> break
		od
	}
}
