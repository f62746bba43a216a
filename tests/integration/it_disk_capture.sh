#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Captured disks: a freestanding guest knows what every sector of its disk holds (tests/guest/free/disk.c), so it finds
# out whenever disk and memory are not of one moment. Takes under load, SIGKILL, restores lazy and eager, clones,
# rewinds, removals in between, power off and another run; the base is never written.
# Rounds: TORPOR_TIER quick 2, normal 5, long 100.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=2 ;; long) rounds=100 ;; *) rounds=5 ;; esac

g=$guests/disk.pvh
base=$tmp/base.img
head -c 4M /dev/urandom >"$base"
truncate -s 8M "$base"
before=$(sha256sum <"$base")
disk="$base,id=data"
lines() { wc -l <"$tmp/$1.out"; }
sound() {
	grep -qE 'FAIL|FAULT' "$tmp/$1.out" && die "$1: $(grep -m1 -E 'FAIL|FAULT' "$tmp/$1.out"): $(tail -n 3 "$tmp/$1.err")"
	[ "$(sha256sum <"$base")" = "$before" ] || die "somebody has written to the base"
}
# go NAME [ROUNDS]: it writes and reads, and all is as it should be.
go() {
	local n from
	wait_line "$tmp/$1.out" 'round [0-9]+$' 30 || die "$1: no round: $(tail -n 3 "$tmp/$1.out" "$tmp/$1.err")"
	from=$(lines "$1")
	n=$(grep -oE ' round [0-9]+$' "$tmp/$1.out" | tail -n 1)
	wait_line "$tmp/$1.out" "round $((${n##* } + ${2:-10}))$" 30 "$from" || die "$1: stands still after$n: $(tail -n 3 "$tmp/$1.out")"
	sound "$1"
}
# check NAME IN: reads all of its disk; the sum into $sum.
check() {
	local from=$(($(lines "$1") + 1))
	printf v >&"$2"
	wait_line "$tmp/$1.out" 'verified ' 60 "$from" || die "$1: not verified: $(tail -n 3 "$tmp/$1.out")"
	sum=${line#verified }
	sum=${sum%% *}
	sound "$1"
}
begin() { # NAME ARGS: its console's input is $in_NAME then
	local name=$1
	vm_begin "$@"
	declare -g "in_$name=$vm_in" "pid_$name=$vm_pid"
}
gone() {
	local in=in_$1 pid=pid_$1
	vm_kill "${!pid}"
	local fd=${!in}
	exec {fd}>&-
}

expect_error 2 'capture=on' t run --name d --kernel "$g" --disk "$base,ro,capture=on"
begin d run --name d --kernel "$g" --mem 32M --exit-device --disk "$disk" --cmdline "beat=2"
go d
take d || die "take: $(cat "$tmp/take.err")"
expect_error 1 'in use|already running' t run --name d --kernel "$g" --disk "$disk"

say "-- takes under load, SIGKILL, restore"
last=1
for ((i = 1; i <= rounds; i++)); do
	go d $((RANDOM % 20 + 1))
	take d || die "take: $(cat "$tmp/take.err")"
	[ "$(json "$tmp/take.json" incremental)" = true ] || bad "take $i is not incremental"
	blocks=$(json "$tmp/take.json" disk_blocks)
	[ "$blocks" -gt 0 ] && [ "$blocks" -lt 2048 ] || bad "take $i read $blocks of 2048 blocks"
	number=$(json "$tmp/take.json" number)
	go d 3
	gone d
	begin d restore "d@$number" --mode "$([ $((i % 2)) = 0 ] && echo lazy || echo eager)"
	check d "$in_d"
	grep -q 'set aside' "$tmp/d.err" || bad "restore $i says nothing of what was set aside: $(cat "$tmp/d.err")"
	go d
	# An older one may go, the older still be there, or the one before it.
	case $((RANDOM % 3)) in
	0) [ "$last" = "$number" ] || t snapshot rm "d@$last" >/dev/null || bad "rm d@$last" ;;
	1) t store gc >/dev/null || bad "gc" ;;
	2) t store compact >/dev/null || bad "compact" ;;
	esac
	last=$number
	take d || die "take: $(cat "$tmp/take.err")"
	check d "$in_d"
done
t store verify >"$tmp/v" || bad "verify: $(cat "$tmp/v")"

say "-- an idle disk costs nothing; what is in a snapshot is not set aside"
from=$(($(lines d) + 1))
vm_send i
wait_line "$tmp/d.out" 'still 1' 30 "$from" || die "does not stand still"
take d || die "take: $(cat "$tmp/take.err")"
take d || die "take: $(cat "$tmp/take.err")"
[ "$(json "$tmp/take.json" disk_blocks)" = 0 ] || bad "an idle disk: $(cat "$tmp/take.json")"
vm_send f
wait_line "$tmp/d.out" 'flushed' 30 "$from" || die "no flush"
take d || die "take: $(cat "$tmp/take.err")"
check d "$in_d"
idle=$sum
gone d
begin d restore d
check d "$in_d"
[ "$sum" = "$idle" ] || bad "sum $sum, was $idle"
grep -q 'set aside' "$tmp/d.err" && bad "set aside although all was in a snapshot: $(cat "$tmp/d.err")"
from=$(($(lines d) + 1))
vm_send i
wait_line "$tmp/d.out" 'still 0' 30 "$from" || die "does not go on"

say "-- out of a snapshot, and through a stream"
t disk export d data "$tmp/out.img" --json >"$tmp/export.json" 2>"$tmp/export.err" || bad "export: $(cat "$tmp/export.err")"
[ "$(json "$tmp/export.json" bytes)" = 8388608 ] && [ "$(stat -c %s "$tmp/out.img")" = 8388608 ] || bad "export: $(cat "$tmp/export.json")"
expect_error 1 'holds no disk' t disk export d nothing "$tmp/none.img"
expect_error 1 'changed=accept' t disk export d data "$tmp/none.img" --base "$tmp/take.json"
[ -e "$tmp/none.img" ] && bad "an export that was refused left a file"
begin x run --name x --kernel "$g" --mem 32M --disk "$tmp/out.img" --cmdline "beat=2"
wait_line "$tmp/x.out" 'disk sectors ' 60 || die "no start: $(cat "$tmp/x.err")"
[ "${line##* }" = "$idle" ] || bad "the exported disk is another: ${line##* }, was $idle"
gone x
t snapshot export d "$tmp/d.torpor" >/dev/null || bad "snapshot export"
"$torpor" snapshot import "$tmp/d.torpor" --store "$tmp/store2" >/dev/null || bad "snapshot import"
"$torpor" disk export d data "$tmp/out2.img" --store "$tmp/store2" >/dev/null || bad "export of an import"
cmp "$tmp/out.img" "$tmp/out2.img" || bad "the disk of the imported snapshot is another"

say "-- clones"
take d --tag c || die "take: $(cat "$tmp/take.err")"
begin k1 restore d@c --name k1
begin k2 restore d@c --name k2 --mode eager
go k1
go k2 30
go d
check k1 "$in_k1"
check k2 "$in_k2"
check d "$in_d"
take k1 || die "take of a clone: $(cat "$tmp/take.err")"
gone k1
gone k2
begin k1 restore k1
check k1 "$in_k1"
go k1
gone k1

say "-- rewinds"
go d
check d "$in_d"
take d --tag r || die "take: $(cat "$tmp/take.err")"
for tag in c r c; do
	t snapshot rewind d "d@$tag" >/dev/null 2>"$tmp/rw.err" || die "rewind: $(cat "$tmp/rw.err")"
	check d "$in_d"
	go d
	take d || die "take: $(cat "$tmp/take.err")"
done
t suspend d || bad "suspend"
take d --tag s || bad "take of a suspended VM: $(cat "$tmp/take.err")"
t resume d || bad "resume"
go d
t snapshot rewind d d@s >/dev/null 2>"$tmp/rw.err" || die "rewind: $(cat "$tmp/rw.err")"
check d "$in_d"

say "-- a reset of the guest"
from=$(($(lines d) + 1))
vm_in=$in_d
vm_send i
wait_line "$tmp/d.out" 'still 1' 30 "$from" || die "does not stand still"
check d "$in_d"
was=$sum
from=$(($(lines d) + 1))
printf z >&"$in_d"
wait_line "$tmp/d.out" 'disk sectors ' 60 "$from" || die "no new start: $(tail -n 3 "$tmp/d.out")"
[ "${line##* }" = "$was" ] || bad "after a reset the disk is another: ${line##* }, was $was"
go d

say "-- power off, and another run"
from=$(($(lines d) + 1))
printf i >&"$in_d"
wait_line "$tmp/d.out" 'still 1' 30 "$from" || die "does not stand still"
check d "$in_d"
was=$sum
printf q >&"$in_d"
wait "$pid_d"
[ $? = 65 ] || bad "another end: $(cat "$tmp/d.err")"
for ref in $(t snapshot list d --json | grep -oE '"d@[^"]+"' | tr -d '"'); do
	t snapshot rm "$ref" >/dev/null || bad "rm $ref"
done
begin d run --name d --kernel "$g" --mem 32M --exit-device --disk "$disk" --cmdline "beat=2 seed=7"
wait_line "$tmp/d.out" 'disk sectors ' 60 || die "no start: $(cat "$tmp/d.err")"
[ "${line##* }" = "$was" ] || bad "another run finds another disk: ${line##* }, was $was"
go d
take d || die "take: $(cat "$tmp/take.err")"
go d
gone d

say "-- what does not fit is refused"
cp -p "$base" "$tmp/copy.img"
touch "$base"
expect_error 1 'changed=accept' t restore d --disk-changed refuse
expect_error 1 'changed=accept' t run --name d --replace --kernel "$g" --disk "$disk"
begin d restore d --disk-map "data=$tmp/copy.img"
check d "$in_d"
go d
gone d
begin d restore d --disk-changed accept
check d "$in_d"
gone d
t store verify >"$tmp/v" || bad "verify: $(cat "$tmp/v")"

say "-- a rotten frame is an I/O error for the guest, never another content"
data=$(find "$store/families" -name data.mdb -printf '%T@ %p\n' | sort -n | tail -n 1)
data=${data#* }
hit=0
for part in $("$lib/flip" "$data" --find 54504652); do
	"$lib/flip" "$data" $((part + 3000)) 3 || die "flip"
	if ! t snapshot verify d >"$tmp/v" 2>&1 && grep -qE 'map d[0-9a-f]{14}' "$tmp/v" && ! grep -qE 'map (memory|kernel)' "$tmp/v"; then
		hit=$((hit + 1))
		begin d restore d --mode eager --disk-changed accept
		printf v >&"$in_d"
		wait_line "$tmp/d.out" 'FAIL|verified|FAULT' 60 || die "no answer: $(cat "$tmp/d.err")"
		[[ $line == FAIL*status* ]] || bad "a rotten block: $line"
		grep -q "disk 'data'" "$tmp/d.err" || bad "a rotten block is not told of: $(cat "$tmp/d.err")"
		gone d
	fi
	"$lib/flip" "$data" $((part + 3000)) 3 || die "flip back"
	[ "$hit" -ge 2 ] && break
done
[ "$hit" -gt 0 ] || bad "no flip hit the disk: $(cat "$tmp/v")"
begin d restore d --disk-changed accept
check d "$in_d"
gone d
t store verify >"$tmp/v" || bad "verify: $(cat "$tmp/v")"
finish
