#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# virtio-net over a socket: a freestanding guest sends numbered frames without a pause, and gets each back;
# snapshots in the middle of that, SIGKILL, restore on another socket. The other end (tests/lib/netpeer.c)
# sees every number once, over takes and suspends too; the guest sees what returns whole and in order, and
# loses no more than what was on its way at a restore. Links that go away, clones' addresses, --net-map.
# Rounds: TORPOR_TIER quick 3, normal 10, long 100.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=3 ;; long) rounds=100 ;; *) rounds=10 ;; esac

g=$guests/net.pvh
plain=$torpor
# on_wire CMD...: with the VM's process started over a new peer, that writes $tmp/peer.log.
cat >"$tmp/wired" <<EOF
#!/bin/bash
exec "$lib/netpeer" wire "$tmp/peer.log" "$plain" "\$@"
EOF
chmod +x "$tmp/wired"
on_wire() {
	torpor=$tmp/wired
	"$@"
	torpor=$plain
}
word() { awk -v k="$2" '{ for (i = 1; i < NF; i++) if ($i == k) { print $(i + 1); exit } }' <<<"$1"; }
last_round() { grep ' round ' "$tmp/n.out" | tail -n 1; }
# go: 40 more frames come back.
go() {
	local n end
	wait_line "$tmp/n.out" 'round [0-9]+ ' 30 || die "no round: $(tail -n 3 "$tmp/n.out")"
	n=$(word "$(last_round)" back)
	end=$(($(now_ms) + 60000))
	until [ "$(word "$(last_round)" back)" -ge $((n + 40)) ]; do
		[ "$(now_ms)" -lt $end ] || die "stands still: $(last_round)"
		sleep 0.05
	done
}
sound() {
	grep -qE 'FAIL|FAULT' "$tmp/n.out" && bad "$(grep -m1 -E 'FAIL|FAULT' "$tmp/n.out")"
	grep -q FAIL "$tmp/peer.log" && bad "the other end: $(grep -m1 FAIL "$tmp/peer.log")"
}
# settled LOST: no more are lost than at that time.
settled() { [ "$(word "$(last_round)" lost)" -le "$1" ] || bad "lost without a restore: $(last_round)"; }

for how in "beat=2" "beat=2 merge=1" "beat=2 intx=1 event=0" "beat=2 event=0 merge=1"; do
	say "-- $how"
	on_wire vm_begin n run --name n --kernel "$g" --mem 32M --net fd=9,mac=02:00:00:00:00:77 --cmdline "$how" --replace
	go
	grep -q 'mac 2:77' "$tmp/n.out" || bad "$how: another address: $(grep ' mac ' "$tmp/n.out")"
	settled 0
	for ((i = 1; i <= rounds; i++)); do
		take n || die "take: $(cat "$tmp/take.err")"
		frozen=$(json "$tmp/take.json" frozen_at_ns)
		before=$(awk -v t="$frozen" '$1 + 0 <= t && / round / { l = $0 } END { print l }' "$tmp/n.out")
		# The VM that was saved goes on and loses nothing.
		lost=$(word "$before" lost)
		go
		settled "$lost"
		sound
		vm_kill "$vm_pid"
		on_wire vm_begin n restore n --net-map net0=fd=9 --mode "$([ $((i % 2)) = 0 ] && echo lazy || echo eager)"
		wait_line "$tmp/n.out" 'announced' 30 || bad "$how: no announcement after the restore"
		go
		# What was on its way then, four frames, is all that may be gone.
		settled $((lost + 8))
	done
	lost=$(word "$(last_round)" lost)
	t suspend n && sleep 0.2 && t resume n || bad "suspend and resume"
	go
	settled "$lost"
	sound
	vm_kill "$vm_pid"
done

say "-- without a cable, and one that is pulled"
expect_error 2 'net-map net0=WHERE' t restore n
t restore n --check >"$tmp/check" && bad "--check takes a descriptor that nobody gave"
grep -q '^net: .*net-map net0=WHERE' "$tmp/check" || bad "--check says: $(cat "$tmp/check")"
t restore n --check --net-map net0=tap=none0 >"$tmp/check" && bad "--check takes a tap that is not there"
grep -q "^net: .*no interface 'none0'" "$tmp/check" || bad "--check says: $(cat "$tmp/check")"
t restore n --check --net-map net0=none >"$tmp/check" || bad "--check refuses: $(cat "$tmp/check")"
vm_begin n restore n --net-map net0=none
wait_line "$tmp/n.out" 'link down' 30 || bad "no cable, and the link is not down"
vm_kill "$vm_pid"
# The clone's address is the one that the user chose; a VM whose address torpor chose gives clones another.
on_wire vm_begin n run --name o --kernel "$g" --mem 32M --net fd=9 --cmdline "beat=2"
go
take o || die "take: $(cat "$tmp/take.err")"
peer=$(pgrep -f "netpeer wire $tmp/peer.log" | head -n 1)
[ -n "$peer" ] && kill -KILL "$peer"
wait_line "$tmp/n.out" 'link down' 30 || bad "the other end is gone, and the link is not down"
mac() { t snapshot show "$1" --json | jq -r '.. | .mac? // empty' | head -n 1; }
own=$(mac o)
[[ $own =~ ^([0-9a-f]{2}:){5}[0-9a-f]{2}$ ]] || bad "snapshot show tells no address: '$own'"
vm_kill "$vm_pid"
on_wire vm_begin n restore o --name o2 --net-map net0=fd=9
go
take o2 || die "take: $(cat "$tmp/take.err")"
[ "$(mac o2)" != "$own" ] || bad "a clone has its origin's address"
sound
vm_kill "$vm_pid"

say "-- wrong words"
run() { t run --name w --kernel "$g" "$@"; }
expect_error 2 'tap=NAME' run --net bridge=x
expect_error 2 'names no interface' run --net tap=
expect_error 1 'no interface' run --net tap=torpor-none0
expect_error 2 'MAC' run --net none,mac=01:00:00:00:00:01
expect_error 2 'MAC' run --net none,mac=2:0:0:0:0:1
expect_error 2 'mtu' run --net none,mtu=67
expect_error 2 'mac=MAC' run --net none,speed=1
expect_error 2 'not open' run --net fd=77
expect_error 2 'own' run --net fd=1
exec 7</dev/null
expect_error 2 'neither a tap nor' run --net fd=7
exec 7<&-
expect_error 2 'no such net' t restore o --net-map disk0=none
finish
