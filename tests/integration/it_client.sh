#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# libtorpor-client: every function on a living VM; installed, found by pkg-config, and used by the example
# program; its symbols are versioned and nothing else is exported. The shell verbs that use it.
. "$(dirname "$0")/../lib/common.bash"
need_kvm

vm_begin lib run --name lib --kernel "$guests/bench.pvh" --mem 64M --cmdline "beat=20 pages=8 halt=1"
wait_line "$tmp/lib.out" 'beat 3 ' 20 || die "does not run"
timeout 120 "$lib/clientall" lib "$tmp/lib.sock" >"$tmp/clientall.out" 2>&1 || bad "clientall: $(cat "$tmp/clientall.out")"
grep -q '^tid [0-9]' "$tmp/clientall.out" || bad "no thread: $(cat "$tmp/clientall.out")"
wait "$vm_pid"
[ $? = 0 ] || bad "the VM did not end with Exit"

# Every function of the header is exported, with a version; nothing else is.
nm -D --defined-only "$build/libtorpor-client.so" | awk '$2 == "T" { print $3 }' >"$tmp/symbols"
grep -v '^torpor_[a-z_]*@@TORPOR_CLIENT_1$' "$tmp/symbols" && bad "symbols without a version or of others"
for f in $(grep -o '\btorpor_[a-z_]*(' "$top/client/torpor-client.h" | tr -d '(' | sort -u); do
	grep -q "^$f@@" "$tmp/symbols" || bad "$f is not exported"
	grep -q "\b$f(" "$top/tests/lib/clientall.c" || [ "$f" = torpor_send ] || [ "$f" = torpor_receive ] ||
		bad "$f is not tested"
done

# A battery takes what it is told; a snapshot shows it.
vm_begin bat run --name bat --kernel "$guests/bench.pvh" --mem 64M --battery --cmdline "beat=20 pages=8 halt=1"
wait_line "$tmp/bat.out" 'beat 3 ' 20 || die "does not run"
t battery bat goldfish capacity 40 && t battery bat goldfish status discharging && t battery bat goldfish health cold &&
	t battery bat goldfish aconline 0 && t battery bat goldfish present 1 || bad "battery"
take bat || bad "take: $(cat "$tmp/take.err")"
t snapshot show bat >"$tmp/show" || bad "show"
for re in 'capacity.*40' 'status.*2' 'health.*6' 'ac_online.*0'; do
	grep -A 30 battery "$tmp/show" | grep -Eq "$re" || bad "the snapshot's battery has no /$re/"
done
t battery bat goldfish set_fake_bat_config 30 && t battery bat goldfish cancel_fake_bat_config || bad "fake battery"
t stop bat || bad "stop"
wait "$vm_pid"

vm_begin web run --name web --kernel "$guests/bench.pvh" --mem 64M --cpus 2 \
	--cmdline "beat=20 pages=8 halt=1 peek=1073741824"
wait_line "$tmp/web.out" 'beat 3 ' 20 || die "does not run"
sock=$XDG_RUNTIME_DIR/torpor/web.sock

# Installed, as a user of it finds it.
if ! ldd "$torpor" 2>/dev/null | grep -q asan; then
	cmake --install "$build" --prefix "$tmp/inst" >"$tmp/install.log" 2>&1 || bad "install: $(tail -n 3 "$tmp/install.log")"
	for f in include/torpor-client.h share/man/man1/torpor-vm.1 share/zsh/site-functions/_torpor bin/torpor; do
		[ -f "$tmp/inst/$f" ] || bad "$f is not installed"
	done
	pc=$(find "$tmp/inst" -name torpor-client.pc)
	sed -i "s|^prefix=.*|prefix=$tmp/inst|; s|^libdir=.*|libdir=$(dirname "$(dirname "$pc")")|; s|^includedir=.*|includedir=$tmp/inst/include|" "$pc"
	export PKG_CONFIG_PATH=${pc%/*}
	# shellcheck disable=SC2046
	cc -Wall -Wextra -Werror -o "$tmp/watch" "$top/docs/examples/watch.c" $(pkg-config --cflags --libs torpor-client) ||
		bad "the example does not build"
	LD_LIBRARY_PATH=$(dirname "$(dirname "$pc")") "$tmp/watch" web ex >"$tmp/watch.out" 2>&1 || bad "the example: $(cat "$tmp/watch.out")"
	for re in '^web is running: 2 vCPUs, 64 MiB$' '^vcpu 1 thread [0-9]' '^taken web@ex: ' '^event \{"SnapshotPublished"'; do
		grep -Eq "$re" "$tmp/watch.out" || bad "the example prints no /$re/: $(cat "$tmp/watch.out")"
	done
fi

# Verbs: effects, by name and by socket.
t vcpus web >"$tmp/vcpus" || bad "vcpus"
[ "$(wc -l <"$tmp/vcpus")" = 3 ] || bad "vcpus prints $(cat "$tmp/vcpus")"
t vcpus "$sock" --json >"$tmp/vcpus.json" || bad "vcpus by socket"
[ "$(json "$tmp/vcpus.json" name)" = web ] || bad "vcpus --json: $(cat "$tmp/vcpus.json")"
for v in powerbtn sleepbtn "gpe 5" "gpe 0x10" "throttle 1 500us" "throttle 1 1ms"; do
	# shellcheck disable=SC2086
	set -- $v
	verb=$1
	shift
	t "$verb" web "$@" || bad "$v"
done
t request web '"VcpuPidTid"' | grep -q pid_tid_map || bad "request"
t suspend "$sock" --vcpus && t resume "$sock" --vcpus || bad "suspend by socket"
printf 'word of the host' >"$tmp/content"
[ "$(t memory add web 0x40000000 64K --file "$tmp/content")" = "region 0x40000000" ] || bad "memory add"
vm_send p
wait_line "$tmp/web.out" 'peek ' 10 || bad "no peek"
[ "$line" = "peek 2334675641753038711" ] || bad "the guest reads $line of the file"
expect_error 1 "memory" t snapshot take web
t memory rm web 0x40000000 || bad "memory rm"
t events web --count 2 >"$tmp/events" &
e=$!
for ((i = 0; i < 50; i++)); do
	t suspend web --vcpus
	t resume web --vcpus
	[ "$(wc -l <"$tmp/events")" -ge 2 ] && break
done
wait $e || bad "events"
grep -q '^{"StateChange":' "$tmp/events" || bad "events prints $(cat "$tmp/events")"
t events web --follow >"$tmp/follow" &
follow=$!
sleep 0.3

# Refusals: status 1 and a line with the reason; what makes no sense: status 2.
expect_error 1 'no balloon' t balloon web 16M --wait
expect_error 1 'no balloon' t balloon web
expect_error 1 'no battery' t battery web goldfish capacity 40
expect_error 1 'no disk 0' t disk resize web 0 1G
expect_error 1 'PCI' t net add web none
expect_error 1 'no interface' t net add web tap=none0
expect_error 1 "no device 'nic'" t net rm web nic
expect_error 1 'USB' t usb list web
expect_error 1 'USB' t usb attach web /dev/null
expect_error 1 'USB' t usb key web /dev/null
expect_error 1 'USB' t usb detach web 1
expect_error 1 'sound' t mute web on
expect_error 1 'PCI' t vfio add web /sys/bus/pci/devices/0
expect_error 1 'PCI' t vfio rm web /sys/bus/pci/devices/0
expect_error 1 'port for bus 3' t pme web 3:1.0
expect_error 1 'no GPE 256' t gpe web 256
expect_error 1 'no vCPU 9' t throttle web 9 1ms
expect_error 1 'no region' t memory rm web 4096
expect_error 1 "guest's RAM" t memory add web 0 4K
expect_error 1 'no JSON' t request web nonsense
expect_error 1 'not running' t powerbtn nobody
expect_error 1 'No such file' t powerbtn "$tmp/none.sock"
expect_error 1 'no event within' t events web --timeout 1
expect_error 2 'no number' t gpe web five
expect_error 2 'no time' t throttle web 0 soon
expect_error 2 'tap=' t net add web eth0
expect_error 2 'on or off' t mute web loud
expect_error 2 'needs one of add, rm' "$torpor" memory
expect_error 2 'unknown verb' t memory fly
expect_error 2 'argument' t gpe web
t stop web || bad "stop"
wait "$vm_pid"
wait $follow || bad "events --follow ends with $?"
tail -n 1 "$tmp/follow" | grep -q '"to":"ended"' || bad "the last event is $(tail -n 1 "$tmp/follow")"
finish
