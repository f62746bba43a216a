#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A whole process through its life: suspend and resume with the guest's clock looked at, takes of a
# suspended VM, resets without leaks, stop and SIGTERM in the middle of a take, a guest that ends or
# asks for a reset meanwhile, a client that leaves, and the same name again after a SIGKILL.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
t() { "$torpor" "$@" --store "$store"; }
boot() { # NAME MEM ARGS...
	local name=$1 mem=$2
	shift 2
	vm_begin "$name" run --name "$name" --kernel "$guests/bench.pvh" --mem "$mem" \
		--cmdline "beat=5 pages=4 fill=$((${mem%M} / 2)) halt=1" "$@"
	wait_line "$tmp/$name.out" 'beat 3 ' 60 || die "$name does not run"
}
lives() { # NAME WHY
	local from=$(($(wc -l <"$tmp/$1.out") + 1))
	wait_line "$tmp/$1.out" 'beat ' 10 "$from" || die "$2: the guest stands still"
}
# clock NAME: the guest's kvmclock in ms into $clock, the host's when it was read into $clock_host. A line comes
# late, never early: of ten the one that came soonest counts.
clock() {
	local from i got apart=
	for i in 1 2 3 4 5 6 7 8 9 10; do
		from=$(($(wc -l <"$tmp/$1.out") + 1))
		vm_send d
		wait_line "$tmp/$1.out" 'clock ' 10 "$from" || die "no clock"
		got=${line#clock }
		got=${got%% *}
		if [ -z "$apart" ] || [ $((line_ns - got)) -lt "$apart" ]; then
			apart=$((line_ns - got)) clock=$((got / 1000000)) clock_host=$((line_ns / 1000000))
		fi
	done
}
# ended PID SECONDS: waits; the exit status into $rc.
ended() {
	local i
	for ((i = 0; i < $2 * 20; i++)); do
		kill -0 "$1" 2>/dev/null || break
		sleep 0.05
	done
	kill -0 "$1" 2>/dev/null && die "the process does not end"
	wait "$1"
	rc=$?
}

# Guest time stands while the VM is suspended, never goes back, and a resume of a running VM or a
# take moves it not at all.
boot a 64M
clock a
c0=$clock h0=$clock_host least=0 most=0
for how in suspend vcpus-then-suspend; do
	h=$(now_ms)
	[ $how = suspend ] || t suspend a --vcpus || bad "suspend --vcpus"
	h=$(now_ms)
	t suspend a || bad "suspend"
	asleep=$(now_ms)
	sleep 0.6
	t suspend a || bad "second suspend"
	take a || bad "take while suspended: $(cat "$tmp/take.err")"
	[ "$(json "$tmp/take.json" pause_us)" = 0 ] || bad "a suspended VM was paused: $(cat "$tmp/take.json")"
	least=$((least + $(now_ms) - asleep))
	t resume a || bad "resume"
	most=$((most + $(now_ms) - h))
	lives a "resume"
	clock a
	[ "$clock" -ge "$c0" ] || bad "$how: guest clock went back from $c0 to $clock ms"
	lag=$((clock_host - h0 - (clock - c0)))
	[ $lag -ge $((least - 20)) ] && [ $lag -le $((most + 20)) ] ||
		bad "$how: guest clock is $lag ms behind after $least to $most ms of suspension"
done
before=$((clock_host - clock))
for _ in 1 2 3; do t resume a || bad "resume of a running VM"; done
take a || bad "take: $(cat "$tmp/take.err")"
[ "$(json "$tmp/take.json" pause_us)" -gt 0 ] || bad "a take without a pause: $(cat "$tmp/take.json")"
t suspend a --vcpus && take a && t resume a || bad "take with vCPUs suspended: $(cat "$tmp/take.err")"
clock a
moved=$((clock_host - clock - before))
[ ${moved#-} -le 20 ] || bad "resumes and takes moved the guest's clock by $moved ms"

# Resets: no descriptor, no thread is left behind; the name and the socket stay.
fds() { for f in /proc/$vm_pid/fd/*; do readlink "$f"; done | sed 's/[0-9]\+//g' | sort; }
fds >"$tmp/fds.0"
threads=$(ls /proc/$vm_pid/task | wc -l)
for ((i = 1; i <= 20; i++)); do
	from=$(($(wc -l <"$tmp/a.out") + 1))
	vm_send r
	wait_line "$tmp/a.out" 'beat 2 ' 20 "$from" || die "reset $i"
done
# The store is opened by then; a reset opens nothing else for good.
fds | diff "$tmp/fds.0" - >"$tmp/fds.diff" || bad "descriptors after 20 resets: $(cat "$tmp/fds.diff")"
[ "$(ls /proc/$vm_pid/task | wc -l)" = "$threads" ] || bad "threads after 20 resets"
take a --tag after-resets || bad "take after resets"

# A SIGKILL leaves the name free at once.
vm_kill "$vm_pid"
expect_error 1 'snapshot' t run --name a --kernel "$guests/bench.pvh"
vm_begin a restore a@after-resets --paused
for _ in $(seq 1000); do
	t list --json 2>/dev/null | grep -q '"suspended"' && break
	sleep 0.05
done
[ "$(grep -c beat "$tmp/a.out")" = 0 ] || bad "restored --paused, yet it runs"
take a --tag paused || bad "take of a paused VM: $(cat "$tmp/take.err")"
t resume a || bad "resume of a VM restored --paused"
lives a "restore --paused"
vm_kill "$vm_pid"

# Ends in the middle of a take. The guest is big enough for the take to last.
big=256M
boot b $big
t0=$(now_ms)
take b --tag whole || bad "take: $(cat "$tmp/take.err")"
whole=$(($(now_ms) - t0))
say "a whole take needs $whole ms"
part() { sleep "$(awk -v ms=$((whole * $1 / 100)) 'BEGIN { printf "%.3f", ms / 1000 }')"; }

# The client leaves; the take goes on.
t snapshot take b --tag left >/dev/null 2>&1 &
client=$!
part 30
kill -KILL $client
wait $client 2>/dev/null
lives b "client gone"
for _ in $(seq 1000); do
	t snapshot list b --json 2>/dev/null | grep -q '"left"' && break
	sleep 0.1
done
t snapshot list b --json | grep -q '"left"' || bad "a take died with its client"

# ends HOW PERCENT STATUS: a take is under way, then HOW; the VM ends with STATUS.
ends() {
	local how=$1
	t snapshot take b --tag "$how" >"$tmp/part.out" 2>"$tmp/part.err" &
	local client=$!
	part "$2"
	case $how in
	stop) t stop b >/dev/null 2>"$tmp/cmd.err" || bad "stop: $(cat "$tmp/cmd.err")" ;;
	term) kill -TERM "$vm_pid" ;;
	crash) vm_send t ;;
	esac
	ended "$vm_pid" 200
	[ "$rc" = "$3" ] || bad "$how in a take: exit status $rc, wanted $3: $(tail -n 2 "$tmp/b.err")"
	wait $client || say "$how: the take says $(head -c 200 "$tmp/part.err")"
	[ -e "$XDG_RUNTIME_DIR/torpor/b.lock" ] && bad "$how leaves a lock file"
	[ -e "$XDG_RUNTIME_DIR/torpor/b.sock" ] && bad "$how leaves a socket"
	t snapshot verify --all >"$tmp/verify.out" 2>&1 || bad "$how: verify: $(tail -n 2 "$tmp/verify.out")"
	vm_begin b restore b@whole
	wait_line "$tmp/b.out" 'beat ' 20 || die "$how: restore"
}
ends stop 40 0
ends term 60 0
ends crash 50 33

# A reset asked for during a take comes after it, or the take is refused; either way both happen.
from=$(($(wc -l <"$tmp/b.out") + 1))
t snapshot take b --tag reset >"$tmp/part.out" 2>"$tmp/part.err" &
client=$!
part 50
vm_send r
wait_line "$tmp/b.out" 'bench guest' 20 "$from" || bad "the reset got lost in a take"
wait $client || say "reset: the take says $(head -c 200 "$tmp/part.err")"
vm_kill "$vm_pid"

# SIGTERM with --on-term checkpoint: alone, and with a take under way.
for also in no yes; do
	boot "t$also" 128M --on-term checkpoint
	if [ $also = yes ]; then
		t snapshot take tyes --tag mine >/dev/null 2>"$tmp/part.err" &
		client=$!
		for _ in $(seq 200); do
			printf '{"Torpor":{"v":1,"cmd":"TakeStatus"}}' |
				"$lib/ctlsend" "$XDG_RUNTIME_DIR/torpor/tyes.sock" | grep -q '"taking":true' && break
		done
	fi
	kill -TERM "$vm_pid"
	ended "$vm_pid" 200
	[ "$rc" = 0 ] || bad "checkpoint at SIGTERM (also a take: $also): status $rc: $(cat "$tmp/t$also.err")"
	if [ $also = yes ]; then wait $client || bad "the take before SIGTERM: $(cat "$tmp/part.err")"; fi
	n=$(t snapshot list "t$also" --json | grep -o '"number"' | wc -l)
	[ "$n" = $([ $also = yes ] && echo 2 || echo 1) ] || bad "$n snapshots after SIGTERM (also a take: $also)"
done
finish
