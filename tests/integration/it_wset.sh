#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The working set: what a guest waits for after a lazy restore is stored with the snapshot, and comes first
# at the next restore. Counters tell, not the clock. Also: --no-fill, takes while it is read, an end before it
# is read, a record that is damaged, clones that store at once, and a snapshot that goes.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
{ exec 7<>/dev/userfaultfd; } 2>/dev/null || {
	[ "$(cat /proc/sys/vm/unprivileged_userfaultfd 2>/dev/null)" = 1 ] || {
		say "skipped: userfaultfd may not be used"
		exit 77
	}
}
exec 7<&-

vm_begin a run --name a --kernel "$guests/bench.pvh" --mem 192M --cmdline "beat=1 pages=40 halt=1"
wait_line "$tmp/a.out" 'beat 5 ' 60 || die "the guest does not run"
take a --tag base || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"

# figure KEY: of the lazy restore's status, into $figure.
figure() {
	XDG_STATE_HOME=$tmp/none timeout 60 "$torpor" list --json >"$tmp/list.json" || die "list"
	figure=$(sed -n '/"restore"/,/}/p' "$tmp/list.json" | json /dev/stdin "$1")
}
# Until it answers, also when no vCPU runs.
wait_up() {
	local i
	for ((i = 0; i < 400; i++)); do
		figure state
		[ -n "$figure" ] && return 0
		sleep 0.05
	done
	die "$1: it does not start: $(cat "$tmp"/*.err)"
}
wait_full() {
	local i
	for ((i = 0; i < 400; i++)); do
		figure state
		[ "$figure" = complete ] && return 0
		sleep 0.05
	done
	die "$1: memory is never complete ($figure)"
}
stop() {
	t stop "$1" || bad "stop"
	wait "$vm_pid" || bad "a stopped VM ends with $?: $(cat "$tmp/$1.err")"
	[ -s "$tmp/$1.err" ] && bad "it says: $(cat "$tmp/$1.err")"
}
# working_set: bytes that are known of a@base, into $set.
working_set() {
	t snapshot show a@base >"$tmp/show.json" || die "snapshot show"
	set_bytes=$(json "$tmp/show.json" working_set_bytes)
	root=$(json "$tmp/show.json" root)
}
check() {
	local from=$(($(wc -l <"$tmp/$1.out") + 1))
	vm_send C
	wait_line "$tmp/$1.out" '(check ok|CORRUPT)' 60 "$from" || die "$1: no answer to the check"
	[ "$line" = "check ok" ] || bad "$1: $line"
}

working_set
[ "$set_bytes" = 0 ] || bad "a working set of $set_bytes bytes before any restore"
first_root=$root

# ahead: pages that a picture of a@base shows as read ahead, into $ahead; of all that are not zero.
ahead() {
	t snapshot map a@base --json >"$tmp/map.json" || bad "map"
	ahead=$(json "$tmp/map.json" prefetched)
}
ahead
[ "$ahead" = 0 ] || bad "$ahead pages are read ahead without a record"

# The first one: nothing is known, what it waits for is noted, and stored at its end.
vm_begin a restore a@base --no-fill
wait_line "$tmp/a.out" 'beat' 20 || die "restore: $(cat "$tmp/a.err")"
sleep 0.3
figure known
[ "$figure" = 0 ] || bad "the first restore knows of $figure pieces"
figure demanded
demanded=$figure
[ "$demanded" -gt 10 ] || bad "the guest waited for $demanded pieces only"
stop a
working_set
[ "$set_bytes" -ge $((demanded * 65536)) ] || bad "$demanded pieces were waited for, $set_bytes bytes are known"
[ "$root" = "$first_root" ] || bad "the snapshot's root has changed"
known=$((set_bytes / 65536))
ahead
[ "$ahead" -gt 0 ] && [ "$ahead" -le $((known * 16)) ] || bad "$known pieces are known, $ahead pages are drawn as read ahead"

# The second: all of it is there before the rest, though no vCPU runs, so nobody asked for it.
vm_begin a restore a@base --paused
wait_full "paused"
figure known
[ "$figure" = "$known" ] || bad "$known pieces are known, the restore was told of $figure"
figure demanded
early=$figure
figure first
[ "$figure" -gt 0 ] && [ "$figure" -ge $(((known - early) * 65536)) ] && [ "$figure" -le $((known * 65536)) ] ||
	bad "$figure bytes came first, of $known pieces of which $early were waited for"
t resume a || bad "resume"
check a
stop a

# With the guest running, and a take while it comes; it is complete and right.
vm_begin a restore a@base
wait_up "running"
take a --tag early || bad "take while it comes: $(cat "$tmp/take.err")"
wait_full "running"
figure first
[ "$figure" -gt 0 ] || bad "nothing came first"
check a
stop a
t snapshot verify a@early >/dev/null || bad "a take while it comes does not verify"

# Without the filler nothing is read that nobody touches.
vm_begin a restore a@base --no-fill --paused
wait_up "without the filler"
figure known
[ "$figure" -ge "$known" ] || bad "--no-fill: $figure pieces are known"
figure first
[ "$figure" = 0 ] || bad "--no-fill: $figure bytes came unasked"
stop a

# Many at once, each of which stores what it has seen; killed ones store nothing. None is in another's way.
working_set
before=$set_bytes
names=() clones=()
for i in 1 2 3 4 5 6; do
	names+=("c$i")
	vm_begin "c$i" restore a@base --name "c$i"
	clones+=("$vm_pid")
done
for i in 1 2 3 4 5 6; do
	wait_line "$tmp/c$i.out" 'beat' 30 || die "clone c$i: $(cat "$tmp/c$i.err")"
	if [ $((i % 3)) = 0 ]; then
		vm_kill "${clones[i - 1]}"
	else
		t stop "${names[i - 1]}" || bad "stop of c$i"
		wait "${clones[i - 1]}" || bad "c$i ends with $?"
	fi
	[ -s "$tmp/c$i.err" ] && bad "c$i says: $(cat "$tmp/c$i.err")"
done
working_set
[ "$set_bytes" -ge "$before" ] || bad "the working set shrank from $before to $set_bytes"
t store verify >"$tmp/verify" || bad "store verify: $(cat "$tmp/verify")"

# Damaged: told by verify, taken for none by a restore, and written anew.
data=$(echo "$store"/families/*/data.mdb)
for at in $("$lib/flip" "$data" --find 54504849); do
	"$lib/flip" "$data" $((at + 20)) 3 || die "flip"
done
t store verify >"$tmp/verify" && bad "verify does not see a damaged hint"
grep -q hint "$tmp/verify" || bad "verify says: $(cat "$tmp/verify")"
t snapshot verify a@base >/dev/null || bad "the snapshot is not damaged, verify says it is"
vm_begin a restore a@base
wait_line "$tmp/a.out" 'beat' 20 || die "restore with a damaged hint: $(cat "$tmp/a.err")"
figure known
[ "$figure" = 0 ] || bad "a damaged hint tells of $figure pieces"
wait_full "with a damaged hint"
check a
stop a
working_set
[ "$set_bytes" -gt 0 ] || bad "the damaged hint was not replaced"
t store verify >"$tmp/verify" || bad "store verify: $(cat "$tmp/verify")"

# An end right after the start, and a snapshot that is removed under the VM: nothing is left of it.
vm_begin a restore a@base
wait_line "$tmp/a.out" 'beat' 20 || die "restore"
t snapshot rm a@base || bad "rm"
stop a
t store gc >/dev/null || bad "gc"
t store verify >"$tmp/verify" || bad "store verify: $(cat "$tmp/verify")"
vm_begin a restore a@early --mode eager
wait_line "$tmp/a.out" 'beat' 20 || die "eager restore: $(cat "$tmp/a.err")"
check a
stop a
finish
