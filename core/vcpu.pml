/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spin model of the park rendezvous in core/vcpu.c. Checked exhaustively by tests/models/run.
 *
 * What is kept: reasons, parked, stop and immediate_exit under one lock with one condition; the
 * kick as a signal that stays pending until KVM_RUN is left or a handler outside of it takes it; the
 * kernel's way in (look at immediate_exit once, then enter, then leave only for an exit of the guest
 * or a pending signal); a guest that never exits by itself; a vCPU that ends its own run with
 * park_nowait (tell_fate); the pass through KVM_RUN before a park, with the kick signal waiting and
 * immediate_exit cleared, that is done again when a request came meanwhile (settle_timer); a vCPU that is
 * throttled; a main thread that parks, unparks and frees at any time, or leaves the work of a stop to
 * whoever parks last (park_and); a second thread that takes the request's reason away and throttles.
 *
 * The counter of requests, compared with a copy, is a bit per vCPU here that every request sets.
 *
 * What is left out: devices, the first thread_init, PARK_START as a third reason (it behaves as
 * LIFE), threads that could not be started, limits of waits.
 *
 * Properties: no invalid end state (so no lost wake-up: a vCPU in the guest without a pending signal
 * never leaves, and a waiter that nobody wakes blocks for ever); the assertions below, which are the
 * invariants of vcpu.h; a pass that counts has gone into KVM_RUN; every run of the model ends with all vCPU
 * threads ended.
 *
 * -DBROKEN_KICK: no signal is sent. -DBROKEN_EXIT: immediate_exit is not set, only the signal.
 * -DBROKEN_ORDER: the signal goes out before immediate_exit is set, without the lock.
 * -DBROKEN_WAKE: unpark does not wake. -DBROKEN_ACK: who parks does not tell. -DBROKEN_PASS: a request
 * during the pass is not noticed. -DBROKEN_OWED: who is throttled does not look for a reason to park.
 * -DBROKEN_LAST: who asks for a stop does not look whether all are parked already. -DBROKEN_WORK: the
 * first to park does the work. Each must give an error.
 */
#ifndef N
#define N 2 /* vCPUs */
#endif
#ifndef ROUNDS
#define ROUNDS 2 /* parks of the main thread */
#endif
#ifndef FATES
#define FATES 1 /* times that a guest may ask for its end */
#endif

#ifndef PASSES
#define PASSES 1 /* counted passes through KVM_RUN before one park */
#endif
#ifndef THROTTLES
#define THROTTLES 1
#endif

#define LIFE 1
#define REQUEST 2

mtype = { OUTSIDE, ENTERING, GUEST, PASSING, WAITING, ENDED };

byte lock = 0;           /* 0: free, else holder: 1 + vCPU, N + 1 main, N + 2 other */
byte reasons = LIFE;     /* [lock] as PARK_START at the beginning */
byte parked = 0;         /* [lock] */
bool stop = false;       /* [lock] */
bool immediate_exit[N];  /* written under the lock only (I1) */
bool requested[N];       /* [lock] requests is not what it was */
bool owed[N];            /* [lock] */
bool pending[N];         /* the kick, not yet delivered */
bool woken[N];           /* cond_wake_all reached this waiter */
bool main_woken = false;
mtype at[N] = OUTSIDE;
byte fates = 0;
byte throttles = 0;
bool held = false; /* somebody relies on all being parked */

#define NONE 0
#define ASKED 1
#define TAKEN 2
#define DONE 3
byte work = NONE; /* [lock] of park_and */

#define TAKE(who) atomic { lock == 0 -> lock = who }
#define DROP(who) d_step { assert(lock == who); lock = 0 }

inline wake_all()
{
	d_step {
		k = 0;
		do
		:: k < N -> woken[k] = true; k++
		:: else -> break
		od;
		main_woken = true;
		k = 0
	}
}

/* Under the lock. A thread that is outside KVM_RUN runs the handler: the signal is used up. */
inline kick_one(i)
{
#ifdef BROKEN_KICK
	skip
#else
	if
	:: at[i] == GUEST || at[i] == ENTERING -> pending[i] = true
	:: else -> skip
	fi
#endif
}

/* Under the lock. */
inline request_all()
{
	d_step {
		j = 0;
		do
		:: j < N ->
			immediate_exit[j] = true;
#ifndef BROKEN_PASS
			requested[j] = true;
#endif
			j++
		:: else -> break
		od;
		j = 0
	}
}

inline park_nowait(who, why)
{
#ifdef BROKEN_ORDER
	j = 0;
	do
	:: j < N -> kick_one(j); j++
	:: else -> break
	od;
#endif
	TAKE(who);
	reasons = reasons | why;
	j = 0;
#ifndef BROKEN_EXIT
	request_all();
#endif
#ifndef BROKEN_ORDER
	do
	:: j < N -> kick_one(j); j++
	:: else -> break
	od;
	j = 0;
#endif
	wake_all();
	DROP(who)
}

inline all_parked()
{
	d_step {
		assert(parked == N);
		j = 0;
		do
		:: j < N ->
			assert(at[j] == WAITING || at[j] == OUTSIDE);
			/* I2 for all that may run again */
			assert(immediate_exit[j] || at[j] == WAITING || at[j] == OUTSIDE);
			j++
		:: else -> break
		od;
		j = 0
	}
}

/* Under the lock, which is let go while the work is done (I4). */
inline work_if_all_parked(who)
{
	if
#ifdef BROKEN_WORK
	:: work == ASKED ->
#else
	:: work == ASKED && parked == N ->
#endif
		work = TAKEN;
		DROP(who);
		held = true;
		all_parked();
		all_parked();
		held = false;
		TAKE(who);
		work = DONE;
		reasons = reasons & (7 - LIFE);
		wake_all()
	:: else -> skip
	fi
}

/* Under the lock; the condition's waiters that are no vCPU in wait_parked look at nothing here. */
inline wait_parked(id)
{
	if
	:: reasons != 0 || stop ->
		parked++;
		work_if_all_parked(1 + id);
#ifndef BROKEN_ACK
		wake_all();
#endif
		do
		:: (reasons != 0 && !stop) || work == TAKEN ->
			at[id] = WAITING;
			woken[id] = false;
			DROP(1 + id);
			woken[id]; /* cond_wait; a wake-up without a cause does not help, so none is modelled */
			TAKE(1 + id)
		:: else -> break
		od;
		at[id] = OUTSIDE;
		parked--
	:: else -> skip
	fi
}

proctype vcpu(byte id)
{
	byte k = 0;
	byte j = 0;
	byte passes = 0;
	bool went = false;
	goto park_here;
settle: /* settle_timer: any number of passes, as the timer wants it */
	do
	:: passes < PASSES ->
		TAKE(1 + id);
		requested[id] = false;
		immediate_exit[id] = false;
		DROP(1 + id);
		at[id] = PASSING;
		/* The own signal is waiting: no guest code runs, and a kick is one with it. */
		went = !immediate_exit[id];
		at[id] = OUTSIDE;
		if
		:: skip
		:: went && fates < FATES -> /* a triple fault that was on its way */
			fates++;
			park_nowait(1 + id, REQUEST)
		fi;
		TAKE(1 + id);
		immediate_exit[id] = true;
		if
		:: requested[id] -> skip /* again */
		:: else ->
			assert(went);
			passes++
		fi;
		DROP(1 + id)
	:: break
	od;
	passes = 0;
	went = false;
park_here:
	TAKE(1 + id);
	wait_parked(id);
	do
	:: owed[id] && !stop ->
		do
#ifdef BROKEN_OWED
		:: owed[id] ->
#else
		:: owed[id] && reasons == 0 && !stop ->
#endif
			at[id] = WAITING;
			woken[id] = false;
			DROP(1 + id);
			if
			:: woken[id]
#ifndef BROKEN_OWED
			:: true -> owed[id] = false /* its time is over */
#endif
			fi;
			TAKE(1 + id);
			at[id] = OUTSIDE
		:: else -> break
		od;
		wait_parked(id)
	:: else -> break
	od;
	if
	:: stop ->
		DROP(1 + id);
		goto end
	:: else -> immediate_exit[id] = false
	fi;
	DROP(1 + id);
enter:
	assert(!held);
	at[id] = ENTERING;
	/* The kernel looks once; what is set later only counts with the signal. */
	if
	:: immediate_exit[id] ->
		at[id] = OUTSIDE;
		pending[id] = false; /* the handler runs on the way out */
		goto settle
	:: !immediate_exit[id] -> at[id] = GUEST
	fi;
	do
	:: pending[id] ->
		at[id] = OUTSIDE;
		pending[id] = false;
		goto settle
	:: !pending[id] && fates < FATES -> /* the guest asks for its end */
		fates++;
		at[id] = OUTSIDE;
		park_nowait(1 + id, REQUEST);
		goto enter
	:: !pending[id] && fates < FATES -> /* an exit for a device, served and back again */
		at[id] = OUTSIDE;
		goto enter
	od;
end:
	at[id] = ENDED
}

inline unpark(who, why)
{
	TAKE(who);
	reasons = reasons & (7 - why);
#ifndef BROKEN_WAKE
	wake_all();
#endif
	DROP(who)
}

proctype main_thread()
{
	byte k = 0;
	byte j = 0;
	byte round = 0;
	unpark(N + 1, LIFE);
	do
	:: round < ROUNDS ->
		round++;
		TAKE(N + 1);
		work = ASKED;
		reasons = reasons | LIFE;
		request_all();
		do
		:: j < N -> kick_one(j); j++
		:: else -> break
		od;
		j = 0;
		wake_all();
#ifndef BROKEN_LAST
		work_if_all_parked(N + 1);
#endif
		do
		:: work != DONE ->
			main_woken = false;
			DROP(N + 1);
			main_woken;
			TAKE(N + 1)
		:: else -> break
		od;
		work = NONE;
		DROP(N + 1)
	:: round < ROUNDS ->
		round++;
		park_nowait(N + 1, LIFE);
		TAKE(N + 1);
		do
		:: parked < N ->
			main_woken = false;
			DROP(N + 1);
			main_woken;
			TAKE(N + 1)
		:: else -> break
		od;
		held = true;
		all_parked();
		DROP(N + 1);
		/* A take reads every vCPU here, without the lock. */
		all_parked();
		held = false;
		unpark(N + 1, LIFE);
		if
		:: skip
		:: true -> at[0] == GUEST /* sooner or later the guest runs on */
		fi
	:: break
	od;
	/* vcpu_group_free */
	TAKE(N + 1);
	stop = true;
	request_all();
	do
	:: j < N -> kick_one(j); j++
	:: else -> break
	od;
	wake_all();
	DROP(N + 1);
	j = 0;
	do
	:: j < N -> at[j] == ENDED; j++ /* pthread_join */
	:: else -> break
	od
}

/* Answers a request of the guest at any moment, while the main thread parks and unparks. */
proctype other()
{
	byte k = 0;
	byte j = 0;
	do
	:: throttles < THROTTLES -> /* vcpu_group_throttle */
		throttles++;
		TAKE(N + 2);
		owed[0] = true;
		immediate_exit[0] = true;
#ifndef BROKEN_PASS
		do
		:: j < N -> requested[j] = true; j++
		:: else -> break
		od;
		j = 0;
#endif
		kick_one(0);
		DROP(N + 2)
	:: fates > 0 && (reasons & REQUEST) != 0 ->
		unpark(N + 2, REQUEST)
	:: stop -> break
	od
}

init
{
	byte i = 0;
	atomic {
		do
		:: i < N -> run vcpu(i); i++
		:: else -> break
		od;
		run main_thread();
		run other()
	}
}
