#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# virtio console: a freestanding guest writes a numbered line per round; suspended, taken, killed and
# restored, over and over, no line is lost, doubled or torn, and what is typed meanwhile arrives.
# Linux on hvc0 across a snapshot.
# Rounds: TORPOR_TIER quick 3, normal 8, long 100.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=3 ;; long) rounds=100 ;; *) rounds=8 ;; esac

g=$guests/virtio.pvh
ser=$tmp/v.ser
# typed TEXT: the guest got it, in pieces as they come; looked for in the serial output from line $from on.
typed() {
	local i
	for ((i = 0; i < 400; i++)); do
		tail -n "+$from" "$ser" | sed -n 's/^typed //p' | tr -d '\n' | grep -qF -- "$1" && return
		sleep 0.05
	done
	bad "typed '$1' did not arrive: $(tail -n "+$from" "$ser" | grep typed | tail -n 3)"
}
here() { from=$(($(wc -l <"$ser") + 1)); }

vm_port=console
expect_error 2 'both stdio' t run --name v --kernel "$g" --serial stdio --console stdio
expect_error 2 'detach' t run --name v --kernel "$g" --console stdio --detach
expect_error 2 '--console.*nowhere' t run --name v --kernel "$g" --console nowhere
for how in "beat=1" "beat=1 event=0 intx=1"; do
	say "-- $how"
	rm -f "$ser"
	vm_begin v run --name v --kernel "$g" --mem 32M --cmdline "$how" --serial "file:$ser" --replace
	n=0
	for ((i = 1; i <= rounds; i++)); do
		wait_line "$tmp/v.out" "con 0*$((n + 20)) " 30 || die "$how: stands still: $(tail -n 2 "$tmp/v.out" "$tmp/v.err")"
		here
		vm_send "a$i;"
		typed "a$i;"
		t suspend v || die "suspend"
		here
		vm_send "b$i;" # taken when it runs again
		take v || die "take: $(cat "$tmp/take.err")"
		if [ $((i % 2)) = 0 ]; then
			t resume v || die "resume"
			typed "b$i;"
			t suspend v || die "suspend"
			take v || die "take: $(cat "$tmp/take.err")"
		fi
		vm_kill "$vm_pid"
		sleep 0.2 # the stamper empties the pipe
		console_lines "$tmp/v.out" "$n"
		n=$next
		vm_begin v restore v --serial "file:$ser"
	done
	wait_line "$tmp/v.out" "con 0*$((n + 20)) " 30 || die "$how: stands still after the last restore"
	# Taken while it runs: it goes on from the freeze.
	take v || die "take: $(cat "$tmp/take.err")"
	vm_kill "$vm_pid"
	sleep 0.2
	console_lines "$tmp/v.out" "$n"
	vm_begin v restore v --serial "file:$ser"
	wait_line "$tmp/v.out" 'con [0-9]+' 30 || die "$how: nothing after a restore"
	first=$((10#$(cut -d ' ' -f 2 <<<"$line")))
	[ "$first" -ge "$n" ] && [ "$first" -le "$next" ] || bad "$how: goes on at $first, wanted $n to $next"
	wait_line "$tmp/v.out" "con 0*$((first + 20)) " 30 || die "$how: stands still"
	console_lines "$tmp/v.out" "$first"
	vm_kill "$vm_pid"
done
vm_port=serial
vm_begin w run --name w --kernel "$g" --mem 32M --rng --cmdline "beat=5"
wait_line "$tmp/w.out" 'round ' 30 || die "no round"
take w || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
expect_error 2 'no virtio console' t restore w --console null --serial null

# Linux on hvc0.
say "-- Linux"
linux_kernel
clock=
grep -qwE 'vmx|svm' /proc/cpuinfo || clock=" clocksource=kvm-clock"
vm_port=console
vm_begin lin run --name lin --kernel "$kernel" --initrd "$initrd" --mem 128M \
	--cmdline "console=hvc0 agent_mib=2 agent_ms=100$clock"
wait_line "$tmp/lin.out" 'agent: count 3 ' 180 || die "Linux did not come up on hvc0"
t suspend lin || die "suspend"
vm_send s
take lin || die "take: $(cat "$tmp/take.err")"
last=$(grep -oE 'agent: count [0-9]+' "$tmp/lin.out" | tail -n 1 | grep -oE '[0-9]+')
vm_kill "$vm_pid"
vm_begin lin restore lin
vm_send s
wait_line "$tmp/lin.out" 'agent: sum 3b03c5b5c774e85d' 60 || bad "Linux does not hear its console after a restore"
wait_line "$tmp/lin.out" "agent: count $((last + 2)) " 60 || bad "Linux does not write after a restore"
first=$(grep -oE 'count [0-9]+' "$tmp/lin.out" | head -n 1 | grep -oE '[0-9]+')
[ "$first" = $((last + 1)) ] || bad "Linux goes on at line $first, wanted $((last + 1))"
from=$(wc -l <"$tmp/lin.out")
vm_send p
wait "$vm_pid" || bad "Linux did not power off by its console"
grep -q 'agent: power off' "$tmp/lin.out" || bad "the last words are missing"
finish
