#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Linux: boot, take while it runs, SIGKILL, restore. The first number after the restore follows the last
# before the freeze, the checksum is the same, the clocks go as the policy says; ten rounds in a row,
# then one with two vCPUs; the restored VM reboots with the kernel's files gone.
# Rounds: TORPOR_TIER quick 2, normal 10, long 30.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
linux_kernel
case $tier in quick) rounds=2 ;; long) rounds=30 ;; *) rounds=10 ;; esac

word() { awk -v k="$2" '{ for (i = 1; i < NF; i++) if ($i == k) { print $(i + 1); exit } }' <<<"$1"; }
ms() { awk -v t="$1" 'BEGIN { printf "%d", t * 1000 }'; }

# The kernel's files are copies that are removed later.
cp "$kernel" "$tmp/vmlinux"
cp "$initrd" "$tmp/initrd"

# A software KVM shows guests the host's TSC, which no VMM can stop or set: there the guest is told to keep
# time by kvmclock alone, which it would otherwise use only where the TSC is not to be trusted.
clock=
grep -qwE 'vmx|svm' /proc/cpuinfo || clock=" clocksource=kvm-clock"

boot() { # boot NAME CPUS
	vm_begin "$1" run --name "$1" --kernel "$tmp/vmlinux" --initrd "$tmp/initrd" --mem 128M \
		--cmdline "console=ttyS0 agent_mib=2 agent_ms=100$clock" --cpus "$2"
	wait_line "$tmp/$1.out" 'agent: count 3 ' 180 || die "$1: Linux did not come up"
	sum=$(word "$line" sum)
}

# round NAME REF_TAG POLICY: take, kill, restore as $1.
round() {
	local name=$1 tag=$2 policy=$3 pid=$vm_pid last late n0 n1 t0 t1 frozen whole
	take "$name" --tag "$tag" || die "take $tag failed: $(cat "$tmp/take.err")"
	frozen=$(json "$tmp/take.json" frozen_at_ns)
	[ "$(json "$tmp/take.json" ref)" = "$name@$tag" ] || [ -n "$(json "$tmp/take.json" ref)" ] ||
		bad "take has no ref: $(cat "$tmp/take.json")"
	last=$(awk -v t="$frozen" '$1 + 0 <= t && / agent: count / { l = $0 } END { print l }' "$tmp/$name.out")
	last=${last#* }
	# A line comes late, never early: told before the freeze it may still be on its way then.
	late=$(awk -v t="$frozen" '$1 + 0 <= t + 1e8 && / agent: count / { l = $0 } END { print l }' "$tmp/$name.out")
	kill -0 "$pid" 2>/dev/null || die "$tag: the VM ended during the take"
	vm_kill "$pid"
	vm_begin "$name" restore "$name@$tag" --clock "$policy"
	wait_line "$tmp/$name.out" 'agent: count ' 60 || die "$tag: the restored guest says nothing"
	n0=$(word "$last" count) n1=$(word "$line" count)
	t0=$(word "$last" time) t1=$(word "$line" time)
	# A line that was on its way at the freeze ends in the new process: then its tail comes first.
	whole=$(head -n 1 "$tmp/$name.out" | grep -c "agent: count $n1 ")
	[ "$n1" -gt "$n0" ] && [ "$n1" -le $(($(word "$late" count) + 2 - whole)) ] ||
		bad "$tag: count $n0 before the freeze, $n1 first after the restore"
	[ "$(word "$line" sum)" = "$sum" ] || bad "$tag: checksum $sum became $(word "$line" sum)"
	# Monotonic time stood still while nobody ran: a step is about a period, however long we took.
	local step=$(($(ms "$t1") - $(ms "$t0")))
	[ "$step" -ge 0 ] && [ "$step" -lt 3000 ] || bad "$tag: monotonic time went from $t0 to $t1"
	wait_line "$tmp/$name.out" "agent: count $((n1 + 3)) " 60 || die "$tag: the guest does not go on"
	say "round $tag ($policy): $n0 -> $n1, paused $(json "$tmp/take.json" pause_us) us"
}

# clocks NAME: asks the guest; sets real_off_ms = guest's wall clock minus the host's. A line comes late, never
# early: of five the one that came soonest counts.
clocks() {
	local from real off i
	real_off_ms=
	for i in 1 2 3 4 5; do
		from=$(($(wc -l <"$tmp/$1.out") + 1))
		vm_send d
		wait_line "$tmp/$1.out" 'agent: clock ' 30 "$from" || die "no clock line"
		real=$(word "$line" realtime)
		off=$(awk -v g="$real" -v h="$line_ns" 'BEGIN { split(g, p, "."); printf "%d", (p[1] - int(h / 1e9)) * 1000 + (p[2] - h % 1e9) / 1e6 }')
		if [ -z "$real_off_ms" ] || [ "$off" -gt "$real_off_ms" ]; then real_off_ms=$off; fi
	done
}

boot lin 1
clocks lin
[ "${real_off_ms#-}" -lt 2500 ] || bad "after boot the guest's wall clock is $real_off_ms ms off"
for ((i = 1; i <= rounds; i++)); do
	round lin "r$i" continue
done

# Policies, with a gap of three seconds between the kill and the restore.
take lin --tag clock || die "take failed: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
sleep 3
vm_begin lin restore lin@clock --clock continue
wait_line "$tmp/lin.out" 'agent: count ' 60 || die "no line after the restore"
clocks lin
[ "$real_off_ms" -lt -2000 ] || bad "--clock continue: wall clock is $real_off_ms ms off the host's, wanted it behind"
vm_kill "$vm_pid"
vm_begin lin restore lin@clock --clock jump
wait_line "$tmp/lin.out" 'agent: count ' 60 || die "no line after the restore"
clocks lin
[ "${real_off_ms#-}" -lt 1000 ] || bad "--clock jump: wall clock is $real_off_ms ms off the host's"

# Two vCPUs: both go on.
vm_kill "$vm_pid"
boot two 2
wait_line "$tmp/two.out" 'agent: count .* peer [1-9]' 60 || bad "the second vCPU does nothing"
round two smp continue
peer=$(word "$line" peer)
wait_line "$tmp/two.out" "agent: count [0-9]+ .* peer $((peer + 5))" 60 || bad "the second vCPU stands still after the restore at $peer"
vm_kill "$vm_pid"

# A reboot inside the restored VM, with the kernel's files gone.
rm "$tmp/vmlinux" "$tmp/initrd"
vm_begin lin restore lin@clock
wait_line "$tmp/lin.out" 'agent: count ' 60 || die "no line after the restore"
from=$(($(wc -l <"$tmp/lin.out") + 1))
vm_send r
wait_line "$tmp/lin.out" 'agent: start' 180 "$from" || die "the restored VM does not reboot"
wait_line "$tmp/lin.out" 'agent: count 2 ' 120 "$from" || die "the rebooted guest does not count"
[ "$(word "$line" sum)" = "$sum" ] || bad "the rebooted guest has another checksum"
# And the rebooted VM can be saved and powered off.
take lin --tag rebooted || bad "take after the reboot failed: $(cat "$tmp/take.err")"
vm_send p
wait "$vm_pid"
rc=$?
[ "$rc" = 0 ] || bad "power off ended with $rc"
"$torpor" snapshot verify --all --store "$store" >"$tmp/verify.out" 2>&1 || bad "verify: $(tail -n 3 "$tmp/verify.out")"
finish
