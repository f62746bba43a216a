#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Takes of a guest that writes hard all the time: each is complete and sound and costs what changed, in
# whatever order others are removed; the base goes away between takes; a take is cancelled, or its process
# killed, in the middle; a restored VM goes on incrementally; a suspended VM's incremental snapshot is, page
# for page, what a full one is; a reset starts over.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
rounds=6
[ "$tier" = quick ] && rounds=4
[ "$tier" = long ] && rounds=40
RANDOM=${TORPOR_SEED:-1}

# restored_ok REF: brought back by itself, the guest finds every byte as it left it.
restored_ok() {
	local in=$vm_in pid=$vm_pid n=${1//[^a-z0-9]/}
	vm_begin "r$n" restore "$1" --name "copy$n"
	wait_line "$tmp/r$n.out" 'beat ' 30 || { bad "$1: does not go on"; return; }
	vm_send C
	wait_line "$tmp/r$n.out" 'check ' 60 || line="no answer"
	[[ $line == "check ok"* ]] || bad "$1: restored guest says: $line"
	vm_kill "$vm_pid"
	exec {vm_in}>&-
	vm_in=$in vm_pid=$pid
}
digest_of() { t snapshot show "$1" | tr -d ' \n' | sed -nE 's/.*"name":"memory","bytes":[0-9]+,"digest":"([0-9a-f]+)".*/\1/p'; }

vm_begin gen run --name gen --kernel "$guests/bench.pvh" --mem 64M --cmdline "beat=5 pages=200 fill=48" --cpus 1
wait_line "$tmp/gen.out" 'beat 20 ' 30 || die "does not run"
refs=() gone=
for ((i = 1; i <= rounds; i++)); do
	take gen || die "take $i: $(cat "$tmp/take.err")"
	refs+=("gen@$i")
	want=true # unless there is no base, or it was removed just before
	[ "$i" = 1 ] || [ "$gone" = "gen@$((i - 1))" ] && want=false
	[ "$(json "$tmp/take.json" incremental)" = "$want" ] || bad "take $i: incremental is not $want"
	grep -q '"pages"' "$tmp/take.json" || bad "take $i tells nothing of its pause"
	[ "$(json "$tmp/take.json" number)" = "$i" ] || bad "take $i has number $(json "$tmp/take.json" number)"
	if [ $((i % 3)) = 0 ]; then # one goes, any of them: also the base of the next
		k=$((RANDOM % ${#refs[@]})) gone=${refs[k]}
		t snapshot rm "${refs[k]}" || bad "rm ${refs[k]}"
		unset "refs[k]" && refs=("${refs[@]}")
	fi
	sleep 0.1
done
for ref in "${refs[@]}"; do
	t snapshot verify "$ref" >"$tmp/v" || bad "$ref: $(cat "$tmp/v")"
	restored_ok "$ref"
done

# The base is removed: everything again, and sound.
take gen --tag base || die "take"
t snapshot rm gen@base || bad "rm of the base"
take gen --tag after || die "take without its base: $(cat "$tmp/take.err")"
[ "$(json "$tmp/take.json" incremental)" = false ] || bad "incremental without a base"
restored_ok gen@after

# Cancelled in the middle, again and again: the guest goes on, nothing is listed, no change is forgotten.
before=$(t snapshot list gen --json | grep -c '"ref"')
cancelled=0
for i in 1 2 3 4 5 6; do
	t snapshot take gen --tag "c$i" >"$tmp/c.out" 2>"$tmp/c.err" &
	pid=$!
	sleep 0.0$((RANDOM % 5))
	t snapshot cancel gen 2>/dev/null
	wait "$pid"
	case $? in
	0) t snapshot rm "gen@c$i" || bad "rm gen@c$i" ;;
	1) grep -q cancelled "$tmp/c.err" && cancelled=$((cancelled + 1)) || bad "cancel: $(cat "$tmp/c.err")" ;;
	*) bad "a cancelled take ended strangely" ;;
	esac
done
expect_error 1 'no snapshot of' t snapshot cancel gen
[ "$cancelled" -ge 1 ] || say "note: no take was slow enough to be cancelled"
[ "$(t snapshot list gen --json | grep -c '"ref"')" = "$before" ] || bad "a cancelled take is listed"
take gen --tag uncancelled || die "take after the cancelled ones"
restored_ok gen@uncancelled
vm_send C
wait_line "$tmp/gen.out" 'check ok' 60 || bad "the guest itself is damaged"

# Suspended: an incremental snapshot is what a full one is.
t suspend gen || bad "suspend"
take gen --tag inc || die "take of a suspended VM"
[ "$(json "$tmp/take.json" incremental)" = true ] || bad "not incremental when suspended"
inc=$(digest_of gen@inc)
t snapshot rm gen@inc || bad "rm gen@inc"
take gen --tag full || die "take"
[ "$(json "$tmp/take.json" incremental)" = false ] || bad "incremental without a base"
[ -n "$inc" ] && [ "$inc" = "$(digest_of gen@full)" ] || bad "the incremental snapshot differs from the full one"
take gen --tag same || die "take"
[ "$(json "$tmp/take.json" pages_stored)" = 0 ] || bad "an unchanged VM stored $(json "$tmp/take.json" pages_stored) pages"
t resume gen || bad "resume"
sleep 0.2

# SIGKILL in the middle of a take: what is listed is sound.
t snapshot take gen --tag dead >/dev/null 2>&1 &
pid=$!
sleep 0.0$((RANDOM % 6))
vm_kill "$vm_pid"
wait "$pid" 2>/dev/null
t store verify >"$tmp/v" || bad "after SIGKILL: $(cat "$tmp/v")"

# Restored: the next take is incremental from the first one on; a reset starts over.
vm_begin back restore gen@full
wait_line "$tmp/back.out" 'beat ' 30 || die "gen@full: does not go on"
for i in 1 2 3; do
	take gen --tag "b$i" || die "take of a restored VM: $(cat "$tmp/take.err")"
	[ "$(json "$tmp/take.json" incremental)" = true ] || bad "take $i of a restored VM is not incremental"
	sleep 0.1
done
restored_ok gen@b1
restored_ok gen@b3
vm_send r
wait_line "$tmp/back.out" 'bench guest' 30 || bad "no reset"
wait_line "$tmp/back.out" 'beat 3 ' 30 "$(grep -n 'bench guest' "$tmp/back.out" | tail -n 1 | cut -d: -f1)" || bad "no new start"
take gen --tag reset || die "take after a reset"
[ "$(json "$tmp/take.json" incremental)" = false ] || bad "incremental over a reset"
restored_ok gen@reset

# Many small ones cost next to nothing, and nothing is lost or leaked when all but one go.
t store verify >"$tmp/v" || bad "verify: $(cat "$tmp/v")"
mapfile -t all < <(t snapshot list gen --json | sed -nE 's/.*"ref": ?"([^"]*)".*/\1/p' | grep -v '@b3$' | shuf --random-source=<(yes "$RANDOM"))
for ref in "${all[@]}"; do
	t snapshot rm "$ref" || bad "rm $ref"
done
t store gc >/dev/null || bad "gc"
restored_ok gen@b3
t store verify >"$tmp/v" || bad "verify at the end: $(cat "$tmp/v")"
vm_kill "$vm_pid"
finish
