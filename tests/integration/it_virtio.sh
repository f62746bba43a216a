#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# virtio devices: a freestanding guest drives them without a pause; snapshots in the middle of that,
# SIGKILL, restore: nothing is lost, no interrupt and no kick either (the guest waits halted, so one
# lost would hang it). Moved BARs, hostile rings, INTA and MSI-X, with and without event-idx.
# Rounds: TORPOR_TIER quick 3, normal 10, long 100.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=3 ;; long) rounds=100 ;; *) rounds=10 ;; esac

g=$guests/virtio.pvh
word() { awk -v k="$2" '{ for (i = 1; i < NF; i++) if ($i == k) { print $(i + 1); exit } }' <<<"$1"; }
# go NAME: it is alive, and goes on.
go() {
	local n
	wait_line "$tmp/$1.out" 'round [0-9]+ ' 20 || die "$1: no round: $(tail -n 3 "$tmp/$1.out")"
	n=$(word "$line" round)
	wait_line "$tmp/$1.out" "round $((n + 5)) " 20 || die "$1: stands still after round $n: $(tail -n 3 "$tmp/$1.out")"
}
sound() { grep -qE 'FAIL|FAULT' "$tmp/$1.out" && bad "$1: $(grep -m1 -E 'FAIL|FAULT' "$tmp/$1.out")"; }

head -c 1M /dev/urandom >"$tmp/base.img"

for how in "beat=1" "beat=1 event=0" "beat=1 intx=1" "beat=1 intx=1 event=0"; do
	say "-- $how"
	vm_begin v run --name v --kernel "$g" --mem 32M --rng --cmdline "$how" --replace \
		--disk "$tmp/base.img,ro,id=base,slot=9"
	go v
	for ((i = 1; i <= rounds; i++)); do
		take v || die "take: $(cat "$tmp/take.err")"
		frozen=$(json "$tmp/take.json" frozen_at_ns)
		last=$(awk -v t="$frozen" '$1 + 0 <= t && / round / { l = $3 } END { print l }' "$tmp/v.out")
		# A line comes late, never early: told before the freeze it may still be on its way then.
		late=$(awk -v t="$frozen" '$1 + 0 <= t + 1e8 && / round / { l = $3 } END { print l }' "$tmp/v.out")
		sound v
		vm_kill "$vm_pid"
		# Also with memory that comes while the devices work on it, where the host can do that.
		vm_begin v restore v --mode "$([ $((i % 2)) = 0 ] && echo lazy || echo eager)"
		go v
		n=$(word "$(grep -E -m1 '^[0-9]+ round [0-9]+ rng [0-9]+ disk [0-9]+ irqs' "$tmp/v.out")" round)
		[ "$n" -ge "$last" ] && [ "$n" -le $((late + 2)) ] ||
			bad "$how: round $last before the freeze, $late when all of these had come, $n after the restore"
	done
	vm_send m
	wait_line "$tmp/v.out" 'moved to d' 20 || bad "$how: moving the BARs: $(tail -n 2 "$tmp/v.out")"
	take v || bad "take: $(cat "$tmp/take.err")"
	vm_kill "$vm_pid"
	vm_begin v restore v
	go v
	vm_send m
	wait_line "$tmp/v.out" 'moved to c' 20 || bad "$how: moving the BARs back: $(tail -n 2 "$tmp/v.out")"
	vm_send e
	wait_line "$tmp/v.out" 'disk id base edges ok' 20 || bad "$how: edges of a read-only disk: $(tail -n 2 "$tmp/v.out")"
	"$lib/ctlsend" "$XDG_RUNTIME_DIR/torpor/v.sock" --follow 2 >"$tmp/broken" 2>&1 &
	listener=$!
	pids+=("$listener")
	for ((i = 0; i < 1200; i++)); do [ -s "$tmp/broken" ] && break; sleep 0.02; done
	vm_send h
	wait_line "$tmp/v.out" 'hostile ok' 20 || bad "$how: hostile rings: $(tail -n 2 "$tmp/v.out")"
	wait $listener || bad "$how: no event of hostile rings: $(cat "$tmp/broken")"
	sed -n 2p "$tmp/broken" | grep -Eq '^\{"DeviceNeedsReset":\{"device":"[a-z0-9]+","error":"[^"]+","time_ns":[0-9]+\}\}$' ||
		bad "$how: the event of hostile rings is $(cat "$tmp/broken")"
	go v
	# A suspended VM keeps what the guest offered.
	t suspend v && sleep 0.2 && t resume v || bad "suspend and resume"
	n=$(tail -n 1 "$tmp/v.out" | awk '{ print $3 }')
	wait_line "$tmp/v.out" "round $((n + 5)) " 20 || bad "$how: stands still after suspend and resume"
	sound v
	vm_kill "$vm_pid"
done

# A writable disk outside of snapshots: a suspended VM's snapshot fits it as long as nobody writes. The
# suspend comes in the middle of requests, which are all done or still in the ring then.
say "-- writable disk"
truncate -s 8M "$tmp/data.img" # the guest takes seconds to write all of it: see "accept" below
disk="$tmp/data.img,capture=off,id=data"
expect_error 2 'capture=on' t run --name d --kernel "$g" --disk "$tmp/data.img,ro,capture=on"
expect_error 2 'capture=on' t run --name d --kernel "$g" --disk "$tmp/data.img,capture=off,capture=on"
expect_error 2 'iops=0' t run --name d --kernel "$g" --disk "$tmp/base.img,ro,iops=0"
expect_error 2 'bps=x' t run --name d --kernel "$g" --disk "$tmp/base.img,ro,bps=x"
expect_error 1 'none.img' t run --name d --kernel "$g" --disk "$tmp/none.img,ro"
expect_error 2 'path' t run --name d --kernel "$g" --disk ,ro
expect_error 2 'slot' t run --name d --kernel "$g" --rng --disk "$tmp/base.img,ro,slot=1" --disk "$tmp/base.img,ro,slot=1"
vm_begin d run --name d --kernel "$g" --mem 32M --disk "$disk" --cmdline "beat=1"
go d
vm_send e
wait_line "$tmp/d.out" 'disk id data edges ok' 20 || bad "edges of a disk: $(tail -n 2 "$tmp/d.out")"
expect_error 1 'in use' t run --name d2 --kernel "$g" --disk "$disk"
for ((i = 1; i <= rounds; i++)); do
	sleep 0.0$((i % 10))
	t suspend d || die "suspend"
	take d || die "take: $(cat "$tmp/take.err")"
	sound d
	vm_kill "$vm_pid"
	cp "$tmp/data.img" "$tmp/copy.img"
	vm_begin d restore d
	go d
done
# Another size, live: the guest sees it, also after a restore; what cannot be is refused.
size() { # to which size, blocks that the guest is to see
	local from
	t disk resize d 0 "$1" || bad "resize to $1"
	from=$(($(wc -l <"$tmp/d.out") + 1))
	vm_send s
	wait_line "$tmp/d.out" 'disk blocks ' 20 "$from" || die "the guest does not answer: $(tail -n 3 "$tmp/d.out")"
	[ "$line" = "disk blocks $2" ] || bad "resized to $1 the guest sees: $line"
	[ "$(stat -c %s "$tmp/data.img")" = $(($2 * 4096)) ] || bad "resized to $1 the file has $(stat -c %s "$tmp/data.img") bytes"
}
size 16M 4096
size 768K 192
size 8M 2048
expect_error 1 'multiple' t disk resize d 0 1000
expect_error 1 'no disk 1' t disk resize d 1 1M
t suspend d || bad "suspend"
expect_error 1 'resume it' t disk resize d 0 2M
take d || die "take: $(cat "$tmp/take.err")" # of the disk as it is now
vm_kill "$vm_pid"
# A read-only disk: a copy with the same time will do where the user names it, not by itself.
cp -p "$tmp/base.img" "$tmp/base2.img"
vm_begin v restore v --disk-map "base=$tmp/base2.img"
go v
expect_error 1 'read-only' t disk resize v 0 2M
vm_kill "$vm_pid"
mv "$tmp/base2.img" "$tmp/base.img"
expect_error 1 'changed since' t restore v
vm_begin d restore d --disk-changed accept
go d
# Running on: the disk moves on behind the snapshot, and a restore says so.
take d || die "take: $(cat "$tmp/take.err")"
n=$(tail -n 1 "$tmp/d.out" | awk '{ print $3 }')
wait_line "$tmp/d.out" "round $((n + 5)) " 20 || bad "stands still after a take"
vm_kill "$vm_pid"
expect_error 1 'moved on' t restore d
vm_begin d restore d --disk-changed accept
go d
sound d
vm_kill "$vm_pid"
expect_error 1 'moved on' t restore d --disk-map "data=$tmp/copy.img"
truncate -s 2M "$tmp/copy.img"
expect_error 1 'bytes' t restore d --disk-map "data=$tmp/copy.img" --disk-changed accept
expect_error 2 'no such disk' t restore d --disk-map "base=$tmp/copy.img"
rm "$tmp/data.img"
expect_error 1 'data.img' t restore d

# A rate limit goes along: a read a round, of which there are at most ten a second.
say "-- rate limit"
vm_begin r run --name r --kernel "$g" --mem 32M --cmdline "beat=1" --disk "$tmp/base.img,ro,iops=10,bps=1G"
slow() { # 15 rounds in a second or more, whatever was saved up
	local from
	wait_line "$tmp/r.out" 'round [0-9]+ ' 20 || die "r: no round"
	from=$(word "$line" round)
	wait_line "$tmp/r.out" "round $((from + 10)) " 20 || die "r: stands still"
	local begin=$line_ns
	wait_line "$tmp/r.out" "round $((from + 25)) " 20 || die "r: stands still"
	[ $((line_ns - begin)) -ge 400000000 ] || bad "15 reads in $(((line_ns - begin) / 1000000)) ms at 10 a second"
}
slow
take r || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
vm_begin r restore r
slow
vm_kill "$vm_pid"
t snapshot show r --json | jq -e '.. | .iops? // empty | select(. == 10)' >/dev/null || bad "snapshot show tells no rate limit"

# Asking first tells all that stands against it, not just the first, and touches nothing.
say "-- restore --check"
sums() { find "$store" "$tmp/run" -type f ! -name lock.mdb -exec sha256sum {} + | sort -k 2; }
# check STATUS ARGS...: what it says in $tmp/check.
check() {
	local want=$1 got
	shift
	sums >"$tmp/before"
	t restore "$@" --check >"$tmp/check" 2>"$tmp/check.err" </dev/null
	got=$?
	[ "$got" = "$want" ] || bad "restore $* --check: exit $got, wanted $want: $(cat "$tmp/check" "$tmp/check.err")"
	sums >"$tmp/after"
	cmp -s "$tmp/before" "$tmp/after" || bad "restore $* --check has written: $(diff "$tmp/before" "$tmp/after")"
}
says() { grep -qE -- "$1" "$tmp/check" || bad "restore --check does not say /$1/: $(cat "$tmp/check")"; }
check 1 v
says "^disk: disk 'base' was changed"
now=(v --disk-changed accept)
check 0 "${now[@]}"
says 'nothing stands against'
check 1 nobody
says '^store: .*nobody'
check 1 d
says "^disk: disk 'data'.*data.img"
says '1 finding'
head -c 2M /dev/zero >"$tmp/base3.img"
check 1 "${now[@]}" --disk-map "base=$tmp/base3.img" --disk-map nothing=x
says '^disk: .*nothing=x.*no such disk'
says "^disk: disk 'base' has 2097152 bytes"
says '2 findings'
vm_begin v restore "${now[@]}"
go v
mv "$tmp/base.img" "$tmp/base4.img"
check 1 "${now[@]}" --json
[ "$(json "$tmp/check" ok)" = false ] || bad "--check --json: ok is $(json "$tmp/check" ok)"
[ "$(grep -c '"area": "disk"' "$tmp/check")" = 1 ] && [ "$(grep -c '"area": "name"' "$tmp/check")" = 1 ] ||
	bad "--check --json: not a disk and a name: $(cat "$tmp/check")"
check 1 "${now[@]}" --name w --mode eager
says "^disk: disk 'base'.*base.img"
says '1 finding'
mv "$tmp/base4.img" "$tmp/base.img"
check 0 "${now[@]}" --name w --mode eager
vm_kill "$vm_pid"
# Rotten frames (their magic) are told beside the missing disk.
mv "$tmp/base.img" "$tmp/base4.img"
for data in "$store"/families/*/data.mdb; do
	for at in $("$lib/flip" "$data" --find 54504652); do
		"$lib/flip" "$data" $((at + 24)) 3 || die "flip"
	done
done
check 1 "${now[@]}"
says "^disk: disk 'base'.*base.img"
says '^store: '

# The driver's complaints in the log are few, however often the guest misbehaves.
[ "$(grep -c 'broke the rules' "$tmp/v.err")" -le 4 ] || bad "the log is full of the guest's mistakes"

# A snapshot tells of its devices; a restore has the same set.
t snapshot show v >"$tmp/show.json" || bad "snapshot show"
grep -q virtio_rng "$tmp/show.json" || bad "snapshot show says nothing of the device"
finish
