#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The control socket and the verbs on a living VM: suspend, resume, stop, list, a second take, and packets
# that no sound client sends. One answer per request, and the VM lives on.
. "$(dirname "$0")/../lib/common.bash"
need_kvm

vm_begin ctl run --name ctl --kernel "$guests/bench.pvh" --mem 64M --cmdline "beat=20 pages=8 halt=1"
wait_line "$tmp/ctl.out" 'beat 3 ' 20 || die "does not run"
sock=$XDG_RUNTIME_DIR/torpor/ctl.sock
[ -S "$sock" ] || die "no socket $sock"
[ "$(stat -c %a "$sock")" = 600 ] || bad "socket mode $(stat -c %a "$sock")"
[ "$(stat -c %a "$XDG_RUNTIME_DIR/torpor")" = 700 ] || bad "run folder mode"

answer() { "$lib/ctlsend" "$sock" >"$tmp/answer" 2>"$tmp/answer.err"; }
lives() {
	local from=$(($(wc -l <"$tmp/ctl.out") + 1))
	wait_line "$tmp/ctl.out" 'beat ' 10 "$from" || die "$1: the guest stands still"
}
printf 'this is no JSON' | answer || bad "no answer to garbage: $(cat "$tmp/answer.err")"
grep -q Err "$tmp/answer" || bad "garbage answered with $(cat "$tmp/answer")"
printf '"NoSuchVariant"' | answer || bad "no answer to an unknown variant"
grep -q Err "$tmp/answer" || bad "unknown variant answered with $(cat "$tmp/answer")"
printf '' | answer
printf '{"Snapshot":{"Take":' | answer || bad "no answer to half a packet"
printf '\377\376\000\001' | answer || bad "no answer to binary"
printf '{"Torpor":{"v":99,"cmd":"x"}}' | answer || bad "no answer to another version"
grep -q Err "$tmp/answer" || bad "version 99 answered with $(cat "$tmp/answer")"
"$lib/ctlsend" "$sock" --fill 204800 >"$tmp/answer" 2>"$tmp/answer.err" || bad "no answer to 200 KiB: $(cat "$tmp/answer.err")"
grep -q Err "$tmp/answer" || bad "200 KiB answered with $(head -c 200 "$tmp/answer")"
lives "bad packets"
[ "$(printf '"SuspendVcpus"' | "$lib/ctlsend" "$sock")" = '"Ok"' ] || bad "SuspendVcpus is not Ok"
[ "$(printf '"ResumeVcpus"' | "$lib/ctlsend" "$sock")" = '"Ok"' ] || bad "ResumeVcpus is not Ok"
lives "resume"

t suspend ctl || bad "suspend"
falls_silent "$tmp/ctl.out" || bad "a suspended guest prints"
t suspend ctl || bad "suspend twice"
take ctl --tag asleep || bad "take of a suspended VM: $(cat "$tmp/take.err")"
falls_silent "$tmp/ctl.out" || bad "a take woke a suspended guest"
expect_error 1 'suspend|resume' t resume ctl --vcpus
t resume ctl || bad "resume"
lives "resume"
t suspend ctl --vcpus && t resume ctl --vcpus || bad "suspend --vcpus"
lives "resume --vcpus"
t list --json >"$tmp/list.json" || bad "list"
grep -q '"ctl"' "$tmp/list.json" || bad "list does not show the VM: $(cat "$tmp/list.json")"
expect_error 1 'running' t run --name ctl --kernel "$guests/bench.pvh"
expect_error 2 'store' "$torpor" snapshot take ctl --store "$tmp/other"
expect_error 1 'not running|no VM|no such' t suspend nobody

# A second take of the same VM at once: exactly one error that says so, the first one succeeds.
vm_begin slow run --name slow --kernel "$guests/bench.pvh" --mem 512M --cmdline "beat=50 pages=8 halt=1"
wait_line "$tmp/slow.out" 'beat 3 ' 60 || die "does not run"
again=0
for i in $(seq 20); do
	t snapshot take slow --tag "a$i" >"$tmp/a.out" 2>"$tmp/a.err" &
	a=$!
	t snapshot take slow --tag "b$i" >"$tmp/b.out" 2>"$tmp/b.err" &
	b=$!
	wait $a
	ra=$?
	wait $b
	rb=$?
	[ $ra = 0 ] || [ $rb = 0 ] || bad "of two takes at once neither succeeded: $(cat "$tmp/a.err" "$tmp/b.err")"
	if [ $ra != 0 ] || [ $rb != 0 ]; then
		again=1
		cat "$tmp/a.err" "$tmp/b.err" >"$tmp/two.err"
		grep -Eq 'being taken' "$tmp/two.err" || bad "second take says: $(cat "$tmp/two.err")"
		break
	fi
done
[ "$again" = 1 ] || bad "no second take was refused"

t stop slow || bad "stop"
wait "$vm_pid"
rc=$?
[ "$rc" = 0 ] || bad "a stopped VM exits with $rc"
expect_error 1 'not running|no VM|no such' t stop slow
t snapshot list --json >"$tmp/snaps.json" || bad "snapshot list"
grep -q '"asleep"' "$tmp/snaps.json" || bad "the list lacks a tag"
t snapshot show ctl@asleep >"$tmp/show.json" || bad "snapshot show"
grep -q 'serial' "$tmp/show.json" || bad "show lacks the serial port"
t doctor >"$tmp/doctor.out" || bad "doctor: $(tail -n 2 "$tmp/doctor.out")"
grep -qi 'kvm' "$tmp/doctor.out" || bad "doctor says nothing of KVM"
finish
