#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# SIGKILL of the VMM at instants of a take (20, --long 100): earlier snapshots verify, nothing partial is
# listed, and the next take works. The guest: 64 MiB, ring 3.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) kills=5 ;; long) kills=100 ;; *) kills=20 ;; esac
RANDOM=${TORPOR_SEED:-1}
say "seed ${TORPOR_SEED:-1}"

start() {
	vm_begin k "$@"
	wait_line "$tmp/k.out" 'beat ' 30 || die "does not run"
}
start run --name k --kernel "$guests/bench.pvh" --mem 96M --cmdline "beat=10 pages=64 fill=64 halt=1"
t0=$(now_ms)
take k --tag base || die "take: $(cat "$tmp/take.err")"
whole=$(($(now_ms) - t0 + 5))
say "a whole take needs about $whole ms"
good=1
for ((i = 1; i <= kills; i++)); do
	# Instants spread over the take, each moved a little by chance.
	at=$((whole * 12 / 10 * i / (kills + 1) + RANDOM % 5))
	t snapshot take k --tag "t$i" >"$tmp/k$i.out" 2>"$tmp/k$i.err" &
	client=$!
	sleep "$(awk -v ms=$at 'BEGIN { printf "%.3f", ms / 1000 }')"
	vm_kill "$vm_pid"
	wait $client
	rc=$?
	t snapshot list k --json >"$tmp/list.json" 2>"$tmp/list.err" || die "kill $i: list fails: $(cat "$tmp/list.err")"
	n=$(grep -o '"number"' "$tmp/list.json" | wc -l)
	listed=$(grep -c "\"t$i\"" "$tmp/list.json")
	if [ "$rc" = 0 ] && [ "$listed" = 0 ]; then
		bad "kill $i at $at ms: the take said it was done and is not listed"
	fi
	good=$((good + (listed > 0)))
	[ "$n" = "$good" ] || bad "kill $i at $at ms: $n snapshots are listed, wanted $good"
	t snapshot verify --all >"$tmp/verify.out" 2>&1 || bad "kill $i at $at ms: verify: $(tail -n 3 "$tmp/verify.out")"
	say "kill $i at $at ms: take $([ $rc = 0 ] && echo done || echo lost), $n listed, all verify"
	start restore k
done
take k --tag last || bad "the take after all kills: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
start restore k@last
vm_send C
wait_line "$tmp/k.out" 'check ok' 20 || bad "memory is wrong at the end"
vm_kill "$vm_pid"
start restore k@base
vm_send C
wait_line "$tmp/k.out" 'check ok' 20 || bad "memory of the first snapshot is wrong"
grep -l CORRUPT "$tmp"/*.out && bad "CORRUPT"
vm_kill "$vm_pid"
finish
