#!/bin/sh
# suite.sh SUITE ARCHITECTURE: prints the options that make apt-get and apt-cache see this
# suite of Debian alone, and nothing of what is installed here. The archive's signature is
# checked. What apt fetches for that is kept outside of the project.
set -eu
suite=$1 architecture=$2
apt=${XDG_CACHE_HOME:-$HOME/.cache}/execve-counter/apt-$suite-$architecture
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
archive=$("$(dirname "$0")/archive.sh")
for type in deb deb-src; do
	echo "$type [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $suite main"
done > "$apt/sources.list"
: > "$apt/status"
options="-qq -o APT::Architecture=$architecture -o APT::Architectures=$architecture
	-o APT::Sandbox::User=root -o Acquire::Languages=none
	-o Dir::Etc::SourceList=$apt/sources.list -o Dir::Etc::SourceParts=- -o Dir::State=$apt
	-o Dir::State::Lists=$apt/lists -o Dir::State::status=$apt/status -o Dir::Cache=$apt/cache"
# shellcheck disable=SC2086 # these are words
apt-get $options update >&2
echo "$options"
