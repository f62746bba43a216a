# SPDX-License-Identifier: Apache-2.0
# The figures of a host that goes down and comes back, for tests/bench/run --guests, which sources this: ten idle guests are
# saved and ended by one command, and brought back by one. docs/benchmarks.md tells what each figure is.
# shellcheck shell=bash disable=SC2154
count=10 guest_mib=512 fill=128
[ "$quick" = 0 ] || count=4 guest_mib=256 fill=32
guests_cmdline="beat=20 pages=4 fill=$fill halt=1"

log_of() { echo "$tmp/$1$2.serial"; }
logs() { for ((g = 0; g < count; g++)); do log_of "$1" "$g"; done; }
# all_have SIDE REGEX: until a line of each guest matches.
all_have() {
	local g i
	for ((g = 0; g < count; g++)); do
		for ((i = 0; i < 6000; i++)); do
			grep -q "$2" "$(log_of "$1" "$g")" 2>/dev/null && break
			sleep 0.05
		done
		[ "$i" -lt 6000 ] || die "$1 guest $g: no line like '$2'"
	done
}
sizes() { # shellcheck disable=SC2046
	stat -c %s $(logs "$1"); }
# all_grow SIDE SIZES: until every guest has written more than it had; 0.01 s apart.
all_grow() {
	local was=($2) have g i left
	for ((i = 0; i < 30000; i++)); do
		mapfile -t have < <(sizes "$1")
		left=0
		for ((g = 0; g < count; g++)); do
			[ "${have[g]}" -gt "${was[g]}" ] || left=1
		done
		[ $left = 0 ] && return
		sleep 0.005
	done
	die "$1: a guest does not come back"
}
# back SIDE MEASURE COMMAND...: from the command to the last guest's next line.
back() {
	local side=$1 measure=$2 was t0 starter
	shift 2
	was=$(sizes "$side")
	t0=$(now)
	"$@" &
	starter=$!
	all_grow "$side" "$was"
	put "$measure" "$side" "$(ms $(($(now) - t0)))"
	wait "$starter" || die "$side: bringing them back failed: $(cat "$tmp/guests.out" "$tmp/guests.err")"
}
torpor_start() { "$torpor" guests start --store "$store" >"$tmp/guests.out" 2>"$tmp/guests.err"; }
torpor_stop() { "$torpor" guests stop --timeout 600 --store "$store" >"$tmp/guests.out" 2>"$tmp/guests.err"; }
torpor_save() { # torpor_save MEASURE
	local t0
	t0=$(now)
	torpor_stop || die "guests stop: $(cat "$tmp/guests.out" "$tmp/guests.err")"
	[ -z "$1" ] || put "$1" torpor "$(ms $(($(now) - t0)))"
}
guests_torpor() {
	local g
	rm -rf "$store" "$tmp"/torpor*.serial
	for ((g = 0; g < count; g++)); do
		"$torpor" define "g$g" --kernel "$guests/bench.pvh" --mem "${guest_mib}M" --cmdline "$guests_cmdline" --wanted on \
			--checkpoint-every off --serial "file:$(log_of torpor "$g")" --store "$store" || die "define"
	done
	torpor_start || die "guests start: $(cat "$tmp/guests.err")"
	all_have torpor '^beat 20 '
	for ((g = 0; g < count; g++)); do
		t snapshot take "g$g" >"$tmp/guests.out" 2>&1 || die "take: $(cat "$tmp/guests.out")"
	done
	sleep 3
	torpor_save guests_save_ms
	back torpor guests_back_ms torpor_start
	for ((g = 0; g < count; g++)); do t edit "g$g" --verify crash || die "edit"; done
	sleep 3
	torpor_save ''
	back torpor guests_back_quick_ms torpor_start
	torpor_save ''
}
qemu_guest() { # qemu_guest N ARGS: in the background; its pid in $pid
	local g=$1
	shift
	qemu-system-x86_64 -M microvm,x-option-roms=off -enable-kvm -cpu host,-arch-capabilities -m "$guest_mib" -nodefaults \
		-no-user-config -display none -chardev "file,id=s,path=$(log_of qemu "$g"),append=on" -serial chardev:s \
		-qmp "unix:$tmp/qmp$g,server=on,wait=off" -kernel "$guests/bench.pvh" -append "$guests_cmdline" "$@" 2>>"$tmp/qemu.err" &
	pid=$!
	pids+=("$pid")
	qpid[g]=$pid
}
qemu_back() {
	local g
	for ((g = 0; g < count; g++)); do
		qemu_guest "$g" -incoming fd:9 9<"$tmp/q$g.img"
	done
}
guests_qemu() {
	local g t0 savers=() qpid=() p
	rm -f "$tmp"/qemu*.serial
	for ((g = 0; g < count; g++)); do
		: >"$(log_of qemu "$g")"
		qemu_guest "$g"
	done
	all_have qemu '^beat 20 '
	sleep 3
	t0=$(now)
	for ((g = 0; g < count; g++)); do
		# Not stopped before: what was saved while it stood still would not run when it comes back.
		{ "$qemuctl" "$tmp/qmp$g" save "$tmp/q$g.img" 300 &&
			"$qemuctl" "$tmp/qmp$g" quit; } >"$tmp/q$g.json" 2>&1 &
		savers+=($!)
	done
	for p in "${savers[@]}"; do wait "$p" || die "QEMU does not save: $(cat "$tmp"/q*.json)"; done
	wait "${qpid[@]}"
	put guests_save_ms qemu "$(ms $(($(now) - t0)))"
	was=$(sizes qemu)
	t0=$(now)
	qemu_back
	all_grow qemu "$was"
	put guests_back_ms qemu "$(ms $(($(now) - t0)))"
	put guests_back_quick_ms qemu "$(ms $(($(now) - t0)))"
	kill -KILL "${qpid[@]}"
	wait "${qpid[@]}" 2>/dev/null
	rm -f "$tmp"/q*.img
}
guests_round() {
	progress "round $1 of $rounds: $count guests, torpor"
	guests_torpor
	progress "round $1 of $rounds: $count guests, QEMU"
	guests_qemu
}
