#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Continuous checkpoints: automatic snapshots come by themselves and go by rule, pinned ones and those that
# somebody asked for stay; an explicit take goes first, and no suspend or resume is refused because of one; the
# policy of a living VM can be changed; a VM that stands still is not taken again; after
# a SIGKILL the newest one goes on; on a full disk the oldest automatic ones make room, and nothing else does.
if [ -z "${IT_CHECKPOINT_INSIDE:-}" ]; then
	if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
		IT_CHECKPOINT_INSIDE=1 exec unshare -m "$0"
	elif unshare -rm true 2>/dev/null; then
		IT_CHECKPOINT_INSIDE=1 exec unshare -rm "$0"
	fi
	echo "skipped: no mount namespace"
	exit 77
fi
. "$(dirname "$0")/../lib/common.bash"
need_kvm
# autos NAME: tags of its automatic snapshots, oldest first, into the array $autos; all tags in $all.
autos() {
	# Before the first one there is no such VM in the store.
	t snapshot list "$1" --json >"$tmp/list.json" 2>"$tmp/list.err" || grep -q 'has no VM' "$tmp/list.err" ||
		die "list: $(cat "$tmp/list.err")"
	mapfile -t autos < <(grep -oE '"tag": ?"auto-[^"]*"' "$tmp/list.json" | grep -oE 'auto-[^"]*')
	all=$(grep -oE '"tag": ?"[^"]*"' "$tmp/list.json" | wc -l)
}
# until_new NAME N SECONDS: until N automatic snapshots more have come.
until_new() {
	local name=$1 n=$2 end=$(($(now_ms) + $3 * 10000)) last="" new
	while [ "$n" -gt 0 ]; do
		autos "$name"
		new=
		[ ${#autos[@]} -gt 0 ] && new=${autos[-1]}
		if [ -n "$new" ] && [ "$new" != "$last" ]; then
			[ -n "$last" ] && n=$((n - 1))
			last=$new
		fi
		[ "$(now_ms)" -lt "$end" ] || return 1
		sleep 0.1
	done
}

expect_error 2 'no interval' "$torpor" run --name x --kernel "$guests/bench.pvh" --checkpoint-every 30
expect_error 2 'what to keep' "$torpor" run --name x --kernel "$guests/bench.pvh" --checkpoint-keep 0
vm_begin c run --name c --kernel "$guests/bench.pvh" --mem 64M --cmdline "beat=10 pages=64 fill=24 halt=1" \
	--checkpoint-every 1s --checkpoint-keep 3
wait_line "$tmp/c.out" 'beat ' 30 || die "does not run: $(cat "$tmp/c.err")"
until_new c 1 60 || die "no automatic snapshots: $(cat "$tmp/c.err")"
pinned=${autos[0]}
t snapshot pin "c@$pinned" || bad "pin"
# Explicit takes are not refused because an automatic one is under way.
for i in 1 2 3 4 5 6 7 8; do
	take c --tag "mine$i" || bad "take $i: $(cat "$tmp/take.err")"
	sleep "0.$((i * 3 % 10))"
done
until_new c 5 120 || die "automatic snapshots stop: $(cat "$tmp/c.err")"
[ ${#autos[@]} -ge 3 ] && [ ${#autos[@]} -le 5 ] || bad "${#autos[@]} automatic snapshots, 3 and a pinned one are to stay: ${autos[*]}"
[ "${autos[0]}" = "$pinned" ] || bad "the pinned one is gone: ${autos[*]}"
[ $((all - ${#autos[@]})) = 8 ] || bad "$((all - ${#autos[@]})) explicit snapshots of 8 are left"

# What stands still is taken once more at most.
t suspend c || bad "suspend"
# The one that was under way, and one more.
for again in 0 1 2; do
	autos c
	before=${autos[-1]}
	sleep 4.5
	autos c
	[ "${autos[-1]}" != "$before" ] || break
done
[ "${autos[-1]}" = "$before" ] || bad "a suspended VM is taken again and again"
t resume c || bad "resume"
until_new c 1 60 || bad "not taken any more after a resume"
vm_kill "$vm_pid"
autos c
vm_begin c restore "c@${autos[-1]}" --checkpoint-every 1s
wait_line "$tmp/c.out" 'beat ' 30 || die "does not come back"
vm_send C
wait_line "$tmp/c.out" 'check ' 60 || die "no check"
[[ $line == "check ok"* ]] || bad "after the SIGKILL: $line"
until_new c 1 60 || bad "no automatic snapshots after a restore"
vm_kill "$vm_pid"
t store verify >"$tmp/verify.out" 2>&1 || bad "verify: $(tail -n 3 "$tmp/verify.out")"

# The policy of a living VM. Pages that do not compress, many of them: a take is under way for most of the time.
expect_error 1 'not running' t checkpoint policy p --every 30s
TORPOR_DEBUG=1 vm_begin p run --name p --kernel "$guests/bench.pvh" --mem 256M --cmdline "beat=20 pages=256 fill=192 halt=1"
wait_line "$tmp/p.out" 'beat 2 ' 60 || die "does not run"
expect_error 2 'no interval' t checkpoint policy p --every 30
expect_error 2 'what to keep' t checkpoint policy p --keep some
expect_error 2 'contradict' t checkpoint policy p --every 30s --off
policy() { t checkpoint policy p "$@" --json >"$tmp/policy.json" || bad "checkpoint policy $*"; }
# is KEY VALUE: in the answer of the last policy
is() { [ "$(json "$tmp/policy.json" "$1")" = "$2" ] || bad "$1 is not $2: $(cat "$tmp/policy.json")"; }
policy
is every off
is keep 10
is taken 0
policy --every 60s --keep 2
is every 1m
is keep 2
policy --every 1s
is keep 2
# Nobody is refused because of an automatic take: the VM is as asked when the answer comes.
until_taking() {
	local end=$(($(now_ms) + 120000))
	until t checkpoint status p --json >"$tmp/status.json" && [ "$(json "$tmp/status.json" taking)" = true ]; do
		[ "$(now_ms)" -lt "$end" ] || die "no automatic take any more: $(cat "$tmp/status.json")"
	done
}
for hits in 1 2 3 4 5 6 7 8 9 10 11 12; do
	until_taking
	vcpus=()
	state=suspended
	[ $((hits % 2)) = 0 ] || { vcpus=(--vcpus) state=vcpus-suspended; }
	t suspend p "${vcpus[@]}" || bad "suspend ${vcpus[*]} during an automatic take"
	t list --json >"$tmp/ps.json"
	grep -q "\"$state\"" "$tmp/ps.json" || bad "the VM is not $state: $(cat "$tmp/ps.json")"
	t resume p "${vcpus[@]}" || bad "resume ${vcpus[*]}"
done
# A client that has left before its turn changes nothing for the others.
for hits in 1 2 3 4; do
	until_taking
	(printf '"SuspendVm"' | timeout -s KILL "0.0$((hits * 2))" "$lib/ctlsend" "$XDG_RUNTIME_DIR/torpor/p.sock") >"$tmp/left" 2>&1
	t resume p || bad "resume behind a client that has left"
done
# Both on one connection, one behind the other.
printf '%s\n' '"SuspendVm"' '"ResumeVm"' '"SuspendVcpus"' '"ResumeVcpus"' |
	"$lib/ctlsend" "$XDG_RUNTIME_DIR/torpor/p.sock" --lines >"$tmp/four" 2>&1 || bad "four requests: $(cat "$tmp/four")"
[ "$(sort -u "$tmp/four")" = '"Ok"' ] || bad "four requests are answered $(cat "$tmp/four")"
until_new p 2 120 || die "automatic snapshots stop: $(cat "$tmp/p.err")"
policy
is every 1s
is error ""
grep 'not compacted' "$tmp/p.err" | grep -v 'given up' && bad "the store cannot be compacted from the VM's process"
policy --off
is every off
end=$(($(now_ms) + 60000))
while t checkpoint status p --json | grep -q '"taking": true' && [ "$(now_ms)" -lt "$end" ]; do sleep 0.1; done
autos p
before=${autos[-1]}
sleep 2.5
autos p
[ "${autos[-1]}" = "$before" ] || bad "taken although it is off"
[ ${#autos[@]} -le 3 ] || bad "${#autos[@]} automatic snapshots, 2 are to stay: ${autos[*]}"
t checkpoint status p >"$tmp/status" || bad "checkpoint status"
grep -q "^the last one is p@[0-9]*, [0-9]* s ago\$" "$tmp/status" || bad "status: $(cat "$tmp/status")"
# The end of the VM while a request waits: it is answered, one way or the other.
policy --every 1s
until_taking
t suspend p >"$tmp/suspend.out" 2>&1 &
suspending=$!
t stop p || bad "stop while a suspend waits"
wait "$suspending"
rc=$?
[ $rc = 0 ] || [ $rc = 1 ] || bad "the suspend ends with $rc: $(cat "$tmp/suspend.out")"
wait "$vm_pid"
rc=$?
[ $rc = 0 ] || bad "stopped while a suspend waits: status $rc: $(tail -n 5 "$tmp/p.err")"

# A full disk: 512 pages change per beat, room for a few snapshots. The first has each page at least once: on a
# loaded machine it takes long, and stores more that changed meanwhile.
mkdir "$tmp/small"
mount -t tmpfs -o size=96M none "$tmp/small" || {
	say "no tmpfs: a full disk is not tried"
	finish
}
at_end() { umount -l "$tmp/small"; }
store=$tmp/small/store
vm_begin f run --name f --kernel "$guests/bench.pvh" --mem 96M --cmdline "beat=20 pages=96 fill=64 halt=1" \
	--checkpoint-every 1s --checkpoint-keep all
wait_line "$tmp/f.out" 'beat 2 ' 30 || die "does not run"
take f --tag mine || bad "take: $(cat "$tmp/take.err")"
end=$(($(now_ms) + 600000))
until grep -q 'removed for room' "$tmp/f.err"; do
	[ "$(now_ms)" -lt "$end" ] || die "the disk never got full: $(t snapshot list f)"
	sleep 0.2
done
until_new f 2 60 || bad "no more automatic snapshots on a full disk: $(tail -n 3 "$tmp/f.err")"
grep -q '"mine"' "$tmp/list.json" || bad "an explicit snapshot was removed for room"
vm_kill "$vm_pid"
t store verify >"$tmp/verify.out" 2>&1 || bad "verify: $(tail -n 3 "$tmp/verify.out")"
autos f
vm_begin f restore "f@${autos[-1]}"
wait_line "$tmp/f.out" 'beat ' 30 || die "does not come back"
vm_send C
wait_line "$tmp/f.out" 'check ' 60 || die "no check"
[[ $line == "check ok"* ]] || bad "after a full disk: $line"
finish
