#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The units as they are installed pass `systemd-analyze verify`, name a binary that is there and options that it knows, and
# 'torpor start --foreground' tells systemd that the guest runs, saves it at SIGTERM, and is brought up from there.
. "$(dirname "$0")/../lib/common.bash"
command -v systemd-analyze >/dev/null || { say "skipped: no systemd-analyze"; exit 77; }
DESTDIR=$tmp/root cmake --install "$build" --component units >"$tmp/install.out" 2>&1 || die "install: $(cat "$tmp/install.out")"
mkdir "$tmp/units"
find "$tmp/root" -path '*/lib/systemd/system/*' -type f -exec cp {} "$tmp/units" \;
[ "$(ls "$tmp/units" | wc -l)" = 3 ] || die "installed: $(ls "$tmp/units")"
# Where the binary will be, this build's is.
sed -i "s|=[^ ]*/bin/torpor |=$torpor |" "$tmp/units"/*
for unit in torpor@web.service torpor-guests.service torpor.target; do
	cp "$tmp/units/torpor@.service" "$tmp/units/torpor@web.service"
	SYSTEMD_UNIT_PATH="$tmp/units:" systemd-analyze verify --man=no "$tmp/units/$unit" >"$tmp/verify.out" 2>&1 ||
		bad "$unit: $(cat "$tmp/verify.out")"
	# What it says of units that are not ours is not ours.
	grep -E 'torpor' "$tmp/verify.out" && bad "$unit: warnings"
	rm "$tmp/units/torpor@web.service"
done
while read -r line; do
	words=${line#*"$torpor" }
	words=${words//%i/web}
	# shellcheck disable=SC2086
	XDG_STATE_HOME=$tmp/none "$torpor" $words --help >"$tmp/help" 2>&1 || bad "'$words' is not understood: $(cat "$tmp/help")"
done < <(grep -h '^Exec' "$tmp/units"/*)

need_kvm
command -v python3 >/dev/null || { say "no python3: notifications are not tried"; finish; }
t define web --kernel "$guests/bench.pvh" --mem 24M --cmdline "beat=50 pages=8 fill=2 halt=1" --serial "file:$tmp/web.log" || die "define"
cat >"$tmp/hear.py" <<'PY'
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
open(sys.argv[1] + ".up", "w")
s.settimeout(300)
print(s.recv(100).decode())
PY
for from in boot web@; do
	rm -f "$tmp/notify" "$tmp/notify.up"
	python3 "$tmp/hear.py" "$tmp/notify" >"$tmp/heard" &
	ear=$!
	until [ -e "$tmp/notify.up" ]; do sleep 0.05; done
	lines=$(cat "$tmp/web.log" 2>/dev/null | wc -l)
	last=$(head -n "$lines" "$tmp/web.log" 2>/dev/null | sed -nE 's/^beat ([0-9]+) .*/\1/p' | tail -n 1)
	NOTIFY_SOCKET=$tmp/notify "$torpor" start web --foreground --store "$store" >"$tmp/fore.out" 2>"$tmp/fore.err" &
	keeper=$!
	wait "$ear"
	[ "$(cat "$tmp/heard")" = READY=1 ] || bad "$from: says '$(cat "$tmp/heard")': $(cat "$tmp/fore.err")"
	t list --json | grep -q '"running"' || bad "$from: told that it runs, and it does not"
	end=$(($(now_ms) + 120000))
	until [ "$(wc -l <"$tmp/web.log")" -gt $((lines + 4)) ]; do
		[ "$(now_ms)" -lt "$end" ] || die "$from: no beats"
		sleep 0.05
	done
	if [ "$from" != boot ]; then
		next=$(tail -n "+$((lines + 1))" "$tmp/web.log" | sed -nE 's/^beat ([0-9]+) .*/\1/p' | head -n 1)
		[ "$next" = $((last + 1)) ] || bad "it goes on with $next behind $last"
	fi
	kill -TERM "$keeper"
	wait "$keeper"
	rc=$?
	[ $rc = 0 ] || bad "$from: SIGTERM: status $rc: $(cat "$tmp/fore.err")"
	t guests status web --json >"$tmp/status.json"
	[ "$(json "$tmp/status.json" state)" = saved ] || bad "$from: after SIGTERM: $(cat "$tmp/status.json")"
done
finish
