#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A full disk: the take fails with a clear error, the guest runs on, earlier snapshots verify, and once
# there is room the next take works. The store lies on a small tmpfs in a mount namespace of our own.
if [ -z "${IT_FULL_INSIDE:-}" ]; then
	if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
		IT_FULL_INSIDE=1 exec unshare -m "$0"
	elif unshare -rm true 2>/dev/null; then
		IT_FULL_INSIDE=1 exec unshare -rm "$0"
	fi
	echo "skipped: no mount namespace"
	exit 77
fi
. "$(dirname "$0")/../lib/common.bash"
need_kvm
mkdir "$tmp/small"
mount -t tmpfs -o size=40M none "$tmp/small" || {
	say "skipped: no tmpfs"
	exit 77
}
at_end() { umount -l "$tmp/small"; }
store=$tmp/small/store
lives() {
	local from=$(($(wc -l <"$tmp/f.out") + 1))
	wait_line "$tmp/f.out" 'beat ' 10 "$from" || die "$1: the guest stands still"
}

# 64 MiB filled: about 13 MiB stored each.
vm_begin f run --name f --kernel "$guests/bench.pvh" --mem 96M --cmdline "beat=20 pages=512 fill=64 halt=1"
wait_line "$tmp/f.out" 'beat 2 ' 30 || die "does not run"
take f --tag first || die "the first take does not fit: $(cat "$tmp/take.err")"
full=0
# On a loaded machine the guest writes less in between.
for ((i = 2; i < 100; i++)); do
	sleep 0.3
	if ! take f --tag "n$i"; then
		full=1
		break
	fi
done
[ "$full" = 1 ] || die "the disk never got full"
[ "$(wc -l <"$tmp/take.err")" = 1 ] || bad "the error has $(wc -l <"$tmp/take.err") lines: $(cat "$tmp/take.err")"
grep -Eqi 'no space|full|space left' "$tmp/take.err" || bad "the error says: $(cat "$tmp/take.err")"
lives "disk full"
t snapshot list --json >"$tmp/list.json" || bad "list on a full disk"
grep -q "\"n$i\"" "$tmp/list.json" && bad "a failed take is listed"
t snapshot verify --all >"$tmp/verify.out" 2>&1 || bad "verify: $(tail -n 3 "$tmp/verify.out")"
# Full in the middle of a take as well: a file takes what is left but 2 MiB.
left=$(df -k --output=avail "$tmp/small" | tail -n 1)
[ "$left" -gt 3000 ] && head -c $(((left - 2048) * 1024)) /dev/zero >"$tmp/small/ballast"
take f --tag mid && bad "a take fits into 2 MiB"
grep -Eqi 'no space|full|space left' "$tmp/take.err" || bad "the error says: $(cat "$tmp/take.err")"
lives "disk full in the middle"
rm -f "$tmp/small/ballast"
mount -o remount,size=120M "$tmp/small" || die "remount"
take f --tag room || bad "with room again: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
vm_begin f restore f@room
wait_line "$tmp/f.out" 'beat ' 20 || die "does not come up"
vm_send C
wait_line "$tmp/f.out" 'check ok' 20 || bad "memory is wrong"
vm_kill "$vm_pid"
finish
