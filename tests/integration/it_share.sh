#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Clones that share memory: they take little of their own, also when they have read all of it; what one
# writes no other sees; takes, rewinds and resets of them; a keeper or a clone that is killed at any time; a
# keeper that ends with its last clone; a snapshot that is removed or rotten.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) clones=3 rounds=1 ;; long) clones=20 rounds=20 ;; *) clones=5 rounds=3 ;; esac
RANDOM=${TORPOR_SEED:-1}
share=$XDG_RUNTIME_DIR/torpor-share

declare -A pid_of=() in_of=()
# clone NAME ARGS: of p@base, sharing; waits for a sign of life.
clone() {
	local name=$1
	shift
	vm_begin "$name" restore p@base --name "$name" --share-memory "$@"
	pid_of[$name]=$vm_pid in_of[$name]=$vm_in
	wait_line "$tmp/$name.out" 'beat ' 60 || die "$name does not run: $(cat "$tmp/$name.err")"
}
down() {
	vm_kill "${pid_of[$1]}"
	exec {in_of[$1]}>&-
	unset "pid_of[$1]" "in_of[$1]"
}
# tell NAME KEY REGEX: a key for the guest, and the line that it answers.
tell() {
	local from=$(($(wc -l <"$tmp/$1.out") + 1))
	printf %s "$2" >&"${in_of[$1]}"
	wait_line "$tmp/$1.out" "$3" 90 "$from" || die "$1 does not answer: $(tail -n 3 "$tmp/$1.err")"
}
check() {
	tell "$1" C 'check '
	[[ $line == "check ok"* ]] || bad "$2: $1: $line"
}
# The keepers of this test into $keepers.
find_keepers() {
	local p
	keepers=()
	for p in $(pgrep -x keeper); do
		{ tr '\0' '\n' <"/proc/$p/environ"; } 2>/dev/null | grep -qx "XDG_RUNTIME_DIR=$XDG_RUNTIME_DIR" && keepers+=("$p")
	done
}
# wait_keepers NUMBER WHAT
wait_keepers() {
	local i
	for ((i = 0; i < 600; i++)); do
		find_keepers
		[ ${#keepers[@]} = "$1" ] && return 0
		sleep 0.1
	done
	bad "$2: ${#keepers[@]} keepers, wanted $1"
}
# own NAME: KiB that are its own into $own. The file that is shared is nobody's: the keeper maps it, too.
own() { own=$(awk '$1 == "Anonymous:" { print $2 }' "/proc/${pid_of[$1]}/smaps_rollup"); }
at_end() {
	local k
	find_keepers
	for k in "${keepers[@]:-}"; do
		[ -z "$k" ] || kill -KILL "$k"
	done
}

vm_begin p run --name p --kernel "$guests/bench.pvh" --mem 160M --cmdline "beat=20 pages=4 halt=1"
wait_line "$tmp/p.out" 'beat 5 ' 60 || die "the guest does not run"
take p --tag base || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
expect_error 2 'exclude' t restore p@base --share-memory --no-fill

# All at once: one keeper, little memory each, also when all of it was read; what one writes is its own.
for ((i = 1; i <= clones; i++)); do
	vm_begin "c$i" restore p@base --name "c$i" --share-memory
	pid_of[c$i]=$vm_pid in_of[c$i]=$vm_in
done
for ((i = 1; i <= clones; i++)); do
	wait_line "$tmp/c$i.out" 'beat ' 60 || die "c$i does not run: $(cat "$tmp/c$i.err")"
done
wait_keepers 1 "$clones clones"
for ((i = 2; i <= clones; i++)); do
	check "c$i" "shared"
	own "c$i"
	[ "$own" -lt 16384 ] || bad "c$i has $own KiB of its own after reading 160 MiB"
	say "c$i: $own KiB of its own after reading all"
done
tell c1 z 'refilled '
check c1 "its own writes"
own c1
[ "$own" -gt 16384 ] || bad "c1 has written all of its memory, and $own KiB are its own"
for ((i = 2; i <= clones; i++)); do
	check "c$i" "after c1 wrote"
done

# Taken, taken whole, gone back, started anew.
take c1 --tag inc || bad "take: $(cat "$tmp/take.err")"
[ "$(json "$tmp/take.json" incremental)" = true ] || bad "the take of a clone is not incremental"
tell c1 z 'refilled '
t snapshot rewind c1 c1@inc >"$tmp/rw" 2>&1 || bad "rewind: $(cat "$tmp/rw")"
check c1 "after a rewind"
take c2 --tag gone || bad "take: $(cat "$tmp/take.err")"
t snapshot rm c2@gone || bad "rm"
take c2 --tag whole || bad "take without its base: $(cat "$tmp/take.err")"
[ "$(json "$tmp/take.json" incremental)" = false ] || bad "incremental without a base"
for ref in c1@inc c2@whole; do
	vm_begin e restore "$ref" --name e --mode eager
	pid_of[e]=$vm_pid in_of[e]=$vm_in
	wait_line "$tmp/e.out" 'beat ' 60 || die "$ref does not go on: $(cat "$tmp/e.err")"
	check e "$ref"
	down e
done
from=$(($(wc -l <"$tmp/c2.out") + 1))
printf r >&"${in_of[c2]}"
wait_line "$tmp/c2.out" 'beat 3 ' 60 "$from" || bad "no new start after a reset"
check c2 "after a reset"
take c2 --tag again || bad "take after a reset: $(cat "$tmp/take.err")"
check c3 "after all that"

# Without its keeper each has what it has; the next one gets another keeper.
wait_keepers 1 "before"
kill -KILL "${keepers[0]}"
wait_keepers 0 "killed"
check c3 "without the keeper"
clone late
wait_keepers 1 "a late one"
check late "with another keeper"
for name in "${!pid_of[@]}"; do
	[ "$name" = late ] || down "$name"
done
find_keepers
[ ${#keepers[@]} = 1 ] || bad "the keeper of a living clone is gone"
down late
wait_keepers 0 "all killed"
[ -z "$(find "$share" -name '*.sock')" ] || bad "a socket without a keeper is left"

# Killed while it reads, or just after: the restore runs on all of its memory, or says why not.
ran=0
for ((i = 0; i < rounds * 3; i++)); do
	vm_begin "k$i" restore p@base --name "k$i" --share-memory
	pid_of[k$i]=$vm_pid in_of[k$i]=$vm_in
	sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
	find_keepers
	for k in "${keepers[@]:-}"; do
		[ -z "$k" ] || kill -KILL "$k"
	done
	for ((j = 0; j < 1200; j++)); do
		{ grep -q ' beat ' "$tmp/k$i.out" || ! kill -0 "$vm_pid" 2>/dev/null; } && break
		sleep 0.1
	done
	if kill -0 "$vm_pid" 2>/dev/null; then
		ran=$((ran + 1))
		check "k$i" "its keeper was killed"
	else
		grep -q 'share-memory.*keeper' "$tmp/k$i.err" || bad "neither runs nor says why: $(cat "$tmp/k$i.err")"
	fi
	down "k$i"
	wait_keepers 0 "round $i"
done
say "$ran of $i outlived their keeper"

# The snapshot goes away under a clone.
clone a
cp -r "$store" "$tmp/whole"
t snapshot rm p@base || bad "rm under a clone"
t store gc >/dev/null || bad "gc"
check a "its snapshot is gone"
down a
wait_keepers 0 "the snapshot is gone"
rm -rf "$store"
mv "$tmp/whole" "$store"

# Rot is named before a guest runs.
data=$(find "$store/families" -name data.mdb)
hit=0
for part in $("$lib/flip" "$data" --find 54504652 | sed -n '2~3p' | head -n 40); do
	"$lib/flip" "$data" $((part + 900)) 3 || die "flip"
	if { t snapshot verify p@base 2>&1 || true; } | grep -q 'of map memory'; then
		hit=1
		expect_error 1 'share-memory.*(frame|page)' t restore p@base --name rot --share-memory --serial null
		break
	fi
	"$lib/flip" "$data" $((part + 900)) 3 || die "flip back"
done
[ $hit = 1 ] || bad "no flip hit the snapshot"
wait_keepers 0 "in the end"
finish
