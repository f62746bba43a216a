# SPDX-License-Identifier: Apache-2.0
# fish completion of torpor. Install as /usr/share/fish/vendor_completions.d/torpor.fish.
# Verbs and options are those that the installed binary's table tells in --help.

function __torpor_verbs
	torpor --help 2>/dev/null | string match -rg '^  ([a-z]+(?: [a-z]+)?)  '
end

function __torpor_words
	commandline -opc | string match -v -r '^-' | tail -n +2
end

# What may come next as a word of the verb.
function __torpor_next
	set -l words (__torpor_words)
	switch (count $words)
		case 0
			__torpor_verbs | string replace -r ' .*' '' | sort -u
		case 1
			__torpor_verbs | string match -rg "^$words[1] (.*)"
	end
end

function __torpor_names
	torpor list --json 2>/dev/null | string match -rg '"name": "([^"]*)"' | sort -u
end

function __torpor_options
	set -l words (__torpor_words)
	set -l verb $words[1]
	if __torpor_verbs | string match -q "$words[1] *"
		set verb $words[1..2]
	end
	test -n "$verb"; and torpor $verb --help 2>/dev/null | string match -rg '^  (--[a-z0-9-]+)'
end

complete -c torpor -f
complete -c torpor -a '(__torpor_next)'
complete -c torpor -n 'test (count (__torpor_words)) -ge 1' -a '(__torpor_names)'
complete -c torpor -n 'string match -q -- "-*" (commandline -ct)' -a '(__torpor_options)'
complete -c torpor -n 'contains -- (commandline -opc)[-1] --kernel --initrd --file --socket --store' -F
