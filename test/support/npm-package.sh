#!/bin/sh
# npm-package.sh NAME@RANGE: prints the path of the unpacked npm package. Fetched once, and
# kept outside of the project.
set -eu
directory=${XDG_CACHE_HOME:-$HOME/.cache}/execve-counter/$1
if ! [ -e "$directory" ]; then
	new=$(mktemp -d)
	trap 'rm -rf "$new"' EXIT
	npm pack --silent --pack-destination "$new" "$1" >&2
	tar -xzf "$new"/*.tgz -C "$new"
	mkdir -p "$(dirname "$directory")"
	mv "$new/package" "$directory"
fi
echo "$directory"
