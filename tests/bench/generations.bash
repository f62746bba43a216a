# SPDX-License-Identifier: Apache-2.0
# The figures of generations, for tests/bench/run --generations, which sources this: its functions start VMs,
# wait for lines and put figures. docs/benchmarks.md tells what each figure is.
# shellcheck shell=bash disable=SC2154
pagediff=$build/benchlib/pagediff
many=50 few=20 # takes of which the worst counts
clones=20
inc=4 # takes of one beat
[ "$quick" = 0 ] || many=6 few=4 clones=6 inc=2

over() { awk -v a="$1" -v b="$2" 'BEGIN { print a / b }'; }
# guest COMMAND_LINE: of the VMs from now on, of both sides.
guest() {
	cmdline=$1
	qemu_args[${#qemu_args[@]} - 1]=$cmdline
}
# worst FILE MEASURE SIDE: its median is the report's, its largest value a figure of its own.
worst() {
	local v
	while read -r v; do put "$2" "$3" "$v"; done <"$1"
	put "${2%_ms}_worst_ms" "$3" "$(sort -g "$1" | tail -n 1)"
}
# gap_ms FROM TO: the longest time between two lines there, without the beat.
gap_ms() {
	local got
	got=$("$vmlines" gap "$log" "$1" "$2" "$khz") || die "no beats around the take"
	awk -v us="${got%% *}" -v b=$beat 'BEGIN { d = us / 1000 - b; printf "%.3f", (d > 0 ? d : 0) }'
}
filled() {
	line tsc_khz 0 20
	khz=${text#* }
	line filled 0 120
	line "beat 20 " 0 30
}
# pauses MEASURE COUNT: takes of the VM that runs; by its lines, by what the take says, and its lines without a take.
pauses() {
	local i from
	: >"$tmp/lines"
	: >"$tmp/told"
	: >"$tmp/quiet"
	torpor_take # all of it
	for ((i = 0; i < $2; i++)); do
		sleep 0.1
		gap_ms "$(($(now) - 90000000))" "$(($(now) - 20000000))" >>"$tmp/quiet"
		echo >>"$tmp/quiet"
		from=$(now)
		torpor_take
		put "${1}_take_ms" torpor "$(ms "$took_ns")"
		sleep 0.03
		gap_ms "$from" "$(($(now) - 20000000))" >>"$tmp/lines"
		echo >>"$tmp/lines"
		awk -v us="$(json "$tmp/take.json" pause_us)" 'BEGIN { printf "%.3f\n", us / 1000 }' >>"$tmp/told"
	done
	worst "$tmp/told" "${1}_ms" torpor
	worst "$tmp/lines" "${1}_lines_ms" torpor
	worst "$tmp/quiet" "${1}_quiet_ms" torpor
}
torpor_pauses() {
	rm -rf "$store"
	guest "beat=$beat pages=6"
	torpor_run
	filled
	pauses pause64 "$many"
	vm_down
	rm -rf "$store"
	guest "beat=$beat pages=100"
	torpor_run
	filled
	pauses pause1000 "$few"
	vm_down
}
qemu_pauses() {
	local i from mode
	guest "beat=$beat pages=6"
	qemu_run
	filled
	for ((i = 0; i < 3; i++)); do
		for mode in qemu300:300 qemu:20; do
			from=$(now)
			qemu_save "${mode#*:}"
			sleep 0.3
			put pause64_ms "${mode%:*}" "$(json "$tmp/q.json" downtime_ms)"
			put pause64_lines_ms "${mode%:*}" "$(gap_ms "$from" "$(($(now) - 200000000))")"
			put pause64_take_ms "${mode%:*}" "$(ms $((took_us * 1000)))"
		done
	done
	vm_down
}

# The descriptor of guest memory of $pid, as a path.
guest_memory() {
	local f
	for f in /proc/"$pid"/fd/*; do
		case $(readlink "$f") in
		/memfd:*) [ "$(stat -L -c %s "$f")" -lt $((mib << 19)) ] || echo "$f" ;;
		esac
	done | head -n 1
}
last_beat() { grep -oE 'beat [0-9]+' "$log" | tail -n 1 | cut -c 6-; }
# One take of what one beat wrote, into $took_ns, $growth, $n, $bytes, $us; false: the machine was too slow, the next
# beat came in between.
one_beat() { # one_beat MEMORY
	local k before
	line beat "$(now)" 20
	k=$(last_beat)
	torpor_take
	"$pagediff" note "$1" "$tmp/sums" || die "no sums"
	before=$(du -s -B 1 "$store" | cut -f 1)
	[ "$(last_beat)" = "$k" ] || return 1
	line "beat $((k + 1)) " 0 20
	torpor_take
	growth=$(($(du -s -B 1 "$store" | cut -f 1) - before))
	read -r n bytes us < <("$pagediff" zstd "$1" "$tmp/sums")
	[ "$(last_beat)" = "$((k + 1))" ] || return 1
	[ "${n:-0}" -ge 4096 ] || die "${n:-no} pages were written, wanted 4096"
}
# 16 MiB written, then nothing until the take is done: held against compressing just these pages.
incremental() {
	local i memory commit_us growth n bytes us tries=0
	rm -rf "$store"
	guest "beat=3000 pages=4096 halt=1"
	torpor_run
	line filled 0 120
	memory=$(guest_memory)
	[ -n "$memory" ] || die "guest memory is not found"
	commit_us=$("$pagediff" commit "$tmp") || die "no commit"
	put commit_ms torpor "$(ms $((commit_us * 1000)))"
	for ((i = 0; i < inc; i++)); do
		until one_beat "$memory"; do
			tries=$((tries + 1))
			[ "$tries" -lt 10 ] || die "this machine is too slow for the incremental takes"
		done
		put inc_pages torpor "$n"
		put inc_growth_mib torpor "$(over "$growth" 1048576)"
		put inc_growth_of_zstd torpor "$(over "$growth" "$bytes")"
		put inc_take_ms torpor "$(ms "$took_ns")"
		put inc_zstd_ms torpor "$(ms $((us * 1000)))"
		put inc_take_of_goal torpor "$(over $((took_ns / 1000)) $((2 * us + commit_us)))"
		put inc_pause_ms torpor "$(over "$(json "$tmp/take.json" pause_us)" 1000)"
	done
	vm_down
}

# An idle VM: ten snapshots of it, and all of its memory read at once.
idle() {
	local i one
	rm -rf "$store"
	guest "beat=10 pages=0 halt=1"
	torpor_run
	line filled 0 120
	line "beat 20 " 0 20
	torpor_take
	one=$(store_mib)
	for ((i = 1; i < 10; i++)); do torpor_take --tag "i$i"; done
	put ten_of_one torpor "$(awk -v a="$one" -v b="$(store_mib)" 'BEGIN { print b / a }')"
	vm_down
	vm_up torpor "$torpor" restore b@i9 --mode eager --store "$store" --serial stdio
	line beat 0 60
	put eager_ms torpor "$(ms $((at - exec_ns)))"
	check_memory
	vm_down
}
qemu_idle() {
	guest "beat=10 pages=0 halt=1"
	qemu_run
	line filled 0 120
	line "beat 20 " 0 20
	qemu_save 300
	vm_down
	vm_up qemu qemu-system-x86_64 "${qemu_args[@]}" -incoming fd:9 9<"$tmp/q.img"
	line beat 0 60
	put eager_ms qemu "$(ms $((at - exec_ns)))"
	check_memory
	vm_down
	rm -f "$tmp/q.img"
}

# rate SECONDS: work of the guest per CPU time of its vCPU, from now on: others on the machine do not count.
rate() {
	local from to before after sched
	sched=$(grep -lx vcpu0 /proc/"$pid"/task/*/comm | head -n 1)
	sched=${sched%comm}schedstat
	from=$(now)
	before=$(cut -d ' ' -f 1 "$sched")
	sleep "$1"
	after=$(cut -d ' ' -f 1 "$sched")
	to=$(now)
	"$vmlines" rate "$log" "$from" "$to" | awk -v wall=$((to - from)) -v cpu=$((after - before)) '{ print $1 * wall / cpu }'
}
# A guest that never waits and does nothing but write its pages over and over: before any take, right after one, and later.
slowdown() {
	local i never
	rm -rf "$store"
	guest "beat=1 pages=200000 fill=16"
	torpor_run
	line filled 0 120
	line "beat 20 " 0 60
	never=$(rate 2)
	put guest_slow_control torpor "$(over "$never" "$(rate 2)")"
	for i in 1 2 3; do
		torpor_take
		put guest_slow_linger torpor "$(over "$never" "$(rate 0.5)")"
		sleep 0.5
		put guest_slow torpor "$(over "$never" "$(rate 2)")"
	done
	vm_down
}

# cpu_us PID: of all its threads, to the microsecond.
cpu_us() { cat /proc/"$1"/task/*/schedstat | awk '{ sum += $1 } END { printf "%d", sum / 1000 }'; }
clone_memory() { awk -v a="$(private_mib "$1")" -v g="$(guest_kib "$1")" 'BEGIN { printf "%.3f", a + g / 1024 }'; }
# anon_mib PID: what it has written. What it shares is the keeper's, once.
anon_mib() { awk '$1 == "Anonymous:" { printf "%.3f", $2 / 1024 }' "/proc/$1/smaps_rollup"; }
# start_clones N ARGS: from exec of the first to the last one's first line, into $last_ms; figures of each.
start_clones() {
	local i first=0 got last=0 n=$1
	local -a holders=() clone=()
	shift
	for ((i = 0; i < n; i++)); do
		"$vmlines" run "$tmp/clone$i.log" "$torpor" restore b@base --name "k$i" "$@" --store "$store" \
			--serial stdio <"$tmp/in" 2>"$tmp/clone$i.err" {vm_in}>&- &
		holders+=($!)
		pids+=($!)
	done
	for ((i = 0; i < n; i++)); do
		got=$("$vmlines" wait "$tmp/clone$i.log" @exec 0 10) || die "clone $i does not start"
		clone+=("${got##* }")
		got=${got%% *}
		[ "$first" != 0 ] && [ "$first" -le "$got" ] || first=$got
	done
	for ((i = 0; i < n; i++)); do
		got=$("$vmlines" wait "$tmp/clone$i.log" beat 0 30) || die "clone $i has no line: $(cat "$tmp/clone$i.err")"
		got=${got%% *}
		[ "$last" -ge "$got" ] || last=$got
	done
	last_ms=$(ms $((last - first)))
	if [ "$n" -gt 1 ] && [ "$1" = --no-fill ]; then
		for i in "${clone[@]}"; do put clone_cpu_ms torpor "$(ms "$(cpu_us "$i")000")"; done
		for i in "${clone[@]}"; do put clone_mib torpor "$(clone_memory "$i")"; done
	fi
	if [ "$1" = --share-memory ]; then
		sleep 2 # the keeper has read all
		for i in "${clone[@]}"; do put share_mib torpor "$(anon_mib "$i")"; done
	fi
	kill -KILL "${clone[@]}" 2>/dev/null
	wait "${holders[@]}" 2>/dev/null
	rm -f "$tmp"/clone*.log
}
# Of a guest that halts, 20 ms before its next line.
clone_many() {
	rm -rf "$store"
	guest "beat=100 pages=0 halt=1"
	torpor_run
	line filled 0 120
	line "beat" "$(now)" 20
	sleep 0.075
	t suspend b || die "suspend failed"
	torpor_take --tag base
	kill -KILL "$pid" 2>/dev/null
	wait "$holder" 2>/dev/null
	start_clones 1 --no-fill
	put clone_one_ms torpor "$last_ms"
	start_clones "$clones" --no-fill
	put clone_last_ms torpor "$last_ms"
	start_clones "$clones" --share-memory
	put share_last_ms torpor "$last_ms"
	exec {vm_in}>&-
}
# touched STORE ARGS: restores cold, has the guest touch its working set at its first line, sets $touched_ms.
touched() {
	local dir=$1 f from
	shift
	for f in "$dir"/families/*/data.mdb; do
		dd if="$f" iflag=nocache count=0 2>/dev/null || die "dd"
	done
	vm_up torpor "$torpor" restore b@base --store "$dir" --serial stdio "$@"
	line beat 0 60
	from=$(now)
	printf w >&"$vm_in"
	line touched "$from" 60
	touched_ms=$(awk -v us="${text##* }" 'BEGIN { printf "%.3f", us / 1000 }')
}
# The same snapshot in two stores, one of which knows what was touched.
working_set() {
	local i order with
	rm -rf "$store" "$tmp/none"
	guest "beat=1 pages=0 halt=1"
	torpor_run
	line filled 0 120
	line "beat" "$(now)" 20
	t suspend b || die "suspend failed"
	torpor_take --tag base
	vm_down
	cp -r "$store" "$tmp/none"
	touched "$store" --no-fill
	t stop b || die "stop failed" # stores what it has waited for
	wait "$holder" 2>/dev/null
	vm_down
	for ((i = 0; i < few; i++)); do
		order="store none"
		((i % 2)) || order="none store"
		for with in $order; do
			touched "$tmp/$with"
			vm_down
			[ "$with" = none ] && put wset_none_ms torpor "$touched_ms" && without=$touched_ms
			[ "$with" = store ] && put wset_ms torpor "$touched_ms" && known=$touched_ms
		done
		put wset_of_none torpor "$(over "$known" "$without")"
	done
	rm -rf "$tmp/none"
}

generations_round() {
	local order="torpor qemu" side
	(($1 % 2)) || order="qemu torpor"
	progress "round $1 of $rounds: pauses"
	for side in $order; do "${side}_pauses"; done
	progress "round $1: idle"
	for side in $order; do
		case $side in
		torpor) idle ;;
		qemu) qemu_idle ;;
		esac
	done
	progress "round $1: incremental"
	incremental
	progress "round $1: slowdown"
	slowdown
	progress "round $1: clones"
	clone_many
	progress "round $1: working set"
	working_set
}
