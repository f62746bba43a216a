#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Devices that come and go: a freestanding guest drives the slots of two root ports by their interrupts. A
# disk is put in, used without a pause, and taken out, with a take, SIGKILL and a restore between any two
# steps: no interrupt is lost, no disk neither lost nor doubled. Then what is refused, a guest that refuses,
# surprises, resets, a rewind, PME.
# Rounds: TORPOR_TIER quick 1, normal 2, long 20.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=1 ;; long) rounds=20 ;; *) rounds=2 ;; esac

g=$guests/hotplug.pvh
vm=(--kernel "$g" --mem 32M)
lines() { wc -l <"$tmp/h.out"; }
# says REGEX [FROM]: the guest says so, from that line on.
says() { wait_line "$tmp/h.out" "$1" 20 "${2:-1}" || die "the guest does not say '$1': $(tail -n 4 "$tmp/h.out") $(tail -n 2 "$tmp/h.err")"; }
# key KEY REGEX: typed, and answered.
key() {
	local from=$(($(lines) + 1))
	vm_send "$1"
	says "$2" "$from"
}
# count WHICH LINE: its number in a line of a round.
count() { awk -v k="$1" '{ for (i = 1; i < NF; i++) if ($i == k) { print $(i + 1); exit } }' <<<"$2"; }
# runs A B: rounds go by, with (+) or without (0) requests to the disks in the two slots.
runs() {
	local first n from=$(($(lines) + 1))
	says 'round [0-9]+ a [0-9]+ b [0-9]+ irqs' "$from"
	first=$line
	n=$(count round "$first")
	says "round $((n + 3)) a [0-9]+ b [0-9]+ irqs" "$from"
	grew a "$1" "$first" && grew b "$2" "$first"
}
grew() {
	local was now
	was=$(count "$1" "$3")
	now=$(count "$1" "$line")
	if [ "$2" = + ] && [ "$now" -le "$was" ]; then
		die "the disk in slot $1 does nothing: $line"
	elif [ "$2" = 0 ] && [ "$now" != "$was" ]; then
		die "the disk in slot $1 works: $line"
	fi
}
sound() { grep -qE 'FAIL|FAULT' "$tmp/h.out" && die "$(grep -m1 -E 'FAIL|FAULT' "$tmp/h.out")"; }
turn=0
# over: a take, the end of the process, a restore; lazy and eager in turn.
over() {
	take h || die "take: $(cat "$tmp/take.err")"
	sound
	vm_kill "$vm_pid"
	turn=$((turn + 1))
	vm_begin h restore h --mode "$([ $((turn % 2)) = 0 ] && echo lazy || echo eager)"
	says 'round '
}

head -c 1M /dev/urandom >"$tmp/one.img"
head -c 2M /dev/urandom >"$tmp/two.img"

for how in "beat=2" "beat=2 intx=1"; do
	say "-- $how"
	vm_begin h run --name h "${vm[@]}" --ports 2 --cmdline "$how" --replace
	says 'hotplug: ports 2'
	over # nothing is in yet
	for ((i = 1; i <= rounds; i++)); do
		from=$(($(lines) + 1))
		t disk add h "$tmp/one.img,ro,id=one" --json >"$tmp/add.json" || die "disk add"
		[ "$(json "$tmp/add.json" id) $(json "$tmp/add.json" bus)" = "one 1" ] || bad "disk add tells $(cat "$tmp/add.json")"
		over # while the guest may be at any step of it
		runs + 0
		t disk add h "$tmp/two.img,ro,id=two" >"$tmp/add.out" || die "disk add"
		grep -qx 'two, bus 2' "$tmp/add.out" || bad "disk add says $(cat "$tmp/add.out")"
		says 'plugged b 512 blocks'
		over
		runs + +
		t disk rm h one || die "disk rm"
		says 'released a'
		over
		runs 0 +
		expect_error 1 "no device 'one'" t disk rm h one
		# It was asked for, and the process ends before the guest has answered.
		key r 'refuse 1'
		t disk rm h two --timeout 600 2>/dev/null &
		rm=$!
		says 'refused b'
		over
		wait $rm && bad "a disk was unplugged by nobody"
		runs 0 +
		key r 'refuse 0'
		t disk rm h two || die "disk rm"
		says 'released b'
		over
		t snapshot show h --json >"$tmp/show.json" || bad "show"
		grep -q '"id": *"two"' "$tmp/show.json" && bad "a snapshot lists a disk that had left"
	done
	sound
	vm_kill "$vm_pid"
done

say "-- answers"
vm_begin h run --name h "${vm[@]}" --ports 2 --rng --disk "$tmp/two.img,ro,id=fixed" --cmdline "beat=2" --replace
says 'hotplug: ports 2'
expect_error 2 'capture=off' t disk add h "$tmp/one.img"
expect_error 2 'slot=N' t disk add h "$tmp/one.img,ro,slot=3"
expect_error 1 'two devices are called' t disk add h "$tmp/one.img,ro,id=fixed"
expect_error 1 'is built in' t disk rm h fixed
expect_error 1 "is a rng, no disk" t disk rm h rng0
expect_error 1 "no device 'nobody'" t disk rm h nobody
expect_error 1 'one descriptor' t request h '{"HotPlugNetCommand":{"AddTap":"tap0"}}'
t disk add h "$tmp/one.img,ro" >"$tmp/add.out" || die "disk add"
grep -qx 'disk1, bus 1' "$tmp/add.out" || bad "an id of its own: $(cat "$tmp/add.out")"
says 'plugged a 256 blocks'
t net add h none,id=nic >"$tmp/add.out" || die "net add"
says 'plugged b other'
expect_error 1 'root ports of .h. are taken' t disk add h "$tmp/two.img,ro,id=more"
expect_error 1 'is a net, no disk' t disk rm h nic
t net rm h nic --force || bad "net rm --force"
# Suspended, wholly or its vCPUs.
t suspend h || die suspend
expect_error 1 'suspended' t disk add h "$tmp/two.img,ro,id=more"
expect_error 1 'suspended' t disk rm h disk1 --force
t resume h || die resume
t suspend h --vcpus || die "suspend --vcpus"
expect_error 1 'cannot give' t disk rm h disk1
t net add h none,id=nic >/dev/null || bad "net add with suspended vCPUs"
t net rm h nic --force || bad "net rm --force with suspended vCPUs"
t resume h --vcpus || die "resume --vcpus"
runs + 0
# A guest that does not answer in time, and what it may not refuse.
key r 'refuse 1'
expect_error 1 'not given it up' t disk rm h disk1 --timeout 1
runs + 0
from=$(($(lines) + 1))
t disk rm h disk1 --force || bad "disk rm --force"
says 'gone a' "$from"
key r 'refuse 0'

say "-- the guest's own ways"
t disk add h "$tmp/one.img,ro,id=one" >/dev/null || die "disk add"
says 'plugged a' $(($(lines) - 5))
key o 'off'
over
key i 'plugged a 256 blocks'
key b 'bus reset'
key m 'moved to d4000000'
over
runs + 0
from=$(($(lines) + 1))
vm_send z # a reset finds the disk where it is
says 'hotplug: ports 2' "$from"
runs + 0
# Asked for back, and a reset comes instead of an answer.
key r 'refuse 1'
t disk rm h one --timeout 600 &
rm=$!
says 'refused a' "$from"
from=$(($(lines) + 1))
vm_send z
says 'hotplug: ports 2' "$from"
wait $rm || bad "a reset does not give a disk up that was asked for"
runs 0 0

say "-- PME"
t pme h 1:0.0 || bad pme
says 'pme 100' "$from"
t suspend h || die suspend
t pme h 2:0.1 || bad "a PME for a suspended VM" # noted, and told when the VM runs
over
says 'pme 201'
expect_error 1 'port for bus 3' t pme h 3:0.0
sound
vm_kill "$vm_pid"

say "-- rewind"
vm_begin h run --name h "${vm[@]}" --ports 2 --cmdline "beat=2" --replace
says 'hotplug: ports 2'
t disk add h "$tmp/one.img,ro,id=one" >/dev/null || die "disk add"
says 'plugged a 256 blocks'
take h --tag with || die "take"
t disk rm h one || bad "disk rm"
expect_error 1 'other devices' t snapshot rewind h h@with
t disk add h "$tmp/one.img,ro,id=one" >/dev/null || die "disk add"
says 'plugged a' $(($(lines) - 3))
t snapshot rewind h h@with >/dev/null || bad "rewind to a snapshot with the disk: $(tail -n 3 "$tmp/h.err")"
runs + 0
t disk rm h one || bad "disk rm after the rewind"
sound
finish
