#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Rewind: a running VM goes back and forth between its snapshots within its process and finds every byte as it
# was; so do a suspended, a half-suspended and a lazily restored one. What is refused leaves the VM as it is;
# a frame that is rotten is found before anything changes; a load that fails half-way ends in the VM going
# on from where it was; SIGKILL in the middle costs nothing that was published. A reset starts what the
# snapshot holds.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=3 ;; long) rounds=60 ;; *) rounds=8 ;; esac
RANDOM=${TORPOR_SEED:-1}

lines() { wc -l <"$tmp/$1.out"; }
# take_at NAME TAG: a snapshot; its beat at the freeze into $beat.
take_at() {
	take "$1" --tag "$2" || die "take of $1: $(cat "$tmp/take.err")"
	sleep 0.1 # the beat that was on its way
	beat_at "$tmp/$1.out" "$(json "$tmp/take.json" frozen_at_ns)"
}
# from_then NAME LINE BEAT: behind that line the guest goes on with that beat, or one of the next two.
from_then() {
	beats_from "$tmp/$1.out" "$2" "$3" $(($3 + 2)) || bad "goes on with beat '$beat', it was frozen at $3"
}
# back NAME REF BEAT: goes back, and on from there.
back() {
	local before
	before=$(lines "$1")
	t snapshot rewind "$1" "$2" --json >"$tmp/rw.json" 2>"$tmp/rw.err" || die "rewind to $2: $(cat "$tmp/rw.err")"
	from_then "$1" "$before" "$3"
}
check() {
	seen=$(($(lines "$1") + 1))
	vm_send C
	wait_line "$tmp/$1.out" 'check ' 60 "$seen" || die "$1 does not answer: $(tail -n 3 "$tmp/$1.err")"
	[[ $line == "check ok"* ]] || bad "$1: after ${2:-that}: $line"
}
state() { t vm status "$1" --json 2>/dev/null >"$tmp/state.json" || t list --json >"$tmp/state.json"; json "$tmp/state.json" state; }
goes_on() {
	beat_at "$tmp/$1.out" 9999999999999999999
	wait_line "$tmp/$1.out" "beat $((beat + 3)) " 20 || bad "$1 does not go on after ${2:-that}"
}

args=(--kernel "$guests/bench.pvh" --mem 64M --cpus 1)
cp "$guests/bench.pvh" "$tmp/kernel.pvh"
vm_begin r run --name r --kernel "$tmp/kernel.pvh" --mem 64M --cpus 1 --cmdline "beat=10 pages=50 fill=32"
wait_line "$tmp/r.out" 'beat 20 ' 30 || die "does not run"
expect_error 1 'no VM r|no store|does not exist|not found' t snapshot rewind r r@none # there is no snapshot at all yet
take_at r a
a=$beat
sleep 0.3
take_at r b
b=$beat
sleep 0.2

# Back, forward, back again; the way forward is the safety snapshot.
back r r@a "$a"
[ "$(json "$tmp/rw.json" ref)" = r@a ] && [ "$(json "$tmp/rw.json" number)" = 1 ] || bad "answer: $(cat "$tmp/rw.json")"
[ "$(json "$tmp/rw.json" pages_written)" -gt 0 ] && [ "$(json "$tmp/rw.json" stopped_us)" -gt 0 ] || bad "answer: $(cat "$tmp/rw.json")"
safety=$(json "$tmp/rw.json" safety)
[[ $safety == r@auto-rewind-* ]] || bad "safety is '$safety'"
check r "the rewind to a"
back r r@b "$b"
check r "the rewind to b"
beat_at "$tmp/r.out" "$(json <(t snapshot show "$safety") frozen_at_ns)"
back r "$safety" "$beat"
check r "the rewind to the safety snapshot"
refs=(a b)
declare -A at=([a]=$a [b]=$b)
for ((i = 0; i < rounds; i++)); do
	tag=${refs[RANDOM % ${#refs[@]}]}
	back r "r@$tag" "${at[$tag]}"
	[ $((RANDOM % 2)) = 0 ] && check r "rewind $i to $tag"
	if [ $((RANDOM % 3)) = 0 ]; then
		take_at r "n$i"
		[ "$(json "$tmp/take.json" incremental)" = true ] || bad "a take after a rewind is not incremental"
		refs+=("n$i")
		at[n$i]=$beat
	fi
	if [ $((RANDOM % 3)) = 0 ]; then # other content everywhere
		seen=$(($(lines r) + 1))
		vm_send z
		wait_line "$tmp/r.out" 'refilled ' 60 "$seen" || bad "no refill"
	fi
done
check r "all rewinds"
grep -q 'CORRUPT' "$tmp/r.out" && bad "$(grep -m1 CORRUPT "$tmp/r.out")"

# The state stays: suspended, or the vCPUs only.
for how in "" --vcpus; do
	t suspend r $how || bad "suspend $how"
	sleep 0.1
	seen=$(lines r)
	t snapshot rewind r r@a >"$tmp/rw.out" 2>"$tmp/rw.err" || bad "rewind of a suspended VM: $(cat "$tmp/rw.err")"
	sleep 0.3
	[ "$(lines r)" = "$seen" ] || bad "a suspended VM ran after its rewind"
	t resume r $how || bad "resume $how"
	from_then r "$seen" "$a"
	check r "the rewind when suspended $how"
done

# What is refused leaves the VM alone, and nothing is stored.
vm_in_r=$vm_in vm_pid_r=$vm_pid
vm_begin o run --name o "${args[@]}" --cmdline "beat=20 pages=4 fill=8 halt=1"
wait_line "$tmp/o.out" 'beat 3 ' 30 || die "does not run"
take_at o x
vm_kill "$vm_pid"
exec {vm_in}>&-
vm_in=$vm_in_r vm_pid=$vm_pid_r
before=$(t snapshot list --json | grep -c '"ref"')
expect_error 1 'another family' t snapshot rewind r o@x
expect_error 1 'no snapshot nothing' t snapshot rewind r r@nothing
expect_error 1 'no VM nobody' t snapshot rewind r nobody@a
expect_error 2 '' t snapshot rewind r
[ "$(t snapshot list --json | grep -c '"ref"')" = "$before" ] || bad "a refused rewind has stored something"
goes_on r "what was refused"
check r "what was refused"

# Rot in what differs is found before anything changes: one bit of a frame of a, whose frames are the first.
data=$(find "$store/families" -name data.mdb -printf '%s %p\n' | sort -n | tail -n 1)
data=${data#* }
seen=$(($(lines r) + 1))
vm_send z # nothing is as in a snapshot
wait_line "$tmp/r.out" 'refilled ' 60 "$seen" || bad "no refill"
hit=0
for part in $("$lib/flip" "$data" --find 54504652 | head -n 60); do
	"$lib/flip" "$data" $((part + 900)) 3 || die "flip"
	if ! t snapshot verify r@a >/dev/null 2>&1; then
		hit=$((hit + 1))
		expect_error 1 'frame|page|kernel' t snapshot rewind r r@a
		goes_on r "a rotten frame"
	fi
	"$lib/flip" "$data" $((part + 900)) 3 || die "flip back"
	[ "$hit" -ge 2 ] && break
done
[ "$hit" -gt 0 ] || bad "no flip hit a"
check r "rotten frames"
back r r@a "$a"
check r "the rewind to what was rotten"

# A reset starts what the snapshot holds, also where the file is gone.
rm "$tmp/kernel.pvh"
seen=$(($(lines r) + 1))
vm_send r
wait_line "$tmp/r.out" 'beat 3 ' 30 "$seen" || bad "no new start after a reset"
back r r@b "$b"
check r "a rewind over a reset"
t store verify >"$tmp/v" || bad "verify: $(cat "$tmp/v")"

# SIGKILL in the middle.
for ((i = 0; i < 3; i++)); do
	t snapshot rewind r r@a >/dev/null 2>&1 &
	client=$!
	sleep "0.0$((RANDOM % 10))"
	vm_kill "$vm_pid"
	wait "$client" 2>/dev/null
	exec {vm_in}>&-
	t store verify >"$tmp/v" || bad "after SIGKILL: $(cat "$tmp/v")"
	for tag in a b; do
		vm_begin r restore "r@$tag" --mode lazy
		wait_line "$tmp/r.out" 'beat ' 30 || die "r@$tag: does not go on"
		n=${line#beat }
		n=${n%% *}
		[ "$n" -ge "${at[$tag]}" ] && [ "$n" -le $((at[$tag] + 2)) ] || bad "r@$tag restored: beat $n, not ${at[$tag]}"
		check r "a restore after SIGKILL"
		[ $tag = b ] || { vm_kill "$vm_pid"; exec {vm_in}>&-; }
	done
done

# A VM that is still lazy: nobody reads the rest, but for the rewind.
vm_kill "$vm_pid"
exec {vm_in}>&-
vm_begin r restore r@b --mode lazy --no-fill
wait_line "$tmp/r.out" 'beat ' 30 || die "r@b: does not go on"
back r r@a "$a"
check r "the rewind of a lazy VM"
vm_kill "$vm_pid"
exec {vm_in}>&-

# Devices: their rings are in memory and their state is not. A disk that is only read goes back with the guest; one
# that the guest has written since the snapshot does not, so the guest does not either.
head -c 1M /dev/urandom >"$tmp/base.img"
truncate -s 1M "$tmp/data.img"
on_and_on() {
	local from=$(($(lines "$1") + 1))
	wait_line "$tmp/$1.out" 'round [0-9]*[05] ' 20 "$from" || die "$1: stands still"
	grep -qE 'FAIL|FAULT' "$tmp/$1.out" && bad "$1: $(grep -m1 -E 'FAIL|FAULT' "$tmp/$1.out")"
}
vm_begin v run --name v --kernel "$guests/virtio.pvh" --mem 32M --rng --cmdline "beat=1" --disk "$tmp/base.img,ro,id=base,slot=9"
wait_line "$tmp/v.out" 'round 5 ' 20 || die "v does not run"
take v --tag a || die "take: $(cat "$tmp/take.err")"
for ((i = 0; i < rounds; i++)); do
	t snapshot rewind v v@a >/dev/null 2>"$tmp/rw.err" || die "rewind with devices: $(cat "$tmp/rw.err")"
	on_and_on v
done
vm_kill "$vm_pid"
exec {vm_in}>&-
vm_begin d run --name d --kernel "$guests/virtio.pvh" --mem 32M --cmdline "beat=1" --disk "$tmp/data.img,capture=off,id=data"
wait_line "$tmp/d.out" 'round 5 ' 20 || die "d does not run"
t suspend d || die "suspend"
take d --tag a || die "take: $(cat "$tmp/take.err")"
t snapshot rewind d d@a >/dev/null 2>"$tmp/rw.err" || bad "rewind with a disk that stands still: $(cat "$tmp/rw.err")"
t resume d || die "resume"
on_and_on d
expect_error 1 "disk 'data' has moved on" t snapshot rewind d d@a
on_and_on d
vm_kill "$vm_pid"
exec {vm_in}>&-

# The load itself fails half-way: the VM goes on from where it was. When the way back fails, too, it ends, and
# what it was can be restored.
printf 0 >"$tmp/flag"
for n in 1 1000000; do
	EIO_FLAG=$tmp/flag EIO_WRITES=$n LD_PRELOAD=$lib/eio.so vm_begin r restore r@b --mode eager
	wait_line "$tmp/r.out" 'beat ' 30 || die "r@b: does not go on: $(cat "$tmp/r.err")"
	seen=$(($(lines r) + 1))
	vm_send z
	wait_line "$tmp/r.out" 'refilled ' 60 "$seen" || bad "no refill"
	beat_at "$tmp/r.out" 9999999999999999999
	printf 2 | dd of="$tmp/flag" conv=notrunc status=none
	expect_error 1 'failed half-way' t snapshot rewind r r@a
	printf 0 | dd of="$tmp/flag" conv=notrunc status=none
	if [ $n = 1 ]; then
		wait_line "$tmp/r.out" "beat $((beat + 5)) " 20 "$seen" || bad "does not go on after a load that failed"
		check r "a load that failed"
		back r r@a "$a"
		check r "a rewind after one that failed"
		vm_kill "$vm_pid"
	else
		wait "$vm_pid"
		[ $? = 1 ] || bad "a VM that could not be brought back ended otherwise"
		ref=$(t snapshot list r --json | grep -oE '"r@auto-rewind-[^"]*"' | tail -n 1 | tr -d '"')
		vm_begin r restore "$ref"
		wait_line "$tmp/r.out" 'beat ' 30 || bad "the safety snapshot cannot be restored"
		check r "the restore of the safety snapshot"
		vm_kill "$vm_pid"
	fi
	exec {vm_in}>&-
done
t store verify >"$tmp/v" || bad "verify at the end: $(cat "$tmp/v")"
finish
