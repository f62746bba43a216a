#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Control sockets where the user wants them: found by name and by path, 0600, and gone with the VM whether it
# is stopped, killed or never starts; never somebody else's.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
mkdir "$tmp/far"
sock=$tmp/far/c.sock ro=$tmp/far/r.sock vsock=$tmp/far/v.sock
begin() {
	vm_begin s run --name s --kernel "$guests/bench.pvh" --mem 32M --cmdline "beat=20 pages=8 halt=1" \
		--socket "$sock" --socket-readonly "$ro" --vsock 3 --vsock-path "$vsock"
	wait_line "$tmp/s.out" 'beat 3 ' 20 || die "does not run"
}
# gone HOW: none of the sockets is left.
gone() {
	for ((i = 0; i < 200; i++)); do
		[ -z "$(ls -A "$tmp/far")" ] && return
		sleep 0.05
	done
	bad "$1 leaves $(ls -A "$tmp/far" | tr '\n' ' ')"
}
begin
for s in "$sock" "$ro"; do
	[ -S "$s" ] && [ "$(stat -c %a "$s")" = 600 ] || bad "$s: $(stat -c '%F %a' "$s")"
done
[ ! -e "$XDG_RUNTIME_DIR/torpor/s.sock" ] || bad "there is a second control socket in the run folder"
for who in s "$sock"; do
	t vcpus "$who" --json >"$tmp/vcpus" || bad "vcpus $who"
	[ "$(json "$tmp/vcpus" name)" = s ] || bad "vcpus $who: $(cat "$tmp/vcpus")"
done
t vcpus "$ro" >"$tmp/vcpus" || bad "a monitor's socket tells no threads"
expect_error 1 'status and events' t suspend "$ro"
# Somebody else's socket or file is not replaced.
other() { t run --name other --kernel "$guests/bench.pvh" --mem 32M "$@" </dev/null; }
expect_error 1 'in use by another process' other --socket "$sock"
expect_error 1 'in use by another process' other --socket-readonly "$ro"
echo mine >"$tmp/far/file"
expect_error 1 'no socket' other --socket "$tmp/far/file"
[ "$(cat "$tmp/far/file")" = mine ] || bad "a file was replaced by a socket"
rm "$tmp/far/file"
expect_error 1 'No such file' other --socket "$tmp/nowhere/x.sock"
expect_error 2 'a socket takes' other --socket "$tmp/$(printf 'x%.0s' {1..120})"
[ -S "$sock" ] && [ -S "$ro" ] || bad "another VM's start took the sockets away"
# Another user is told so and gets nothing, on either socket, even where the files would let him in.
other_user() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
if [ "$(id -u)" = 0 ] && other_user true; then
	cp "$lib/ctlsend" "$tmp/far/ctlsend"
	chmod 711 "$tmp" "$tmp/far"
	chmod 777 "$sock" "$ro"
	for s in "$sock" "$ro"; do
		printf '"VcpuPidTid"' | other_user "$tmp/far/ctlsend" "$s" >"$tmp/other" 2>&1
		grep -q '^{"ErrString":"user 65534 may not control this VM: only user 0 and root (errno 1 EPERM)"}$' "$tmp/other" ||
			bad "another user gets $(cat "$tmp/other")"
	done
	chmod 600 "$sock" "$ro"
	chmod 700 "$tmp" "$tmp/far"
	rm "$tmp/far/ctlsend"
fi
# The 65th client is turned away with an answer, and can come back.
crowd=()
for ((i = 0; i < 64; i++)); do
	"$lib/ctlsend" "$sock" --follow 99 >"$tmp/crowd.$i" 2>&1 &
	crowd+=($!)
	pids+=($!)
	disown $! # no word of its end
done
for ((i = 0; i < 1200; i++)); do [ "$(cat "$tmp"/crowd.* | grep -c Ok)" = 64 ] && break; sleep 0.05; done
printf '"VcpuPidTid"' | "$lib/ctlsend" "$sock" >"$tmp/more" 2>&1
grep -q '64 clients are connected already: close one and try again (errno 16 EBUSY)' "$tmp/more" || bad "the 65th client gets $(cat "$tmp/more")"
# The library has the reason, too, though the VM has closed already.
expect_error 1 '64 clients are connected already' t vcpus "$sock"
kill -KILL "${crowd[@]}"
for ((i = 0; i < 1200; i++)); do
	printf '"VcpuPidTid"' | "$lib/ctlsend" "$sock" >"$tmp/more" 2>&1
	grep -q pid_tid_map "$tmp/more" && break
	sleep 0.05
done
grep -q pid_tid_map "$tmp/more" || bad "after the crowd: $(cat "$tmp/more")"
t stop "$sock" || bad "stop by socket"
wait "$vm_pid" || bad "status of a stopped VM"
[ -z "$(ls -A "$tmp/far")" ] || bad "a stop leaves $(ls -A "$tmp/far" | tr '\n' ' ')"
begin
vm_kill "$vm_pid"
gone "SIGKILL"
# One that does not start.
echo "no kernel" >"$tmp/bad.elf"
expect_error 1 'kernel|format|ELF' t run --name s --kernel "$tmp/bad.elf" --mem 32M --socket "$sock" \
	--socket-readonly "$ro" --vsock 3 --vsock-path "$vsock"
gone "a start that fails"
# What stands at the path by then is not the VM's.
begin
rm "$sock"
echo new >"$sock"
vm_kill "$vm_pid"
for ((i = 0; i < 200; i++)); do [ -e "$ro" ] || break; sleep 0.05; done
[ ! -e "$ro" ] || bad "the monitors' socket is left"
[ "$(cat "$sock")" = new ] || bad "a file that took the socket's place was removed"
rm "$sock"
# A detached VM, too.
t run --name s --kernel "$guests/bench.pvh" --mem 32M --cmdline "beat=1000 pages=1 halt=1" --serial null --detach \
	--socket "$sock" >"$tmp/det" || bad "detach"
t stop s || bad "stop of the detached VM"
gone "the stop of a detached VM"
finish
