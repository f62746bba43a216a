#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Keeping snapshots: what the store's figures say, and collecting by hand.
. "$(dirname "$0")/../lib/common.bash"
need_kvm

vm_begin k run --name k --kernel "$guests/bench.pvh" --mem 96M --cmdline "beat=20 pages=512 fill=16 halt=1"
wait_line "$tmp/k.out" 'beat 2 ' 30 || die "does not run"
vm_k=$vm_pid
for i in 1 2 3; do
	take k --tag "s$i" || die "take $i: $(cat "$tmp/take.err")"
done

# ---- stat
t store stat --json >"$tmp/stat.json" || bad "stat: exit $?"
jq -e '.total as $t | .families[0] as $f |
	(.families | length) == 1 and $f.vms == "k" and $f.snapshots == 3 and
	$t.record_bytes == $t.live_bytes + $t.dead_bytes + $t.partly_dead_bytes + $t.pending_bytes and
	$t.live_bytes == $t.shared_bytes + ($f.list | map(.unique_bytes) | add) and
	$t.disk_bytes > $t.live_bytes and $t.live_bytes > 3000000 and
	($f.list | all(.shared_bytes > 0)) and
	($f.list | map(.ref)) == ["k@s1", "k@s2", "k@s3"]' "$tmp/stat.json" >/dev/null ||
	bad "the figures do not fit together: $(cat "$tmp/stat.json")"
t store stat k >"$tmp/stat.out" || bad "stat k"
grep -q '^k@s2 ' "$tmp/stat.out" || bad "stat k tells nothing of k@s2: $(cat "$tmp/stat.out")"
expect_error 1 'no VM nobody' t store stat nobody
live() { t store stat --json | jq .total.live_bytes; }
unique=$(jq '.families[0].list[1].unique_bytes' "$tmp/stat.json")
before=$(live)
t snapshot rm k@s2 || bad "rm"
after=$(live)
[ $((before - after)) = "$unique" ] || bad "removing freed $((before - after)), said $unique"

# ---- tags, pins, prune
refs() { t snapshot list k --json | jq -c 'map(.ref)'; }
t snapshot tag k@s3 third >/dev/null || bad "tag"
expect_error 1 'taken' t snapshot tag k@s1 third
expect_error 2 'digits' t snapshot tag k@s1 17
t snapshot tag k@third s3 >/dev/null || bad "tag back"
t snapshot pin k@s1 >/dev/null || bad "pin"
[ "$(t snapshot list k --json | jq -c 'map(.pinned)')" = '[true,false]' ] || bad "list tells no pin"
expect_error 1 'pinned' t snapshot rm k@s3 k@s1
[ "$(refs)" = '["k@s1","k@s3"]' ] || bad "a refused rm removed: $(refs)"
for i in 6 7 8; do
	take k --tag "s$i" || bad "take s$i"
done
t snapshot prune k --keep-last 2 --dry-run >"$tmp/prune.out" || bad "prune --dry-run"
grep -q '^would remove k@s6$' "$tmp/prune.out" || bad "dry run says: $(cat "$tmp/prune.out")"
[ "$(refs)" = '["k@s1","k@s3","k@s6","k@s7","k@s8"]' ] || bad "a dry run removed: $(refs)"
t snapshot prune k --keep-last 2 --json >"$tmp/prune.json" || bad "prune"
jq -e '.removed == ["k@s3", "k@s6"] and .kept == ["k@s1", "k@s7", "k@s8"] and .fits' "$tmp/prune.json" >/dev/null ||
	bad "prune says: $(cat "$tmp/prune.json")"
[ "$(refs)" = '["k@s1","k@s7","k@s8"]' ] || bad "prune left: $(refs)"
expect_error 2 'what to keep' t snapshot prune k
t snapshot prune k --max-bytes 1K >"$tmp/prune.out" && bad "a quota of 1K fits"
[ "$(refs)" = '["k@s1","k@s8"]' ] || bad "the quota left: $(refs)"
t snapshot unpin k@s1 >/dev/null && t snapshot rm k@s1 || bad "unpin and rm"
take k --tag s3 || bad "take s3 again"

# ---- diff
t snapshot diff k@s3 k@s8 --json >"$tmp/diff.json" || bad "diff"
jq -e '(.maps | map(select(.name == "memory"))[0]) as $m | $m.changed > 0 and
	$m.equal + $m.changed + $m.zero_now + $m.new == 96 * 256 and
	(.maps | map(select(.name == "kernel"))[0]).changed == 0 and
	(.fields | length) > 0 and (.fields | all(.a != .b))' "$tmp/diff.json" >/dev/null ||
	bad "diff says: $(head -c 600 "$tmp/diff.json")"
t snapshot diff k@s8 k@s8 >"$tmp/diff.out" || bad "diff with itself"
grep -q '^no field differs' "$tmp/diff.out" || bad "a snapshot differs from itself: $(cat "$tmp/diff.out")"
expect_error 1 'no snapshot' t snapshot diff k@s8 k@nothing

# ---- map
t snapshot map k@s8 --png "$tmp/map.png" --json >"$tmp/map.json" || bad "map"
jq -e '.zero + .same + .value + .unique + .prefetched == 96 * 256 and .unique > 0 and .zero > 0' "$tmp/map.json" >/dev/null ||
	bad "map says: $(cat "$tmp/map.json")"
[ "$(head -c 24 "$tmp/map.png" | od -An -tx1 | tr -d ' \n')" = 89504e470d0a1a0a0000000d494844520000020000000030 ] ||
	bad "map.png is no picture of 512 by 48: $(head -c 24 "$tmp/map.png" | od -An -tx1)"
expect_error 1 'No such file' t snapshot map k@s8 --png "$tmp/nowhere/map.png"

# ---- export and import: to a file, through a pipe; a stream that is not whole
show() { "$torpor" snapshot show "$1" --store "$2" | jq -S 'del(.id, .parent, .created_ns, .pages_stored, .bytes_stored)'; }
t snapshot export k@s8 "$tmp/k.tpex" >/dev/null || bad "export"
[ -e "$tmp/k.tpex.part" ] && bad "a .part file stays"
"$torpor" snapshot import "$tmp/k.tpex" --store "$tmp/other" >"$tmp/import.out" || bad "import"
grep -q '^k@s8: number' "$tmp/import.out" || bad "import says: $(cat "$tmp/import.out")"
show k@s8 "$store" >"$tmp/show.a" && show k@s8 "$tmp/other" >"$tmp/show.b" || bad "show"
cmp -s "$tmp/show.a" "$tmp/show.b" || bad "show differs: $(diff "$tmp/show.a" "$tmp/show.b" | head -n 5)"
"$torpor" store verify --store "$tmp/other" >/dev/null || bad "the imported one does not verify"
expect_error 1 'taken|already' "$torpor" snapshot import "$tmp/k.tpex" --store "$tmp/other"
expect_error 1 'at most 1 are allowed' "$torpor" snapshot import "$tmp/k.tpex" --max-size 1M --store "$tmp/third"
t snapshot export k@s3 - | "$torpor" snapshot import - --store "$tmp/other" >/dev/null || bad "through a pipe"
head -c 100000 "$tmp/k.tpex" >"$tmp/cut.tpex"
expect_error 1 'cut off' "$torpor" snapshot import "$tmp/cut.tpex" --store "$tmp/third"
[ "$("$torpor" snapshot list --json --store "$tmp/third" | jq length)" = 0 ] || bad "something of a cut stream is listed"
mainstore=$store store=$tmp/other
vm_begin imported restore k@s8 --name imported
wait_line "$tmp/imported.out" 'beat ' 20 || bad "the imported snapshot does not come up"
vm_send C
wait_line "$tmp/imported.out" 'check ok' 20 || bad "the imported memory is wrong"
vm_kill "$vm_pid"
store=$mainstore

# ---- gc: what a killed take leaves
vm_kill "$vm_k"
vm_begin k restore k@s3
wait_line "$tmp/k.out" 'beat ' 20 || die "does not come up"
take k --tag s4 || bad "a take after a restore"
(t snapshot take k --tag s5 >/dev/null 2>&1 &)
sleep 0.05
vm_kill "$vm_pid"
t store gc --json >"$tmp/gc.json" || bad "gc"
t store gc >"$tmp/gc.out" || bad "gc again"
grep -q '^0 B freed, 0 unfinished' "$tmp/gc.out" || bad "a second gc found something: $(cat "$tmp/gc.out")"
t store stat --json >"$tmp/stat.json"
[ "$(jq '.total | .dead_bytes + .pending_bytes' "$tmp/stat.json")" = 0 ] ||
	bad "something is dead after gc"
t store compact >"$tmp/compact.out" || bad "compact"
grep -q 'given back to the disk' "$tmp/compact.out" || bad "compact says: $(cat "$tmp/compact.out")"
expect_error 2 'percentage' t store compact --below 101
t store verify >"$tmp/verify.out" || bad "verify: $(tail -n 3 "$tmp/verify.out")"
finish
