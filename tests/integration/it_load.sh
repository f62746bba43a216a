#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Snapshots under full load: a freestanding guest (tests/guest/free/load.c) works on disk, network, sockets
# and console at once. Suspended in the middle of that, taken, killed with SIGKILL, restored: no block of the
# disk is lost, torn or of another time than memory; frames go on at the very next number; no line of the
# console is lost, doubled or torn; the stream that begins anew repeats no word; what is typed meanwhile
# arrives. Takes of the running VM in between change nothing. Last with a captured disk.
# Rounds for each of the three: TORPOR_TIER quick 2, normal 5, long 100.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
case $tier in quick) rounds=2 ;; long) rounds=100 ;; *) rounds=5 ;; esac

g=$guests/load.pvh
plain=$torpor
ser=$tmp/l.ser
sock=$XDG_RUNTIME_DIR/torpor/l.vsock_9
vm_port=console
mkdir -p -m 0700 "${sock%/*}"
# Every process of the VM has a peer of its own at the network's other end, which writes $tmp/peer.log.
cat >"$tmp/wired" <<EOF
#!/bin/bash
exec "$lib/netpeer" wire "$tmp/peer.log" "$plain" "\$@"
EOF
chmod +x "$tmp/wired"
begin() { # as vm_begin l
	torpor=$tmp/wired
	vm_begin l "$@" --serial "file:$ser"
	torpor=$plain
}
soon() { # soon SECONDS COMMAND...: until it holds; ten times as long on a loaded machine
	local end=$(($(now_ms) + $1 * 10000))
	shift
	until "$@"; do
		[ "$(now_ms)" -lt "$end" ] || return 1
		sleep 0.02
	done
}
sound() {
	grep -qsE 'FAIL|FAULT' "$ser" && die "the guest: $(grep -m1 -E 'FAIL|FAULT' "$ser")"
	grep -qs FAIL "$tmp/peer.log" && die "the network's other end: $(grep -m1 FAIL "$tmp/peer.log")"
	grep -qs FAIL "$tmp/mirror" && die "the socket's other end: $(grep -m1 FAIL "$tmp/mirror")"
	return 0
}
# The guest's figures: at MS disk W R net S B LOST vsock WORDS BACK CONNS RESETS con LINES
figures() { tail -c 4096 "$ser" | grep -E '^at [0-9]+ .* con [0-9]+$' | tail -n 1; }
# has_moved FIGURES: since then every device got on.
has_moved() {
	sound
	awk -v a="$1" -v b="$(figures)" 'BEGIN {
		split(a, x, " "); n = split(b, y, " ")
		split("4 5 7 8 11 12 16", k, " ")
		for (i in k) if (n < 16 || y[k[i]] < x[k[i]] + 20) exit 1
	}'
}
all_move() { # all_move WHEN
	local from
	soon 20 grep -qsE '^at .* con' "$ser" || die "$1: the guest says nothing: $(tail -n 2 "$ser" "$tmp/l.err")"
	from=$(figures)
	soon 20 has_moved "$from" || die "$1: a device stands still: $from, then $(figures)"
}
has_typed() { tail -n "+$1" "$ser" | sed -n 's/^typed //p' | tr -d '\n' | grep -qF -- "$2"; }
here() { echo $(($(wc -l <"$ser") + 1)); }
# Every block of the disk is what memory says.
agrees() {
	local from
	from=$(here)
	vm_send V
	soon 30 eval "sound; tail -n +$from \"$ser\" | grep -q '^verified $blocks\$'" || die "$1: the disk is not read to its end: $(tail -n 2 "$ser")"
}
# What the other ends saw until the VM was gone: the last frame to $frame, the first one of this process to
# $frame_from; likewise the words of all connections so far.
other_ends() {
	soon 10 grep -qE '^frames [1-9]' "$tmp/peer.log" || die "the network's other end does not end: $(cat "$tmp/peer.log")"
	read -r _ _ _ frame_from _ frame < <(grep '^frames ' "$tmp/peer.log")
	conns=$((conns + 1))
	soon 10 eval "[ \$(grep -c '^conn ' \"$tmp/mirror\") -ge $conns ]" || die "the socket's other end saw no end: $(tail -n 2 "$tmp/mirror")"
	[ "$(grep -c '^conn ' "$tmp/mirror")" = "$conns" ] || die "connections that ended by themselves: $(cat "$tmp/mirror")"
	read -r _ word_from word < <(tail -n 1 "$tmp/mirror")
}

"$lib/vsockpeer" mirror "$sock" >"$tmp/mirror" 2>&1 &
pids+=($!)
conns=0
for how in "event=1" "event=0 intx=1"; do
	say "-- $how"
	rm -f "$ser" "$tmp/disk.img"
	truncate -s 4M "$tmp/disk.img"
	begin run --name l --kernel "$g" --mem 32M --cmdline "$how" --replace --vsock 9 \
		--net fd=9,mac=02:00:00:00:00:77 --disk "$tmp/disk.img,capture=off,id=d"
	all_move "$how"
	blocks=$(sed -n 's/^load: \([0-9]*\) blocks$/\1/p' "$ser")
	con=0 frames=0 words=0
	for ((i = 1; i <= rounds; i++)); do
		# One of the running VM, which must not notice; the next one builds on it.
		take l || die "take of the running VM: $(cat "$tmp/take.err")"
		sleep "0.0$((RANDOM % 100))"
		from=$(here)
		vm_send "a$i;"
		t suspend l || die "suspend"
		vm_send "b$i;"
		take l || die "take: $(cat "$tmp/take.err")"
		if [ $((i % 2)) = 0 ]; then # it goes on, with what was typed before and during the suspend
			t resume l || die "resume"
			soon 20 has_typed "$from" "a$i;b$i;" || die "typed a$i;b$i; did not arrive"
			all_move "round $i, resumed"
			t suspend l || die "suspend"
			take l || die "take: $(cat "$tmp/take.err")"
		fi
		sound
		vm_kill "$vm_pid"
		sleep 0.2 # the stamper empties the pipe
		console_lines "$tmp/l.out" "$con"
		con=$next
		other_ends
		[ "$frame_from" = $((frames + 1)) ] || bad "round $i: frame $frame_from after $frames"
		frames=$frame
		[ "$word_from" -ge "$words" ] || bad "round $i: the stream goes on at word $word_from, $words were there"
		words=$word
		# Also with memory that comes while the devices work on it, where the host can do that.
		begin restore l --net-map net0=fd=9 --mode "$([ $((i % 2)) = 0 ] && echo lazy || echo eager)"
		agrees "round $i"
		all_move "round $i, restored"
	done
	lost=$(awk '{ print $9 }' <<<"$(figures)")
	[ "$lost" -le $((rounds * 16)) ] || bad "$how: $lost frames were lost in $rounds restores"
	sound
	vm_kill "$vm_pid"
	say "   $(figures)"
	other_ends
done

# A captured disk: taken while it runs, and on it goes; what a restore brings back is disk and memory of one
# moment, however far both had moved on.
say "-- captured disk"
rm -f "$ser" "$tmp/disk.img"
truncate -s 4M "$tmp/disk.img"
begin run --name l --kernel "$g" --mem 32M --replace --vsock 9 --net fd=9,mac=02:00:00:00:00:77 \
	--disk "$tmp/disk.img,id=d"
all_move captured
blocks=$(sed -n 's/^load: \([0-9]*\) blocks$/\1/p' "$ser")
for ((i = 1; i <= rounds; i++)); do
	sleep "0.0$((RANDOM % 100))"
	take l || die "take: $(cat "$tmp/take.err")"
	if [ $((i % 3)) = 0 ]; then # the one before it
		take l || die "take: $(cat "$tmp/take.err")"
		ref=l@$(($(json "$tmp/take.json" number) - 1))
	else
		ref=l
	fi
	all_move "round $i, taken"
	sound
	vm_kill "$vm_pid"
	begin restore $ref --net-map net0=fd=9 --mode "$([ $((i % 2)) = 0 ] && echo lazy || echo eager)"
	agrees "round $i"
	all_move "round $i, restored"
done
sound
vm_kill "$vm_pid"
say "   $(figures)"
finish
