#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Platform devices that are not tied to the guest's kernel: pvpanic and the exit device end the VM with
# their exit status, and the VM generation id is new at each boot, reset and restore, the same in between.
. "$(dirname "$0")/../lib/common.bash"
need_kvm

# ends STATUS WORD ARGS...: a VM that ends by itself, with that status and that word in the document.
ends() {
	local want=$1 word=$2 got
	shift 2
	timeout 60 "$torpor" run --name p --kernel "$guests/platform.pvh" --mem 64M --serial "file:$tmp/p.log" \
		--store "$store" --json "$@" >"$tmp/p.json" 2>"$tmp/p.err" </dev/null
	got=$?
	[ "$got" = "$want" ] || bad "$*: exit status $got, wanted $want: $(cat "$tmp/p.err")"
	[ "$(json "$tmp/p.json" end)" = "$word" ] || bad "$*: says $(cat "$tmp/p.json")"
	[ "$(json "$tmp/p.json" status)" = "$want" ] || bad "$*: says $(cat "$tmp/p.json")"
}
ends 34 panic --cmdline do=panic
grep -q panicking "$tmp/p.log" || bad "what a guest says before it panics is lost: $(cat "$tmp/p.log")"
ends 34 panic --cmdline do=panic --no-reboot
for n in 0 1 31; do
	ends $((64 + n)) exit --exit-device --cmdline "do=exit n=$n"
done
# Without the option the port is nobody's.
vm_begin x run --name x --kernel "$guests/platform.pvh" --mem 64M --cmdline "do=exit n=1"
wait_line "$tmp/x.out" 'still here' 20 || die "the guest is gone without an exit device"
vm_kill "$vm_pid"

# The id: ids NAME gives the different ones of the running process with their counts of changes; not the
# first line, which may have been on its way when a snapshot was taken.
ids() { sed -n 's/^[0-9]* look [0-9]* changes \([0-9]*\) id /\1 /p' "$tmp/$1.out" | tail -n +2 | sort -u; }
one_id() { # one_id NAME WHAT CHANGES
	local got
	wait_line "$tmp/$1.out" 'look [0-9]+ changes [0-9]+ id ' 20 || die "$1: no id: $(tail -n 3 "$tmp/$1.out")"
	wait_line "$tmp/$1.out" "look $((10#$(cut -d ' ' -f 2 <<<"$line") + 5)) " 20 || die "$1: stands still"
	got=$(ids "$1")
	[ "$(wc -l <<<"$got")" = 1 ] || bad "$2: the id changes within a run: $got"
	[ "${got%% *}" = "$3" ] || bad "$2: $got, wanted $3 changes"
	echo "${got#* }" >>"$tmp/all"
}
run_genid() {
	vm_begin g run --name "$1" --kernel "$guests/platform.pvh" --mem 64M --cmdline do=genid
}
run_genid g
one_id g boot 0
take g --tag a || die "take: $(cat "$tmp/take.err")"
sleep 0.3
[ "$(ids g | wc -l)" = 1 ] || bad "a take changes the id: $(ids g)"
t suspend g && t resume g || bad "suspend and resume"
sleep 0.2
[ "$(ids g | wc -l)" = 1 ] || bad "suspending changes the id: $(ids g)"
from=$(($(wc -l <"$tmp/g.out") + 1))
vm_send r
wait_line "$tmp/g.out" 'platform guest' 20 "$from" || die "no reset"
wait_line "$tmp/g.out" 'look 3 changes 0 id ' 20 "$from" || die "no id after the reset"
echo "${line##* }" >>"$tmp/all"
vm_kill "$vm_pid"
for i in 1 2 3; do
	vm_begin g restore g@a
	one_id g "restore $i" 1
	n=$(sed -n 's/^[0-9]* look \([0-9]*\) changes .*/\1/p' "$tmp/g.out" | head -n 1)
	[ "$n" -gt 1 ] || bad "restore $i: look $n: that is no restored guest"
	[ "$i" = 3 ] || vm_kill "$vm_pid"
done
# A snapshot of a restored VM, and two of its restores at once.
take g --tag b || die "take: $(cat "$tmp/take.err")"
vm_kill "$vm_pid"
vm_begin c1 restore g@b --name c1
one_id c1 "clone 1" 2
vm_begin c2 restore g@b --name c2
one_id c2 "clone 2" 2
[ "$(sort "$tmp/all" | uniq -d | wc -l)" = 0 ] || bad "an id came twice: $(sort "$tmp/all" | uniq -d)"
[ "$(wc -l <"$tmp/all")" = 7 ] || bad "$(wc -l <"$tmp/all") ids seen, wanted 7"
[ "$(grep -c '^0-0$' "$tmp/all")" = 0 ] || bad "an id of zeros"
finish
