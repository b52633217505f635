#!/bin/sh
# fetch-kernel.sh SUITE PACKAGE: prints the path of the kernel that Debian's PACKAGE, a
# name like linux-image-cloud-amd64, stands for in SUITE. Fetched once, and kept outside
# of the project.
set -eu
suite=$1 package=$2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/execve-counter
kernel=$cache/$suite-$package
[ -e "$kernel" ] && { echo "$kernel"; exit; }

apt=$cache/apt-$suite
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main" > "$apt/sources.list"
: > "$apt/status"
# This suite alone, and none of what is installed here.
options="-qq -o APT::Sandbox::User=root -o Acquire::Languages=none
	-o Dir::Etc::SourceList=$apt/sources.list -o Dir::Etc::SourceParts=- -o Dir::State=$apt
	-o Dir::State::Lists=$apt/lists -o Dir::State::status=$apt/status -o Dir::Cache=$apt/cache"
# shellcheck disable=SC2086 # these are words
{
	apt-get $options update
	# From the name that stays to the package that has the file, perhaps by another.
	names=$package
	while :; do
		names=$(apt-cache $options depends $names |
			sed -n 's/^ *Depends: \(linux-\(image\|binary\)-[^ ]*\)$/\1/p')
		[ -n "$names" ] || break
		(cd "$apt" && apt-get $options download $names)
	done
} >&2
for deb in "$apt"/linux-*.deb; do dpkg-deb -x "$deb" "$apt/unpacked"; done
found=$(find "$apt/unpacked" -type f -name 'vmlinuz*' | head -n 1)
[ -n "$found" ] || { echo "no kernel in $package of $suite" >&2; exit 1; }
mv "$found" "$kernel"
rm -r "$apt/unpacked" "$apt"/*.deb
echo "$kernel"
