#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# One flipped bit anywhere in the store's data file: either it lies in free space and the snapshot is
# whole, or `verify` finds and names it, an eager restore refuses, and a lazy one refuses or ends with the name
# of the page, or warns if it is the kept kernel that is damaged;
# never a signal, never a guest that runs on wrong memory. Offsets by chance (24, --long 200), plus ones
# in the part records, found by their magic.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) flips=6 ;; long) flips=200 ;; *) flips=24 ;; esac
RANDOM=${TORPOR_SEED:-1}
say "seed ${TORPOR_SEED:-1}"

vm_begin d run --name d --kernel "$guests/bench.pvh" --mem 32M --cmdline "beat=20 pages=8 fill=8 halt=1"
wait_line "$tmp/d.out" 'beat 2 ' 20 || die "does not run"
take d --tag whole || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
"$torpor" snapshot verify d@whole --store "$store" >/dev/null || die "verify of a sound store fails"

data=$(find "$store/families" -name data.mdb | head -n 1)
[ -s "$data" ] || die "no data file"
size=$(stat -c %s "$data")
found=0 harmless=0
# lazily WHAT AT: paused, so it is the filler that meets the damage.
lazily() {
	local what=$1 at=$2 pid rc i
	: >"$tmp/l.err" # what the last one said is not this one's
	"$torpor" restore d@whole --mode lazy --store "$store" --serial null --paused >"$tmp/l.out" 2>"$tmp/l.err" </dev/null &
	pid=$!
	pids+=("$pid")
	for ((i = 0; i < 400; i++)); do
		kill -0 "$pid" 2>/dev/null || break
		grep -q 'file kernel.*a reset of the VM will fail' "$tmp/l.err" && kill -TERM "$pid"
		sleep 0.05
	done
	kill -0 "$pid" 2>/dev/null && {
		bad "$what, byte $at: a lazy restore finds nothing of: $(head -n 1 "$tmp/verify.out")"
		kill -KILL "$pid"
	}
	wait "$pid"
	rc=$?
	case $rc in
	0) grep -q 'file kernel' "$tmp/l.err" || bad "$what, byte $at: a lazy restore ends with 0: $(cat "$tmp/l.err")" ;;
	1) ;;
	33) grep -q 'guest memory.*page' "$tmp/l.err" || bad "$what, byte $at: a lazy restore says: $(cat "$tmp/l.err")" ;;
	*) bad "$what, byte $at: a lazy restore ends with $rc: $(cat "$tmp/l.err")" ;;
	esac
	[ -s "$tmp/l.err" ] || bad "$what, byte $at: a lazy restore ends without a word"
}
# flip OFFSET WHAT MUST: MUST=1: the bit is in use and must be found.
flip() {
	local at=$1 what=$2 must=$3 rc
	"$lib/flip" "$data" "$at" $((at % 8)) || die "flip"
	timeout 60 "$torpor" snapshot verify d@whole --store "$store" >"$tmp/verify.out" 2>&1 </dev/null
	rc=$?
	if [ $rc = 0 ]; then
		harmless=$((harmless + 1))
		[ "$must" = 0 ] || bad "$what, byte $at: verify finds nothing"
	elif [ $rc = 1 ]; then
		found=$((found + 1))
		[ -s "$tmp/verify.out" ] || bad "$what, byte $at: verify fails and says nothing"
		lazily "$what" "$at"
		timeout 20 "$torpor" restore d@whole --mode eager --store "$store" --serial null --paused >"$tmp/r.out" 2>"$tmp/r.err" </dev/null
		rc=$?
		[ $rc = 1 ] || bad "$what, byte $at: verify objects ($(head -n 1 "$tmp/verify.out")), restore ends with $rc"
		[ -s "$tmp/r.err" ] || bad "$what, byte $at: restore is refused without a word"
	else
		bad "$what, byte $at: verify ended with $rc: $(tail -n 2 "$tmp/verify.out")"
	fi
	"$lib/flip" "$data" "$at" $((at % 8)) || die "flip back"
}
# Part records begin with 'TPRC' (little-endian u32 in docs/format.md, whichever order it is).
for magic in 54505243 43525054; do
	for at in $("$lib/flip" "$data" --find $magic | head -n 6); do
		flip $((at + 40)) "device record" 1
	done
done
parts=$found
[ "$parts" -gt 0 ] || bad "no part record was found in the data file"
for ((i = 0; i < flips; i++)); do
	flip $(((RANDOM * 32768 + RANDOM) % size)) "chance" 0
done
[ "$found" -gt "$parts" ] || bad "no flip by chance was found"
"$torpor" snapshot verify d@whole --store "$store" >/dev/null || bad "the store is not as before"
say "$found found and refused, $harmless in free space or in what this snapshot does not use"
# A truncated data file is an error, too, not a signal.
cp -r "$store" "$tmp/cut"
truncate -s $((size / 2)) "$tmp/cut/families/"*/data.mdb
timeout 60 "$torpor" snapshot verify d@whole --store "$tmp/cut" >"$tmp/verify.out" 2>&1
rc=$?
[ $rc = 1 ] || bad "verify of a truncated store ended with $rc: $(tail -n 1 "$tmp/verify.out")"
timeout 20 "$torpor" restore d@whole --store "$tmp/cut" --serial null >"$tmp/r.out" 2>&1 </dev/null
rc=$?
[ $rc = 1 ] || bad "restore from a truncated store ended with $rc"
finish
