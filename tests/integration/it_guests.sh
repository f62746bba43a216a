#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A host in namespaces of its own (mount, pid, net) with defined guests: its power is cut (SIGKILL to everything) at
# random moments (3 times, --long 100) and the boot command brings every guest back, at a generation that verifies and is the
# newest there is, once, though two boot commands and a manual start run at the same time. Shutdown
# and boot go on with the very next beat. A damaged newest generation: the one before, told of and kept.
# A full disk: the most urgent are saved, the others told of and alive.
if [ -z "${IT_GUESTS_INSIDE:-}" ]; then
	if [ "$(id -u)" = 0 ] && unshare -mpn --fork true 2>/dev/null; then
		IT_GUESTS_INSIDE=1 exec unshare -m "$0"
	elif unshare -Urmpn --fork true 2>/dev/null; then
		IT_GUESTS_INSIDE=1 exec unshare -Urm "$0"
	fi
	echo "skipped: no namespaces can be made"
	exit 77
fi
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) cuts=1 ;; long) cuts=100 ;; *) cuts=3 ;; esac
RANDOM=${TORPOR_SEED:-1}
say "seed ${TORPOR_SEED:-1}"
host=
at_end() { host_cut; umount -l "$tmp/small" 2>/dev/null; }

# host_up COMMAND: a host that has just booted runs COMMAND; returns when it is through. Its run folder is empty.
host_up() {
	rm -f "$tmp/up"
	unshare -mpn --fork --mount-proc -- bash -c '
		mount -t tmpfs none "$XDG_RUNTIME_DIR" || exit 1
		ip link set lo up
		t() { timeout 300 "$torpor" "$@" --store "$store"; }
		eval "$1"
		: >"$tmp/up"
		exec 7<>"$tmp/ask"
		while read -r command <&7; do
			(eval "$command") >"$tmp/asked.out" 2>"$tmp/asked.err"
			echo $? >"$tmp/asked.new"
			mv "$tmp/asked.new" "$tmp/asked"
		done' host "$1" 2>"$tmp/host.err" &
	host=$!
	local end=$(($(now_ms) + 600000))
	until [ -e "$tmp/up" ]; do
		kill -0 "$host" 2>/dev/null || die "the host does not come up: $(cat "$tmp/host.err")"
		[ "$(now_ms)" -lt "$end" ] || die "the boot command hangs"
		sleep 0.02
	done
}
# in_host COMMAND: runs it there; its status, its output in $tmp/asked.out and .err.
in_host() {
	local end=$(($(now_ms) + 600000))
	rm -f "$tmp/asked"
	printf '%s\n' "$1" >"$tmp/ask"
	until [ -e "$tmp/asked" ]; do
		[ "$(now_ms)" -lt "$end" ] || die "hangs: $1"
		sleep 0.02
	done
	return "$(cat "$tmp/asked")"
}
# The first process of a pid namespace takes all others with it.
host_cut() {
	[ -n "$host" ] || return 0
	pkill -KILL -P "$host" 2>/dev/null
	wait "$host" 2>/dev/null
	host=
}
mkfifo "$tmp/ask"
exec 7<>"$tmp/ask"
export torpor store tmp
define() {
	local name=$1 mem=$2 cmdline=$3
	shift 3
	t define "$name" --kernel "$guests/bench.pvh" --mem "$mem" --cmdline "$cmdline" --serial "file:$tmp/$name.log" "$@" ||
		die "define $name"
}
# beats NAME FROM_LINE: the numbers of the whole lines behind that line, one per line.
beats() { tail -n "+$(($2 + 1))" "$tmp/$1.log" | sed -nE 's/^beat ([0-9]+) tsc [0-9]+ sum [0-9a-f]+.?$/\1/p'; }
lines() { wc -l <"$tmp/$1.log"; }
# goes_on NAME FROM_LINE N: until N beats have come behind that line; they must be successive ones. First in $first.
goes_on() {
	local end=$(($(now_ms) + 300000)) got
	while :; do
		mapfile -t got < <(beats "$1" "$2")
		[ ${#got[@]} -ge "$3" ] && break
		[ "$(now_ms)" -lt "$end" ] || { bad "$1 stands still: $(tail -n 3 "$tmp/$1.log")"; return 1; }
		sleep 0.05
	done
	# The first line may be what was left of the one that the cut has torn.
	[ ${#got[@]} -lt 3 ] || [ $((got[0] + 1)) = "${got[1]}" ] || got=("${got[@]:1}")
	first=${got[0]}
	local i
	for ((i = 1; i < ${#got[@]}; i++)); do
		[ $((got[i - 1] + 1)) = "${got[i]}" ] || { bad "$1: beat ${got[i]} behind ${got[i - 1]}: two of it?"; return 1; }
	done
}
newest() { t snapshot list "$1" --json 2>/dev/null | grep -o '"number": [0-9]*' | tail -n 1 | tr -dc 0-9; }

# ---- power cuts ----
names=(a b c d e f)
for n in "${names[@]}"; do
	needs=()
	[ "$n" != f ] || needs=(--needs a --needs b)
	define "$n" 24M "beat=50 pages=8 fill=2 halt=1" --checkpoint-every 1s --checkpoint-keep 5 --wanted on "${needs[@]}"
done
expect_error 1 'defined already' t define a --kernel "$guests/bench.pvh"
expect_error 2 'need itself' t edit a --needs f
expect_error 1 'no guest' t edit z --priority 3
expect_error 2 'is missing' t define z
expect_error 1 'no guest' t start z
t list --all --json >"$tmp/list.json" || bad "list --all"
[ "$(grep -c '"defined"' "$tmp/list.json")" = 6 ] || bad "list --all: $(cat "$tmp/list.json")"
host_up 't guests start --json >"$tmp/start.json" 2>"$tmp/start.err"'
for n in "${names[@]}"; do
	goes_on "$n" 0 3 || die "does not run: $(cat "$tmp/start.err")"
done
oldest_ms=0
for ((i = 1; i <= cuts; i++)); do
	# Every guest has a generation of this life by then.
	for n in "${names[@]}"; do
		before=$(newest "$n")
		end=$(($(now_ms) + 300000))
		until [ "$(newest "$n")" != "$before" ]; do
			[ "$(now_ms)" -lt "$end" ] || die "cut $i: $n is not taken any more"
			sleep 0.2
		done
	done
	sleep "$((RANDOM % 2)).$((RANDOM % 1000))"
	host_cut
	cut_ms=$(now_ms)
	declare -A want at
	for n in "${names[@]}"; do
		want[$n]=$(newest "$n")
		at[$n]=$(lines "$n")
		frozen=$(t snapshot list "$n" --json | grep -o '"frozen_at_ns": [0-9]*' | tail -n 1 | tr -dc 0-9)
		age=$((cut_ms - frozen / 1000000))
		[ "$age" -gt "$oldest_ms" ] && oldest_ms=$age
		[ "$age" -lt 60000 ] || bad "cut $i: the newest generation of $n is $age ms old"
	done
	t0=$(now_ms)
	# Two boot commands and somebody who is in a hurry.
	host_up 't guests start --json >"$tmp/start2.json" 2>"$tmp/start2.err" & t start c >"$tmp/start3" 2>&1 &
		t guests start --json >"$tmp/start.json" 2>"$tmp/start.err"; wait %1 %2'
	say "cut $i: up after $(($(now_ms) - t0)) ms"
	grep -q '"ok": true' "$tmp/start.json" && grep -q '"ok": true' "$tmp/start2.json" ||
		bad "cut $i: a boot command failed: $(cat "$tmp/start.json" "$tmp/start2.json")"
	for n in "${names[@]}"; do
		goes_on "$n" "${at[$n]}" 4 || continue
		in_host "t guests status $n --json" || bad "cut $i: status"
		used=$(json "$tmp/asked.out" used)
		[ "$used" = "${want[$n]}" ] || bad "cut $i: $n came back at generation $used, the newest was ${want[$n]}: $(cat "$tmp/asked.out")"
		in_host "pgrep -c -f 'torpor restore $n@'"
		[ "$(cat "$tmp/asked.out")" = 1 ] || bad "cut $i: $(cat "$tmp/asked.out") processes of $n"
	done
done
say "newest generations were at most $oldest_ms ms old"

# ---- shutdown and boot ----
in_host 't guests stop --timeout 300 --json' || bad "guests stop: $(cat "$tmp/asked.out" "$tmp/asked.err")"
declare -A last at
for n in "${names[@]}"; do
	at[$n]=$(lines "$n")
	# The line that the freeze has cut is completed behind the boot.
	last[$n]=$(head -n "${at[$n]}" "$tmp/$n.log" | sed -nE 's/^beat ([0-9]+) .*/\1/p' | tail -n 1)
done
in_host 't list --json' && grep -q '"running"' "$tmp/asked.out" && bad "some run after guests stop: $(cat "$tmp/asked.out")"
host_cut
t store verify >"$tmp/verify.out" 2>&1 || bad "verify: $(tail -n 3 "$tmp/verify.out")"
host_up 't guests start --json >"$tmp/start.json" 2>"$tmp/start.err"'
grep -q '"clean": false' "$tmp/start.json" && bad "after a clean shutdown: $(cat "$tmp/start.json")"
for n in "${names[@]}"; do
	goes_on "$n" "${at[$n]}" 4 || continue
	[ "$first" = $((last[$n] + 1)) ] || bad "$n goes on with beat $first behind ${last[$n]}"
done
[ -s "$tmp/start.err" ] && bad "a clean boot says: $(cat "$tmp/start.err")"

# ---- fences ----
in_host 't start a' && bad "a runs, and is started again"
grep -q 'already running' "$tmp/asked.err" || bad "says: $(cat "$tmp/asked.err")"
in_host 't restore a@'"$(newest a)"' --serial null --detach' && bad "a runs, and is restored beside it"
# Its process dies: its keeper brings it back once from a generation, and not from the same one again.
in_host 't checkpoint policy b --off' || bad "policy"
for n in a c d e f; do in_host "t guests stop $n --timeout 300" || bad "stop $n: $(cat "$tmp/asked.err")"; done
in_host 't snapshot take b --tag mine' || bad "take: $(cat "$tmp/asked.err")"
in_host 't edit b --checkpoint-every 1h' || bad "edit: $(cat "$tmp/asked.err")"
for again in once twice; do
	from=$(lines b)
	in_host "pkill -KILL -f 'torpor (restore|run) (b@|--name b)'"
	if [ $again = once ]; then
		goes_on b "$from" 3 || bad "b does not come back: $(cat "$tmp/asked.err")"
	fi
done
end=$(($(now_ms) + 120000))
until in_host 't guests status b' && grep -q 'brought back already' "$tmp/asked.out"; do
	[ "$(now_ms)" -lt "$end" ] || { bad "the same generation twice: $(cat "$tmp/asked.out")"; break; }
	sleep 0.2
done
in_host 't guests start b --json' || bad "by hand: $(cat "$tmp/asked.out" "$tmp/asked.err")"

# ---- a damaged newest generation ----
from=$(lines b)
goes_on b "$from" 3
data=$(dirname "$(grep -l . "$store"/families/*/data.mdb | head -n 1)")
family=$(t snapshot list b --json | grep -o -m1 '"family": "[^"]*"' | cut -d '"' -f 4)
data=$store/families/$family/data.mdb
good=$(newest b)
# Ids and offsets of what looks like a frame; a small one may be there several times, in pages that were freed since.
frames() {
	local at
	for at in $("$lib/flip" "$data" --find 54504652); do
		echo "$(od -An -tu8 -j $((at + 8)) -N 8 "$data" | tr -d ' ') $at"
	done
}
# One bit of every frame that was not there at the last `frames >before`.
damage_new() {
	local at n=0
	frames >"$tmp/after"
	for at in $(awk 'NR == FNR { old[$1] = 1; next } !($1 in old) { print $2 }' "$tmp/before" "$tmp/after"); do
		"$lib/flip" "$data" $((at + 40)) 3 || die "flip"
		n=$((n + 1))
	done
	[ $n -gt 0 ] || die "the newest generation has no frame of its own"
}
frames >"$tmp/before"
in_host 't guests stop b --timeout 300' || bad "stop: $(cat "$tmp/asked.err")"
host_cut
worst=$(newest b)
[ "$worst" -gt "$good" ] || bad "nothing was taken at the stop"
damage_new
t edit b --wanted on && for n in a c d e f; do t autostart "$n" --off || bad "autostart --off"; done
host_up 't guests start --json >"$tmp/start.json" 2>"$tmp/start.err"'
[ "$(json "$tmp/start.json" number)" = "$good" ] || bad "not from $good: $(cat "$tmp/start.json" "$tmp/start.err")"
grep -q "generation $worst cannot be used, and is kept: .*frame" "$tmp/start.err" || bad "the loss is not told: $(cat "$tmp/start.err")"
grep -q "goes on from generation $good .* before the newest" "$tmp/start.err" || bad "the time is not told: $(cat "$tmp/start.err")"
t snapshot list b --json | grep -A 30 "\"number\": $worst," | grep -q -m1 '"pinned": true' || bad "the damaged one is not pinned"
in_host 't guests status b' && grep -q 'cannot be used' "$tmp/asked.out" || bad "status does not tell: $(cat "$tmp/asked.out")"
from=$(lines b)
goes_on b "$from" 3
# Not looked at after a clean shutdown: the damage ends the guest, and its keeper goes to the generation before.
in_host 't edit b --verify crash' || bad "edit"
good=$(newest b)
frames >"$tmp/before"
in_host 't guests stop b --timeout 300' || bad "stop: $(cat "$tmp/asked.err")"
host_cut
worst=$(newest b)
damage_new
host_up 't guests start --json >"$tmp/start.json" 2>"$tmp/start.err"'
end=$(($(now_ms) + 120000))
until in_host 't guests status b --json' && grep -q "generation $worst cannot be used" "$tmp/asked.out"; do
	[ "$(now_ms)" -lt "$end" ] || { bad "damage that was met late is not told of: $(cat "$tmp/asked.out")"; break; }
	sleep 0.1
done
from=$(lines b)
goes_on b "$from" 3
in_host 't stop b'
host_cut
t undefine b || bad "undefine"
expect_error 1 'no guest' t undefine b
[ -n "$(newest b)" ] || bad "undefine has removed snapshots"

# ---- no room for all ----
mkdir "$tmp/small"
mount -t tmpfs -o size=14M none "$tmp/small" || {
	say "no tmpfs: a full disk is not tried"
	finish
}
store=$tmp/small/store
for n in u v w; do
	define "$n" 64M "beat=50 pages=8 fill=32 halt=1 seed=$RANDOM" --checkpoint-every off --wanted on
done
t edit v --priority 90 || bad "priority"
host_up 't guests start --json >"$tmp/start.json" 2>"$tmp/start.err"'
for n in u v w; do
	goes_on "$n" 0 3
done
t0=$(now_ms)
in_host 't guests stop --timeout 120 --json' && bad "all were saved: the disk is not small enough"
[ $(($(now_ms) - t0)) -lt 130000 ] || bad "told only after $(($(now_ms) - t0)) ms"
saved=$(grep -c '"result": "done"' "$tmp/asked.out")
[ "$saved" -ge 1 ] && [ "$saved" -le 2 ] || bad "$saved are saved: $(cat "$tmp/asked.out")"
grep -A 3 '"name": "v"' "$tmp/asked.out" | grep -q '"done"' || bad "the most urgent one is not saved: $(cat "$tmp/asked.out")"
for n in u w; do
	grep -q "\"ref\": \"$n@" "$tmp/asked.out" && continue
	from=$(lines "$n")
	goes_on "$n" "$from" 2 || bad "$n could not be saved, and does not go on"
	t snapshot list "$n" >"$tmp/none" 2>&1 && bad "half a generation of $n is listed: $(cat "$tmp/none")"
done
host_cut
t store verify >"$tmp/verify.out" 2>&1 || bad "verify: $(tail -n 3 "$tmp/verify.out")"
finish
