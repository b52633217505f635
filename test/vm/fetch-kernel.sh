#!/bin/sh
# fetch-kernel.sh SUITE PACKAGE ARCHITECTURE: prints the path of the kernel that Debian's
# PACKAGE, a name like linux-image-cloud-amd64, stands for in SUITE. Fetched once, and kept
# outside of the project.
set -eu
suite=$1 package=$2 architecture=$3
cache=${XDG_CACHE_HOME:-$HOME/.cache}/execve-counter
kernel=$cache/$suite-$package
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
[ -e "$kernel" ] && { echo "$kernel"; exit; }

options=$("$(dirname "$0")/../../deploy/suite.sh" "$suite" "$architecture")
new=$(mktemp -d -p "$cache")
trap 'rm -rf "$new"' EXIT
# shellcheck disable=SC2086 # these are words
{
	# From the name that stays to the package that has the file, perhaps by another.
	names=$package
	while :; do
		names=$(apt-cache $options depends $names |
			sed -n 's/^ *Depends: \(linux-\(image\|binary\)-[^ ]*\)$/\1/p')
		[ -n "$names" ] || break
		(cd "$new" && apt-get $options download $names)
	done
} >&2
for deb in "$new"/linux-*.deb; do dpkg-deb -x "$deb" "$new/unpacked"; done
found=$(find "$new/unpacked" -type f -name 'vmlinuz*' | head -n 1)
[ -n "$found" ] || { echo "no kernel in $package of $suite" >&2; exit 1; }
mv "$found" "$kernel"
echo "$kernel"
