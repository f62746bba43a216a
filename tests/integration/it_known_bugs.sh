#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Bugs that other monitors have had, by their number in docs/known-bugs.md; the ones that need a whole
# VM and that no other test here would find.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
began=$(now_ms)

# start NAME VERB ARGS...: until the first beat.
start() {
	vm_begin "$@"
	wait_line "$tmp/$1.out" 'beat ' 30 || die "$1 does not run ($2): $(cat "$tmp/$1.err")"
}
# ask NAME KEY REGEX WHAT: the guest's answer, in $line.
ask() {
	local from=$(($(wc -l <"$tmp/$1.out") + 1))
	vm_send "$2"
	wait_line "$tmp/$1.out" "($3|CORRUPT)" 20 "$from" || die "$4: no answer to $2"
	[[ $line != CORRUPT* ]] || bad "$4: $line"
}
# every byte of what the guest filled, zero pages too
sound() { ask "$1" C 'check ok' "$2"; }
# taken TAG WHAT
taken() { take a --tag "$1" || bad "$2: $(cat "$tmp/take.err")"; }
# again REF WHAT: the VM is killed; REF restored in a new process, and its memory right.
again() {
	vm_kill "$vm_pid"
	start a restore "$1"
	sound a "$2, $1"
}

# 1: pages that held data and are zero at the next take, and the other way round. The VM's memory is
# used again across takes, a restore and a reset, and no take may show what lay there before.
start a run --name a --kernel "$guests/bench.pvh" --mem 32M --cmdline "beat=5 pages=16 fill=12 halt=1"
taken data "bug 1"
ask a z 'refilled 2' "bug 1"
taken other "bug 1"
again a@data "bug 1"
ask a z 'refilled 2' "bug 1"
taken third "bug 1"
again a@other "bug 1"
again a@third "bug 1"
from=$(($(wc -l <"$tmp/a.out") + 1))
vm_send r
wait_line "$tmp/a.out" 'filled ' 20 "$from" || die "bug 1: no reset"
sound a "bug 1: after a reset of a restored VM"
t suspend a || bad "suspend" # so that no page is stored twice: it is counted below
taken reset "bug 1"
again a@reset "bug 1"

# 2, 11: takes into the store the VM was restored from, of memory that it came from, generation after
# generation; the source is removed while the VM runs. The set of pages must not shrink.
pages=$(json "$tmp/take.json" pages_stored)
for i in 1 2 3; do
	last=$(t snapshot list a --json | grep -o '"number": *[0-9]*' | tail -n 1 | tr -dc 0-9)
	again "a@$last" "bug 2"
	t snapshot rm "a@$last" >/dev/null 2>"$tmp/rm.err" || bad "bug 2: rm of the source: $(cat "$tmp/rm.err")"
	ask a z 'refilled ' "bug 2"
	taken "g$i" "bug 2: take after the source is gone"
	now=$(json "$tmp/take.json" pages_stored)
	[ "$now" -ge $((pages * 9 / 10)) ] || bad "bug 11: generation $i stores $now pages, the first $pages"
done
again a@g3 "bug 2"
t snapshot verify --all >"$tmp/verify.out" 2>&1 || bad "bug 2: verify: $(tail -n 2 "$tmp/verify.out")"

# 15: takes that fail half-way, then one that works: it holds what memory is now, and the snapshot
# before the failures what it was then. Files of the VMM may not grow any more: like a full disk.
taken base "bug 15"
ask a z 'refilled ' "bug 15"
size=$(stat -c %s "$store"/families/*/data.mdb | sort -n | tail -n 1)
for room in 4096 1000000; do
	prlimit --pid "$vm_pid" --fsize=$((size + room)):unlimited || die "prlimit"
	take a --tag "failed$room" && bad "bug 15: a take fits into $room bytes"
	[ "$(wc -l <"$tmp/take.err")" = 1 ] || bad "bug 15: a failed take says $(cat "$tmp/take.err")"
	say "room for $room bytes: $(cat "$tmp/take.err")"
	kill -0 "$vm_pid" 2>/dev/null || die "bug 15: the VM died of a failed take: $(cat "$tmp/a.err")"
	prlimit --pid "$vm_pid" --fsize=unlimited:unlimited
	ask a z 'refilled ' "bug 15"
done
sound a "bug 15: after failed takes"
t snapshot list a --json | grep -q '"failed' && bad "bug 15: a failed take is listed"
taken next "bug 15: the take after failed ones"
again a@next "bug 15"
again a@base "bug 15"
t snapshot verify --all >"$tmp/verify.out" 2>&1 || bad "bug 15: verify: $(tail -n 2 "$tmp/verify.out")"

# 10: by default a restore is not seen by the guest's clock: it goes on from where it stood.
t0=$(now_ms)
ask a d 'clock ' "bug 10"
before=${line#clock }
before=${before%% *}
taken clock "bug 10"
vm_kill "$vm_pid"
sleep 2
start a restore a@clock
ask a d 'clock ' "bug 10"
after=${line#clock }
after=${after%% *}
gone=$((($(now_ms) - t0))) moved=$(((after - before) / 1000000))
[ "$moved" -ge 0 ] && [ "$moved" -lt $((gone - 1500)) ] ||
	bad "bug 10: the guest's clock moved by $moved ms in $gone ms, 2000 of them without a VM"
vm_kill "$vm_pid"

# 16: two VMs with the same kernel path and other content in it: each gets its own after a restore,
# also for a reset when the path has a third kernel or none.
for who in own kin; do
	sed "s/bench guest/kernel  $who/" "$guests/bench.pvh" >"$tmp/kernel"
	start $who run --name $who --kernel "$tmp/kernel" --mem 32M --cmdline "beat=5 pages=4 fill=4 halt=1 seed=${#tmp}"
	take $who --tag whole || bad "bug 16: $(cat "$tmp/take.err")"
	vm_kill "$vm_pid"
done
cp "$guests/bench.pvh" "$tmp/kernel"
for who in own kin; do
	start $who restore $who@whole
	sound $who "bug 16"
	vm_send r
	wait_line "$tmp/$who.out" '(bench guest|kernel  )' 20 || die "bug 16: no reset"
	[ "$line" = "kernel  $who" ] || bad "bug 16: $who boots the kernel of '$line'"
	vm_kill "$vm_pid"
	rm -f "$tmp/kernel"
done

# 20: a guest that never stops writing: what is digested is what is stored, at each take.
start a run --name busy --kernel "$guests/bench.pvh" --mem 32M --cmdline "beat=1 pages=800 fill=12"
for i in 1 2 3 4; do take busy --tag "n$i" || bad "bug 20: $(cat "$tmp/take.err")"; done
vm_kill "$vm_pid"
t snapshot verify busy@n4 >"$tmp/verify.out" 2>&1 || bad "bug 20: verify: $(tail -n 2 "$tmp/verify.out")"
for i in 1 4; do
	start a restore "busy@n$i"
	sound a "bug 20, take $i"
	vm_kill "$vm_pid"
done

# 3: memory on both sides of the hole below 4 GiB, written, saved and restored.
if [ "$(awk '/MemAvailable/ { print $2 }' /proc/meminfo)" -gt 1000000 ]; then
	start a run --name gap --kernel "$guests/bench.pvh" --mem 3104M --cmdline "beat=5 pages=16 from=3048 fill=32 halt=1"
	take gap || bad "bug 3: $(cat "$tmp/take.err")"
	vm_kill "$vm_pid"
	start a restore gap
	sound a "bug 3"
	vm_kill "$vm_pid"
fi
say "$(($(now_ms) - began)) ms"
finish
