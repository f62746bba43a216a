/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spin model of the park rendezvous in core/vcpu.c. Checked exhaustively by tests/models/run.
 *
 * What is kept: reasons, parked, stop and immediate_exit under one lock with one condition; the
 * kick as a signal that stays pending until KVM_RUN is left or a handler outside of it takes it; the
 * kernel's way in (look at immediate_exit once, then enter, then leave only for an exit of the guest
 * or a pending signal); a guest that never exits by itself; a vCPU that ends its own run with
 * park_nowait (tell_fate); a main thread that parks, unparks and frees at any time; a second thread
 * that takes the request's reason away.
 *
 * What is left out: devices, the first thread_init, PARK_START as a third reason (it behaves as
 * LIFE), threads that could not be started.
 *
 * Properties: no invalid end state (so no lost wake-up: a vCPU in the guest without a pending signal
 * never leaves, and a waiter that nobody wakes blocks for ever); the assertions below, which are the
 * invariants of vcpu.h; every run of the model ends with all vCPU threads ended.
 *
 * -DBROKEN_KICK: no signal is sent. -DBROKEN_EXIT: immediate_exit is not set, only the signal.
 * -DBROKEN_ORDER: the signal goes out before immediate_exit is set, without the lock.
 * -DBROKEN_WAKE: unpark does not wake. -DBROKEN_ACK: who parks does not tell. Each must give an error.
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

#define LIFE 1
#define REQUEST 2

mtype = { OUTSIDE, ENTERING, GUEST, WAITING, ENDED };

byte lock = 0;           /* 0: free, else holder: 1 + vCPU, N + 1 main, N + 2 other */
byte reasons = LIFE;     /* [lock] as PARK_START at the beginning */
byte parked = 0;         /* [lock] */
bool stop = false;       /* [lock] */
bool immediate_exit[N];  /* written under the lock only (I1) */
bool pending[N];         /* the kick, not yet delivered */
bool woken[N];           /* cond_wake_all reached this waiter */
bool main_woken = false;
mtype at[N] = OUTSIDE;
byte fates = 0;
bool held = false; /* the main thread relies on all being parked */

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
	do
	:: j < N -> immediate_exit[j] = true; j++
	:: else -> break
	od;
	j = 0;
#endif
#ifndef BROKEN_ORDER
	do
	:: j < N -> kick_one(j); j++
	:: else -> break
	od;
	j = 0;
#endif
	DROP(who)
}

proctype vcpu(byte id)
{
	byte k = 0;
	byte j = 0;
park_here:
	TAKE(1 + id);
	if
	:: reasons != 0 || stop ->
		parked++;
#ifndef BROKEN_ACK
		wake_all();
#endif
		do
		:: reasons != 0 && !stop ->
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
	fi;
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
		goto park_here
	:: !immediate_exit[id] -> at[id] = GUEST
	fi;
	do
	:: pending[id] ->
		at[id] = OUTSIDE;
		pending[id] = false;
		goto park_here
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
	do
	:: j < N -> immediate_exit[j] = true; j++
	:: else -> break
	od;
	j = 0;
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
	do
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
