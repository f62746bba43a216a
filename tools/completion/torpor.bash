# SPDX-License-Identifier: Apache-2.0
# bash completion of torpor. Install as /usr/share/bash-completion/completions/torpor, or source it.

# Options of the verb in $1, from its own --help: they are always those of the installed binary.
_torpor_options() {
	# shellcheck disable=SC2086
	torpor $1 --help 2>/dev/null | sed -n 's/^  \(--[a-z-]*\).*/\1/p'
}

# Words of a JSON member "$1" in the answer of the rest of the arguments.
_torpor_json() {
	local key=$1
	shift
	torpor "$@" --json 2>/dev/null | sed -n "s/.*\"$key\": \"\([^\"]*\)\".*/\1/p" | sort -u
}

_torpor() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local verb=${COMP_WORDS[1]} store=() i
	COMPREPLY=()
	if [ "$verb" = snapshot ]; then
		if [ "$COMP_CWORD" -eq 2 ]; then
			mapfile -t COMPREPLY < <(compgen -W "take list show verify rm" -- "$cur")
			return
		fi
		verb="snapshot ${COMP_WORDS[2]}"
	fi
	if [ "$verb" = store ]; then
		if [ "$COMP_CWORD" -eq 2 ]; then
			mapfile -t COMPREPLY < <(compgen -W "verify recover" -- "$cur")
			return
		fi
		verb="store ${COMP_WORDS[2]}"
	fi
	if [ "$COMP_CWORD" -eq 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W \
			"run snapshot restore store suspend resume stop list doctor --help --version" -- "$cur")
		return
	fi
	for ((i = 2; i < COMP_CWORD - 1; i++)); do
		if [ "${COMP_WORDS[i]}" = --store ]; then
			store=(--store "${COMP_WORDS[i + 1]}")
		fi
	done
	case $prev in
	--kernel | --initrd | --socket)
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return ;;
	--store | --to)
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return ;;
	--clock)
		mapfile -t COMPREPLY < <(compgen -W "continue jump" -- "$cur")
		return ;;
	--on-term)
		mapfile -t COMPREPLY < <(compgen -W "checkpoint stop" -- "$cur")
		return ;;
	--cpu)
		mapfile -t COMPREPLY < <(compgen -W "host x86-64-v2 x86-64-v3" -- "$cur")
		return ;;
	--serial)
		mapfile -t COMPREPLY < <(compgen -W "stdio null file: unix:" -- "$cur")
		return ;;
	--name | --tag | --cmdline | --cpus | --mem)
		return ;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(_torpor_options "$verb")" -- "$cur")
		return
	fi
	case $verb in
	suspend | resume | stop | "snapshot take")
		mapfile -t COMPREPLY < <(compgen -W "$(_torpor_json name list)" -- "$cur") ;;
	restore | "snapshot show" | "snapshot verify" | "snapshot rm")
		mapfile -t COMPREPLY < <(compgen -W \
			"$(_torpor_json ref snapshot list "${store[@]}")" -- "$cur") ;;
	"snapshot list")
		mapfile -t COMPREPLY < <(compgen -W \
			"$(_torpor_json name snapshot list "${store[@]}")" -- "$cur") ;;
	esac
}

complete -F _torpor torpor
