#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Each verb on a living VM that is not tested by what it is about: its effect in the guest or in /proc, and how it is
# refused. Which test is about which request: docs/testing.md, "The control plane".
. "$(dirname "$0")/../lib/common.bash"
need_kvm
vm_begin p run --name p --kernel "$guests/idle.pvh" --mem 32M --battery --cmdline "battery=1"
wait_line "$tmp/p.out" 'beat 3 ' 60 || die "does not run"
# does RE VERB...: the guest says so after the verb.
does() {
	local re=$1 from=$(($(wc -l <"$tmp/p.out") + 1))
	shift
	t "$@" >"$tmp/did" 2>&1 || bad "$*: $(cat "$tmp/did")"
	wait_line "$tmp/p.out" "$re" 60 "$from" || bad "$*: the guest has not said '$re': $(tail -n 3 "$tmp/p.out")"
}
does 'rtc 1 gpe 0$' rtc p
does 'rtc 2 gpe 0$' rtc p
does 'rtc 2 gpe 1$' gpe p 5
does 'rtc 2 gpe 2$' gpe p 0x5
does 'capacity 40$' battery p goldfish capacity 40
does 'capacity 30$' battery p goldfish set_fake_bat_config 30
does 'capacity 40$' battery p goldfish cancel_fake_bat_config
does 'sleeps 1$' sleepbtn p
does 'wakes 1 power 1$' powerbtn p
does 'beat [0-9]+ slept 1 power 2$' powerbtn p
expect_error 1 'no GPE 256' t gpe p 256
expect_error 1 'knows no such|EINVAL|rosy' t battery p goldfish status rosy
expect_error 1 'silverfish' t battery p silverfish capacity 4
t stop p || bad "stop"
wait "$vm_pid" || bad "status after stop"

vm_begin v run --name v --kernel "$guests/bench.pvh" --mem 64M --cpus 2 --cmdline "beat=20 pages=8 halt=1 peek=1073741824"
wait_line "$tmp/v.out" 'beat 3 ' 60 || die "does not run"
# Threads, as /proc knows them.
t vcpus v --json >"$tmp/vcpus" || bad "vcpus"
mapfile -t tids < <(grep -o '"tid": [0-9]*' "$tmp/vcpus" | tr -dc '0-9\n')
[ ${#tids[@]} = 2 ] || bad "vcpus: $(cat "$tmp/vcpus")"
for tid in "${tids[@]}"; do [ -d "/proc/$vm_pid/task/$tid" ] || bad "no thread $tid"; done
policy() { sed 's/.*) //' "/proc/$vm_pid/task/$1/stat" | cut -d ' ' -f 39; }
if t rt v >"$tmp/rt" 2>&1; then want=2; else want=0; grep -q 'SCHED_RR' "$tmp/rt" || bad "rt: $(cat "$tmp/rt")"; fi
for tid in "${tids[@]}"; do [ "$(policy "$tid")" = $want ] || bad "thread $tid has policy $(policy "$tid") after rt"; done
[ "$(t descriptor v)" = anon_inode:kvm-vm ] || bad "descriptor: $(t descriptor v)"
# The longest time between two lines by the guest's own clock.
gap_ms() { awk '$2 == "tsc_khz" { khz = $3 } $2 == "beat" { if (at && ($5 - at) / khz > most) most = ($5 - at) / khz; at = $5 } END { print int(most) }' "$tmp/v.out"; }
before=$(gap_ms)
longer=$((before + 500))
t throttle v 0 ${longer}ms || bad "throttle"
for ((i = 0; i < 600; i++)); do [ "$(gap_ms)" -ge $((longer - 50)) ] && break; sleep 0.05; done
[ "$(gap_ms)" -ge $((longer - 50)) ] || bad "throttled by $longer ms, the longest gap is $(gap_ms) ms"
# Memory comes and goes.
peek() {
	local from=$(($(wc -l <"$tmp/v.out") + 1))
	vm_send p
	wait_line "$tmp/v.out" 'peek ' 60 "$from" || die "no peek"
	[ "$line" = "peek $1" ] || bad "the guest reads '$line', wanted $1"
}
[ "$(t memory add v 0x40000000 4K)" = "region 0x40000000" ] || bad "memory add"
peek 0
t memory rm v 0x40000000 || bad "memory rm"
peek 18446744073709551615
# A listener hears what it asked for until it is taken away.
"$lib/ctlsend" --listen "$tmp/l.sock" 1 >"$tmp/heard" 2>&1 &
listener=$!
pids+=("$listener")
for ((i = 0; i < 600; i++)); do [ -s "$tmp/heard" ] && break; sleep 0.05; done
t listener add v "$tmp/l.sock" StateChange || bad "listener add"
t suspend v --vcpus || bad "suspend"
wait $listener || bad "the listener: $(cat "$tmp/heard")"
grep -q '"to":"vcpus-suspended"' "$tmp/heard" || bad "heard $(cat "$tmp/heard")"
t resume v --vcpus || bad "resume"
rm "$tmp/l.sock"
"$lib/ctlsend" --listen "$tmp/l.sock" 9 >"$tmp/heard" 2>"$tmp/heard.err" &
listener=$!
pids+=("$listener")
for ((i = 0; i < 600; i++)); do [ -s "$tmp/heard" ] && break; sleep 0.05; done
t listener add v "$tmp/l.sock" StateChange && t listener add v "$tmp/l.sock" SnapshotBegun || bad "listener add"
t listener rm v "$tmp/l.sock" StateChange || bad "listener rm"
t suspend v --vcpus && t resume v --vcpus || bad "suspend"
take v || bad "take: $(cat "$tmp/take.err")"
t listener rm v "$tmp/l.sock" || bad "listener rm"
wait $listener # its connection is closed
grep -q StateChange "$tmp/heard" && bad "heard what was taken away: $(cat "$tmp/heard")"
[ "$(grep -c SnapshotBegun "$tmp/heard")" = 1 ] || bad "heard $(cat "$tmp/heard")"
t listener rm v "$tmp/l.sock" || bad "listener rm of nothing"
expect_error 1 'No such file' t listener add v "$tmp/none.sock" StateChange
expect_error 1 'Rain' t listener add v "$tmp/l.sock" Rain
expect_error 1 'absolute' t listener add v l.sock StateChange
# Devices that it has not.
expect_error 1 'swap is Ready|EOPNOTSUPP' t request v '{"Swap":"Trim"}'
expect_error 1 'no GPU' t display list v
expect_error 1 'no GPU' t display add v 640x480
expect_error 1 'no GPU' t display rm v 0
expect_error 1 'no GPU' t display mouse v 0 relative
expect_error 2 'no WIDTHxHEIGHT' t display add v big
expect_error 2 'not touchscreen or relative' t display mouse v 0 trackball
expect_error 1 'no balloon' t workingset show v
expect_error 1 'no balloon' t workingset config v 1000,5000 500 1000
expect_error 2 'no times' t workingset config v soon 500 1000
expect_error 1 'no battery' t battery v goldfish capacity 40
t stop v || bad "stop"
wait "$vm_pid" || bad "status after stop"

# A balloon without reports says so.
vm_begin b run --name b --kernel "$guests/bench.pvh" --mem 32M --balloon --cmdline "beat=20 pages=8 halt=1"
wait_line "$tmp/b.out" 'beat 3 ' 60 || die "does not run"
expect_error 1 'no reports of the working set' t workingset show b
expect_error 1 'no reports of the working set' t workingset config b 1000 500 1000
expect_error 1 'driver for the balloon is not at work' t balloon b
expect_error 1 'driver for the balloon is not at work' t balloon b 4M --wait
expect_error 1 'more than the VM has' t balloon b 64M
t stop b || bad "stop"
finish
