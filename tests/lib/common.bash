# SPDX-License-Identifier: Apache-2.0
# Shared by the shell tests in tests/integration, the benchmarks and the quickstart. Source it; then
# $build is the build directory, $torpor the binary, $guests the guest images, $tmp a folder of this
# test's own (removed at the end), and XDG_RUNTIME_DIR and $store lie in it.
# A test ends by `finish`; exit 77 is a skip (no /dev/kvm), anything else but 0 a failure.
set -uo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${TORPOR_BUILD:-$top/build/release}
torpor=${TORPOR:-$build/torpor}
guests=$build/guest
lib=$build/testlib
tier=${TORPOR_TIER:-normal} # quick, normal, long
failures=0
pids=()

tmp=$(mktemp -d "${TMPDIR:-/tmp}/tt.XXXXXX") || exit 1
store=$tmp/store
export XDG_RUNTIME_DIR=$tmp/run
mkdir -m 0700 "$tmp/run"

# What the VMs said, for whoever has to find out why.
show_logs() {
	local f
	for f in "$tmp"/*.err "$tmp"/run/torpor/*.log "$tmp"/*.out; do
		[ -s "$f" ] && { say "--- the end of ${f#"$tmp/"}"; tail -n 20 "$f" | cut -c 1-300; }
	done
}
cleanup() {
	local status=$? p
	[ $status = 0 ] || [ $status = 77 ] || show_logs
	if declare -F at_end >/dev/null; then # what a test has to undo
		at_end
	fi
	for p in "${pids[@]:-}"; do
		if [ -n "$p" ] && kill -0 "$p" 2>/dev/null; then
			kill -KILL "$p" 2>/dev/null
			wait "$p" 2>/dev/null
		fi
	done
	if [ -n "${KEEP:-}" ]; then
		echo "kept: $tmp" >&2
	else
		rm -rf "$tmp"
	fi
}
trap cleanup EXIT
trap 'exit 1' INT TERM

say() { printf '%s\n' "$*"; }
# A failed expectation: told, counted, and the test goes on.
bad() {
	printf 'FAIL: %s\n' "$*"
	failures=$((failures + 1))
}
# An unusable state: the test ends.
die() {
	printf 'FAIL: %s\n' "$*"
	exit 1
}
finish() {
	if [ "$failures" != 0 ]; then
		say "$failures expectation(s) failed"
		exit 1
	fi
	say "ok"
	exit 0
}
need_kvm() {
	if [ ! -c /dev/kvm ] || ! { exec 8<>/dev/kvm; } 2>/dev/null; then
		say "skipped: /dev/kvm cannot be opened"
		exit 77
	fi
	exec 8>&-
}
now_ms() { local t=${EPOCHREALTIME/[.,]/}; echo $((t / 1000)); }

# vm_begin NAME VERB ARGS...: starts torpor in the background; its console goes to $tmp/NAME.out with
# arrival times, its input comes from $tmp/NAME.in (a FIFO, open for writing as descriptor $vm_in),
# its messages go to $tmp/NAME.err. Sets vm_pid. With vm_port=console it is the virtio console's.
vm_begin() {
	local name=$1
	shift
	rm -f "$tmp/$name.in"
	mkfifo "$tmp/$name.in"
	exec {vm_in}<>"$tmp/$name.in"
	rm -f "$tmp/$name.out" # its stamper may have lines of a VM that is gone left to write
	: >"$tmp/$name.out"
	"$torpor" "$@" "--${vm_port:-serial}" stdio --store "$store" <"$tmp/$name.in" \
		> >("$lib/stamp" >"$tmp/$name.out") 2>"$tmp/$name.err" {vm_in}>&- &
	vm_pid=$!
	pids+=("$vm_pid")
}
# vm_send TEXT: to the console of the VM started last.
vm_send() { printf '%s' "$1" >&"$vm_in"; }
# vm_kill PID: SIGKILL, and waits until it is gone.
vm_kill() {
	kill -KILL "$1" 2>/dev/null
	wait "$1" 2>/dev/null
	return 0
}
# wait_line FILE REGEX SECONDS [FROM_LINE]: the first matching line into $line, without its time;
# arrival time in $line_ns. SECONDS are generous for a machine that is idle; a loaded one gets ten times that.
wait_line() {
	local file=$1 re=$2 end=$(($(now_ms) + $3 * 10000)) from=${4:-1} got
	while :; do
		got=$(tail -n "+$from" "$file" 2>/dev/null | grep -E -m1 -- "^[0-9]+ $re")
		if [ -n "$got" ]; then
			line=${got#* }
			line_ns=${got%% *}
			return 0
		fi
		[ "$(now_ms)" -lt "$end" ] || return 1
		sleep 0.02
	done
}
# falls_silent FILE: what was on its way has come, and for a second nothing came.
falls_silent() {
	local i n=-1
	for ((i = 0; i < 60; i++)); do
		[ "$(wc -l <"$1")" = "$n" ] && return 0
		n=$(wc -l <"$1")
		sleep 1
	done
	return 1
}
# beat_at FILE TIME_NS: the last beat of the benchmark guest that had arrived then into $beat.
beat_at() { beat=$(awk -v t="$2" '$1 + 0 <= t && $2 == "beat" { b = $3 } END { print b + 0 }' "$1"); }
# beats_from FILE LINE LOW HIGH: behind that line the benchmark guest goes on with a beat from LOW to HIGH; what it
# was into $beat. A line that a freeze has cut may say anything: what counts is where the last row of successive
# beats begins, or that the row holds two of the right ones.
beats_from() {
	local end=$(($(now_ms) + 30000))
	while :; do
		beat=$(tail -n "+$(($2 + 1))" "$1" | awk -v low="$3" -v high="$4" '
			$2 == "beat" && $4 == "tsc" { v[++k] = $3 + 0 }
			END {
				for (i = 1; i < k; i++) {
					if (v[i + 1] != v[i] + 1) continue
					if (n == "" || v[i] != v[i - 1] + 1) n = v[i]
					if (v[i] >= low && v[i] <= high) hit = v[i]
				}
				print (n < low && hit != "" ? hit : n)
			}')
		[ -n "$beat" ] && [ "$beat" -ge "$3" ] && [ "$beat" -le "$4" ] && return 0
		[ "$(now_ms)" -lt "$end" ] || return 1
		sleep 0.05
	done
}
# json FILE KEY: a top-level member's value, without quotes (numbers, strings, words).
json() { sed -nE "s/.*\"$2\": ?(\"([^\"]*)\"|[^,}]*)[,}]?.*/\1/p" "$1" | head -n 1 | tr -d '" '; }
# take NAME [ARGS]: a snapshot; its answer in $tmp/take.json.
take() {
	"$torpor" snapshot take "$@" --store "$store" --json >"$tmp/take.json" 2>"$tmp/take.err"
}
# The binary with this test's store; never for ever.
t() { timeout 120 "$torpor" "$@" --store "$store"; }
# console_lines FILE FROM: the console lines of the guests virtio and load are whole, and count from FROM on without a gap; the next to $next.
console_lines() {
	next=$(awk -v n="$2" '
		$2 == "con" {
			want = ""
			for (i = 0; i < 48; i++) want = want sprintf("%c", 97 + (n + i) % 26)
			if ($3 + 0 != n || $4 != want) { print "at " n ": " $0; exit }
			n++
		}
		END { print n }' "$1" | head -n 1)
	case $next in at*) die "$1: lost, doubled or torn $next" ;; esac
}
# expect_error STATUS REGEX CMD...: CMD must exit so, with one line on stderr that matches.
expect_error() {
	local want=$1 re=$2 got what
	shift 2
	what=$(printf '%s ' "$@" | cut -c 1-160)
	if declare -F "$1" >/dev/null; then
		"$@" >"$tmp/cmd.out" 2>"$tmp/cmd.err" </dev/null
	else
		timeout 120 "$@" >"$tmp/cmd.out" 2>"$tmp/cmd.err" </dev/null
	fi
	got=$?
	[ "$got" = "$want" ] || bad "$what: exit $got, wanted $want: $(head -c 300 "$tmp/cmd.err")"
	[ "$(wc -l <"$tmp/cmd.err")" = 1 ] ||
		bad "$what: $(wc -l <"$tmp/cmd.err") lines on stderr, wanted one: $(head -c 500 "$tmp/cmd.err")"
	grep -Eiq -- "$re" "$tmp/cmd.err" || bad "$what: says '$(head -c 300 "$tmp/cmd.err")', wanted /$re/"
}
# Guest kernel for Linux tests into $kernel; skip with a reason if there is none.
linux_kernel() {
	if grep -qwE 'vmx|svm' /proc/cpuinfo; then
		kernel=$("$top/tests/guest/linux/debian-kernel") || die "no Debian kernel"
	else
		kernel=$("$top/tests/guest/linux/build" --path) && [ -f "$kernel" ] ||
			die "the guest kernel is not built: run tests/guest/linux/build"
	fi
	initrd=$guests/initrd.cpio
}
