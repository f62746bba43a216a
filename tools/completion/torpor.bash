# SPDX-License-Identifier: Apache-2.0
# bash completion of torpor. Install as /usr/share/bash-completion/completions/torpor, or source it.

# All verbs, of one or two words, as the installed binary's table has them.
_torpor_verbs() {
	torpor --help 2>/dev/null | sed -n 's/^  \([a-z]*\( [a-z]\+\)\?\)  .*/\1/p'
}

# Options of the verb in $1, from its own --help: they are always those of the installed binary.
_torpor_options() {
	# shellcheck disable=SC2086
	torpor $1 --help 2>/dev/null | sed -n 's/^  \(--[a-z0-9-]*\).*/\1/p'
}

# Words of a JSON member "$1" in the answer of the rest of the arguments.
_torpor_json() {
	local key=$1
	shift
	torpor "$@" --json 2>/dev/null | sed -n "s/.*\"$key\": \"\([^\"]*\)\".*/\1/p" | sort -u
}

_torpor() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local verb=${COMP_WORDS[1]} store=() words first=2 i
	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W \
			"$(_torpor_verbs | cut -d ' ' -f 1 | uniq) --help --version" -- "$cur")
		return
	fi
	words=$(_torpor_verbs | sed -n "s/^$verb //p")
	if [ -n "$words" ]; then
		if [ "$COMP_CWORD" -eq 2 ]; then
			mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
			return
		fi
		verb="$verb ${COMP_WORDS[2]}"
		first=3
	fi
	for ((i = 2; i < COMP_CWORD - 1; i++)); do
		if [ "${COMP_WORDS[i]}" = --store ]; then
			store=(--store "${COMP_WORDS[i + 1]}")
		fi
	done
	case $prev in
	--kernel | --initrd | --disk | --socket | --socket-readonly | --file)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return ;;
	--png)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return ;;
	--store | --to)
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return ;;
	--clock)
		mapfile -t COMPREPLY < <(compgen -W "continue jump" -- "$cur")
		return ;;
	--mode)
		mapfile -t COMPREPLY < <(compgen -W "lazy eager" -- "$cur")
		return ;;
	--disk-changed)
		mapfile -t COMPREPLY < <(compgen -W "refuse accept" -- "$cur")
		return ;;
	--net)
		mapfile -t COMPREPLY < <(compgen -W "tap= user fd= none" -- "$cur")
		return ;;
	--wanted)
		mapfile -t COMPREPLY < <(compgen -W "on off saved" -- "$cur")
		return ;;
	--verify)
		mapfile -t COMPREPLY < <(compgen -W "always crash" -- "$cur")
		return ;;
	--fresh)
		mapfile -t COMPREPLY < <(compgen -W "never lost always" -- "$cur")
		return ;;
	--on-crash | --on-panic | --on-hang)
		mapfile -t COMPREPLY < <(compgen -W "report rewind restart" -- "$cur")
		return ;;
	--on-term)
		mapfile -t COMPREPLY < <(compgen -W "checkpoint stop" -- "$cur")
		return ;;
	--cpu)
		mapfile -t COMPREPLY < <(compgen -W "host x86-64-v2 x86-64-v3" -- "$cur")
		return ;;
	--serial | --console)
		mapfile -t COMPREPLY < <(compgen -W "stdio null file: unix:" -- "$cur")
		return ;;
	--name | --tag | --every | --watchdog | --keep | --max-size | --count | --timeout | --jobs | --priority | --end-fd | --below | --keep-last | --keep-hourly | --keep-daily | --max-bytes | --cmdline | --cpus | --mem)
		return ;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_torpor_options "$verb")" -- "$cur")
		return
	fi
	case $verb in
	restore | "snapshot show" | "snapshot verify" | "snapshot rm" | "snapshot tag" | "snapshot pin" | \
		"snapshot unpin" | "snapshot export" | "disk export" | "snapshot diff" | "snapshot map")
		mapfile -t COMPREPLY < <(compgen -W \
			"$(_torpor_json ref snapshot list "${store[@]}")" -- "$cur") ;;
	"snapshot list" | "snapshot prune" | "store stat" | "store gc" | "store compact")
		mapfile -t COMPREPLY < <(compgen -W \
			"$(_torpor_json name snapshot list "${store[@]}")" -- "$cur") ;;
	edit | undefine | autostart | start | "guests start" | "guests stop" | "guests status")
		mapfile -t COMPREPLY < <(compgen -W \
			"$(_torpor_json name guests status "${store[@]}")" -- "$cur") ;;
	"snapshot rewind")
		if [ "$COMP_CWORD" -eq "$first" ]; then
			mapfile -t COMPREPLY < <(compgen -W "$(_torpor_json name list)" -- "$cur")
		else
			mapfile -t COMPREPLY < <(compgen -W \
				"$(_torpor_json ref snapshot list "${store[@]}")" -- "$cur")
		fi ;;
	"snapshot import")
		mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	run | define | doctor | store* | "snapshot list") ;;
	*) # the verbs on living VMs: NAME, then files and numbers
		if [ "$COMP_CWORD" -eq "$first" ]; then
			mapfile -t COMPREPLY < <(compgen -W "$(_torpor_json name list)" -- "$cur")
		elif [[ $verb == "usb "* || $verb == "vfio "* ]]; then
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		fi ;;
	esac
}

complete -F _torpor torpor
