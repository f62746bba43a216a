#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# docs/requests.md has a row for every request of core/ctl_types.h, and what it names is there: the tests, the
# requests and verbs and words in them, the functions. Needs no /dev/kvm.
. "$(dirname "$0")/../lib/common.bash"
it=$top/tests/integration
doc=$top/docs/requests.md
"$torpor" --help >"$tmp/help" || die "torpor --help failed"
mapfile -t variants < <(sed -n '/define CTL_VARIANTS/,/^enum/s/^\tX([A-Z_]*, "\([A-Za-z]*\)").*/\1/p' "$top/core/ctl_types.h")
[ ${#variants[@]} -ge 30 ] || die "only ${#variants[@]} requests in core/ctl_types.h"
trim() { sed 's/^ *//; s/ *$//' <<<"$1"; }
# holds TEST TEXT ROW
holds() {
	[ -x "$it/$1.sh" ] || { bad "$3: there is no test $1"; return; }
	grep -qF -- "$2" "$it/$1.sh" || bad "$3: $1 has no '$2'"
}
for v in "${variants[@]}"; do
	row=$(grep -F "| \`$v\` |" "$doc") || { bad "$v has no row in docs/requests.md"; continue; }
	[ "$(wc -l <<<"$row")" = 1 ] || bad "$v has several rows"
	IFS='|' read -r _ _ raw lib_fn shell fails _ <<<"$row"
	# In the test itself, or by all examples of control.md.
	raw=$(trim "$raw")
	if [ "$raw" = it_requests ]; then
		grep -qE "^    > .*\"$v\"" "$top/docs/control.md" || bad "$v: control.md has no example"
		holds it_requests docs/control.md "$v"
	else
		grep -q "\"$v\"\|ctlstress" "$it/$raw.sh" || bad "$v: $raw sends no $v"
	fi
	lib_fn=$(trim "$lib_fn")
	for f in client/torpor-client.h tests/lib/clientall.c; do
		grep -q "\b$lib_fn(" "$top/$f" || bad "$v: $f has no $lib_fn"
	done
	shell=$(trim "$shell")
	verb=${shell#*: }
	grep -q "^  $verb" "$tmp/help" || bad "$v: there is no verb '$verb'"
	holds "${shell%%: *}" "$verb" "$v"
	IFS=';' read -ra ways <<<"$fails"
	[ ${#ways[@]} -ge 1 ] || bad "$v cannot fail?"
	for w in "${ways[@]}"; do
		w=$(trim "$w")
		holds "${w%%: *}" "${w#*: }" "$v"
	done
done
for v in $(sed -n 's/^| `\([A-Za-z]*\)` |.*/\1/p' "$doc"); do
	printf '%s\n' "${variants[@]}" | grep -qx "$v" || bad "docs/requests.md has a row of $v, which is no request"
done
finish
