#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Lazy restores: the guest writes all the time while its memory arrives, and at a random moment of that it
# is suspended, reset, snapshotted, stopped or killed, or its snapshot is removed; every byte of its
# memory is checked by the guest itself. Then rotten frames, a store cut short under a running VM, and a
# user who may not use userfaultfd.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=1 ;; long) rounds=12 ;; *) rounds=3 ;; esac
RANDOM=${TORPOR_SEED:-1}
say "seed ${TORPOR_SEED:-1}"
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
cp -r "$store" "$tmp/sound" # one snapshot, nothing else

# lazy NAME REF ARGS...: restores and waits for a sign of life.
lazy() {
	local name=$1 ref=$2
	shift 2
	vm_begin "$name" restore "$ref" --mode lazy "$@"
	wait_line "$tmp/$name.out" '(beat|filled)' 20 || die "restore of $ref: $(cat "$tmp/$name.err")"
}
# check NAME WHAT [KEY]: the guest checks its memory; every byte of it with C.
check() {
	local from=$(($(wc -l <"$tmp/$1.out") + 1))
	vm_send "${3:-C}"
	wait_line "$tmp/$1.out" '(check ok|CORRUPT)' 60 "$from" || die "$2: no answer to the check"
	[ "$line" = "check ok" ] || bad "$2: $line"
	grep -q CORRUPT "$tmp/$1.out" && die "$2: $(grep -m1 CORRUPT "$tmp/$1.out")"
}
# state NAME: of its memory's arrival into $state.
state() {
	XDG_STATE_HOME=$tmp/none timeout 60 "$torpor" list --json >"$tmp/list.json" || die "list"
	state=$(grep -A3 '"mode": "lazy"' "$tmp/list.json" | json /dev/stdin state)
}
wait_full() {
	local i
	for ((i = 0; i < 2400; i++)); do
		state
		[ "$state" = complete ] && return 0
		sleep 0.05
	done
	die "$1: memory is never complete ($state)"
}
# ended WHAT: waits for the VM's end; its status into $rc.
ended() {
	local i
	for ((i = 0; i < 2400; i++)); do
		kill -0 "$vm_pid" 2>/dev/null || break
		sleep 0.05
	done
	kill -0 "$vm_pid" 2>/dev/null && die "$1: the VM does not end"
	wait "$vm_pid"
	rc=$?
}
pause_a_bit() { sleep "0.0$((RANDOM % 100))"; }

# Read beside the filler, then all zero pages are written, too.
lazy a a@base
check a "while it fills"
wait_full "plain"
[ "$(json "$tmp/list.json" missing)" = 0 ] || bad "complete, but something is missing"
from=$(($(wc -l <"$tmp/a.out") + 1))
vm_send z
wait_line "$tmp/a.out" 'refilled' 60 "$from" || die "no refill"
check a "after a refill"
t stop a || bad "stop"
wait "$vm_pid" || bad "a stopped VM ends with $?: $(cat "$tmp/a.err")"
[ -s "$tmp/a.err" ] && bad "a lazy restore says: $(cat "$tmp/a.err")"

# Without the filler: only what is touched comes. A take needs no more, the rest is that of the base; one whose
# base is gone needs all of it first.
lazy a a@base --no-fill
state
[ "$state" = waiting ] || bad "no filler was wanted, but memory is '$state'"
missing=$(json "$tmp/list.json" missing)
[ "$missing" -gt $((150 << 20)) ] || bad "only $missing bytes are missing just after the start"
[ "$(json "$tmp/list.json" faults)" -gt 0 ] || bad "nothing was brought by a fault"
take a --tag demand || bad "take without a filler: $(cat "$tmp/take.err")"
state
[ "$state" = waiting ] || bad "a take of what changed made memory '$state'"
[ "$(json "$tmp/take.json" incremental)" = true ] || bad "a take while lazy is not incremental"
take a --tag gone || bad "second take without a filler: $(cat "$tmp/take.err")"
state
[ "$state" = waiting ] || bad "a second take made memory '$state'"
t snapshot rm a@gone || bad "rm of the base"
take a --tag all || bad "take without a base: $(cat "$tmp/take.err")"
[ "$(json "$tmp/take.json" incremental)" = false ] || bad "incremental without a base"
state
[ "$state" = complete ] || bad "everything was taken while memory was '$state'"
check a "after the take"
t stop a || bad "stop"
wait "$vm_pid"
t snapshot verify a@demand >/dev/null || bad "a take while lazy does not verify"
vm_begin a restore a@demand --mode eager
wait_line "$tmp/a.out" 'beat' 20 || die "eager restore: $(cat "$tmp/a.err")"
check a "of a take while lazy"
t stop a
wait "$vm_pid"
vm_begin a restore a@all --mode eager
wait_line "$tmp/a.out" 'beat' 20 || die "eager restore: $(cat "$tmp/a.err")"
check a "of a full take of a lazy VM"
t stop a
wait "$vm_pid"

for ((round = 0; round < rounds; round++)); do
	# Suspended in the middle, it goes on filling, and goes on.
	lazy a a@base
	pause_a_bit
	t suspend a || bad "suspend while it fills"
	falls_silent "$tmp/a.out" || bad "a suspended guest prints"
	t resume a || bad "resume"
	t suspend a --vcpus && t resume a || bad "suspend of the vCPUs"
	check a "suspended while it fills"
	t stop a
	wait "$vm_pid"

	# Taken in the middle, at full writing speed; the take is whole.
	lazy a a@base
	pause_a_bit
	take a --tag "t$round" || bad "take while it fills: $(cat "$tmp/take.err")"
	check a "taken while it fills"
	t stop a
	wait "$vm_pid"
	lazy a "a@t$round"
	check a "the take, lazily again"
	# Killed in the middle of the next: nothing of the store is the worse for it.
	vm_kill "$vm_pid"
	lazy a a@base
	pause_a_bit
	vm_kill "$vm_pid"

	# Reset in the middle: nothing of the old memory shows up in the new.
	lazy a a@base
	pause_a_bit
	from=$(($(wc -l <"$tmp/a.out") + 1))
	vm_send r
	wait_line "$tmp/a.out" 'beat 2 ' 60 "$from" || die "no reset while it fills: $(cat "$tmp/a.err")"
	check a "reset while it fills"
	t list --json | grep -q '"mode": "lazy"' && bad "memory is still the snapshot's after a reset"
	t stop a
	wait "$vm_pid"

	# Its snapshot is removed in the middle: hidden, and readable to the end.
	lazy a "a@t$round"
	pause_a_bit
	t snapshot rm "a@t$round" >/dev/null 2>"$tmp/rm.err" || bad "rm while it is read: $(cat "$tmp/rm.err")"
	t snapshot list a | grep -q "t$round" && bad "a removed snapshot is listed"
	check a "removed while it is read"
	wait_full "removed"
	t stop a
	wait "$vm_pid"

	# Ends at once, whatever is missing.
	lazy a a@base
	pause_a_bit
	kill -TERM "$vm_pid"
	wait "$vm_pid" || bad "SIGTERM while it fills ends with $?"
	lazy a a@base --on-term checkpoint
	pause_a_bit
	kill -TERM "$vm_pid"
	wait "$vm_pid" || bad "checkpoint at SIGTERM while it fills ends with $?: $(cat "$tmp/a.err")"
	lazy a a
	check a "checkpoint at SIGTERM"
	t stop a
	wait "$vm_pid"
done
t store verify >/dev/null || bad "the store does not verify after all this"

# Paused from the start: memory comes while nobody runs.
vm_begin a restore a@base --mode lazy --paused
for ((i = 0; i < 2400; i++)); do
	t resume a 2>/dev/null && break
	sleep 0.02
done
wait_line "$tmp/a.out" 'beat' 20 || die "paused, then resumed: $(cat "$tmp/a.err")"
check a "paused from the start"
t stop a
wait "$vm_pid"

# Rot. The guest stops with the page and the snapshot's name, and gets no wrong byte before.
rm -rf "$store"
cp -r "$tmp/sound" "$store"
data=$(find "$store/families" -name data.mdb | head -n 1)
size=$(stat -c %s "$data")
# In four frames, behind their heads. Where a take puts its other records differs from run to run, and those
# have tests of their own.
mapfile -t frames < <("$lib/flip" "$data" --find 54504652) # TPFR
full=()
for ((i = 0; i + 1 < ${#frames[@]}; i++)); do
	[ $((frames[i + 1] - frames[i])) -ge 60000 ] && full+=("${frames[i]}")
done
[ ${#full[@]} -ge 8 ] || die "${#full[@]} full frames in the store"
for at in 35 45 55 65; do
	for ((i = 0; i < 40; i++)); do
		"$lib/flip" "$data" $((full[${#full[@]} * at / 100] + 24000 + i * 512)) $((i % 8)) || die "flip"
	done
done
for how in "" --no-fill; do
	vm_begin a restore a@base --mode lazy $how
	[ -n "$how" ] && sleep 0.2 && vm_send C
	ended "rot $how"
	[ $rc = 33 ] || bad "rot $how: ended with $rc, wanted 33: $(cat "$tmp/a.err")"
	grep -q 'guest memory.*snapshot 1.*page.*frame' "$tmp/a.err" ||
		bad "rot $how: says '$(cat "$tmp/a.err")', not page, snapshot and frame"
	grep -q 'CORRUPT' "$tmp/a.out" && bad "rot $how: the guest saw wrong bytes"
done
expect_error 1 'snapshot 1 of a.*frame' "$torpor" restore a@base --mode eager --serial null --store "$store"
t snapshot verify a@base >/dev/null 2>&1 && bad "verify finds nothing"
rm -rf "$store"
cp -r "$tmp/sound" "$store"

# Cut short under a running VM: it ends and says so, or has what it needs.
lazy a a@base --no-fill
truncate -s $((size / 3)) "$store/families/"*/data.mdb
vm_send C
ended "cut short"
[ $rc = 33 ] && grep -q 'guest memory' "$tmp/a.err" || bad "cut short: ended with $rc: $(cat "$tmp/a.err")"
grep -q 'CORRUPT' "$tmp/a.out" && bad "cut short: the guest saw wrong bytes"
rm -rf "$store"
cp -r "$tmp/sound" "$store"

# The disk fails for a while: the guest waits, is told of, and goes on with the right bytes.
echo 0 >"$tmp/flag"
export EIO_FLAG=$tmp/flag LD_PRELOAD=$lib/eio.so
lazy a a@base --no-fill
unset LD_PRELOAD
printf 1 | dd of="$tmp/flag" conv=notrunc 2>/dev/null
vm_send C
waits() { # for the message and for status to tell of it
	local i
	for ((i = 0; i < 2400; i++)); do
		[ "$(grep -c 'waits for it' "$tmp/a.err")" = "$1" ] && break
		sleep 0.05
	done
	[ "$(grep -c 'waits for it' "$tmp/a.err")" = "$1" ] || die "no word of a failing disk: $(cat "$tmp/a.err")"
}
waits 1
grep -q "guest memory at 0x.*snapshot 1 of a.*Input/output error.*'torpor resume a' tries again" "$tmp/a.err" ||
	bad "a failing disk: $(cat "$tmp/a.err")"
state
[ "$state" = stuck ] || bad "memory is '$state' while the disk fails"
grep -q '"error": "guest memory at' "$tmp/list.json" || bad "status does not say which page"
say "the VM is $(json "$tmp/list.json" state) while the disk fails"
falls_silent "$tmp/a.out" || bad "the guest runs without its memory"
expect_error 1 'input/output error' "$torpor" snapshot take a --store "$store"
t resume a || bad "resume while the disk fails"
waits 2
kill -0 "$vm_pid" || die "a failing disk ended the VM"
printf 0 | dd of="$tmp/flag" conv=notrunc 2>/dev/null
from=$(($(wc -l <"$tmp/a.out") + 1))
t resume a || bad "resume"
wait_line "$tmp/a.out" '(check ok|CORRUPT)' 60 "$from" && [ "$line" = "check ok" ] || bad "after a failing disk: $line"
t stop a
wait "$vm_pid" || bad "ends with $?"
# And while it fails: stop works.
export LD_PRELOAD=$lib/eio.so
lazy a a@base --no-fill
unset LD_PRELOAD
printf 1 | dd of="$tmp/flag" conv=notrunc 2>/dev/null
vm_send C
waits 1
t stop a || bad "stop while the disk fails"
ended "stopped while the disk fails"
[ $rc = 0 ] || bad "stopped while the disk fails: $rc"
grep -q 'CORRUPT' "$tmp/a.out" && bad "the guest saw wrong bytes"

# The store's folder is gone: what is open stays readable.
lazy a a@base
rm -rf "$store"
check a "the store's folder is gone"
wait_full "folder gone"
t stop a
wait "$vm_pid"
cp -r "$tmp/sound" "$store"

# Without the jail.
lazy a a@base --no-jail
check a "without the jail"
t stop a
wait "$vm_pid"

# Who may not: all is read before, one line says why and what to change.
may_not() { # CMD...: without the device and the capability
	unshare -m sh -c 'mount --bind /dev/null /dev/userfaultfd && exec setpriv \
		--bounding-set=-sys_ptrace --inh-caps=-sys_ptrace "$@"' sh "$@"
}
if [ "$(id -u)" = 0 ] && [ "$(cat /proc/sys/vm/unprivileged_userfaultfd)" = 0 ] && may_not true 2>/dev/null; then
	may_not "$torpor" restore a@base --mode lazy --detach --store "$store" --serial "file:$tmp/may.out" \
		2>"$tmp/may.err" || bad "restore without permission: $(cat "$tmp/may.err")"
	for ((i = 0; i < 2400; i++)); do
		grep -q beat "$tmp/may.out" 2>/dev/null && break
		sleep 0.05
	done
	grep -q beat "$tmp/may.out" || bad "without permission the guest does not run"
	log=$XDG_RUNTIME_DIR/torpor/a.log
	grep -q 'no permission for userfaultfd.*unprivileged_userfaultfd' "$log" || bad "the log says: $(cat "$log")"
	[ "$(wc -l <"$log")" = 1 ] || bad "$(wc -l <"$log") lines in the log, wanted one: $(cat "$log")"
	t list --json | grep -q '"mode": "lazy"' && bad "without permission, but lazy"
	t stop a || bad "stop"
else
	say "not tried: nothing to take away from this user"
fi
finish
