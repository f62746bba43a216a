#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Many clients at once take, suspend, resume, list, stop and SIGKILL one VM, which is started or restored
# again whenever it has gone (20 s, --long 10 minutes; seeded). Every client call ends in time with a
# status of its own kind; what is listed verifies; the guest's memory is right after every restore.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) seconds=8 ;; long) seconds=600 ;; *) seconds=20 ;; esac
seed=${TORPOR_SEED:-1}
RANDOM=$seed
say "seed $seed, $seconds s"
end=$(($(now_ms) + seconds * 1000))
over() { [ "$(now_ms)" -ge "$end" ]; }

# client NUMBER: calls in any order until the time is over; one line per call into a log of its own.
client() {
	local n=$1 i=0 rc verb
	RANDOM=$((seed * 31 + n))
	while ! over; do
		i=$((i + 1))
		case $((RANDOM % 9)) in
		0 | 1) verb="snapshot take s --tag c$n-$i" ;;
		2) verb="suspend s" ;;
		3) verb="suspend s --vcpus" ;;
		4 | 5) verb="resume s" ;;
		6) verb="resume s --vcpus" ;;
		7) verb="list --json" ;;
		8) verb="snapshot list s --json" ;;
		esac
		# shellcheck disable=SC2086
		timeout -k 5 60 "$torpor" $verb --store "$store" >"$tmp/c$n.out" 2>"$tmp/c$n.err"
		rc=$?
		echo "$rc $verb" >>"$tmp/c$n.log"
		[ $rc -le 1 ] || echo "exit $rc: $verb: $(head -c 300 "$tmp/c$n.err")" >>"$tmp/c$n.bad"
		if [ $rc != 0 ] && [ "$(wc -l <"$tmp/c$n.err")" != 1 ]; then
			echo "$(wc -l <"$tmp/c$n.err") lines on stderr: $verb: $(head -c 300 "$tmp/c$n.err")" >>"$tmp/c$n.bad"
		fi
		sleep 0.0$((RANDOM % 10))
	done
}

start() {
	vm_begin s "$@"
	wait_line "$tmp/s.out" 'beat ' 60 || die "does not run: $*: $(cat "$tmp/s.err")"
}
start run --name s --kernel "$guests/bench.pvh" --mem 64M --cmdline "beat=10 pages=64 fill=32 halt=1"
take s --tag base || die "take: $(cat "$tmp/take.err")"
clients=()
for n in 1 2 3 4 5 6; do
	client $n &
	clients+=($!)
	pids+=($!)
done
ends=0 kills=0 stops=0
while ! over; do
	sleep "$((RANDOM % 3)).$((RANDOM % 10))"
	if [ $((RANDOM % 3)) = 0 ]; then
		stops=$((stops + 1))
		t stop s >"$tmp/stop.out" 2>&1 || bad "stop: $(cat "$tmp/stop.out")"
		wait "$vm_pid"
		rc=$?
		[ $rc = 0 ] || bad "a stopped VM exits with $rc: $(tail -n 3 "$tmp/s.err")"
	else
		kills=$((kills + 1))
		vm_kill "$vm_pid"
	fi
	ends=$((ends + 1))
	grep -q CORRUPT "$tmp/s.out" && bad "CORRUPT: $(grep -m1 CORRUPT "$tmp/s.out")"
	exec {vm_in}>&-
	start restore s
	vm_send C
	# Suspended by a client it answers when somebody lets it go on.
	for ((i = 0; i < 200; i++)); do
		grep -q ' check ' "$tmp/s.out" && break
		sleep 0.2
		t resume s >"$tmp/resume.out" 2>&1
		t resume s --vcpus >"$tmp/resume.out" 2>&1
	done
	wait_line "$tmp/s.out" 'check ' 1
	[[ $line == "check ok"* ]] || bad "after restore: '$line'"
done
for p in "${clients[@]}"; do
	wait "$p"
done
t stop s >"$tmp/stop.out" 2>&1 || bad "last stop: $(cat "$tmp/stop.out")"
wait "$vm_pid"
cat "$tmp"/c*.bad 2>/dev/null | head -n 10 | while read -r l; do say "client: $l"; done
[ -z "$(cat "$tmp"/c*.bad 2>/dev/null)" ] || bad "$(cat "$tmp"/c*.bad | wc -l) client calls ended badly"
t snapshot verify --all >"$tmp/verify.out" 2>&1 || bad "verify: $(tail -n 3 "$tmp/verify.out")"
# What a client was told is there, is there.
t snapshot list s --json >"$tmp/list.json" 2>&1 || bad "list: $(cat "$tmp/list.json")"
told=0
while read -r tag; do
	told=$((told + 1))
	grep -q "\"$tag\"" "$tmp/list.json" || bad "the take $tag said it was done and is not listed"
done < <(sed -n 's/^0 snapshot take s --tag //p' "$tmp"/c*.log)
[ $told -gt 0 ] || bad "no take succeeded"
say "$(cat "$tmp"/c*.log | wc -l) client calls, $told takes done, $kills kills, $stops stops"
finish
