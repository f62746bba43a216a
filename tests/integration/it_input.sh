#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Bad input gets a clear one-line error on stderr and exit 1 (usage: 2), and nothing is lost.
. "$(dirname "$0")/../lib/common.bash"
r() { expect_error 1 "$1" t run --name x "${@:2}"; }
g=$guests/bench.pvh

# Usage: exit 2, also without /dev/kvm.
expect_error 2 'verb' "$torpor"
expect_error 2 'verb|unknown' "$torpor" frobnicate
expect_error 2 'name' t run --kernel "$g"
expect_error 2 'kernel' t run --name x
expect_error 2 'option|unknown' t run --name x --kernel "$g" --frob
expect_error 2 'name' t run --name 'a/b' --kernel "$g"
expect_error 2 'mem|size' t run --name x --kernel "$g" --mem 12Q
expect_error 2 'cpu' t run --name x --kernel "$g" --cpus many
expect_error 2 'clock' t restore x --clock sideways
expect_error 2 'take' "$torpor" snapshot

need_kvm
# Kernels.
r 'no such|not exist|cannot open|open' --kernel "$tmp/none"
r 'directory|regular|kernel' --kernel "$tmp"
: >"$tmp/empty"
r 'empty|kernel' --kernel "$tmp/empty"
head -c 100000 /dev/urandom >"$tmp/noise"
r 'kernel' --kernel "$tmp/noise"
for n in 4 16 40 63 100 4096 8000 30000; do
	head -c $n "$g" >"$tmp/cut"
	r 'trunc|short|ELF|kernel' --kernel "$tmp/cut"
done
for n in 52 4097 9000; do
	head -c $n "$guests/bench.mb" >"$tmp/cut"
	r 'trunc|short|ELF|kernel' --kernel "$tmp/cut"
done
if [ "$(id -u)" != 0 ]; then
	cp "$g" "$tmp/secret"
	chmod 0 "$tmp/secret"
	r 'permission' --kernel "$tmp/secret"
fi
truncate -s 40M "$tmp/bigrd"
r 'initrd' --kernel "$g" --initrd "$tmp/bigrd" --mem 32M
r 'initrd|no such' --kernel "$g" --initrd "$tmp/none"
# Sizes.
r 'memory' --kernel "$g" --mem 0
r 'memory' --kernel "$g" --mem 1M
r 'memory' --kernel "$g" --mem 900000G
r 'cpu' --kernel "$g" --cpus 0
r 'cpu' --kernel "$g" --cpus 65
expect_error 2 'model|cpu' t run --name x --kernel "$g" --cpu z80
r 'cmdline|command line' --kernel "$g" --cmdline "$(head -c 5000 /dev/zero | tr '\0' a)"
[ -z "$(ls -A "$store" 2>/dev/null)" ] || [ -f "$store/FORMAT" ] || bad "refused runs left something in the store"

# Stores and references.
expect_error 1 'store|no such|not exist' "$torpor" restore x --store "$tmp/nostore"
mkdir "$tmp/dir"
echo data >"$tmp/dir/precious"
expect_error 1 'no store|not a store|store' "$torpor" snapshot list --store "$tmp/dir"
expect_error 1 'store' "$torpor" restore x --store "$tmp/dir"
[ "$(cat "$tmp/dir/precious")" = data ] && [ "$(ls -A "$tmp/dir" | wc -l)" = 1 ] || bad "a directory that is no store was changed"

vm_begin v run --name v --kernel "$g" --mem 32M --cmdline "beat=20 pages=8 halt=1"
wait_line "$tmp/v.out" 'beat 2 ' 20 || die "does not run"
expect_error 2 'store' "$torpor" snapshot take v --store "$tmp/dir"
expect_error 2 'tag' t snapshot take v --tag 12
expect_error 2 'tag' t snapshot take v --tag 'a b'
take v --tag good || die "take: $(cat "$tmp/take.err")"
expect_error 1 'good' t snapshot take v --tag good
take v --tag second || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
expect_error 1 'nobody' t restore nobody
expect_error 1 'nosuch' t restore v@nosuch
expect_error 1 '99' t restore v@99
expect_error 1 'nosuch' t snapshot verify v@nosuch
expect_error 1 'nosuch' t snapshot rm v@good v@nosuch
t snapshot verify v@good >/dev/null || bad "a refused rm removed something"
expect_error 1 'not running|no VM|no such' t snapshot take v
expect_error 1 'name|taken|replace' t run --name v --kernel "$g"

# Another format version.
cp -r "$store" "$tmp/new"
sed -i 's/^torpor-store 1 /torpor-store 2 /' "$tmp/new/FORMAT"
expect_error 1 'format|version|newer' "$torpor" restore v@good --store "$tmp/new"
expect_error 1 'format|version|newer' "$torpor" snapshot list --store "$tmp/new"
printf 'garbage\n' >"$tmp/new/FORMAT"
expect_error 1 'store|format' "$torpor" snapshot list --store "$tmp/new"

# No /dev/kvm: seen by a process that has no such file.
if [ "$(id -u)" = 0 ] && unshare -m true 2>/dev/null; then
	expect_error 1 '/dev/kvm' unshare -m sh -c 'mount -t tmpfs none /dev && exec "$@"' sh \
		"$torpor" run --name nokvm --kernel "$g" --store "$store"
else
	say "note: no mount namespace: the case without /dev/kvm is left out"
fi

# After all that the good snapshot still comes up.
vm_begin v restore v@good
wait_line "$tmp/v.out" 'beat ' 20 || bad "the good snapshot does not come up"
vm_send C
wait_line "$tmp/v.out" 'check ok' 20 || bad "the restored guest's memory is wrong"
vm_kill "$vm_pid"
finish
