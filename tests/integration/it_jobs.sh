#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What lasts has a number: begun by one client, watched, waited for and given up by others, by raw packets and by the
# shell; answers at a deadline; nothing is left of clients that leave. A slow request holds no other up.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
vm_begin j run --name j --kernel "$guests/bench.pvh" --mem 1G --cmdline "beat=20 pages=64 fill=900 halt=1"
wait_line "$tmp/j.out" 'beat 3 ' 120 || die "does not run"
sock=$XDG_RUNTIME_DIR/torpor/j.sock
ask() { answer=$(printf '%s' "$1" | "$lib/ctlsend" "$sock" 2>&1); }
want() {
	ask "$1"
	grep -Eq -- "$2" <<<"$answer" || bad "$1 is answered $answer, wanted /$2/"
}
torpor_packet() { printf '{"Torpor":{"v":1,%s}}' "$1"; }
number() { sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p" <<<"$answer"; }

want "$(torpor_packet '"cmd":"Jobs"')" '^\{"Torpor":\{"Jobs":\[\]\}\}$'
[ -z "$(t job list j)" ] || bad "jobs of a new VM: $(t job list j)"
for r in Job JobWait JobCancel; do
	want "$(torpor_packet "\"cmd\":{\"$r\":{\"id\":1}}")" 'no job 1: .*ENOENT'
	want "$(torpor_packet "\"cmd\":{\"$r\":{\"id\":0}}")" 'no job 0: .*ENOENT'
done
want "$(torpor_packet '"detach":true,"cmd":"Status"')" 'Torpor.detach: only Take and Rewind .*EINVAL'
want "$(torpor_packet '"deadline_ms":86400001,"cmd":"Status"')" 'deadline_ms.*EINVAL'

# Begun here, looked at there, waited for by two others whose answers are the same.
want "$(torpor_packet '"detach":true,"cmd":{"Take":{"tag":"one"}}')" \
	'^\{"Torpor":\{"Job":\{"id":1,"kind":"Take","state":"running","begun_at_ns":[0-9]*'
for n in 1 2; do
	(printf '%s' "$(torpor_packet '"cmd":{"JobWait":{"id":1}}')" | "$lib/ctlsend" "$sock" >"$tmp/wait$n" 2>&1) &
	waits[n]=$!
	pids+=("${waits[n]}")
done
want "$(torpor_packet '"cmd":{"Job":{"id":1}}')" '"id":1,"kind":"Take","state":"(running|done)"'
[ "$(number total)" = "" ] || [ "$(number done)" -le "$(number total)" ] || bad "progress: $answer"
# All others are answered meanwhile.
want '"VcpuPidTid"' pid_tid_map
want "$(torpor_packet '"cmd":"Status"')" '"state":"running"'
wait "${waits[1]}" && wait "${waits[2]}" || bad "waiting: $(cat "$tmp/wait1" "$tmp/wait2")"
grep -q '^{"Torpor":{"Take":{"ref":"j@one",' "$tmp/wait1" || bad "who waits gets $(cat "$tmp/wait1")"
cmp -s "$tmp/wait1" "$tmp/wait2" || bad "two that wait get $(cat "$tmp/wait1") and $(cat "$tmp/wait2")"
want "$(torpor_packet '"cmd":{"JobWait":{"id":1}}')" '"ref":"j@one"' # it is over: at once
want "$(torpor_packet '"cmd":{"Job":{"id":1}}')" '"state":"done",.*"elapsed_us":[1-9][0-9]*,"take":\{"ref":"j@one"'
want "$(torpor_packet '"cmd":{"JobCancel":{"id":1}}')" 'ended already .*ESRCH'
t snapshot list j --json | grep -q '"one"' || bad "the detached take is not listed"

# Given up by somebody else. A take may be done before that: one of several is not.
cancelled=
for ((i = 0; i < 20; i++)); do
	vm_send d # not the same memory as before
	id=$(t snapshot take j --tag "c$i" --no-wait) || bad "take --no-wait"
	id=${id#job }
	(t job wait j "$id" >"$tmp/w" 2>&1) &
	waiter=$!
	pids+=("$waiter")
	t job cancel j "$id" >"$tmp/cancel" 2>&1 || grep -q 'ended already' "$tmp/cancel" || bad "cancel: $(cat "$tmp/cancel")"
	wait $waiter
	rc=$?
	state=$(t job show j "$id")
	case $state in
	*cancelled*)
		cancelled=$id
		[ $rc = 1 ] && grep -qi cancel "$tmp/w" || [ $rc = 0 ] || bad "who waits for a job given up: $rc, $(cat "$tmp/w")"
		t snapshot list j --json | grep -q "\"c$i\"" && bad "a take that was given up is listed"
		break
		;;
	*done*) ;;
	*) bad "after the cancel: $state" ;;
	esac
done
[ -n "$cancelled" ] || bad "no take could be given up"
t job list j >"$tmp/list" || bad "job list"
grep -q "^job $cancelled: Take, cancelled, took .*cancel" "$tmp/list" || bad "job list: $(cat "$tmp/list")"
t job show j "$cancelled" --json >"$tmp/show" && [ "$(json "$tmp/show" state)" = cancelled ] || bad "job show --json: $(cat "$tmp/show")"

# Whoever gives a deadline is answered then; the job goes on, and others hear of its end.
late=
for ((i = 0; i < 20; i++)); do
	ask "$(torpor_packet "\"deadline_ms\":1,\"cmd\":{\"Take\":{\"tag\":\"late$i\"}}")"
	grep -q 'not done within 1 ms: it goes on as job [0-9]*, .*ETIMEDOUT' <<<"$answer" || continue
	late=$(sed 's/.*as job \([0-9]*\),.*/\1/' <<<"$answer")
	ask "$(torpor_packet "\"deadline_ms\":1,\"cmd\":{\"JobWait\":{\"id\":$late}}")"
	grep -Eq "job $late is not done within 1 ms .*ETIMEDOUT|\"ref\":\"j@late$i\"" <<<"$answer" || bad "JobWait with a deadline: $answer"
	t job wait j "$late" --timeout 120 || bad "the late take did not go on"
	t snapshot list j --json | grep -q "\"late$i\"" || bad "the late take is not listed"
	break
done
[ -n "$late" ] || bad "every take was done within 1 ms: $answer"

# What would change the VM under a take that somebody asked for is refused, and nothing is left half done.
cat >"$tmp/packets" <<'EOF'
{"Torpor":{"v":1,"detach":true,"cmd":"Take"}}
"SuspendVm"
"SuspendVcpus"
"ResumeVcpus"
"ResumeVm"
{"DiskCommand":{"disk_index":0,"command":{"Resize":{"new_size":4096}}}}
{"UnregisterMemory":{"region_id":4096}}
{"Torpor":{"v":1,"cmd":"Take"}}
EOF
refused=
for ((i = 0; i < 40; i++)); do
	vm_send d
	"$lib/ctlsend" "$sock" --lines <"$tmp/packets" >"$tmp/answers" 2>&1 || bad "packets: $(cat "$tmp/answers")"
	id=$(sed -n '1s/.*"id":\([0-9]*\).*/\1/p' "$tmp/answers")
	[ -z "$id" ] || t job wait j "$id" || bad "take $id"
	want "$(torpor_packet '"cmd":"Status"')" '"state":"(running|vcpus-suspended|suspended)"'
	want '"ResumeVm"' '"Ok"'
	[ "$(grep -c "'j' is being snapshotted: try again when that is done (errno 16 EBUSY)" "$tmp/answers")" = 6 ] || continue
	grep -q 'a snapshot of .j. is being taken already (errno 16 EBUSY)' "$tmp/answers" || continue
	refused=1
	break
done
[ -n "$refused" ] || bad "requests under a take are answered $(cat "$tmp/answers")"

# Clients that leave in the middle of it leave nothing behind.
fds() { find "/proc/$vm_pid/fd" -mindepth 1 | wc -l; }
before=$(fds)
id=$(t snapshot take j --tag left --no-wait)
for n in 1 2 3 4 5; do
	"$lib/ctlsend" "$sock" <<<"$(torpor_packet "\"cmd\":{\"JobWait\":{\"id\":${id#job }}}")" >/dev/null 2>&1 &
	left=$!
	pids+=("$left")
	kill -KILL "$left"
	wait "$left" 2>/dev/null
done
t job wait j "${id#job }" || bad "the take whose waiters left"
for ((i = 0; i < 200; i++)); do [ "$(fds)" -le "$before" ] && break; sleep 0.05; done
[ "$(fds)" -le "$before" ] || bad "$(fds) descriptors, $before before"

# A rewind is a job, too; the last 16 are known, by number.
want "$(torpor_packet '"detach":true,"cmd":{"Rewind":{"ref":"j@one"}}')" '"kind":"Rewind","state":"running"'
id=$(number id)
t job wait j "$id" || bad "the rewind failed"
want "$(torpor_packet "\"cmd\":{\"Job\":{\"id\":$id}}")" '"state":"done".*"rewind":\{"ref":"j@one"'
want "$(torpor_packet '"detach":true,"cmd":{"Rewind":{"ref":"j@none"}}')" '"kind":"Rewind"|ENOENT'
for ((i = 0; i < 18; i++)); do
	id=$(t snapshot take j --no-wait) || bad "take $i"
	t job wait j "${id#job }" || bad "take $i"
done
[ "$(t job list j | wc -l)" = 16 ] || bad "$(t job list j | wc -l) jobs are listed"
[ "$(t job list j | sed 's/job \([0-9]*\):.*/\1/' | sort -n | tr '\n' ' ')" = "$(t job list j | sed 's/job \([0-9]*\):.*/\1/' | tr '\n' ' ')" ] ||
	bad "jobs out of order: $(t job list j)"
want "$(torpor_packet '"cmd":{"Job":{"id":1}}')" 'no job 1: the last 16 .*ENOENT'
expect_error 1 'no job 1' t job wait j 1
expect_error 2 'no number' t job show j first

# Monitors look and wait, and give nothing up: see it_requests. The VM's end ends the waiting, too.
vm_send d
id=$(t snapshot take j --tag end --no-wait)
(t job wait j "${id#job }" >"$tmp/w" 2>&1) &
waiter=$!
t stop j || bad "stop"
wait "$vm_pid" || bad "status of the VM: $(tail -n 3 "$tmp/j.err")"
wait $waiter # done, given up or cut off; but it ends
[ $? -le 1 ] || bad "who waits when the VM ends: $(cat "$tmp/w")"
finish
