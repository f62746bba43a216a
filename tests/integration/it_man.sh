#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every option in a verb's --help stands in its manual page and the other way round; the pages are
# sound mdoc (where mandoc is installed); the completion knows every verb. Needs no /dev/kvm.
. "$(dirname "$0")/../lib/common.bash"
man=$top/docs/man

# page_of VERB: the page that describes it.
page_of() {
	case $1 in
	run | restore | doctor) echo "torpor-$1.1" ;;
	snapshot*) echo torpor-snapshot.1 ;;
	suspend | resume | stop) echo torpor-suspend.1 ;;
	define | edit | undefine | autostart | start | guests*) echo torpor-guests.1 ;;
	store*) echo torpor-store.1 ;;
	swap*) echo torpor-swap.1 ;;
	list) echo torpor.1 ;;
	*) echo torpor-vm.1 ;;
	esac
}

"$torpor" --help >"$tmp/help" || die "torpor --help failed"
mapfile -t verbs < <(sed -n 's/^  \([a-z]*\( [a-z]\+\)\?\)  .*/\1/p' "$tmp/help")
[ ${#verbs[@]} -ge 12 ] || bad "only ${#verbs[@]} verbs in --help: ${verbs[*]}"

# shellcheck source=/dev/null
. "$top/tools/completion/torpor.bash"
torpor() { "$torpor" "$@"; }

declare -A helped
for verb in "${verbs[@]}"; do
	# shellcheck disable=SC2086
	"$torpor" $verb --help >"$tmp/verb" || bad "torpor $verb --help failed"
	[ "$(wc -l <"$tmp/verb")" -ge 6 ] || bad "torpor $verb --help is short"
	page=$(page_of "$verb")
	[ -f "$man/$page" ] || { bad "$page is missing"; continue; }
	mapfile -t options < <(sed -n 's/^  --\([a-z0-9-]*\).*/\1/p' "$tmp/verb")
	[ ${#options[@]} -ge 3 ] || bad "torpor $verb --help tells ${#options[@]} options"
	for option in "${options[@]}"; do
		grep -qE -- "^\.It Fl -$option( |\$)" "$man/$page" ||
			bad "--$option of 'torpor $verb' is not in $page"
		helped[$page/$option]=1
	done
	# Typed word by word, the completion offers each word of the verb, and then its options.
	COMP_WORDS=(torpor) COMP_CWORD=0
	for word in $verb; do
		COMP_CWORD=$((COMP_CWORD + 1))
		COMP_WORDS[COMP_CWORD]=
		_torpor
		# Not grep -q: who stops reading early gives the writer SIGPIPE.
		printf '%s\n' "${COMPREPLY[@]}" | grep -x -- "$word" >"$tmp/offered" || bad "the completion does not offer '$word' of '$verb'"
		COMP_WORDS[COMP_CWORD]=$word
	done
	COMP_CWORD=$((COMP_CWORD + 1))
	COMP_WORDS[COMP_CWORD]=--
	_torpor
	[ "${#COMPREPLY[@]}" = "${#options[@]}" ] || bad "the completion offers ${COMPREPLY[*]} for '$verb'"
	[ "$page" != torpor-vm.1 ] || grep -q -- "^\.Nm torpor $verb\$" "$man/$page" || bad "$page has no synopsis of '$verb'"
done

for page in "$man"/*.1; do
	name=${page##*/}
	[ "$name" = torpor.1 ] && continue # it describes what all verbs share
	while read -r option; do
		[ -n "${helped[$name/$option]:-}" ] || bad "--$option in $name is no option of its verbs"
	done < <(sed -n 's/^\.It Fl -\([a-z0-9-]*\).*/\1/p' "$page")
done

"$torpor" --version | grep -qE '^torpor [0-9]+\.[0-9]+\.[0-9]+$' || bad "--version: $("$torpor" --version)"

if command -v mandoc >/dev/null; then
	for page in "$man"/*; do
		mandoc -T lint -W warning "$page" >"$tmp/lint" || true
		[ -s "$tmp/lint" ] && bad "$(cat "$tmp/lint")"
	done
fi
command -v zsh >/dev/null && { zsh -n "$top/tools/completion/_torpor" || bad "the completion is no zsh"; }
command -v fish >/dev/null && { fish -n "$top/tools/completion/torpor.fish" || bad "the completion is no fish"; }
finish
