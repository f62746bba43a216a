#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every kind of kernel file boots: PVH ELF64, ELF64 by the 64-bit protocol, ELF32 multiboot; memory below
# and above the 4 GiB gap is all there; reset, triple fault and their exit statuses; the stock Debian
# kernel (bzImage) to an early console line, where it can be had.
. "$(dirname "$0")/../lib/common.bash"
need_kvm

for kind in pvh elf64 mb; do
	vm_begin "k$kind" run --name "k$kind" --kernel "$guests/bench.$kind" --mem 64M --cmdline "beat=20 pages=8 fill=16"
	wait_line "$tmp/k$kind.out" 'beat 5 ' 20 || die "bench.$kind does not run"
	grep -q 'filled 4096 pages' "$tmp/k$kind.out" || bad "bench.$kind filled $(grep filled "$tmp/k$kind.out")"
	vm_send C
	wait_line "$tmp/k$kind.out" 'check ok' 20 || bad "bench.$kind: no 'check ok'"
	vm_kill "$vm_pid"
done

# Memory sizes: the guest fills all it was told about.
for mem in 16M 17M 100M; do
	vm_begin mem run --name mem --kernel "$guests/bench.pvh" --mem "$mem" --cmdline "beat=20 pages=8" --replace
	wait_line "$tmp/mem.out" 'beat 2 ' 30 || die "$mem: does not run"
	pages=$(awk '/filled/ { print $3 }' "$tmp/mem.out")
	want=$(((${mem%M} - 3) * 256))
	[ "$pages" -ge "$want" ] || bad "$mem: only $pages pages in the memory map, wanted $want"
	vm_kill "$vm_pid"
done
if [ "$(awk '/MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo)" -ge 8 ]; then
	vm_begin big run --name big --kernel "$guests/bench.pvh" --mem 5G --cmdline "beat=20 pages=8 fill=3100"
	wait_line "$tmp/big.out" 'beat 2 ' 120 || die "5G: does not run"
	vm_send c
	wait_line "$tmp/big.out" 'check ok' 60 || bad "5G: no 'check ok'"
	vm_kill "$vm_pid"
fi

# Reset inside the process: same process, the guest starts anew.
vm_begin rst run --name rst --kernel "$guests/bench.pvh" --mem 32M --cmdline "beat=20 pages=8"
wait_line "$tmp/rst.out" 'beat 3 ' 20 || die "does not run"
from=$(($(wc -l <"$tmp/rst.out") + 1))
vm_send r
wait_line "$tmp/rst.out" 'bench guest' 20 "$from" || bad "no reset"
from=$(grep -n 'bench guest' "$tmp/rst.out" | tail -n 1 | cut -d: -f1)
wait_line "$tmp/rst.out" 'beat 3 ' 20 "$from" || bad "no new start after the reset"
[ "$(grep -c 'bench guest' "$tmp/rst.out")" = 2 ] || bad "$(grep -c 'bench guest' "$tmp/rst.out") starts, wanted 2"
kill -0 "$vm_pid" || bad "the process ended at the reset"
vm_kill "$vm_pid"

vm_begin nrb run --name nrb --kernel "$guests/bench.pvh" --mem 32M --cmdline "beat=20 pages=8" --no-reboot
wait_line "$tmp/nrb.out" 'beat 3 ' 20 || die "does not run"
vm_send r
wait "$vm_pid"
rc=$?
[ "$rc" = 32 ] || bad "reset with --no-reboot ended with $rc, wanted 32"

vm_begin tri run --name tri --kernel "$guests/bench.pvh" --mem 32M --cmdline "beat=20 pages=8"
wait_line "$tmp/tri.out" 'beat 3 ' 20 || die "does not run"
vm_send t
wait "$vm_pid"
rc=$?
[ "$rc" = 33 ] || bad "a triple fault ended with $rc, wanted 33"
grep -qi 'rip' "$tmp/tri.err" || bad "the crash report shows no registers: $(head -n 3 "$tmp/tri.err")"

# The stock kernel says its first line before it needs what a software KVM cannot do.
if stock=$("$top/tests/guest/linux/debian-kernel" 2>"$tmp/stock.err"); then
	vm_begin stock run --name stock --kernel "$stock" --mem 256M \
		--cmdline "console=ttyS0 earlyprintk=serial,ttyS0,115200 earlycon" --no-reboot
	wait_line "$tmp/stock.out" '.*Linux version [0-9]' 120 || bad "the stock kernel says nothing"
	vm_kill "$vm_pid"
else
	say "note: no stock kernel here ($(tail -n 1 "$tmp/stock.err")): not booted"
fi
finish
