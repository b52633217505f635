#!/bin/sh
# archive.sh: prints the address of Debian's archive, as this machine's apt has it.
set -eu
lists=$(mktemp -d)
trap 'rm -rf "$lists"' EXIT
known() {
	apt-get "$@" indextargets --format '$(SITE)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1
}
archive=$(known)
if [ -z "$archive" ]; then
	# apt knows whose an archive is once it has fetched its lists. Here it has fetched none yet.
	set -- -o Dir::State::Lists="$lists" -o Dir::Cache="$lists" -o APT::Sandbox::User=root \
		-o Acquire::Languages=none
	apt-get -qq "$@" update >&2
	archive=$(known "$@")
fi
case $archive in
mirror+file:*) # apt's way to name a file with several: the first
	archive=$(sed -n 's/^[[:space:]]*\([a-z]*:[^[:space:]]*\).*/\1/p' "${archive#mirror+file:}" | head -n 1) ;;
esac
if [ -z "$archive" ]; then
	echo "apt's sources have no archive of Debian" >&2
	echo 'to do: add one to them, or do this on Debian' >&2
	exit 1
fi
echo "${archive%/}"
