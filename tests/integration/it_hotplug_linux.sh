#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Linux and its pciehp driver: a disk and a network device are put in and taken out while the guest runs,
# also over a snapshot, SIGKILL and a restore; /sys shows them come and go.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
linux_kernel

# ask PATH: the first line of a file in the guest into $got; "" where there is none.
ask() {
	local from=$(($(wc -l <"$tmp/l.out") + 1))
	vm_send "f$1"$'\n'
	wait_line "$tmp/l.out" "agent: file $1 ?.*" 60 "$from" || die "no answer about $1: $(tail -n 3 "$tmp/l.out")"
	got=${line#agent: file "$1"}
	got=${got# }
	got=${got%$'\r'}
}
# until PATH VALUE: the guest takes its time; VALUE is a regular expression for the whole line.
until_is() {
	local i
	for ((i = 0; i < 60; i++)); do
		ask "$1"
		[[ $got =~ ^$2$ ]] && return 0
		sleep 1
	done
	die "$1 is '$got', wanted $2: $(tail -n 5 "$tmp/l.out")"
}
vda=/sys/block/vda/size
eth=/sys/class/net/eth0/address
up() { wait_line "$tmp/l.out" 'agent: count' 90 || die "$1: $(tail -n 3 "$tmp/l.out") $(tail -n 2 "$tmp/l.err")"; }

truncate -s 8M "$tmp/disk.img"
vm_begin l run --name l --kernel "$kernel" --initrd "$initrd" --mem 256M --ports 2 \
	--cmdline "console=ttyS0 agent_ms=500"
up boot
ask $vda
[ -z "$got" ] || bad "a disk before there is one: $got"
t disk add l "$tmp/disk.img,ro,id=hot" || die "disk add"
until_is $vda 16384
t net add l none,id=nic,mac=02:00:00:00:00:07 || die "net add"
until_is $eth 02:00:00:00:00:07
take l || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
vm_begin l restore l
up restore
until_is $vda 16384
until_is $eth 02:00:00:00:00:07
t disk rm l hot --timeout 300 || bad "disk rm"
until_is $vda ''
t net rm l nic --timeout 300 || bad "net rm"
until_is $eth ''
# Pulled without a word: the driver sees the link go.
t disk add l "$tmp/disk.img,ro,id=again" || bad "disk add"
until_is $vda 16384
t disk rm l again --force || bad "disk rm --force"
until_is $vda ''
finish
