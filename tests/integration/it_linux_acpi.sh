#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Linux and the platform devices: buttons as input events, each general-purpose event counted, battery and
# adapter in /sys/class/power_supply, also what was set while the VM is suspended and after a restore; two
# restores of one snapshot draw different random numbers; a panic ends the VM with status 34.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
linux_kernel
clock=
grep -qwE 'vmx|svm' /proc/cpuinfo || clock=" clocksource=kvm-clock"

vm_begin lin run --name lin --kernel "$kernel" --initrd "$initrd" --mem 128M --battery --gpe-methods \
	--cmdline "console=ttyS0 agent_mib=2 agent_ms=100$clock"
wait_line "$tmp/lin.out" 'agent: count 3 ' 180 || die "Linux did not come up"
sock=$XDG_RUNTIME_DIR/torpor/lin.sock

here() { echo $(($(wc -l <"$tmp/lin.out") + 1)); }
# ctl JSON WANT: one request and its answer.
ctl() {
	local got
	got=$(printf '%s' "$1" | "$lib/ctlsend" "$sock")
	[ "$got" = "$2" ] || bad "$1: answered with $got, wanted $2"
}
# file PATH: its first line, as the guest sees it, into $value.
file() {
	local from
	from=$(here)
	vm_send "f$1
"
	wait_line "$tmp/lin.out" "agent: file $1 " 60 "$from" || die "no answer about $1"
	value=${line#agent: file $1 }
}
is() { # is PATH WANT
	file "$1"
	[ "$value" = "$2" ] || bad "$1 is '$value', wanted '$2'"
}
# counted WHAT N: a counter of Linux's ACPI interrupts, gpeXX or their sum gpe_all.
counted() {
	file /sys/firmware/acpi/interrupts/$1
	set -- "$1" "$2" $value
	[ "$3" = "$2" ] || bad "$1 was counted $3 times, wanted $2"
}

# Buttons.
from=$(here)
ctl '"Powerbtn"' '"Ok"'
wait_line "$tmp/lin.out" 'agent: event 1 116 1' 60 "$from" || bad "the power button gives no KEY_POWER"
from=$(here)
ctl '"Sleepbtn"' '"Ok"'
wait_line "$tmp/lin.out" 'agent: event 1 142 1' 60 "$from" || bad "the sleep button gives no KEY_SLEEP"

# Every event once, event 7 three times.
counted gpe_all 0
for ((i = 1; i < 256; i++)); do
	printf '{"Gpe":{"gpe":%d,"clear_evt":null}}\n' "$i"
done | "$lib/ctlsend" "$sock" --lines >"$tmp/gpes"
[ "$(sort "$tmp/gpes" | uniq -c | tr -d ' ')" = '255"Ok"' ] || bad "events answered with $(sort "$tmp/gpes" | uniq -c)"
wait_counted() { # until gpe_all is $1
	local i
	for ((i = 0; i < 30; i++)); do
		file /sys/firmware/acpi/interrupts/gpe_all
		set -- "$1" $value
		[ "$2" -lt "$1" ] || return 0
		sleep 0.5
	done
}
for i in 255 256 257; do
	wait_counted $i
	counted gpe_all $i
	[ $i = 257 ] || ctl '{"Gpe":{"gpe":7,"clear_evt":null}}' '"Ok"'
done
counted gpe07 3
counted gpe01 1
counted gpeFF 1
counted gpe00 0

# Battery.
bat=/sys/class/power_supply/battery ac=/sys/class/power_supply/ac
is $bat/status Full
is $bat/capacity 100
is $ac/online 1
bat_ok='{"BatResponse":"Ok"}'
ctl '{"BatCommand":["goldfish",{"SetStatus":"Charging"}]}' "$bat_ok"
ctl '{"BatCommand":["goldfish",{"SetHealth":"Overheat"}]}' "$bat_ok"
ctl '{"BatCommand":["goldfish",{"SetCapacity":42}]}' "$bat_ok"
is $bat/status Charging
is $bat/health Overheat
is $bat/capacity 42
ctl '{"BatCommand":["goldfish",{"SetFakeBatConfig":10}]}' "$bat_ok"
is $bat/status Discharging
is $bat/capacity 10
is $ac/online 0
ctl '{"BatCommand":["goldfish","CancelFakeConfig"]}' "$bat_ok"
is $ac/online 1
is $bat/capacity 42
t suspend lin || bad "suspend"
ctl '{"BatCommand":["goldfish",{"SetCapacity":17}]}' "$bat_ok"
ctl '{"BatCommand":["goldfish",{"SetACOnline":0}]}' "$bat_ok"
ctl '"Powerbtn"' '"Ok"'
take lin --tag off || die "take: $(cat "$tmp/take.err")"
from=$(here)
t resume lin || bad "resume"
wait_line "$tmp/lin.out" 'agent: event 1 116 1' 60 "$from" || bad "a button pressed during a suspend is lost"
is $bat/capacity 17
is $ac/online 0
vm_kill "$vm_pid"

# Restored: the values, the button, a new generation id told by event 0, other random numbers.
for i in 1 2; do
	vm_begin lin restore lin@off
	wait_line "$tmp/lin.out" 'agent: event 1 116 1' 60 || bad "restore $i: the button pressed before the take is lost"
	is $bat/capacity 17
	is $ac/online 0
	counted gpe00 1
	file /proc/sys/kernel/random/uuid
	echo "$value" >>"$tmp/uuids"
	[ "$i" = 2 ] || vm_kill "$vm_pid"
done
[ "$(sort -u "$tmp/uuids" | wc -l)" = 2 ] || bad "two restores draw the same: $(cat "$tmp/uuids")"

vm_send x
wait "$vm_pid"
rc=$?
[ "$rc" = 34 ] || bad "a panic ends the VM with $rc, wanted 34"
finish
