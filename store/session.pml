/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spin model of what sessions, collectors and readers of several processes do to one family
 * (store/session.c, gc.c, reader.c), with SIGKILL of a writer at any step. Checked exhaustively by
 * tests/models/run.
 *
 * What is kept: a write transaction is one step (LMDB: one writer at a time, all or nothing; one that
 * a death cuts off never was), a read transaction is one look at everything. A holder's lock ends
 * with its process. Sessions reserve ids, write any of them in any order and number of batches,
 * publish or give up; one takes over records of the first snapshot: a map as it is, or under a lease
 * a map that its own one starts from. That snapshot is removed at any time. Collectors clear dead
 * sessions in several transactions, free hidden snapshots, mark, and sweep in several transactions,
 * any number of them at once. A reader reads the first snapshot under a lease.
 *
 * What is left out: frames, leaves, nodes and blobs are all "records"; numbers and tags; the catalog;
 * compaction and its moved, hidden records (I4 of gc.c); the reserve for a full disk.
 *
 * Properties: what is listed is complete, always (so a death leaves nothing partial listed); an id is
 * never written twice; nobody else frees a record of a living session; what a reader was promised
 * stays; a session that found the first snapshot under its lease is not refused because of it; when
 * all is over and the last collection has run, only referenced records are left.
 *
 * -DBROKEN_NEXT: ids are counted on at publish. -DBROKEN_HOLDER: the holder is taken after the pend
 * record. -DBROKEN_PUBLISH: the snapshot's record goes before the last batch. -DBROKEN_MARK: sessions
 * are listed before the marks, in a transaction of their own, and the bound after them.
 * -DBROKEN_LEASE: a reader looks first and takes its lease then. -DBROKEN_SOURCE: publishing does not
 * look whether a shared map's snapshot is still there. Each must give an error.
 */
#ifndef S
#define S 2 /* sessions; the last one shares from the first */
#endif
#ifndef GCS
#define GCS 1 /* collectors beside them; a last one always runs at the end */
#endif
#ifndef READERS
#define READERS 0
#endif
#ifndef DEATHS
#define DEATHS S /* sessions that may be killed: the first ones */
#endif
#ifndef R
#define R 2         /* ids in a range: 1 or 2 */
#endif
#define IDS (S * R) /* ids 0 .. IDS - 1 */
#define NONE 255

/* The store. */
byte next = 0;
bool rec[IDS];
bool pend[S];
byte first[S] = NONE; /* in the pend record */
bool snap[S];
bool is_hidden[S];
bool refs[IDS * S]; /* [s * IDS + id]: snapshot s refers to the record */

/* The processes. */
bool alive[S]; /* the holder's lock is held */
bool busy[S];  /* the session is at work, and its process lives */
bool dead[S];
bool over[S];
byte leases = 0;
bool reader_over = READERS == 0;
byte gcs_over = 0;
bool once[IDS]; /* the id has been written */

inline check()
{
	i = 0;
	do
	:: i < IDS * S -> assert(!(refs[i] && snap[i / IDS]) || rec[i % IDS]); i++
	:: else -> break
	od;
	i = 0
}

/* Frees the record; `me` is the session that does it, or NONE. */
inline free_rec(id, me)
{
	rec[id] = false;
	i = 0;
	do
	:: i < S ->
		assert(i == me || !busy[i] || !pend[i] || first[i] == NONE || id < first[i] ||
		       id >= first[i] + R);
		i++
	:: else -> break
	od;
	check()
}

/* gc_drop_session: at most one record per transaction; the pend record goes with the last. */
inline drop_session(which, me)
{
	do
	:: atomic {
		if
		:: !pend[which] -> break
		:: pend[which] && rec[first[which]] -> free_rec(first[which], me)
		:: pend[which] && !rec[first[which]] && rec[first[which] + R - 1] -> free_rec(first[which] + R - 1, me)
		:: else -> pend[which] = false; break
		fi
	}
	od
}

inline write_rec(id)
{
	atomic {
		if
		:: !rec[id] ->
			assert(!once[id]);
			once[id] = true;
			rec[id] = true;
			refs[s * IDS + id] = true
		:: else -> skip
		fi
	}
}

inline publish()
{
	atomic {
		assert(!sure || snap[0]);
		if
		:: !pend[s] -> skip /* cleared by somebody: refused */
#ifndef BROKEN_SOURCE
		:: pend[s] && shares && !snap[0] -> skip /* the source was removed */
		:: pend[s] && !(shares && !snap[0]) ->
#else
		:: pend[s] ->
#endif
			pend[s] = false;
			snap[s] = true;
			published = true;
#ifdef BROKEN_NEXT
			next = next + R;
#endif
			check()
		fi
	}
}

proctype session(byte s)
{
	byte i = 0;
	bool shares = false;
	bool leased = false;
	bool sure = false; /* the first snapshot was there, not hidden, and the lease, too */
	bool published = false;
	byte base = 0;
	{
		busy[s] = true;
#ifndef BROKEN_HOLDER
		alive[s] = true;
#endif
		atomic { /* reserve */
			first[s] = next;
			base = next;
			pend[s] = true;
#ifndef BROKEN_NEXT
			next = next + R
#endif
		}
#ifdef BROKEN_HOLDER
		alive[s] = true;
#endif
		if
		:: s == S - 1 && s > 0 ->
			if
			:: true -> skip /* session_map_share */
			:: true -> /* mapbase_open */
				atomic {
					leases++;
					leased = true
				}
			fi;
			atomic { /* hidden ones too */
				if
				:: snap[0] ->
					shares = true;
					sure = leased && !is_hidden[0];
					i = 0;
					do
					:: i < IDS -> refs[s * IDS + i] = refs[i]; i++
					:: else -> break
					od;
					i = 0
				:: else -> skip
				fi
			}
		:: true -> skip
		fi;
		if
		:: true -> skip
		:: true -> write_rec(base)
		fi;
#ifdef BROKEN_PUBLISH
		atomic {
			refs[s * IDS + base + R - 1] = true;
			snap[s] = true
		}
#endif
		if
		:: true -> skip
		:: true -> write_rec(base + R - 1)
		fi;
		if
		:: true -> publish()
		:: true -> skip /* the take failed */
		fi;
		if
		:: !published -> drop_session(s, s)
		:: else -> skip
		fi;
		atomic { /* mapbase_free */
			leases = leases - leased;
			leased = false;
			sure = false
		}
		busy[s] = false;
		alive[s] = false
	} unless { dead[s] };
	atomic {
		busy[s] = false;
		alive[s] = false; /* the kernel does it */
		leases = leases - leased;
		leased = false;
		sure = false;
		over[s] = true;
		dead[s] = false;
		shares = false;
		published = false;
		base = 0;
		i = 0
	}
}

/* SIGKILL, at any step of any session. */
proctype killer()
{
	byte s = 0;
	do
	:: s < DEATHS ->
		if
		:: !over[s] -> dead[s] = true
		:: true -> skip
		fi;
		s++
	:: else -> break
	od
}

/* family_remove of the first snapshot: the part that hides. */
proctype remover()
{
	if
	:: snap[0] -> is_hidden[0] = true
	:: over[0] -> skip
	fi
}

proctype reader()
{
	byte i = 0;
#ifdef BROKEN_LEASE
	bool found = false;
	atomic { found = snap[0] && !is_hidden[0] }
	leases++;
#else
	leases++;
	bool found = false;
	atomic { found = snap[0] && !is_hidden[0] }
#endif
	if
	:: found ->
		atomic { /* any record, at any time while the lease is held */
			assert(snap[0]);
			check()
		}
	:: else -> skip
	fi;
	leases--;
	reader_over = true
}

inline collect()
{
	/* clear_sessions */
	atomic {
		s = 0;
		do
		:: s < S -> listed[s] = pend[s]; s++
		:: else -> break
		od;
		s = 0
	}
	do
	:: s < S && listed[s] ->
		if
		:: !alive[s] -> drop_session(s, NONE)
		:: alive[s] -> skip
		fi;
		s++
	:: s < S && !listed[s] -> s++
	:: s == S -> break
	od;
	s = 0;
	/* clear_hidden; only the first snapshot is ever hidden */
	if
	:: is_hidden[0] && snap[0] ->
		if
		:: leases > 0 -> skip
		:: leases == 0 ->
			atomic {
				snap[0] = false;
				check()
			}
		fi
	:: else -> skip
	fi;
	/* find_garbage */
#ifdef BROKEN_MARK
	atomic {
		s = 0;
		do
		:: s < S -> listed[s] = pend[s]; s++
		:: else -> break
		od;
		s = 0
	}
#endif
	d_step {
		i = 0;
		do
		:: i < IDS ->
			garbage[i] = rec[i] && i < next;
			s = 0;
			do
			:: s < S ->
#ifndef BROKEN_MARK
				listed[s] = pend[s];
#endif
				if
				:: (snap[s] && refs[s * IDS + i]) ||
				   (listed[s] && i >= first[s] && i < first[s] + R) ->
					garbage[i] = false
				:: else -> skip
				fi;
				s++
			:: else -> break
			od;
			i++
		:: else -> break
		od;
		do
		:: s < S -> listed[s] = false; s++
		:: else -> break
		od;
		s = 0;
		i = 0
	}
	/* sweep */
	do
	:: g < IDS && garbage[g] ->
		atomic {
			if
			:: rec[g] -> free_rec(g, NONE)
			:: else -> skip
			fi;
			garbage[g] = false;
			g++
		}
	:: g < IDS && !garbage[g] -> g++
	:: g == IDS -> break
	od;
	skip;
	d_step { /* what is done with must not tell states apart */
		g = 0;
		do
		:: g < IDS -> garbage[g] = false; g++
		:: else -> break
		od;
		g = 0;
		do
		:: s < S -> listed[s] = false; s++
		:: else -> break
		od;
		s = 0
	}
}

proctype collector()
{
	byte s = 0;
	byte i = 0;
	byte g = 0;
	bool listed[S];
	bool garbage[IDS];
	collect();
	gcs_over++
}

/* When everybody has gone. */
proctype last()
{
	byte s = 0;
	byte i = 0;
	byte g = 0;
	bool listed[S];
	bool garbage[IDS];
	do
	:: s < S -> over[s]; s++
	:: else -> break
	od;
	reader_over && gcs_over == GCS;
	s = 0;
	collect();
	d_step {
		i = 0;
		do
		:: i < IDS ->
			garbage[i] = rec[i];
			s = 0;
			do
			:: s < S ->
				assert(!pend[s]);
				if
				:: snap[s] && refs[s * IDS + i] -> garbage[i] = false
				:: else -> skip
				fi;
				s++
			:: else -> break
			od;
			assert(!garbage[i]);
			i++
		:: else -> break
		od
	}
}

init
{
	byte n = 0;
	atomic {
		do
		:: n < S -> run session(n); n++
		:: else -> break
		od;
		n = 0;
		do
		:: n < GCS -> run collector(); n++
		:: else -> break
		od;
		run killer();
		run remover();
		if
		:: READERS > 0 -> run reader()
		:: else -> skip
		fi;
		run last()
	}
}
