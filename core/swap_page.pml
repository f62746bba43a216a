/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spin model of the life of one page of guest memory under core/swap_mem.c, written before it. Checked
 * exhaustively by tests/models/run.
 *
 * The page is in the memory file or is a hole there (file), and may be mapped. `out` says that a hole's
 * bytes are in the map of the store that `cur` names; `hot` says that the page may have been mapped since
 * it was last unmapped, so that what was read of it before need not be what it is. Faults are served by
 * the kernel while the memory is not registered, else by one server.
 *
 * What is kept: a server that reads the store without the lock and places under it, going by a count of
 * what was committed (`gen`); reference counts of the open maps; a worker that enables, trims, writes out
 * (read, commit a map that begins as the current one, then punch), fills and disables in any legal order;
 * a guest that reads, writes and gives the page to its balloon, whose device drops it and punches under
 * the lock, with the guest waiting; a take of a guest that stands still, which reads what the dirty log names and
 * has the rest from the snapshot before; a collector of maps that nobody holds; SIGKILL at any point,
 * after which the last published snapshot must be there and everything of swap must be garbage.
 *
 * What is left out: pages around it (pieces are served under the same lock), errors (an attempt that
 * fails ends the step before its effect), several faults of one page (they are one wait).
 *
 * What is done under the lock is one step here: what it reads and writes nobody else touches without the
 * lock, but for the page itself, and then mapping and hot change together.
 *
 * Properties: who reads the page sees what the guest wrote last; a take's page is that; no read of a map
 * that was collected; nobody waits for ever (no invalid end state); after a disable nothing is out.
 *
 * -DBROKEN_HOT: hot is cleared after the unmapping. -DBROKEN_CLEAR: before it, but without the lock.
 * -DBROKEN_PUNCH: a page is punched although it was
 * touched since it was read. -DBROKEN_GEN: the server places what it read before another commit.
 * -DBROKEN_DROP: the balloon punches without dropping. -DBROKEN_APART: it drops
 * first, and punches without the lock. -DBROKEN_REF: the old map is closed under the
 * server. -DBROKEN_LEASE: a map is committed first and leased afterwards. -DBROKEN_FILL: memory is
 * unregistered before all is back. -DBROKEN_BASE: a second write-out begins with an empty map. Each must
 * give an error.
 */
#ifndef STEPS
#define STEPS 5 /* of the worker */
#endif
#ifndef WRITES
#define WRITES 2
#endif
#ifndef READS
#define READS 1
#endif

#define HOLE 9
#define NONE 3
#define MAPS 3

mtype = { PLAIN, SERVED };

byte truth = 1;     /* what the guest wrote last; 0 is zero */
byte file = 1;      /* 0.., HOLE */
bool mapped = true;
bool hot = true;    /* [lock] */
bool out = false;   /* [lock] */
byte gen = 0;       /* [lock] */
byte cur = NONE;    /* [lock] index of a map */
mtype mode = PLAIN;
bool faulted = false; /* somebody waits for the page */
bool giving = false;  /* the balloon's device is at work: a take waits for it */
bool stopped = false; /* the guest stands still for a take */

/* The store: maps of this page. */
byte content[MAPS];
bool there[MAPS];   /* its record exists */
byte refs[MAPS];    /* of this process */
bool leased[MAPS];
byte snap = 1;      /* the page in the last published snapshot, which is no swap map */
bool dirty = false; /* differs from it, as the log knows */

inline map_drop(m)
{
	d_step {
		refs[m]--;
		if
		:: refs[m] == 0 -> leased[m] = false
		:: else
		fi
	}
}

/* A mapped page is accessed in one step; else the fault is told and its end waited for. */
inline fault_in()
{
	do
	:: atomic { mapped -> break }
	:: atomic { !mapped && mode == PLAIN ->
			if :: file == HOLE -> file = 0 :: else fi; mapped = true; break }
	:: atomic { !mapped && mode == SERVED -> faulted = true }
		(!faulted || mapped || mode == PLAIN)
	od
}

active proctype Guest()
{
	byte writes = 0, reads = 0;
	bool gave = false, done;
	do
	:: reads < READS || writes < WRITES ->
		done = false;
		do
		:: done -> break
		:: !done ->
			fault_in();
			atomic {
				!stopped;
				if
				:: !mapped
				:: mapped && reads < READS -> assert(file == truth); reads++; done = true
				:: mapped && writes < WRITES ->
					writes++; truth = 1 + writes; file = truth; dirty = true; done = true
				fi
			}
		od
	:: !gave ->
		atomic { !stopped -> gave = true; giving = true };
#ifdef BROKEN_APART
		atomic { out = false; hot = true };
		atomic { file = HOLE; mapped = false; truth = 0; dirty = true };
#else
		atomic {
#ifndef BROKEN_DROP
			out = false; hot = true;
#endif
			file = HOLE; mapped = false; truth = 0; dirty = true
		};
#endif
		giving = false
	:: writes == WRITES && reads == READS -> break
	od
}

/* The thread that serves faults. */
active proctype Server()
{
	byte m, v, g;
end:
	do
	:: atomic { faulted && mode == PLAIN -> faulted = false }
#ifdef BROKEN_CLEAR /* as if hot were cleared without the lock, between these */
	:: atomic { faulted && mode == SERVED && file != HOLE -> hot = true };
		atomic {
			if
			:: file != HOLE -> mapped = true; faulted = false
			:: else
			fi
		}
#else
	:: atomic { faulted && mode == SERVED && file != HOLE -> /* CONTINUE */
			hot = true; mapped = true; faulted = false }
#endif
	:: atomic { faulted && mode == SERVED && file == HOLE && !out -> /* zeros */
			hot = true; file = 0; mapped = true; faulted = false }
	:: atomic { faulted && mode == SERVED && file == HOLE && out ->
			m = cur; g = gen; refs[m]++ };
		atomic { assert(there[m]); v = content[m] };
#ifdef BROKEN_REF
		refs[m]--;
#else
		map_drop(m);
#endif
		atomic {
			if
#ifdef BROKEN_GEN
			:: file == HOLE && mode == SERVED ->
#else
			:: out && gen == g && file == HOLE && mode == SERVED ->
#endif
				hot = true; file = v; mapped = true; out = false; faulted = false
			:: else
			fi
		}
	od
}

/* A map that is no longer used becomes the next one. */
inline pick(m)
{
	if
	:: !there[0] && refs[0] == 0 -> m = 0
	:: !there[1] && refs[1] == 0 -> m = 1
	:: !there[2] && refs[2] == 0 -> m = 2
	:: else -> m = NONE
	fi
}

inline do_unmap()
{
#if defined(BROKEN_HOT)
	mapped = false;
	hot = false
#else
	hot = false;
	mapped = false
#endif
}

inline do_trim()
{
	if
	:: atomic { !hot && file != HOLE -> v = file; m = cur };
		w = HOLE;
		if
		:: m != NONE -> atomic { assert(there[m]); w = content[m] }
		:: else
		fi;
		atomic {
			if
			:: !hot && v == 0 -> file = HOLE; mapped = false
			:: !hot && v != 0 && v == w -> out = true; file = HOLE; mapped = false
			:: else
			fi
		}
	:: else
	fi
}

inline do_out()
{
	atomic {
		pick(m);
		wrote = false;
		if
		:: m != NONE ->
#ifdef BROKEN_BASE
			content[m] = 0
#else
			content[m] = (cur == NONE -> 0 : content[cur])
#endif
		:: else
		fi
	}
	if
	:: m == NONE
	:: else ->
		atomic {
			if
			:: !hot && file != HOLE -> v = file; content[m] = v; wrote = true
			:: else
			fi
		}
		/* The commit. */
#ifdef BROKEN_LEASE
		there[m] = true;
		atomic { leased[m] = true; refs[m]++ };
#else
		atomic { leased[m] = true; refs[m]++; there[m] = true };
#endif
		atomic { old = cur; cur = m; gen++ };
		if
		:: old != NONE ->
#ifdef BROKEN_REF
			atomic { leased[old] = false; there[old] = false; refs[old]-- }
#else
			map_drop(old)
#endif
		:: else
		fi;
		atomic {
			if
#ifdef BROKEN_PUNCH
			:: wrote && file != HOLE ->
#else
			:: wrote && !hot ->
#endif
				out = (v != 0); file = HOLE; mapped = false
			:: else
			fi
		}
	fi
}

inline do_disable()
{
#ifndef BROKEN_FILL
	if
	:: atomic { out -> m = cur; assert(there[m]); v = content[m] };
		atomic {
			if
			:: out && file == HOLE -> file = v; mapped = true; hot = true; out = false
			:: else
			fi
		}
	:: else
	fi;
	assert(!out);
#endif
	atomic { mode = PLAIN; out = false; old = cur; cur = NONE; gen++ };
	if
	:: old != NONE -> map_drop(old)
	:: else
	fi
}

active proctype Worker()
{
	byte steps = 0, m, v, w, old;
	bool wrote;
	do
	:: steps == STEPS -> break
	:: steps < STEPS ->
		steps++;
		if
		:: mode == PLAIN -> mode = SERVED; do_unmap()
		:: mode == SERVED -> do_unmap()
		:: mode == SERVED -> do_trim()
		:: mode == SERVED -> do_out()
		:: mode == SERVED -> do_disable()
		fi
	od
}

/* One take: stops the guest, reads what is dirty, lets it go. */
active proctype Take()
{
	byte next;
	if
	:: true
	:: atomic { !giving -> stopped = true };
		if
		:: dirty ->
			next = HOLE;
			do
			:: next != HOLE -> break
			:: else ->
				fault_in();
				atomic {
					if
					:: mapped -> next = file
					:: else
					fi
				}
			od
		:: else -> next = snap
		fi;
		atomic { assert(next == truth); snap = next; dirty = false; stopped = false }
	fi
}

/*
 * Another process collects what nobody holds. And SIGKILL, at any moment: what is out is in a map that is
 * there and is held by nobody else, so that it is garbage from then on; no snapshot is touched.
 */
active proctype Others()
{
	byte n = 0;
	do
	:: n < 2 ->
		n++;
		atomic {
			there[0] = there[0] && leased[0];
			there[1] = there[1] && leased[1];
			there[2] = there[2] && leased[2];
			assert(cur == NONE || (there[cur] && leased[cur]));
			assert(!out || cur != NONE)
		}
	:: true -> break
	od
}
