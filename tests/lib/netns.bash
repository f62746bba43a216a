# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# For tests that need a network of their own: starts the script anew in a network namespace with nothing but
# loopback, as root of a user namespace where the user is not root, or skips it. Sourced first.
if [ "${TORPOR_NETNS:-}" != yes ]; then
	unshare=(unshare -n)
	[ "$(id -u)" = 0 ] || unshare=(unshare -Urn)
	if ! "${unshare[@]}" true 2>/dev/null; then
		echo "skipped: no network namespace can be made (unshare -n)"
		exit 77
	fi
	exec env TORPOR_NETNS=yes "${unshare[@]}" "$0" "$@"
fi
ip link set lo up || exit 1
