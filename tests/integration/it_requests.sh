#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every request of docs/control.md, byte by byte as it stands there, through the raw socket: exactly one
# answer each, of a form that the page has; what the VM does not have is refused with ENODEV. Listeners,
# subscribers and monitors.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
vm_begin web run --name web --kernel "$guests/bench.pvh" --mem 64M --cpus 2 --cmdline "beat=20 pages=8 halt=1 peek=1073741824" \
	--socket-readonly "$tmp/ro.sock"
wait_line "$tmp/web.out" 'beat 3 ' 20 || die "does not run"
web_pid=$vm_pid
sock=$XDG_RUNTIME_DIR/torpor/web.sock
lives() {
	local from=$(($(wc -l <"$tmp/web.out") + 1))
	wait_line "$tmp/web.out" 'beat ' 10 "$from" || die "$1: the guest stands still"
}
# ask JSON [CTLSEND ARGS]: the answer into $answer.
ask() {
	local packet=$1
	shift
	answer=$(printf '%s' "$packet" | "$lib/ctlsend" "$sock" "$@" 2>&1) || bad "$packet: $answer"
}
# want JSON ERE [ARGS]
want() {
	local packet=$1 re=$2
	shift 2
	ask "$packet" "$@"
	grep -Eq -- "$re" <<<"$answer" || bad "$packet is answered $answer, wanted /$re/"
}

# The examples, but Exit (last) and those that this test asks with care.
sed -n 's/^    > //p' "$top/docs/control.md" | grep -v '"Exit"' >"$tmp/examples"
"$lib/ctlsend" "$sock" --lines --eventfd <"$tmp/examples" >"$tmp/answers" 2>"$tmp/answers.err" ||
	bad "examples: $(cat "$tmp/answers.err")"
[ "$(wc -l <"$tmp/answers")" = "$(wc -l <"$tmp/examples")" ] || bad "not one answer per example"
grep -Ev '^("Ok"|\{"(ErrString|VcpuPidTidResponse|Torpor|BatResponse|VmDescriptor|RegisterMemory2|SwapStatus)":)' "$tmp/answers" &&
	bad "answers of unknown form"
lives "after all examples"
# The take that an example lets go on by itself.
for ((i = 0; i < 600; i++)); do
	ask '{"Torpor":{"v":1,"cmd":"TakeStatus"}}'
	grep -q '"taking":false' <<<"$answer" && break
	sleep 0.1
done
want '{"Torpor":{"v":1,"cmd":"CheckpointStatus"}}' '"every":"30s","keep":"10,hourly=24","taking":(true|false)'
want '{"Torpor":{"v":1,"cmd":{"CheckpointPolicy":{"every":"off"}}}}' '"every":"off","keep":"10,hourly=24"'

for r in '{"PciPme":8}' '{"BalloonCommand":"Stats"}' \
	'{"DiskCommand":{"disk_index":7,"command":{"Resize":{"new_size":4096}}}}' '{"SndCommand":{"MuteAll":true}}' \
	'{"UsbCommand":{"DetachDevice":{"port":1}}}' '{"GpuCommand":"ListDisplays"}' '{"HotPlugNetCommand":{"RemoveTap":1}}'; do
	want "$r" '^\{"ErrString":"[A-Z].* is not available in this VM: .* \(errno 19 ENODEV\)"\}$'
done
want '{"DiskCommand":{"disk_index":7,"command":{"Resize":{"new_size":4096}}}}' 'no disk 7 '
want '{"BatCommand":["goldfish",{"SetCapacity":40}]}' '^\{"BatResponse":"NoBatDevice"\}$'
want '{"Swap":{"Disable":{"slow_file_cleanup":false}}}' '^"Ok"$|EOPNOTSUPP' # the examples have enabled it
for ((i = 0; i < 600; i++)); do
	ask '{"Swap":"Status"}'
	grep -qE '"state":"Ready"|EOPNOTSUPP' <<<"$answer" && break
	sleep 0.1
done
want '{"Swap":"Trim"}' 'swap is Ready: .trim. is not possible now|EOPNOTSUPP'
want '{"Swap":"Status"}' '"SwapStatus":\{"state":"Ready"|EOPNOTSUPP'
want '{"Gpe":{"gpe":256,"clear_evt":null}}' 'no GPE 256: use 0 to 255 \(errno 22 EINVAL\)'
want '{"Gpe":{"gpe":1,"clear_evt":0}}' 'descriptor 0 was not sent'
want '{"Gpe":{"gpe":1,"clear_evt":0}}' 'Gpe.clear_evt: the descriptor is no eventfd' --memfd 4096
want '{"Rtc":{"clear_evt":0}}' 'Rtc.clear_evt: the descriptor is no eventfd' --memfd 4096
for r in '"Powerbtn"' '"Sleepbtn"' '{"Gpe":{"gpe":0}}' '{"Gpe":{"gpe":255,"clear_evt":null}}'; do want "$r" '^"Ok"$'; done
for r in '{"Gpe":{"gpe":9,"clear_evt":0}}' '{"Rtc":{"clear_evt":0}}'; do want "$r" '^"Ok"$' --eventfd; done
want '{"PciPme":770}' 'no PCI Express port for bus 3 '

# MakeRT: the policy of the vCPU threads is in /proc, or the answer says why not.
tids=$(printf '"VcpuPidTid"' | "$lib/ctlsend" "$sock" | grep -o ',[0-9]*\]' | tr -dc '0-9\n')
[ "$(wc -l <<<"$tids")" = 2 ] || bad "VcpuPidTid names $tids"
for tid in $tids; do [ "$(cat "/proc/$vm_pid/task/$tid/comm")" != "" ] || bad "no thread $tid"; done
policy() { sed 's/.*) //' "/proc/$vm_pid/task/$1/stat" | cut -d ' ' -f 39; }
# The examples asked for it already.
ask '"MakeRT"'
if [ "$answer" = '"Ok"' ]; then
	for tid in $tids; do [ "$(policy "$tid")" = 2 ] || bad "thread $tid has policy $(policy "$tid") after MakeRT"; done
else
	grep -q 'SCHED_RR.*ulimit -r.*EPERM' <<<"$answer" || bad "MakeRT: $answer"
	for tid in $tids; do [ "$(policy "$tid")" = 0 ] || bad "MakeRT failed and thread $tid has policy $(policy "$tid")"; done
fi

# Throttle: the next beat of a guest with one every 20 ms comes 400 ms later, and a suspend cuts in.
want '{"Throttle":[0,400000]}' '^"Ok"$'
# In the guest's own time, which goes on meanwhile.
from=$(wc -l <"$tmp/web.out")
for ((i = 1; i <= 20; i++)); do
	wait_line "$tmp/web.out" 'beat ' 10 "$((from + i))" || die "throttled for good"
	gap=$(awk -v n="$from" '$2 == "tsc_khz" { khz = $3 } $2 != "beat" || $4 != "tsc" { next }
		NR >= n - 2 && last && ($5 - last) / khz > most { most = ($5 - last) / khz } { last = $5 } END { print int(most) }' "$tmp/web.out")
	[ "$gap" -lt 350 ] || break
done
[ "$gap" -ge 350 ] || bad "throttled by 400 ms, the longest gap is $gap ms"
want '{"Throttle":[1,30000000]}' '^"Ok"$'
from=$(now_ms)
want '"SuspendVcpus"' '^"Ok"$'
want '"ResumeVcpus"' '^"Ok"$'
[ $(($(now_ms) - from)) -lt 10000 ] || bad "a suspend waited for a throttled vCPU"
want '{"Throttle":[2,1]}' 'no vCPU 2: use 0 to 1 .*EINVAL'
want '{"Throttle":[0,60000001]}' 'at most 60000000'

# GetVmDescriptor: the descriptor is KVM's.
want '"GetVmDescriptor"' '^\{"VmDescriptor":\{"hypervisor":"Kvm","vm_fd":0\}\} \+fd anon_inode:kvm-vm$'
want '"SuspendVm"' '^"Ok"$'
want '"ResumeVcpus"' 'ResumeVm\) \(errno 16 EBUSY\)'
want '"ResumeVm"' '^"Ok"$'
lives "suspend and resume"

# Memory of a client: the guest writes into its memfd, over suspend and reset; no take meanwhile.
vm_begin mem run --name mem --kernel "$guests/bench.pvh" --mem 64M --cmdline "beat=20 pages=8 halt=1 peek=1073741824"
wait_line "$tmp/mem.out" 'beat 3 ' 20 || die "does not run"
sock=$XDG_RUNTIME_DIR/torpor/mem.sock
region() { printf '{"RegisterMemory":{"fd":0,"offset":%s,"range_start":%s,"range_end":%s,"cache_coherent":false}}' "$1" "$2" "$3"; }
peek() { # the guest's word there is $1
	local from=$(($(wc -l <"$tmp/mem.out") + 1))
	vm_send p
	wait_line "$tmp/mem.out" 'peek ' 10 "$from" || die "no peek"
	[ "$line" = "peek $1" ] || bad "the guest reads '$line', wanted $1"
}
peek 18446744073709551615
want "$(region 0 1073741824 1073807360)" '^\{"RegisterMemory2":\{"region_id":1073741824\}\}$' --memfd 65536
peek 0
want '"SuspendVm"' '^"Ok"$'
want '{"Torpor":{"v":1,"cmd":"Take"}}' "1 region of clients' memory .*EBUSY"
want '"ResumeVm"' '^"Ok"$'
peek 1
vm_send r
wait_line "$tmp/mem.out" 'beat 3 ' 20 "$(wc -l <"$tmp/mem.out")" || die "no reset"
peek 2
want "$(region 0 1073745920 1073750016)" 'is there already .*EBUSY' --memfd 65536
want "$(region 0 0 4096)" "guest's RAM" --memfd 65536
want "$(region 0 3221225472 3221229568)" 'kept for devices' --memfd 65536
want "$(region 0 4503599627366400 4503599627370496)" 'beyond the guest' --memfd 65536
want "$(region 4096 2147483648 2147549184)" 'the memfd has 65536 bytes, not 65536 from 4096' --memfd 65536
want "$(region 9223372036854771712 2147483648 2147487744)" 'EINVAL' --memfd 65536
want "$(region 0 2147483648 2147483648)" 'is empty' --memfd 65536
want "$(region 0 2147483648 2147483649)" 'multiples of 4096' --memfd 65536
want "$(region 0 2147483648 2147487744)" 'no memfd' --eventfd
want "$(region 0 2147483648 2147487744)" 'descriptor 0 was not sent'
want '{"UnregisterMemory":{"region_id":4096}}' 'no region 4096 .*ENOENT'
for i in $(seq 15); do
	want "$(region 0 $((2147483648 + i * 4096)) $((2147483648 + i * 4096 + 4096)))" 'RegisterMemory2' --memfd 4096
done
want "$(region 0 2147483648 2147487744)" '16 regions are registered already' --memfd 65536
for i in $(seq 15); do want "{\"UnregisterMemory\":{\"region_id\":$((2147483648 + i * 4096))}}" '^"Ok"$'; done
want '{"UnregisterMemory":{"region_id":1073741824}}' '^"Ok"$'
peek 18446744073709551615
take mem --tag clean || bad "take after UnregisterMemory: $(cat "$tmp/take.err")"
vm_send C
wait_line "$tmp/mem.out" 'check ok' 20 || bad "the guest's memory is not right"
want '"Exit"' '^"Ok"$'
wait "$vm_pid" || bad "exit of mem"
vm_pid=$web_pid sock=$XDG_RUNTIME_DIR/torpor/web.sock

# A listener hears what it asked for, from the VM's side of a connection; twice is once.
"$lib/ctlsend" --listen "$tmp/me.sock" 2 >"$tmp/heard" 2>"$tmp/heard.err" &
listener=$!
pids+=("$listener")
for ((i = 0; i < 200; i++)); do [ -s "$tmp/heard" ] && break; sleep 0.02; done
want "{\"RegisterListener\":{\"socket_addr\":\"$tmp/me.sock\",\"event\":\"StateChange\"}}" '^"Ok"$'
want "{\"RegisterListener\":{\"socket_addr\":\"$tmp/me.sock\",\"event\":\"StateChange\"}}" '^"Ok"$'
want "{\"RegisterListener\":{\"socket_addr\":\"$tmp/none.sock\",\"event\":\"StateChange\"}}" 'ENOENT'
want "{\"RegisterListener\":{\"socket_addr\":\"$top/README.md\",\"event\":\"StateChange\"}}" 'ECONNREFUSED'
want "{\"UnregisterListener\":{\"socket_addr\":\"$tmp/none.sock\",\"event\":\"StateChange\"}}" '^"Ok"$'
want '"SuspendVcpus"' '^"Ok"$'
want '"ResumeVcpus"' '^"Ok"$'
wait $listener || bad "the listener: $(cat "$tmp/heard.err")"
[ "$(grep -c '^{"StateChange":{"from":"[a-z-]*","to":"[a-z-]*","time_ns":[0-9]*}}$' "$tmp/heard")" = 2 ] ||
	bad "heard: $(cat "$tmp/heard")"
# It is gone by now: nobody waits for it, and its descriptor goes.
want '"SuspendVcpus"' '^"Ok"$'
want '"ResumeVcpus"' '^"Ok"$'
# A listener that does not read is dropped once its socket is full: nobody waits, and its descriptor goes.
settled_fds() { # until there are no more than $1
	for ((i = 0; i < 1200; i++)); do
		[ "$(find "/proc/$vm_pid/fd" -mindepth 1 | wc -l)" -le "$1" ] && return
		sleep 0.05
	done
	bad "$(find "/proc/$vm_pid/fd" -mindepth 1 | wc -l) descriptors, wanted $1: $2"
}
fds=1000 # what it has once the connections that ended are gone
for ((i = 0; i < 10; i++)); do
	sleep 0.1
	n=$(find "/proc/$vm_pid/fd" -mindepth 1 | wc -l)
	[ "$n" -ge "$fds" ] || fds=$n
done
"$lib/ctlsend" --listen "$tmp/slow.sock" hold >"$tmp/slow" 2>&1 &
slow=$!
pids+=("$slow")
for ((i = 0; i < 200; i++)); do [ -s "$tmp/slow" ] && break; sleep 0.02; done
want "{\"RegisterListener\":{\"socket_addr\":\"$tmp/slow.sock\",\"event\":\"StateChange\"}}" '^"Ok"$'
[ "$(find "/proc/$vm_pid/fd" -mindepth 1 | wc -l)" -gt "$fds" ] || bad "the VM holds no connection to its listener"
timeout 1200 "$lib/ctlstress" "$sock" cycles 2000 >"$tmp/cycles" 2>&1 || bad "cycles: $(cat "$tmp/cycles")"
settled_fds "$fds" "a listener that does not read is kept"
kill "$slow"
wait "$slow" 2>/dev/null

# A guest that panics tells its listeners before the end.
vm_begin panics run --name panics --kernel "$guests/platform.pvh" --mem 64M --cmdline do=panic --paused
for ((i = 0; i < 200; i++)); do [ -S "$XDG_RUNTIME_DIR/torpor/panics.sock" ] && break; sleep 0.02; done
"$lib/ctlsend" "$XDG_RUNTIME_DIR/torpor/panics.sock" --follow 4 >"$tmp/panic" 2>&1 &
follower=$!
pids+=("$follower")
for ((i = 0; i < 200; i++)); do [ -s "$tmp/panic" ] && break; sleep 0.02; done
# The guest may be gone before the answer has come; its end and its events tell.
t resume panics >"$tmp/resume.out" 2>&1 || say "resume: $(head -n 1 "$tmp/resume.out")"
wait "$vm_pid"
[ $? = 34 ] || bad "a panic's status"
wait "$follower" || bad "the panic's listener: $(cat "$tmp/panic")"
sed -n 3p "$tmp/panic" | grep -q '^{"GuestPanic":{"time_ns":[0-9]*}}$' || bad "followed: $(cat "$tmp/panic")"
sed -n 4p "$tmp/panic" | grep -q '"to":"ended"' || bad "followed: $(cat "$tmp/panic")"
vm_pid=$web_pid

# A subscriber hears a take from its beginning to its publishing, on its own connection.
"$lib/ctlsend" "$sock" --follow 3 >"$tmp/followed" 2>&1 &
follower=$!
pids+=("$follower")
for ((i = 0; i < 200; i++)); do [ -s "$tmp/followed" ] && break; sleep 0.02; done
take web --tag ev || bad "take: $(cat "$tmp/take.err")"
wait $follower || bad "the subscriber: $(cat "$tmp/followed")"
sed -n 2p "$tmp/followed" | grep -q '^{"SnapshotBegun":{"name":"web","tag":"ev","time_ns":' || bad "followed: $(cat "$tmp/followed")"
sed -n 3p "$tmp/followed" | grep -q '^{"SnapshotPublished":{"ref":"web@ev",.*"pages_stored":[1-9]' || bad "followed: $(cat "$tmp/followed")"

# Monitors: status and events, nothing else.
[ "$(stat -c %a "$tmp/ro.sock")" = 600 ] || bad "monitor socket mode"
ro() { printf '%s' "$1" | "$lib/ctlsend" "$tmp/ro.sock"; }
ro '{"Torpor":{"v":1,"cmd":"Status"}}' | grep -q '"state":"running"' || bad "a monitor gets no status"
ro '"VcpuPidTid"' | grep -q '"pid_tid_map"' || bad "a monitor gets no thread ids"
ro '{"Torpor":{"v":1,"cmd":"CheckpointStatus"}}' | grep -q '"every":"off"' || bad "a monitor gets no checkpoint status"
ro '{"Torpor":{"v":1,"cmd":"Jobs"}}' | grep -q '"Jobs":\[' || bad "a monitor gets no jobs"
ro '{"Torpor":{"v":1,"cmd":{"JobWait":{"id":999}}}}' | grep -q 'no job 999' || bad "a monitor may not wait for jobs"
for r in '"Exit"' '"SuspendVm"' '"GetVmDescriptor"' '{"Torpor":{"v":1,"cmd":"Take"}}' \
	'{"Torpor":{"v":1,"cmd":"TakeCancel"}}' '{"Torpor":{"v":1,"cmd":{"JobCancel":{"id":1}}}}' '{"Torpor":{"v":1,"cmd":{"CheckpointPolicy":{"every":"off"}}}}'; do
	ro "$r" | grep -q 'errno 1 EPERM' || bad "a monitor may ask $r"
done
lives "monitors"

want '"Exit"' '^"Ok"$'
wait "$vm_pid"
rc=$?
[ $rc = 0 ] || bad "after Exit: status $rc"
finish
