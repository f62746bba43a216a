#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# virtio balloon: a freestanding guest gives pages that hold patterns and takes them back: zero always, also
# after a take in the middle of it, SIGKILL and a restore; the VMM's memory follows, and a take does not
# bring back what was given. Who waits, figures, events, a reset. Linux's driver.
# Rounds: TORPOR_TIER quick 2, normal 6, long 100.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=2 ;; long) rounds=100 ;; *) rounds=6 ;; esac

g=$guests/virtio.pvh
status='{"Torpor":{"v":1,"cmd":"Status"}}'
# ctl JSON [ctlsend's options]: one request's answer.
ctl() { printf '%s' "$1" | "$lib/ctlsend" "$XDG_RUNTIME_DIR/torpor/$vm.sock" "${@:2}"; }
held() { ctl "$status" | sed -E 's/.*"mem_allocated":([0-9]+).*/\1/'; }
# holds AT_MOST AT_LEAST: what the VM holds of the host's memory, in KiB; it may take a moment.
holds() {
	local i n
	for ((i = 0; i < 600; i++)); do
		n=$(($(held) / 1024))
		[ "$n" -le "$1" ] && [ "$n" -ge "$2" ] && return
		sleep 0.1
	done
	bad "$vm holds $n KiB, wanted $2 to $1 ($3)"
}
sound() { grep -qE 'FAIL|FAULT' "$tmp/$vm.out" && die "$vm: $(grep -m1 -E 'FAIL|FAULT' "$tmp/$vm.out")"; }
# up ARGS: restores v, and waits until it works.
up() {
	vm_begin v restore v "$@"
	wait_line "$tmp/v.out" 'round ' 30 || die "no round after a restore: $(tail -n 2 "$tmp/v.err")"
	sound
}
# is SIZE PAGES: the balloon gets there, by the VMM's word and the guest's.
is() {
	t balloon $vm "$1" --wait || bad "balloon $1"
	wait_line "$tmp/$vm.out" "balloon $2\$" 20 || bad "the guest does not say that it gave $2 pages: $(tail -n 2 "$tmp/$vm.out")"
	sound
}

vm=v
for how in "beat=1" "beat=1 event=0 intx=1"; do
	say "-- $how"
	vm_begin v run --name v --kernel "$g" --mem 64M --balloon --cmdline "$how" --replace
	wait_line "$tmp/v.out" 'round 3 ' 30 || die "no round: $(tail -n 2 "$tmp/v.out" "$tmp/v.err")"
	all=$(($(held) / 1024))
	[ "$all" -ge 16384 ] || bad "the guest's 16 MiB are not there: $all KiB"
	for ((i = 1; i <= rounds; i++)); do
		is 16M 4096
		holds $((all - 16384 + 512)) 0 "after inflating"
		take v || die "take: $(cat "$tmp/take.err")"
		# The first take is of all memory, but not of 4096 pages of patterns that were given back.
		stored=$(json "$tmp/take.json" pages_stored)
		[ "$i" != 1 ] || [ "$stored" -lt 3000 ] || bad "what was given back is stored: $stored pages"
		holds $((all - 16384 + 512)) 0 "after a take"
		is 4M 1024
		holds $((all + 512)) $((all - 4096 - 512)) "after deflating"
		# In the middle of it: nobody waits. The first one on its way up, the second down.
		t balloon v 14M || bad "balloon"
		take v || die "take: $(cat "$tmp/take.err")"
		[ $((i % 2)) = 0 ] || t balloon v 0 || bad "balloon"
		sleep 0.0$((i % 10))
		take v || die "take: $(cat "$tmp/take.err")"
		sound
		vm_kill "$vm_pid"
		up --mode "$([ $((i % 2)) = 0 ] && echo lazy || echo eager)"
	done
	is 0 0
	is 16M 4096
	vm_kill "$vm_pid"
	# A clone that reads only what is touched, and gives it away again.
	up --no-fill
	is 16M 4096
	take v || die "take: $(cat "$tmp/take.err")"
	is 0 0
	vm_kill "$vm_pid"
	up
	is 2M 512
	[ "$how" = "beat=1" ] || break
	vm_kill "$vm_pid"
done

say "-- requests"
t balloon v --json >"$tmp/fig.json" || bad "balloon's figures"
[ "$(json "$tmp/fig.json" balloon_actual)" = $((2 << 20)) ] || bad "figures: $(cat "$tmp/fig.json")"
[ "$(json "$tmp/fig.json" free_memory)" = $((14 << 20)) ] || bad "figures: $(cat "$tmp/fig.json")"
[ "$(json "$tmp/fig.json" total_memory)" = $((16 << 20)) ] || bad "figures: $(cat "$tmp/fig.json")"
grep -q swap_in "$tmp/fig.json" && bad "a figure that the guest did not tell: $(cat "$tmp/fig.json")"
got=$(ctl '{"BalloonCommand":"Stats"}')
[[ $got == *'"swap_in":null'*'"balloon_actual":2097152'* ]] || bad "Stats: $got"
expect_error 1 'more than the VM has' t balloon v 65M
got=$(ctl '{"BalloonCommand":"WorkingSet"}')
[[ $got == *ENOTSUP* || $got == *EOPNOTSUPP* ]] || bad "WorkingSet: $got"
# While it is suspended nothing moves: a later wish overrides one that waits, and is met afterwards.
t suspend v || bad "suspend"
"$torpor" balloon v 3M --wait --store "$store" 2>"$tmp/first.err" &
first=$!
for ((i = 0; i < 200; i++)); do
	[[ $(ctl '{"BalloonCommand":{"Adjust":{"num_bytes":1048576,"wait_for_success":false}}}') == '"Ok"' ]] || bad "Adjust"
	kill -0 $first 2>/dev/null || break
	sleep 0.05
done
wait $first && bad "a wish that was overridden is told to be met"
grep -q overridden "$tmp/first.err" || bad "overridden: $(cat "$tmp/first.err")"
# Who waits for a guest that does nothing is told so, after 20 and 15 s; the wish stays.
expect_error 1 'does not get further' t balloon v 3M --wait
expect_error 1 'does not tell its figures' t balloon v
t balloon v 1M || bad "balloon of a suspended VM"
take v || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
vm_begin v restore v
wait_line "$tmp/v.out" 'balloon 256$' 30 || bad "a wish made while suspended is lost: $(tail -n 2 "$tmp/v.out")"
# Events: sizes, and a guest that takes back what it was asked for.
"$lib/ctlsend" --listen "$tmp/ev.sock" 2 >"$tmp/ev" &
listener=$!
for ((i = 0; i < 100; i++)); do
	grep -q listening "$tmp/ev" && break
	sleep 0.05
done
for ev in VirtioBalloonResize VirtioBalloonOOMDeflation; do
	[ "$(ctl "{\"RegisterListener\":{\"socket_addr\":\"$tmp/ev.sock\",\"event\":\"$ev\"}}")" = '"Ok"' ] || bad "RegisterListener $ev"
done
vm_send o
wait $listener || bad "no events: $(cat "$tmp/ev")"
grep -q '{"VirtioBalloonResize":{"balloon_actual":786432}}' "$tmp/ev" || bad "events: $(cat "$tmp/ev")"
grep -q '{"VirtioBalloonOOMDeflation":{"balloon_actual":786432}}' "$tmp/ev" || bad "events: $(cat "$tmp/ev")"
# The wish outlives a reset by the guest.
from=$(wc -l <"$tmp/v.out")
vm_send z
wait_line "$tmp/v.out" 'balloon 256$' 60 $((from + 1)) || bad "the wish is lost by a reset: $(tail -n 2 "$tmp/v.out")"
sound
vm_kill "$vm_pid"

say "-- Linux"
linux_kernel
clock=
grep -qwE 'vmx|svm' /proc/cpuinfo || clock=" clocksource=kvm-clock"
vm=lin
vm_begin lin run --name lin --kernel "$kernel" --initrd "$initrd" --mem 256M --balloon \
	--cmdline "console=ttyS0 agent_mib=2 agent_ms=100$clock"
wait_line "$tmp/lin.out" 'agent: count 3 ' 600 || die "Linux did not come up"
t balloon lin 32M --wait || bad "Linux gives no 32 MiB"
t balloon lin --json >"$tmp/fig.json" || bad "Linux's figures"
[ "$(json "$tmp/fig.json" balloon_actual)" = $((32 << 20)) ] || bad "Linux's figures: $(cat "$tmp/fig.json")"
free=$(json "$tmp/fig.json" free_memory)
[ "$free" -gt 0 ] && [ "$free" -lt $((224 << 20)) ] || bad "Linux's figures: $(cat "$tmp/fig.json")"
# What it has free it reports by itself, so it holds much less than it has.
holds $((128 << 10)) 0 "free pages reported"
take lin || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
vm_begin lin restore lin
wait_line "$tmp/lin.out" 'agent: count ' 120 || die "Linux stands still after a restore"
holds $((128 << 10)) 0 "restored"
t balloon lin 0 --wait || bad "Linux takes nothing back"
vm_send s
wait_line "$tmp/lin.out" 'agent: sum 3b03c5b5c774e85d' 60 || bad "Linux's memory changed"
vm_kill "$vm_pid"
finish
