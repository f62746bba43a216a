#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The watchdog ends a guest that halts or loops with interrupts disabled, with status 36, and leaves alone what idles,
# computes, is suspended or is being saved. A defined guest that panics or hangs: report, rewind, restart, as its policy says.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
guest=$guests/platform.pvh
run() { timeout 300 "$torpor" run --name w --kernel "$guest" --mem 16M --serial "file:$tmp/w.log" --store "$store" "$@"; }

expect_error 2 'no interval' run --watchdog 3
expect_error 2 'at least 1 s|no interval' run --watchdog 0s
for how in hang loop; do
	: >"$tmp/w.log"
	run --cmdline "do=$how" --watchdog 1s >"$tmp/w.end" 2>"$tmp/w.err"
	rc=$?
	[ $rc = 36 ] || bad "$how: status $rc: $(cat "$tmp/w.err")"
	grep -q 'no vCPU has moved' "$tmp/w.err" || bad "$how: says $(cat "$tmp/w.err")"
	grep -q 'standing still' "$tmp/w.log" || bad "$how: ended before: $(cat "$tmp/w.log")"
done
# Many limits pass over those that may stand still.
for how in busy idle; do
	: >"$tmp/w.log"
	run --cmdline "do=$how" --watchdog 1s --detach 2>"$tmp/w.err" || die "$how: $(cat "$tmp/w.err")"
	wait_line_plain() { local end=$(($(now_ms) + 120000)); until grep -q "$1" "$2"; do [ "$(now_ms)" -lt "$end" ] || return 1; sleep 0.05; done; }
	wait_line_plain 'standing still' "$tmp/w.log" || die "$how: does not run"
	sleep 4
	t list --json | grep -q '"running"' || bad "$how: ended: $(cat "$tmp/run/torpor/w.log")"
	t stop w || bad "stop"
done
# Suspended, with a hung guest inside: as long as one likes, and after the resume it is found.
: >"$tmp/w.log"
run --cmdline "do=hang n=1" --watchdog 2s --detach 2>"$tmp/w.err" || die "$(cat "$tmp/w.err")"
t suspend w || bad "suspend"
sleep 5
t list --json | grep -q '"suspended"' || bad "a suspended VM is ended: $(cat "$tmp/run/torpor/w.log")"
t resume w || bad "resume"
end=$(($(now_ms) + 120000))
while t list --json | grep -q '"name": "w"'; do
	[ "$(now_ms)" -lt "$end" ] || die "a hung guest is not found after a resume"
	sleep 0.1
done

# ---- policies ----
state() { # state NAME WANTED: until status says so
	local end=$(($(now_ms) + 180000))
	until t guests status "$1" --json >"$tmp/status.json" && [ "$(json "$tmp/status.json" state)" = "$2" ]; do
		[ "$(now_ms)" -lt "$end" ] || { bad "$1 is not $2: $(cat "$tmp/status.json" "$tmp/run/torpor/$1.keeper")"; return 1; }
		sleep 0.1
	done
}
define() { # define NAME CMDLINE ARGS: it panics or hangs after some seconds
	local name=$1 cmdline=$2
	shift 2
	t define "$name" --kernel "$guest" --mem 16M --cmdline "$cmdline" --serial "file:$tmp/$name.log" "$@" || die "define $name"
}
define r do=panic --on-panic report --checkpoint-every off
t start r >"$tmp/r.out" 2>&1
state r failed
[ "$(json "$tmp/status.json" end)" = panic ] || bad "end: $(cat "$tmp/status.json")"
# Booted five times by policy, then left as it is.
define b do=panic --on-panic restart --checkpoint-every off
t start b >"$tmp/b.out" 2>&1
end=$(($(now_ms) + 180000))
until grep -q 'booted anew 5 times' <(t guests status b); do
	[ "$(now_ms)" -lt "$end" ] || { bad "restarts: $(t guests status b)"; break; }
	sleep 0.1
done
[ "$(grep -c panicking "$tmp/b.log")" = 6 ] || bad "it ran $(grep -c panicking "$tmp/b.log") times, not 6"
# (The guest waits for each second with interrupts disabled: the limit is far above.)
# Back to the newest generation once: it hangs again, and is not taken back there again.
define h "do=hang n=8" --watchdog 5s --on-hang rewind --checkpoint-every off
t start h >"$tmp/h.out" 2>&1 || bad "start: $(cat "$tmp/h.out")"
end=$(($(now_ms) + 120000))
until grep -q 'second 1' "$tmp/h.log"; do
	[ "$(now_ms)" -lt "$end" ] || die "h does not run"
	sleep 0.02
done
take h --tag mine || bad "take: $(cat "$tmp/take.err")"
end=$(($(now_ms) + 240000))
until grep -q 'brought back already' <(t guests status h); do
	[ "$(now_ms)" -lt "$end" ] || { bad "rewind: $(t guests status h)"; break; }
	sleep 0.1
done
[ "$(grep -c 'standing still' "$tmp/h.log")" = 2 ] || bad "it hung $(grep -c 'standing still' "$tmp/h.log") times, not twice: $(cat "$tmp/h.log")"
[ "$(grep -c 'second 0' "$tmp/h.log")" = 1 ] || bad "it was booted instead of taken back: $(cat "$tmp/h.log")"
finish
