#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A VM and a tag with names of the greatest length: told in full everywhere, and usable as they are told.
. "$(dirname "$0")/../lib/common.bash"
need_kvm
name=$(printf 'n%.0s' {1..64}) tag=$(printf 't%.0s' {1..64})
# A short one: with the name the path of the socket has nearly the 107 bytes that are possible.
XDG_RUNTIME_DIR=$(mktemp -d "${TMPDIR:-/tmp}/tn.XXXX") && export XDG_RUNTIME_DIR
at_end() { rm -rf "$XDG_RUNTIME_DIR"; }
vm_begin n run --name "$name" --kernel "$guests/bench.pvh" --mem 16M --cmdline "beat=10 pages=4 fill=1 halt=1"
wait_line "$tmp/n.out" 'beat ' 30 || die "does not run: $(cat "$tmp/n.err")"
take "$name" --tag "$tag" || die "take: $(cat "$tmp/take.err")"
t snapshot list --json >"$tmp/list.json" || bad "list"
grep -qF "\"$name@$tag\"" "$tmp/list.json" || bad "list --json does not tell the whole name: $(head -c 600 "$tmp/list.json")"
t snapshot list >"$tmp/list" || bad "list"
grep -qF "$tag" "$tmp/list" || bad "list does not tell the whole tag: $(cat "$tmp/list")"
t store stat --json >"$tmp/stat.json" || bad "stat"
grep -qF "\"$name@$tag\"" "$tmp/stat.json" || bad "store stat does not tell the whole name"
vm_kill "$vm_pid"
vm_begin n restore "$name@$tag"
wait_line "$tmp/n.out" 'beat ' 30 || bad "restore by the whole name: $(cat "$tmp/n.err")"
vm_kill "$vm_pid"
expect_error 2 'longer|64|name' "$torpor" run --name "x$name" --kernel "$guests/bench.pvh" --store "$store"
t snapshot rm "$name@$tag" >"$tmp/rm" 2>&1 || bad "rm: $(cat "$tmp/rm")"
finish
