#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The golden store of each format version decodes and verifies everywhere and is restored where the
# CPU allows; made bad by listed edits it is refused by name; `store recover` saves the snapshots
# that the edit left whole, and leaves the bad store as it is. Restoring alone needs /dev/kvm.
. "$(dirname "$0")/../lib/common.bash"

# unpack DIR: the golden store as DIR/store; $data is its only family's data file.
unpack() {
	mkdir -p "$1" && tar -C "$1" -xJf "$golden" || die "cannot unpack $golden"
	data=$(echo "$1"/store/families/*/data.mdb)
}
sum() { find "$1" -type f -exec sha256sum {} + | sort; }
# recover DIR STATUS: into DIR.new; its lines in $tmp/recover.out.
recover() {
	local before rc
	before=$(sum "$1")
	timeout 120 "$torpor" store recover --store "$1" --to "$1.new" >"$tmp/recover.out" 2>"$tmp/recover.err"
	rc=$?
	# "any": all may be saved, with the help of the commit before.
	if [ "$2" = any ]; then
		grep -q '^lost ' "$tmp/recover.out"
		set -- "$1" $((1 - $?))
	fi
	[ $rc = "$2" ] || bad "$1: recover ends with $rc, wanted $2: $(cat "$tmp/recover.out" "$tmp/recover.err")"
	[ "$before" = "$(sum "$1")" ] || bad "$1: recover changed the damaged store"
	[ ! -e "$1.new.work" ] || bad "$1: recover leaves its copies"
}
# whole DIR REF: the recovered store is sound, and so is that snapshot, with its old root.
whole() {
	timeout 60 "$torpor" store verify --store "$1" >"$tmp/v.out" 2>&1 || bad "$1: $(cat "$tmp/v.out")"
	timeout 60 "$torpor" snapshot list --json --store "$1" >"$tmp/new.json" 2>&1
	grep -q "\"$2\"" "$tmp/new.json" || bad "$1: $2 is not in the new store"
	grep -qF "$(root_of "$2" "$tmp/list.json")" "$tmp/new.json" || bad "$1: $2 has another root"
}
root_of() { grep -oE '"(ref|root)": ?"[^"]*"' "$2" | grep -A1 "\"$1\"" | sed -n 's/.*"root": *"\(.*\)"/\1/p' | head -n 1; }

for golden in "$top"/tests/golden/v*.tar.xz; do
	v=$(basename "$golden" .tar.xz)
	unpack "$tmp/$v"
	s=$tmp/$v/store
	"$torpor" snapshot list --json --store "$s" >"$tmp/list.json" 2>"$tmp/list.err" || bad "$v: list: $(cat "$tmp/list.err")"
	timeout 60 "$torpor" store verify --store "$s" >"$tmp/v.out" 2>&1 || bad "$v: verify: $(cat "$tmp/v.out")"
	for ref in golden@one golden@two; do
		[ -n "$(root_of $ref "$tmp/list.json")" ] || bad "$v: $ref is not listed with a root"
		"$torpor" snapshot show $ref --store "$s" >"$tmp/show" 2>&1 || bad "$v: show: $(tail -n 1 "$tmp/show")"
		timeout 60 "$torpor" snapshot verify $ref --store "$s" >"$tmp/v.out" 2>&1 || bad "$v: $(cat "$tmp/v.out")"
	done
	recover "$s" 0
	whole "$s.new" golden@two
	if [ -c /dev/kvm ] && (exec 8<>/dev/kvm) 2>/dev/null; then
		store=$s.new
		vm_begin "$v" restore golden@one
		if wait_line "$tmp/$v.out" 'beat [0-9]+ ' 15; then
			say "$v: restored, at $line"
		elif grep -qiE 'cpu|feature|host|msr|tsc' "$tmp/$v.err"; then
			say "$v: this host refuses it: $(head -n 1 "$tmp/$v.err")"
		else
			bad "$v: restore: $(head -n 3 "$tmp/$v.err")"
		fi
		vm_kill "$vm_pid"
	fi

	# One bit in a record of each kind: named by its kind, and nothing dies of a signal. The copy
	# of a record that is not in use any more may be hit: then nothing may be lost either.
	for kind in frame:54504652 leaf:54504c46 node:54504e44 blob:5450424c snapshot:5450534e; do
		name=${kind%:*} hit=0
		unpack "$tmp/$v.$name"
		for at in $("$lib/flip" "$data" --find "${kind#*:}" | sort -rn); do
			"$lib/flip" "$data" $((at + 24)) 3
			timeout 60 "$torpor" store verify --store "$tmp/$v.$name/store" >"$tmp/v.out" 2>&1
			rc=$?
			if [ $rc = 1 ]; then
				hit=1
				break
			fi
			[ $rc = 0 ] || bad "$v: a bit in a $name: verify ends with $rc"
			"$lib/flip" "$data" $((at + 24)) 3
		done
		[ $hit = 1 ] || bad "$v: no $name record whose damage is found"
		grep -qi "$name" "$tmp/v.out" || bad "$v: a bit in a $name: says $(head -n 2 "$tmp/v.out")"
		recover "$tmp/$v.$name/store" any
		[ "$(grep -cE '^(saved|lost) ' "$tmp/recover.out")" = 2 ] ||
			bad "$v: $name: does not tell of two snapshots: $(cat "$tmp/recover.out")"
		if grep -q '^saved' "$tmp/recover.out"; then
			ref=$(sed -n 's/^saved *//p' "$tmp/recover.out" | head -n 1)
			whole "$tmp/$v.$name/store.new" "$ref"
			say "$v: a bit in a $name: $ref saved; $(grep -m1 '^lost' "$tmp/recover.out")"
		fi
	done

	# The newest meta page ruined: the commit before it holds both.
	unpack "$tmp/$v.meta"
	a=$(od -An -tu8 -j144 -N8 "$data") b=$(od -An -tu8 -j4240 -N8 "$data")
	dd if=/dev/zero of="$data" bs=4096 seek=$((b > a)) count=1 conv=notrunc status=none
	expect_error 1 'damaged|meta' "$torpor" snapshot show golden@one --store "$tmp/$v.meta/store"
	timeout 120 "$torpor" store recover --store "$tmp/$v.meta/store" --to "$tmp/$v.meta/new" >"$tmp/recover.out" 2>&1
	grep -q '^saved *golden@one' "$tmp/recover.out" || bad "$v: meta: $(cat "$tmp/recover.out")"
	whole "$tmp/$v.meta/new" golden@one

	# Both meta pages ruined: no tree can be found any more; the records say themselves what they are.
	unpack "$tmp/$v.trees"
	dd if=/dev/zero of="$data" bs=4096 count=2 conv=notrunc status=none
	recover "$tmp/$v.trees/store" 0
	grep -q '^saved *golden@one' "$tmp/recover.out" || bad "$v: trees: $(cat "$tmp/recover.out")"
	whole "$tmp/$v.trees/store.new" golden@two

	unpack "$tmp/$v.new"
	sed -i 's/^torpor-store 1/torpor-store 99/' "$tmp/$v.new/store/FORMAT"
	expect_error 1 'format 99' "$torpor" snapshot list --store "$tmp/$v.new/store"
	expect_error 1 'format 99' "$torpor" store recover --store "$tmp/$v.new/store" --to "$tmp/$v.new/to"
	unpack "$tmp/$v.cut"
	truncate -s 65536 "$data"
	expect_error 1 'shorter|truncated|damaged|ends' "$torpor" snapshot show golden@one --store "$tmp/$v.cut/store"
	recover "$tmp/$v.cut/store" 1
done
finish
