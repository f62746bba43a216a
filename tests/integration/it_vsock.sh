#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Connections between programs of a Linux guest and of the host over the virtio socket device: both ways, much
# data, over takes of the running guest and suspends; after a SIGKILL and a restore, also under another name, the
# old ones have ended on both sides and new ones work.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
linux_kernel
run=$XDG_RUNTIME_DIR/torpor
clock=
grep -qwE 'vmx|svm' /proc/cpuinfo || clock=" clocksource=kvm-clock"
case $tier in
quick) bytes=300000 ;;
long) bytes=50000000 ;;
*) bytes=2000000 ;;
esac
expect_error 2 'CID' t run --name x --kernel "$kernel" --vsock 2
expect_error 2 'no socket device' t run --name x --kernel "$kernel" --vsock-path "$tmp/x"
vm_begin lin run --name lin --kernel "$kernel" --initrd "$initrd" --mem 128M --vsock 42 \
	--cmdline "console=ttyS0 agent_mib=2 agent_ms=100 agent_vsock=1$clock"
first=$vm_pid
wait_line "$tmp/lin.out" 'agent: vsock listens' 180 || die "Linux has no virtual socket: $(tail -n 5 "$tmp/lin.out")"
sock=$run/lin.vsock

wait_text() { # FILE WORD: the host's end has said so
	for ((i = 0; i < 1200; i++)); do
		grep -q "$2" "$1" 2>/dev/null && return
		sleep 0.05
	done
	return 1
}
asks() { # NAME: the guest asks the host for a line
	"$lib/vsockpeer" serve "$run/$1.vsock_9" "hello $1" >"$tmp/serve" 2>&1 &
	local pid=$! from
	pids+=("$pid")
	wait_text "$tmp/serve" listening || die "the host's end: $(cat "$tmp/serve")"
	from=$(($(wc -l <"$tmp/$1.out") + 1))
	vm_send v
	wait_line "$tmp/$1.out" 'agent: host says' 60 "$from" || die "the guest's question stays unanswered"
	[ "$line" = "agent: host says hello $1" ] || bad "the guest asked, and got: $line"
	wait "$pid" || bad "the host's end: $(cat "$tmp/serve")"
	grep -q 'the guest asks' "$tmp/serve" || bad "the guest's question: $(cat "$tmp/serve")"
	rm -f "$run/$1.vsock_9"
}
pump() { # PATH
	timeout 300 "$lib/vsockpeer" pump "$1" 7 "$bytes" >"$tmp/pump" 2>&1 || bad "pump: $(cat "$tmp/pump")"
}

"$lib/vsockpeer" pump "$sock" 8 10 >"$tmp/none" 2>&1 && bad "a port where nobody listens"
asks lin
vm_send v # nobody listens
wait_line "$tmp/lin.out" 'agent: host says nothing' 60 || bad "nobody listens, and the guest hears nothing of it"
# Takes and suspends in the middle of a transfer change nothing of it.
timeout 300 "$lib/vsockpeer" pump "$sock" 7 $((bytes * 3)) >"$tmp/pump" 2>&1 &
pumper=$!
pids+=("$pumper")
for _ in 1 2 3; do
	take lin || die "take: $(cat "$tmp/take.err")"
	t suspend lin || bad "suspend"
	t resume lin || bad "resume"
done
wait "$pumper" || bad "pump over takes: $(cat "$tmp/pump")"
wait_line "$tmp/lin.out" "agent: vsock end after $((bytes * 3)) bytes" 60 || bad "the guest did not get it all"

# A connection that is open when the VM is lost.
"$lib/vsockpeer" hold "$sock" 7 >"$tmp/hold" 2>&1 &
holder=$!
pids+=("$holder")
wait_text "$tmp/hold" held || die "no connection: $(cat "$tmp/hold")"
take lin || die "take: $(cat "$tmp/take.err")"
vm_kill "$first"
wait "$holder" || bad "the host's end of a lost VM: $(cat "$tmp/hold")"
t restore lin --check >"$tmp/check" 2>&1 || bad "--check: $(cat "$tmp/check")"
for name in lin two; do
	vm_begin $name restore lin --name $name
	wait_line "$tmp/$name.out" 'agent: vsock end after 5 bytes' 60 || bad "$name: the guest waits for a connection that is no more"
	pump "$run/$name.vsock"
	asks $name
	[ "$name" = lin ] && second=$vm_pid
done
third=$vm_pid
[ -S "$run/two.vsock" ] || bad "no socket for the second VM"
t stop two || bad "stop"
wait "$third"
[ -e "$run/two.vsock" ] && bad "the socket stays behind"
vm_kill "$second"
finish
