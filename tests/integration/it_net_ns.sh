#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Networks of this host, in a network namespace of the test's own (loopback and a tap, nothing else): a freestanding
# guest sends numbered datagrams and gets them back, over a tap that does its checksums, and over user networking;
# snapshots in the middle, SIGKILL, restores; a tap that is taken away, a process of user networking that dies.
# Skipped where no namespace can be made. Rounds: TORPOR_TIER quick 2, normal 5, long 40.
. "$(dirname "$0")/../lib/netns.bash"
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=2 ;; long) rounds=50 ;; *) rounds=5 ;; esac
peer=$lib/netpeer

word() { awk -v k="$2" '{ for (i = 1; i < NF; i++) if ($i == k) { print $(i + 1); exit } }' <<<"$1"; }
g=$guests/net.pvh
# go NAME: answers come, and go on.
go() {
	local n
	wait_line "$tmp/$1.out" 'round .* back [1-9]' 60 || die "$1: no answers: $(tail -n 2 "$tmp/$1.out")"
	n=$(word "$(grep ' round ' "$tmp/$1.out" | tail -n 1)" back)
	wait_line "$tmp/$1.out" "round .* back ($((n + 60))|$((n + 61))|$((n + 62))|$((n + 63))) " 60 ||
		die "$1: answers end after $n: $(tail -n 1 "$tmp/$1.out")"
	grep -qE 'FAIL|FAULT' "$tmp/$1.out" && bad "$1: $(grep -m1 -E 'FAIL|FAULT' "$tmp/$1.out")"
}
# carry NAME: takes, kills and restores again and again.
carry() {
	local i
	for ((i = 1; i <= rounds; i++)); do
		take "$1" || die "take: $(cat "$tmp/take.err")"
		vm_kill "$vm_pid"
		vm_begin "$1" restore "$1" --mode "$([ $((i % 2)) = 0 ] && echo lazy || echo eager)"
		wait_line "$tmp/$1.out" 'announced' 30 || bad "$1: no announcement"
		go "$1"
	done
}

if ip tuntap add dev tt0 mode tap 2>"$tmp/tap.err"; then
	say "-- a tap, checksums left to the host"
	ip addr add 10.9.0.1/24 dev tt0 && ip link set tt0 up || die "setting up the tap"
	ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev tt0 nud permanent || die "the guest's neighbour entry"
	"$peer" udp 10.9.0.1 7 &
	pids+=("$!")
	vm_begin n run --name n --kernel "$g" --mem 32M --net tap=tt0,mac=02:00:00:00:00:02 --cmdline "beat=2 udp=1 merge=1"
	go n
	expect_error 1 'in use' t run --name n2 --kernel "$g" --net tap=tt0
	carry n
	# Its offloads are the tap's: nothing else will do.
	take n || die "take: $(cat "$tmp/take.err")"
	vm_kill "$vm_pid"
	expect_error 1 'only a tap has' t restore n --net-map net0=user
	# A tap that is taken away is a cable pulled; the VM runs on.
	vm_begin n restore n
	wait_line "$tmp/n.out" 'announced' 30 || bad "no announcement"
	ip link del tt0
	wait_line "$tmp/n.out" 'link down' 30 || bad "the tap is gone, and the link is not down"
	vm_kill "$vm_pid"
else
	say "without a tap: $(head -n 1 "$tmp/tap.err")"
fi

say "-- user networking"
"$peer" udp 127.0.0.1 7 &
pids+=("$!")
vm_begin u run --name u --kernel "$g" --mem 32M --net user,loopback --cmdline "beat=2 udp=2"
go u
t suspend u && sleep 0.2 && t resume u || bad "suspend and resume"
go u
carry u
# It is a process of its own, with nothing of the VM's but a socket, and ends with the VM.
helper=$(pgrep -P "$vm_pid" -x usernet)
[ -n "$helper" ] || die "user networking has no process of its own"
grep -q '^Seccomp:.*2' "/proc/$helper/status" || bad "user networking without a filter"
find "/proc/$helper/fd" -type l ! -lname 'socket:*' ! -name 2 | grep -q . && bad "user networking holds what is the VM's"
take u || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
for ((i = 0; i < 300; i++)); do kill -0 "$helper" 2>/dev/null || break; sleep 0.1; done
kill -0 "$helper" 2>/dev/null && bad "the process of user networking outlives its VM"
# --check knows its words, and tells of a port that is taken (netpeer has UDP port 7).
t restore u --check >"$tmp/check.out" 2>&1 || bad "restore --check with user networking: $(cat "$tmp/check.out")"
t restore u --check --net-map net0=user,restrict,hostfwd=udp::8-:8 >"$tmp/check.out" 2>&1 ||
	bad "restore --check with a free port: $(cat "$tmp/check.out")"
t restore u --check --net-map net0=user,hostfwd=udp::7-:7 >"$tmp/check.out" 2>&1 && bad "restore --check: a port that is taken"
grep -q 'UDP port 7' "$tmp/check.out" || bad "restore --check tells no port: $(cat "$tmp/check.out")"
# Shut off: what the host has on its loopback is out of reach, with and without a restriction.
for how in user user,restrict; do
	vm_begin u restore u --net-map "net0=$how"
	wait_line "$tmp/u.out" 'announced' 30 || bad "no announcement"
	n=$(word "$(grep ' round ' "$tmp/u.out" | tail -n 1)" sent)
	wait_line "$tmp/u.out" "round .* sent ($((n + 4))|$((n + 5))|$((n + 6))|$((n + 7))|$((n + 8))) " 120 || bad "$how: the guest stands still"
	first=$(word "$(grep -m1 ' round ' "$tmp/u.out")" back)
	last=$(word "$(grep ' round ' "$tmp/u.out" | tail -n 1)" back)
	# What it had received when it was saved is in its buffers.
	[ "$last" -le $((first + 8)) ] || bad "$how: the guest reached the host's loopback"
	vm_kill "$vm_pid"
done
# Its process dies: the guest sees the link go, the VM goes on.
vm_begin u restore u
go u
kill -KILL "$(pgrep -P "$vm_pid" -x usernet)"
wait_line "$tmp/u.out" 'link down' 30 || bad "user networking is gone, and the link is not down"
take u || bad "take without user networking: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
vm_begin u restore u
go u
vm_kill "$vm_pid"

say "-- wrong words"
run() { t run --name w --kernel "$g" "$@"; }
expect_error 2 'hostfwd' run --net user,hostfwd=tcp:8080
expect_error 2 'hostfwd' run --net user,hostfwd=sctp::80-:80
expect_error 2 'hostfwd' run --net user,hostfwd=tcp::0-:80
expect_error 2 'hostfwd' run --net user,hostfwd=tcp:1.2.3:80-:80
expect_error 2 'mac=MAC' run --net none,restrict
expect_error 1 'UDP port 7' run --net user,hostfwd=udp::7-:7
finish
