#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Linux with an ext4 file system on virtio-blk, a balloon and entropy: files are written with fsync and read
# back from the disk over suspended takes, SIGKILL and restores; the guest's memory knows what each must hold,
# and the host's e2fsck finds the file system clean at the end. What the VMM holds follows the balloon within
# 5 % of the guest's memory, down, over a restore, and up.
# Rounds: TORPOR_TIER quick 2, normal 3, long 50.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
PATH=$PATH:/usr/sbin:/sbin
linux_kernel
case $tier in quick) rounds=2 ;; long) rounds=50 ;; *) rounds=3 ;; esac
clock=
grep -qwE 'vmx|svm' /proc/cpuinfo || clock=" clocksource=kvm-clock"
mem_kib=$((128 * 1024))

# Blocks of the file that guest memory is, in KiB.
held() {
	local f n=0
	for f in /proc/"$vm_pid"/fd/*; do
		case $(readlink "$f") in
		/memfd:*) n=$((n + $(stat -L -c %b "$f") / 2)) ;;
		esac
	done
	echo $n
}
sound() { grep -q FAIL "$tmp/d.out" && die "$(grep -m1 FAIL "$tmp/d.out")"; }
# goes_on: five more rounds.
goes_on() {
	local n
	wait_line "$tmp/d.out" 'disk: (round|FAIL) ?[0-9]*' 180 || die "no round: $(tail -n 3 "$tmp/d.out" "$tmp/d.err")"
	n=$(sed -n 's/^[0-9]* disk: round //p' "$tmp/d.out" | tail -n 1)
	wait_line "$tmp/d.out" "disk: (round $((n + 5))\$|FAIL)" 60 || die "stands still after round $n: $(tail -n 3 "$tmp/d.out")"
	sound
}
# asks KEY REGEX: the answer's line in $line.
asks() {
	local from
	from=$(($(wc -l <"$tmp/d.out") + 1))
	vm_send "$1"
	wait_line "$tmp/d.out" "disk: $2" 120 "$from" || die "no answer to $1: $(tail -n 3 "$tmp/d.out")"
}

truncate -s 32M "$tmp/fs.img"
mke2fs -q -t ext4 -F "$tmp/fs.img" || die "mke2fs"
vm_begin d run --name d --kernel "$kernel" --initrd "$guests/initrd-disk.cpio" --mem $((mem_kib / 1024))M \
	--rng --balloon --disk "$tmp/fs.img,capture=off,id=fs" --cmdline "console=ttyS0$clock"
wait_line "$tmp/d.out" 'disk: mounted' 180 || die "Linux mounts no disk: $(tail -n 5 "$tmp/d.out")"
goes_on
for ((i = 1; i <= rounds; i++)); do
	sleep "0.0$((RANDOM % 100))"
	t suspend d || die "suspend"
	take d || die "take: $(cat "$tmp/take.err")"
	sound
	vm_kill "$vm_pid"
	vm_begin d restore d --mode "$([ $((i % 2)) = 0 ] && echo lazy || echo eager)"
	goes_on
done

# Entropy: no two draws alike.
asks e 'drew [0-9a-f]{32}'
first=$line
asks e 'drew [0-9a-f]{32}'
[ "$first" != "$line" ] || bad "two draws are the same: $line"

# What the guest does not use and has given to the balloon the VMM does not hold, and the other way.
near() { # near KIB WHAT
	local i n
	for ((i = 0; i < 300; i++)); do
		n=$(held)
		[ "$n" -le $(($1 + mem_kib / 20)) ] && [ "$n" -ge $(($1 - mem_kib / 20)) ] && break
		sleep 0.1
	done
	say "$2: the VMM holds $n KiB of $mem_kib, wanted $1"
	[ $i -lt 300 ] || bad "$2: the VMM holds $n KiB, wanted $1 within $((mem_kib / 20))"
}
asks h holds
full=$(held)
asks g gave
t balloon d 32M --wait || bad "Linux gives no 32 MiB: $(t balloon d)"
near $((full - 32 * 1024)) "inflated by 32 MiB"
goes_on
t suspend d || die "suspend"
take d || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
vm_begin d restore d
goes_on
near $((full - 32 * 1024)) "restored"
t balloon d 0 --wait || bad "Linux takes nothing back"
asks h holds
near "$full" "deflated, and the memory used once more"
goes_on

# Caches that are dropped while the balloon moves stall nobody and cost no byte.
for size in 48M 16M 0; do
	asks c dropped
	t balloon d "$size" || bad "balloon"
	asks c dropped
	goes_on
done
t balloon d 0 --wait || bad "Linux takes nothing back: $(t balloon d)"
goes_on
asks u unmounted
t stop d || vm_kill "$vm_pid"
wait "$vm_pid"
e2fsck -fn "$tmp/fs.img" >"$tmp/fsck" 2>&1 || bad "e2fsck: $(tail -n 5 "$tmp/fsck")"
finish
