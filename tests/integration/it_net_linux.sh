#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Linux on networks of this host, in a network namespace of the test's own (loopback and a tap, nothing else). A TCP
# connection through the tap outlives a suspend, a take, SIGKILL and a restore, byte for byte: this host's end waits
# for the guest's. Through user networking it outlives takes and suspends; a restore resets it, and new ones work.
# Skipped where no namespace can be made, or no guest kernel is built. Rounds: TORPOR_TIER quick 1, normal 2, long 40.
. "$(dirname "$0")/../lib/netns.bash"
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=1 ;; long) rounds=40 ;; *) rounds=2 ;; esac
peer=$lib/netpeer

word() { awk -v k="$2" '{ for (i = 1; i < NF; i++) if ($i == k) { print $(i + 1); exit } }' <<<"$1"; }
# tcp_begin LOG tcp ADDRESS PORT KIB
tcp_begin() {
	local log=$1
	shift
	"$peer" "$@" >"$log" 2>&1 &
	tcp_pid=$!
	pids+=("$tcp_pid")
}
# moved LOG KIB: that much has come back.
moved() {
	local end=$(($(now_ms) + 900000)) n
	until n=$(grep kib "$1" | tail -n 1) && [ "$(word "${n:-kib 0 }" kib)" -ge "$2" ] || grep -q done "$1"; do
		grep -q FAIL "$1" && die "$(cat "$1")"
		[ "$(now_ms)" -lt $end ] || die "no more comes over TCP: $(tail -n 1 "$1")"
		sleep 0.1
	done
}
done_tcp() {
	local end=$(($(now_ms) + 900000))
	until grep -q done "$1"; do
		grep -q FAIL "$1" && die "$(cat "$1")"
		[ "$(now_ms)" -lt $end ] || die "TCP does not end: $(tail -n 1 "$1")"
		sleep 0.1
	done
	wait "$tcp_pid"
}
kib() { word "$(grep kib "$1" | tail -n 1) " kib; }

kernel=$("$top/tests/guest/linux/build" --path)
[ -f "$kernel" ] || {
	say "skipped: the guest kernel is not built (tests/guest/linux/build)"
	exit 77
}
initrd=$guests/initrd-net.cpio
clock=
grep -qwE 'vmx|svm' /proc/cpuinfo || clock=" clocksource=kvm-clock"

if ip tuntap add dev tt1 mode tap 2>"$tmp/tap.err"; then
	say "-- Linux on a tap: one connection over suspend, take, SIGKILL and restore"
	ip addr add 10.9.1.1/24 dev tt1 && ip link set tt1 up || die "setting up the tap"
	vm_begin lin run --name lin --kernel "$kernel" --initrd "$initrd" --mem 128M --net tap=tt1 \
		--cmdline "console=ttyS0 net_ip=10.9.1.2$clock"
	wait_line "$tmp/lin.out" 'net: up' 900 || die "Linux has no network: $(tail -n 3 "$tmp/lin.out")"
	total=$((256 + rounds * 128))
	tcp_begin "$tmp/tap.log" tcp 10.9.1.2 7 $total
	moved "$tmp/tap.log" 64
	take lin || die "take: $(cat "$tmp/take.err")"
	moved "$tmp/tap.log" $(($(kib "$tmp/tap.log") + 32))
	for ((i = 1; i <= rounds; i++)); do
		t suspend lin || die "suspend"
		take lin || die "take: $(cat "$tmp/take.err")"
		vm_kill "$vm_pid"
		grep -q done "$tmp/tap.log" && break
		at=$(kib "$tmp/tap.log")
		vm_begin lin restore lin --mode "$([ $((i % 2)) = 0 ] && echo lazy || echo eager)"
		moved "$tmp/tap.log" $((at + 32))
	done
	done_tcp "$tmp/tap.log"
	vm_kill "$vm_pid"
else
	say "without a tap: $(head -n 1 "$tmp/tap.err")"
fi

say "-- Linux over user networking"
for ((port = 20000; port < 20020; port++)); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break; done
fwd="user,hostfwd=tcp::$port-:7"
vm_begin us run --name us --kernel "$kernel" --initrd "$initrd" --mem 128M --net "$fwd,loopback" \
	--cmdline "console=ttyS0 net_ip=10.0.2.15 net_gw=10.0.2.2$clock"
wait_line "$tmp/us.out" 'net: up' 900 || die "Linux has no network: $(tail -n 3 "$tmp/us.out")"
expect_error 1 "TCP port $port" t run --name us2 --kernel "$kernel" --net "$fwd"
tcp_begin "$tmp/user.log" tcp 127.0.0.1 "$port" 384
moved "$tmp/user.log" 64
take us || die "take: $(cat "$tmp/take.err")"
t suspend us && sleep 0.3 && t resume us || die "suspend and resume"
done_tcp "$tmp/user.log"
# In the middle of another one: the restored guest finds it reset, and takes new ones.
tcp_begin "$tmp/user2.log" tcp 127.0.0.1 "$port" 100000
moved "$tmp/user2.log" 32
take us || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
wait "$tcp_pid" && bad "the connection of a VM that is gone lives on"
vm_begin us restore us
wait_line "$tmp/us.out" 'net: gone' 600 || bad "the guest is not told that its connection is gone"
tcp_begin "$tmp/user3.log" tcp 127.0.0.1 "$port" 128
done_tcp "$tmp/user3.log"
# A clone, on another port.
take us || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
vm_begin us restore us --name us3 --net-map "net0=user,hostfwd=tcp:127.0.0.1:$((port + 1))-10.0.2.15:7"
for ((i = 0; i < 600; i++)); do
	ss -Hltn "sport = :$((port + 1))" | grep -q . && break
	sleep 0.1
done
tcp_begin "$tmp/user4.log" tcp 127.0.0.1 "$((port + 1))" 128
done_tcp "$tmp/user4.log"
vm_kill "$vm_pid"

finish
