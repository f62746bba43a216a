#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Parking vCPUs of a guest that spins in ring 3 and never leaves the VM by itself: every suspend, resume and
# take of it ends, however often, with one vCPU and with two, and the guest's memory is right afterwards. How
# long they took is reported, not judged. Times: TORPOR_TIER quick 5, normal 20, long 400.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) times=5 ;; long) times=400 ;; *) times=20 ;; esac

us() { echo "${EPOCHREALTIME/[.,]/}"; }
# report WHAT NUMBERS...: smallest, median, largest.
report() {
	local what=$1
	shift
	say "$what: $# times, us: $(printf '%s\n' "$@" | sort -n | awk '{ v[NR] = $1 } END { print v[1], v[int((NR + 1) / 2)], v[NR] }') (min median max)"
}
# rounds NAME: suspend, resume and take, again and again.
rounds() {
	local name=$1 i began
	local suspends=() resumes=() pauses=()
	for ((i = 0; i < times; i++)); do
		began=$(us)
		timeout 60 "$torpor" suspend "$name" --store "$store" >"$tmp/s.out" 2>&1 || die "suspend $i: $(cat "$tmp/s.out")"
		suspends+=($(($(us) - began)))
		began=$(us)
		timeout 60 "$torpor" resume "$name" --store "$store" >"$tmp/s.out" 2>&1 || die "resume $i: $(cat "$tmp/s.out")"
		resumes+=($(($(us) - began)))
		if [ $((i % 5)) = 0 ]; then
			timeout 120 "$torpor" snapshot take "$name" --json --store "$store" >"$tmp/t.json" 2>"$tmp/t.err" ||
				die "take $i: $(cat "$tmp/t.err")"
			pauses+=("$(grep -oE '"pause_us": ?[0-9]+' "$tmp/t.json" | tr -dc 0-9)")
		fi
	done
	report "$name: suspend, with the client's start" "${suspends[@]}"
	report "$name: resume, with the client's start" "${resumes[@]}"
	report "$name: pause of a take" "${pauses[@]}"
}

for cpus in 1 2; do
	# It spins for eight seconds between two lines, without I/O: nothing but torpor's kick gets it out.
	vm_begin p$cpus run --name p$cpus --kernel "$guests/bench.pvh" --mem 32M --cpus $cpus \
		--cmdline "beat=8000 pages=8 fill=2 halt=0"
	wait_line "$tmp/p$cpus.out" 'filled ' 30 || die "does not run"
	rounds p$cpus
	vm_send C
	wait_line "$tmp/p$cpus.out" 'check ok' 60 || bad "memory is wrong"
	grep -l CORRUPT "$tmp"/*.out && bad "CORRUPT"
	vm_kill "$vm_pid"
done
finish
