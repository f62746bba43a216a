#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A random walk of whole VMs (seeded): up to three VMs of one family, made from each other's snapshots, are taken
# (running, suspended, still lazy, given up half-way, cancelled), killed, restored from any snapshot, refilled and
# stopped; snapshots are removed in any order and the store collected meanwhile. The model is what each snapshot must hold: the guest
# checks every byte of its memory, and its beats go on where the snapshot stood. Living VMs are rewound, too, also to
# each other's snapshots. In the end every snapshot left
# is verified, restored and checked, and the store is sound.
# 40 steps, --long 2000.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) steps=20 ;; long) steps=2000 ;; *) steps=40 ;; esac
seed=${TORPOR_SEED:-1}
RANDOM=$((seed % 32768))
say "seed $seed, $steps steps"

declare -A alive=() in_fd=() low=() high=() # VM -> pid, console; REF -> first and last beat it may hold
refs=() taken=0 clones=0 counts=""
count() { counts+="$1"$'\n'; }

# beat VM: the newest whole beat on its console into $beat.
beat() { beat=$(grep -oE '^[0-9]+ beat [0-9]+ ' "$tmp/$1.out" | tail -n 1) && beat=${beat% } && beat=${beat##* }; }
# after_beat VM: likewise, once all that it said by now has come: its clock is behind that.
after_beat() {
	new_lines "$1"
	send "$1" d
	wait_line "$tmp/$1.out" 'clock ' 20 "$seen" || die "$1 does not answer: $(tail -n 3 "$tmp/$1.err")"
	beat "$1"
}
send() { printf '%s' "$2" >&"${in_fd[$1]}"; }
new_lines() { seen=$(($(wc -l <"$tmp/$1.out") + 1)); }
# check VM: the guest compares all of its memory.
check() {
	new_lines "$1"
	send "$1" C
	wait_line "$tmp/$1.out" 'check ' 90 "$seen" || die "$1 does not answer: $(tail -n 3 "$tmp/$1.err")"
	[[ $line == "check ok"* ]] || bad "$1: $line"
}
pick_ref() { ref=${refs[RANDOM % ${#refs[@]}]}; }
pick_vm() {
	local names=("${!alive[@]}")
	vm=${names[RANDOM % ${#names[@]}]}
}
# up VM ARGS: starts it and waits until it beats.
up() {
	vm=$1
	shift
	vm_begin "$vm" "$@"
	alive[$vm]=$vm_pid in_fd[$vm]=$vm_in
	wait_line "$tmp/$vm.out" 'beat ' 60 || die "$vm does not run: $*: $(cat "$tmp/$vm.err")"
}
down() {
	unset "alive[$1]"
	exec {in_fd[$1]}>&-
}
# restore_ref REF: as the VM itself if it is not alive, else, or by chance, as a new one of its family.
restore_ref() {
	local mode=() name=${1%@*}
	if [ -n "${alive[$name]:-}" ] || [ $((RANDOM % 3)) = 0 ]; then
		clones=$((clones + 1))
		name=c$clones
	fi
	case $((RANDOM % 4)) in
	0 | 1) mode=(--mode eager) ;;
	2) mode=(--mode lazy --no-fill) ;; # what is taken of it is mostly not there
	esac
	up "$name" restore "$1" --name "$name" "${mode[@]}"
	local first=${line#beat } next=1
	first=${first%% *}
	# A beat that was half told at the freeze ends in the new process: then its tail comes first.
	[[ $(head -n 1 "$tmp/$vm.out") == *" beat $first "* ]] || next=2
	[ "$first" -ge "${low[$1]}" ] && [ "$first" -le $((high[$1] + next)) ] ||
		bad "$1 restored: first beat $first, the take was at ${low[$1]} to ${high[$1]}"
}
# join REF VM FROM: a snapshot that was taken by the way; VM stood at FROM before.
join() {
	beat_at "$tmp/$2.out" "$(json <(t snapshot show "$1") frozen_at_ns)"
	refs+=("$1")
	low[$1]=$3 high[$1]=$((beat + 2)) # what was on its way
}
# rewind_ref VM REF: its safety snapshot joins the model.
rewind_ref() {
	local from lines
	beat "$1"
	from=$beat
	lines=$(wc -l <"$tmp/$1.out")
	if ! t snapshot rewind "$1" "$2" --json >"$tmp/rw.json" 2>"$tmp/rw.err"; then
		bad "rewind of $1 to $2: $(cat "$tmp/rw.err")"
		return
	fi
	beats_from "$tmp/$1.out" "$lines" "${low[$2]}" $((high[$2] + 2)) ||
		bad "$1 rewound to $2: beat $beat, the take was at ${low[$2]} to ${high[$2]}"
	join "$(json "$tmp/rw.json" safety)" "$1" "$from"
}
# take_ref VM [suspended]
take_ref() {
	taken=$((taken + 1))
	beat "$1"
	local from=$beat
	take "$1" --tag "t$taken" || die "take of $1: $(cat "$tmp/take.err")"
	if [ "${2:-}" = suspended ]; then
		falls_silent "$tmp/$1.out" || bad "$1 prints while it is suspended"
		beat "$1"
	else
		after_beat "$1"
	fi
	refs+=("$1@t$taken")
	low[$1@t$taken]=$from high[$1@t$taken]=$beat
}
forget() {
	local keep=() r
	for r in "${refs[@]}"; do
		[ "$r" = "$1" ] || keep+=("$r")
	done
	refs=("${keep[@]}")
}

up a run --name a --kernel "$guests/bench.pvh" --mem 64M --cmdline "beat=10 pages=64 fill=24 halt=1"
take_ref a
for ((step = 0; step < steps && failures == 0; step++)); do
	if [ ${#alive[@]} = 0 ]; then
		pick_ref
		count restore
		restore_ref "$ref"
		[ $((RANDOM % 2)) = 0 ] && check "$vm"
		continue
	fi
	pick_vm
	case $((RANDOM % 20)) in
	0 | 1 | 2 | 3)
		count take
		take_ref "$vm"
		;;
	4 | 5)
		count "take suspended"
		t suspend "$vm" >"$tmp/cmd.out" 2>&1 || bad "suspend $vm: $(cat "$tmp/cmd.out")"
		take_ref "$vm" suspended
		[ $((RANDOM % 2)) = 0 ] && take_ref "$vm" suspended
		t resume "$vm" >"$tmp/cmd.out" 2>&1 || bad "resume $vm: $(cat "$tmp/cmd.out")"
		;;
	6)
		count "kill in a take"
		"$torpor" snapshot take "$vm" --tag "k$step" --store "$store" >"$tmp/cmd.out" 2>&1 &
		client=$!
		pids+=("$client")
		beat "$vm"
		from=$beat
		sleep "0.0$((RANDOM % 10))"
		vm_kill "${alive[$vm]}"
		wait "$client"
		down "$vm"
		falls_silent "$tmp/$vm.out"
		beat "$vm"
		if t snapshot show "$vm@k$step" >/dev/null 2>&1; then # it was done before the kill
			refs+=("$vm@k$step")
			low[$vm@k$step]=$from high[$vm@k$step]=$((beat + 1))
		fi
		;;
	7)
		count kill
		vm_kill "${alive[$vm]}"
		down "$vm"
		;;
	8)
		count stop
		t stop "$vm" >"$tmp/cmd.out" 2>&1 || bad "stop $vm: $(cat "$tmp/cmd.out")"
		wait "${alive[$vm]}"
		down "$vm"
		;;
	9 | 10)
		if [ ${#alive[@]} -lt 3 ]; then
			count restore
			pick_ref
			restore_ref "$ref"
			[ $((RANDOM % 2)) = 0 ] && take_ref "$vm"
			[ $((RANDOM % 2)) = 0 ] && check "$vm"
		fi
		;;
	11 | 12)
		if [ ${#refs[@]} -gt 2 ]; then
			count rm
			pick_ref
			t snapshot rm "$ref" >"$tmp/cmd.out" 2>&1 || bad "rm $ref: $(cat "$tmp/cmd.out")"
			forget "$ref"
		fi
		;;
	13)
		count refill
		new_lines "$vm"
		send "$vm" z
		wait_line "$tmp/$vm.out" 'refilled ' 60 "$seen" || bad "$vm: no refill"
		;;
	14)
		count gc
		"$torpor" store gc --help >/dev/null 2>&1 && { t store gc >"$tmp/cmd.out" 2>&1 || bad "gc: $(cat "$tmp/cmd.out")"; }
		;;
	15)
		count check
		check "$vm"
		;;
	16 | 17)
		count rewind
		pick_ref
		rewind_ref "$vm" "$ref"
		[ $((RANDOM % 2)) = 0 ] && check "$vm"
		;;
	18)
		count "kill in a rewind"
		pick_ref
		"$torpor" snapshot rewind "$vm" "$ref" --store "$store" >"$tmp/cmd.out" 2>&1 &
		client=$!
		pids+=("$client")
		beat "$vm"
		from=$beat
		sleep "0.0$((RANDOM % 10))"
		vm_kill "${alive[$vm]}"
		wait "$client"
		down "$vm"
		beat "$vm"
		safety=$(t snapshot list "$vm" --json 2>/dev/null | grep -oE "\"$vm@auto-rewind-[^\"]*\"" | tail -n 1 | tr -d '"')
		if [ -n "$safety" ] && [ -z "${low[$safety]:-}" ]; then # it was published before the kill
			join "$safety" "$vm" "$from"
		fi
		;;
	19)
		count "cancel a take"
		beat "$vm"
		from=$beat
		"$torpor" snapshot take "$vm" --tag "x$step" --store "$store" >"$tmp/cmd.out" 2>&1 &
		client=$!
		sleep "0.0$((RANDOM % 5))"
		t snapshot cancel "$vm" >"$tmp/cancel.out" 2>&1 # it may be done, or not begun
		if wait "$client"; then
			after_beat "$vm"
			refs+=("$vm@x$step")
			low[$vm@x$step]=$from high[$vm@x$step]=$beat
		else
			grep -q cancelled "$tmp/cmd.out" || bad "a take that was cancelled: $(cat "$tmp/cmd.out")"
			t snapshot show "$vm@x$step" >/dev/null 2>&1 && bad "a cancelled take is listed"
		fi
		[ $((RANDOM % 2)) = 0 ] && take_ref "$vm"
		;;
	esac
	for name in "${!alive[@]}"; do
		grep -q CORRUPT "$tmp/$name.out" && bad "step $step: $name: $(grep -m1 CORRUPT "$tmp/$name.out")"
	done
done
for name in "${!alive[@]}"; do
	check "$name"
	vm_kill "${alive[$name]}"
	down "$name"
done
t store verify >"$tmp/verify.out" 2>&1 || bad "store verify: $(tail -n 3 "$tmp/verify.out")"
left=$(t snapshot list --json | grep -o '"ref"' | wc -l)
[ "$left" = ${#refs[@]} ] || bad "$left snapshots listed, the model has ${#refs[@]}"
for ref in "${refs[@]}"; do
	restore_ref "$ref"
	check "$vm"
	vm_kill "${alive[$vm]}"
	down "$vm"
done
say "$step steps, ${#refs[@]} snapshots left: $(printf '%s' "$counts" | sort | uniq -c | awk '{ n = $1; $1 = ""; printf "%s %d,", $0, n }')"
finish
