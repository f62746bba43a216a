#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Stress of the control socket while the guest computes: random packets from 8 clients, connections that end in
# every way, and suspend/resume cycles of both kinds meanwhile (sampled; --long: 1,000 cycles of each, 10,000
# connects). Nothing stays unanswered; the guest's memory and its clock are right afterwards; the VM's process
# has no descriptor and no memory more than before.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in
quick) seconds=3 cycles=100 connects=500 ;;
long) seconds=60 cycles=2000 connects=10000 ;;
*) seconds=8 cycles=300 connects=2000 ;;
esac
seed=${TORPOR_SEED:-1}
say "seed $seed"
vm_begin s run --name s --kernel "$guests/bench.pvh" --mem 64M --cmdline "beat=10 pages=64 fill=32 halt=1"
wait_line "$tmp/s.out" 'beat 10 ' 30 || die "does not run"
sock=$XDG_RUNTIME_DIR/torpor/s.sock
fds() { find "/proc/$vm_pid/fd" -mindepth 1 | wc -l; }
# Private memory in KiB: what the VMM itself takes.
private() { awk '/^RssAnon/ { print $2 }' "/proc/$vm_pid/status"; }
# The guest's clock less the host's at the same instant (ns), and the time that suspends took. A line comes late,
# never early: of 20 the one that came soonest counts.
clocks() {
	local from diff i
	apart_ns=
	for i in $(seq 20); do
		from=$(($(wc -l <"$tmp/s.out") + 1))
		vm_send d
		wait_line "$tmp/s.out" 'clock ' 20 "$from" || die "no clock"
		line=${line#clock }
		diff=$((${line%% *} - line_ns))
		if [ -z "$apart_ns" ] || [ "$diff" -gt "$apart_ns" ]; then apart_ns=$diff; fi
	done
	host_ns=$line_ns
	suspended_ns=$(printf '{"Torpor":{"v":1,"cmd":"Status"}}' | "$lib/ctlsend" "$sock" | sed 's/.*"suspended_ns":\([0-9]*\).*/\1/')
}
settle() { # all requests are done: the VM runs, no take is under way
	for ((i = 0; i < 500; i++)); do
		printf '"ResumeVm"' | "$lib/ctlsend" "$sock" >"$tmp/settle" 2>&1
		grep -q '^"Ok"' "$tmp/settle" && return
		sleep 0.05
	done
	die "the VM does not settle: $(cat "$tmp/settle")"
}
# Once over, so that what is made once is there before the count.
timeout 300 "$lib/ctlstress" "$sock" stress 2 "$seed" >"$tmp/warm" 2>&1 || bad "warm-up: $(grep -av packets "$tmp/warm" | head -n 3)"
settle
printf '{"UnregisterMemory":{"region_id":1073741824}}' | "$lib/ctlsend" "$sock" >"$tmp/un" 2>&1
sleep 0.3
fds_before=$(fds) private_before=$(private)
clocks
apart0=$apart_ns host0=$host_ns suspended0=$suspended_ns

timeout 900 "$lib/ctlstress" "$sock" cycles "$cycles" >"$tmp/cycles" 2>&1 &
cycler=$!
timeout 900 "$lib/ctlstress" "$sock" stress "$seconds" "$((seed + 1))" >"$tmp/stress" 2>&1 || bad "stress: $(grep -av packets "$tmp/stress" | head -n 3)"
wait $cycler || bad "cycles: $(head -n 3 "$tmp/cycles")"
timeout 900 "$lib/ctlstress" "$sock" connects "$connects" "$seed" >"$tmp/connects" 2>&1 || bad "connects: $(head -n 3 "$tmp/connects")"
settle
# What the stress left in the VM on purpose.
printf '{"UnregisterMemory":{"region_id":1073741824}}' | "$lib/ctlsend" "$sock" >"$tmp/un" 2>&1
sleep 0.3
clocks
off=$((apart_ns - apart0 + suspended_ns - suspended0))
say "$cycles cycles, $(awk '{ n += $1 } END { print n }' "$tmp/stress") packets, $(cat "$tmp/connects"); suspended $(((suspended_ns - suspended0) / 1000000)) of $(((host_ns - host0) / 1000000)) ms, the guest's clock is off by $((off / 1000)) us"
say "descriptors $fds_before, now $(fds); private memory $private_before KiB, now $(private)"
[ ${off#-} -le 5000000 ] || bad "the guest's clock is off by $((off / 1000)) us"
[ "$suspended_ns" -gt "$suspended0" ] || bad "nothing was suspended"
[ "$(fds)" -le "$fds_before" ] || bad "$(fds) descriptors, $fds_before before: $(ls -l "/proc/$vm_pid/fd")"
ldd "$torpor" 2>/dev/null | grep -q asan || # which keeps what is freed for a while
	[ "$(private)" -le $((private_before + 4096)) ] || bad "private memory grew from $private_before to $(private) KiB"
vm_send C
wait_line "$tmp/s.out" 'check ' 30 || die "no check"
[ "$line" = "check ok" ] || bad "the guest says $line"
grep -q CORRUPT "$tmp/s.out" && bad "$(grep -m1 CORRUPT "$tmp/s.out")"
printf '"Exit"' | "$lib/ctlsend" "$sock" >"$tmp/exit" || bad "no answer to Exit"
wait "$vm_pid"
[ $? = 0 ] || bad "the VM did not end well: $(tail -n 3 "$tmp/s.err")"
finish
