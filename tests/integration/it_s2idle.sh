#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run --s2idle: a suspend presses the sleep button and waits until the guest sleeps, a resume wakes it; a guest that
# does not sleep is suspended after 15 s, and that is said; who gives it up meanwhile finds the guest awake.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
begin() { # begin NAME CMDLINE [OPTION...]
	local name=$1 cmdline=$2
	shift 2
	vm_begin "$name" run --name "$name" --kernel "$guests/idle.pvh" --mem 32M --cmdline "$cmdline" "$@"
	wait_line "$tmp/$name.out" 'beat 3 ' 60 || die "$name does not run"
}
said() { # said NAME RE: the guest said so since line $from
	wait_line "$tmp/$1.out" "$2" 60 "$from" || bad "the guest has not said '$2': $(tail -n 3 "$tmp/$1.out")"
}
mark() { from=$(($(wc -l <"$tmp/$1.out") + 1)); }
sleep_of() { # what Status says of the guest's sleep
	printf '{"Torpor":{"v":1,"cmd":"Status"}}' | "$lib/ctlsend" "$XDG_RUNTIME_DIR/torpor/$1.sock" |
		sed -n 's/.*"s2idle":"\([a-z]*\)".*/\1/p'
}

begin s "" --s2idle
[ "$(sleep_of s)" = awake ] || bad "at first: $(sleep_of s)"
slept=0
for kind in "" "--vcpus" "" "--vcpus"; do
	mark s
	slept=$((slept + 1))
	# shellcheck disable=SC2086
	t suspend s $kind >"$tmp/sus" 2>&1 || bad "suspend $kind: $(cat "$tmp/sus")"
	[ -s "$tmp/sus" ] && bad "suspend $kind says $(cat "$tmp/sus")"
	said s "sleeps $slept\$"
	[ "$(sleep_of s)" = asleep ] || bad "suspend $kind: $(sleep_of s)"
	falls_silent "$tmp/s.out" || bad "a sleeping guest prints"
	# shellcheck disable=SC2086
	t suspend s $kind || bad "suspend $kind twice"
	# shellcheck disable=SC2086
	t resume s $kind || bad "resume $kind"
	said s "wakes $slept power $slept\$"
	said s 'beat '
	[ "$(sleep_of s)" = awake ] || bad "after resume $kind: $(sleep_of s)"
	# A second one must not press the button of a guest that is awake.
	# shellcheck disable=SC2086
	t resume s $kind || bad "resume $kind twice"
done
mark s
said s "beat [0-9]+ slept $slept power $slept\$"

# A snapshot of a suspended one sleeps in it; restored, it is woken, or with --paused at the resume.
mark s
slept=$((slept + 1))
t suspend s && said s "sleeps $slept\$"
take s --tag asleep || bad "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
for how in "" --paused; do
	# shellcheck disable=SC2086
	vm_begin s restore s@asleep $how
	from=1
	if [ -n "$how" ]; then
		for ((i = 0; i < 600; i++)); do [ "$(sleep_of s 2>/dev/null)" = asleep ] && break; sleep 0.05; done
		falls_silent "$tmp/s.out" || bad "restored --paused it prints"
		t resume s || bad "resume after restore"
	fi
	said s "wakes $slept power $slept\$"
	said s "beat [0-9]+ slept $slept power $slept\$"
	[ "$how" = --paused ] || vm_kill "$vm_pid"
done

# Two that suspend at once wait for one press.
mark s
slept=$((slept + 1))
t suspend s --vcpus &
a=$!
t suspend s &
b=$!
wait $a && wait $b || bad "two suspends at once"
said s "sleeps $slept\$"
t resume s || bad "resume"
said s "wakes $slept power $slept\$"
t stop s || bad "stop"
wait "$vm_pid"

# A guest that does not know the button: suspended after 15 s, and everybody is told.
begin deaf deaf=1 --s2idle
before=$(now_ms)
t suspend deaf >"$tmp/sus" 2>&1 || bad "suspend of a deaf guest: $(cat "$tmp/sus")"
[ $(($(now_ms) - before)) -ge 14900 ] || bad "it was suspended after $(($(now_ms) - before)) ms"
grep -q 'did not sleep within 15 s' "$tmp/sus" || bad "the shell says nothing of it: $(cat "$tmp/sus")"
grep -q 'does not sleep 15 s after' "$tmp/deaf.err" || bad "the VM says nothing of it: $(cat "$tmp/deaf.err")"
[ "$(sleep_of deaf)" = ignored ] || bad "the status says $(sleep_of deaf)"
falls_silent "$tmp/deaf.out" || bad "it is not suspended"
t resume deaf || bad "resume of a deaf guest"
mark deaf
said deaf 'beat [0-9]+ slept 0 power 0$' # not shut down either
# Given up while it waits, by its number; and the VM's end ends the waiting.
(t suspend deaf >"$tmp/sus" 2>&1) &
waiter=$!
pids+=("$waiter")
for ((i = 0; i < 200; i++)); do t job list deaf | grep -q 'SuspendVm, running' && break; sleep 0.05; done
id=$(t job list deaf | sed -n 's/^job \([0-9]*\): SuspendVm, running.*/\1/p')
t request deaf '"VcpuPidTid"' | grep -q pid_tid_map || bad "a suspend that waits holds others up"
t job cancel deaf "$id" || bad "cancel of a suspend"
wait $waiter && bad "a suspend that was given up says it was done"
grep -q "job $id was cancelled" "$tmp/sus" || bad "it says $(cat "$tmp/sus")"
mark deaf
said deaf 'beat '
(t suspend deaf >"$tmp/sus" 2>&1) &
waiter=$!
pids+=("$waiter")
for ((i = 0; i < 200; i++)); do t job list deaf | grep -q 'SuspendVm, running' && break; sleep 0.05; done
t stop deaf || bad "stop"
wait "$vm_pid" || bad "status: $(tail -n 3 "$tmp/deaf.err")"
wait $waiter && bad "a suspend of a VM that ended says it was done"

# Given up, and the guest sleeps later on: nobody wants that any more.
begin slow slow=1500 --s2idle
(t suspend slow >"$tmp/sus" 2>&1) &
waiter=$!
pids+=("$waiter")
for ((i = 0; i < 200; i++)); do t job list slow | grep -q 'SuspendVm, running' && break; sleep 0.02; done
t job cancel slow 1 || bad "cancel"
wait $waiter
mark slow
said slow 'wakes 1 power 1$'
said slow 'beat [0-9]+ slept 1 power 1$'
# Both kinds at once: who comes second waits for the same press.
mark slow
(t suspend slow >"$tmp/sus" 2>&1) &
waiter=$!
pids+=("$waiter")
t suspend slow --vcpus || bad "suspend --vcpus"
wait $waiter || bad "suspend: $(cat "$tmp/sus")"
t resume slow || bad "resume"
said slow 'wakes 2 power 2$'
t stop slow && wait "$vm_pid"

# Without the option no button is pressed.
begin plain ""
t suspend plain && t resume plain || bad "suspend without --s2idle"
mark plain
said plain 'beat [0-9]+ slept 0 power 0$'
[ -z "$(sleep_of plain)" ] || bad "a status without --s2idle: $(sleep_of plain)"
t stop plain && wait "$vm_pid"
finish
