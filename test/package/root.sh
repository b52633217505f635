#!/bin/sh
# root.sh SUITE: prints the path of a minimal Debian of that suite, with make, and with
# libatomic1, which Node.js 26 needs. Made once, and kept outside of the project.
set -eu
root=${XDG_CACHE_HOME:-$HOME/.cache}/execve-counter/root-$1
if ! [ -e "$root" ]; then
	archive=$("$(dirname "$0")/../../deploy/archive.sh")
	rm -rf "$root.new"
	debootstrap --variant=minbase --include=libatomic1,make "$1" "$root.new" "$archive" >&2
	mv "$root.new" "$root"
fi
echo "$root"
