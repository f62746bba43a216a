# SPDX-License-Identifier: Apache-2.0
# The figures of devices, for tests/bench/run --devices, which sources this: its functions start VMs and put
# figures. docs/benchmarks.md tells what each figure is.
# shellcheck shell=bash disable=SC2154
devpeer=$build/benchlib/devpeer
mem_devices=32M
seconds=2
[ "$quick" = 0 ] || seconds=1
tap=bench0
sysctl -qw net.ipv6.conf.default.disable_ipv6=1 2>/dev/null
ip tuntap add dev $tap mode tap && ip link set $tap up || die "no tap can be made"
head -c 64M /dev/urandom >"$tmp/disk.img"

# What each kind of work is: the guest's command line, and the VM's end of it.
declare -A work_line=(
	[read1]="test=read depth=1" [read]="test=read depth=32" [write]="test=write depth=32"
	[big]="test=read depth=8 bytes=65536" [send]="test=send bytes=1514" [receive]="test=receive bytes=1514 depth=64"
	[stream]="test=stream" [drink]="test=drink"
)
work_names="read1 read write big send receive stream drink"

# thread_ns PID NAME: CPU time so far of its threads with that name.
thread_ns() {
	local d sum=0 ns
	for d in /proc/"$1"/task/*; do
		if [[ $(cat "$d/comm") =~ $2 ]]; then
			read -r ns _ <"$d/schedstat"
			sum=$((sum + ns))
		fi
	done 2>/dev/null
	echo $sum
}
last_ops() { awk '$2 == "ops" && NF == 5 { l = $3 " " $5 } END { print l }' "$log"; }
# measure NAME: of the VM that runs: work per second, microseconds of CPU for one, the same but for the vCPU.
measure() {
	local before after cpu vcpu
	sleep 0.7
	before=$(last_ops)
	cpu=$(cpu_ms "$pid") vcpu=$(thread_ns "$pid" '^(vcpu|CPU )')
	sleep "$seconds"
	after=$(last_ops)
	cpu=$(($(cpu_ms "$pid") - cpu)) vcpu=$(($(thread_ns "$pid" '^(vcpu|CPU )') - vcpu))
	awk -v b="$before" -v a="$after" -v cpu="$cpu" -v vcpu="$vcpu" -v what="dev_$1" -v side="$side" 'BEGIN {
		split(b, x, " "); split(a, y, " ")
		n = y[1] - x[1]
		if (n < 10) exit 1
		printf "%s_rate %s %.3f\n", what, side, n * 1e9 / (y[2] - x[2])
		printf "%s_cpu %s %.4f\n", what, side, cpu * 1000 / n
		printf "%s_own %s %.4f\n", what, side, (cpu - vcpu / 1e6) * 1000 / n
	}' >>"$tmp/figures" || die "$side: $1 stands still: '$before', then '$after': $(tail -n 2 "$log" "$tmp/$side.err")"
	grep -q FAIL "$log" && die "$side: $1: $(grep -m1 FAIL "$log")"
	return 0
}
peer=
peer_up() {
	"$@" &
	peer=$!
	pids+=("$peer")
}
peer_down() {
	[ -z "$peer" ] || { kill "$peer" && wait "$peer"; } 2>/dev/null
	peer=
}
torpor_work() {
	local args=()
	case $1 in
	read1 | read | write | big) args=(--disk "$tmp/disk.img,capture=off,id=d") ;;
	send | receive) args=(--net "tap=$tap") ;;
	*) args=(--vsock 9 --vsock-path "$tmp/vs") ;;
	esac
	[ "$1" = stream ] && rm -f "$tmp/vs_9" && peer_up "$devpeer" sink "$tmp/vs_9" && sleep 0.2
	vm_up torpor "$torpor" run --name b --replace --store "$store" --kernel "$guests/devbench.pvh" \
		--mem $mem_devices --cmdline "${work_line[$1]}" --serial stdio "${args[@]}"
	line "ops" 0 20
	[ "$1" = drink ] && peer_up "$devpeer" source "$tmp/vs" 9
	[ "$1" = receive ] && peer_up "$devpeer" flood $tap 1514
	measure "$1"
	vm_down
	peer_down
}
qemu_work() {
	local args=()
	case $1 in
	read1 | read | write | big) args=(-object iothread,id=io
		-drive "if=none,id=d,file=$tmp/disk.img,format=raw,aio=io_uring"
		-device virtio-blk-pci-non-transitional,drive=d,iothread=io) ;;
	send | receive) args=(-netdev "tap,id=n,ifname=$tap,script=no,downscript=no,vhost=off"
		-device virtio-net-pci-non-transitional,netdev=n) ;;
	*) return 0 ;;
	esac
	vm_up qemu qemu-system-x86_64 -M microvm,x-option-roms=off,pcie=on -enable-kvm \
		-cpu host,-arch-capabilities -m 32 -nodefaults -no-user-config -display none -serial stdio \
		-name b,debug-threads=on -kernel "$guests/devbench.pvh" -append "${work_line[$1]}" "${args[@]}"
	line "ops" 0 20
	[ "$1" = receive ] && peer_up "$devpeer" flood $tap 1514
	measure "$1"
	vm_down
	peer_down
}
# No QEMU here has a socket device without help from the kernel: a pair of sockets stands for it.
plain_work() {
	local rate cpu
	case $1 in stream | drink) ;; *) return 0 ;; esac
	read -r rate cpu < <("$devpeer" plain 4096 $((seconds * 1000)))
	put "dev_$1_rate" qemu "$rate"
	put "dev_$1_cpu" qemu "$cpu"
}
devices_round() {
	local w
	for w in $work_names; do
		[[ $w =~ $only ]] || continue
		progress "round $1: $w"
		if (($1 % 2)); then
			torpor_work "$w"
			qemu_work "$w"
		else
			qemu_work "$w"
			torpor_work "$w"
		fi
		plain_work "$w"
	done
}
