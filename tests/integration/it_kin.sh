#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Three VMs of one family at once: A is killed in the middle of a take while B takes, C is restored lazily
# and a collection or compaction runs. B's take is done and sound, C finds every byte, nothing partial
# is listed, what A left is cleared, and A's own snapshots restore.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=2 ;; long) rounds=60 ;; *) rounds=5 ;; esac
RANDOM=${TORPOR_SEED:-1}
say "seed ${TORPOR_SEED:-1}"

declare -A pid_of=() in_of=()
# up NAME ARGS: starts it and waits for a beat.
up() {
	local name=$1
	shift
	vm_begin "$name" "$@"
	pid_of[$name]=$vm_pid in_of[$name]=$vm_in
	wait_line "$tmp/$name.out" 'beat ' 60 || die "$name does not run: $*: $(cat "$tmp/$name.err")"
}
down() {
	vm_kill "${pid_of[$1]}"
	exec {in_of[$1]}>&-
}
# check NAME WHAT
check() {
	local from=$(($(wc -l <"$tmp/$1.out") + 1))
	printf C >&"${in_of[$1]}"
	wait_line "$tmp/$1.out" 'check ' 90 "$from" || die "$2: $1 does not answer: $(tail -n 3 "$tmp/$1.err")"
	[[ $line == "check ok"* ]] || bad "$2: $1: $line"
}
listed() { t snapshot show "$1" >/dev/null 2>&1; }

up a run --name a --kernel "$guests/bench.pvh" --mem 64M --cmdline "beat=10 pages=64 fill=32 halt=1"
take a --tag base || die "take: $(cat "$tmp/take.err")"
up b restore a@base --name b
refs=(a@base)
for ((i = 1; i <= rounds; i++)); do
	# Refilled, a take of it has something to do.
	from=$(($(wc -l <"$tmp/a.out") + 1))
	printf z >&"${in_of[a]}"
	wait_line "$tmp/a.out" 'refilled ' 60 "$from" || bad "no refill"
	ref=${refs[RANDOM % ${#refs[@]}]}
	t snapshot take a --tag "a$i" >"$tmp/ta.out" 2>&1 &
	ta=$!
	t snapshot take b --tag "b$i" >"$tmp/tb.out" 2>&1 &
	tb=$!
	company=$((RANDOM % 3))
	case $company in
	0) t store gc >"$tmp/gc.out" 2>&1 & ;;
	1) t store compact >"$tmp/gc.out" 2>&1 & ;;
	2) t snapshot rm "a@a$((i - 1))" >/dev/null 2>&1 & ;; # may not be there
	esac
	other=$!
	lazy=(--mode lazy)
	[ $((RANDOM % 2)) = 0 ] && lazy+=(--no-fill)
	vm_begin c restore "$ref" --name "c$i" "${lazy[@]}"
	pid_of[c]=$vm_pid in_of[c]=$vm_in
	sleep "0.0$((RANDOM % 10))"
	vm_kill "${pid_of[a]}"
	exec {in_of[a]}>&-
	wait "$ta"
	rc_a=$?
	wait "$tb" || bad "round $i: the take of B while A died: $(cat "$tmp/tb.out")"
	wait "$other" || [ $company = 2 ] || bad "round $i: beside it: $(cat "$tmp/gc.out")"
	wait_line "$tmp/c.out" 'beat ' 60 || { listed "$ref" && die "round $i: C ($ref) does not run: $(cat "$tmp/c.err")"; }
	if kill -0 "${pid_of[c]}" 2>/dev/null; then
		check c "round $i: restored from $ref"
		take "c$i" --tag kin || bad "round $i: take of C, still lazy or not: $(cat "$tmp/take.err")"
		refs+=("c$i@kin")
	fi
	down c
	listed "b@b$i" || bad "round $i: b@b$i is not listed"
	listed "a@a$i" || [ $rc_a != 0 ] || bad "round $i: A's take said it was done"
	t store verify >"$tmp/v" 2>&1 || bad "round $i: verify: $(tail -n 3 "$tmp/v")"
	refs+=("b@b$i")
	check b "round $i"
	now=a@base
	listed "a@a$i" && now=a@a$i
	up a restore "$now" --name a
	check a "round $i: restored from $now"
done
down a
down b
for ref in "${refs[@]}"; do
	listed "$ref" || continue # the third kind of company may have removed it
	up c restore "$ref" --name end --mode eager
	check c "in the end: $ref"
	down c
done
t store gc >/dev/null || bad "gc"
t store stat --json >"$tmp/stat.json" || bad "stat"
for key in dead_bytes pending_bytes hidden; do
	[ "$(json "$tmp/stat.json" $key)" = 0 ] || bad "$key is $(json "$tmp/stat.json" $key) in the end"
done
finish
