#!/bin/sh
# prepack.sh: refuses to pack anything that was not made from the sources beside it, and refuses
# npm publish while fields of package.json are blank.
# prepack.sh record: notes that the files were made from the sources beside them.
set -eu
cd "$(dirname "$0")/.."
addons="prebuilds/linux-x64/execve_counter.node prebuilds/linux-arm64/execve_counter.node"
record=prebuilds/SHA256SUMS
# shellcheck disable=SC2086 # these are words
sums() {
	# shellcheck disable=SC2046 # these are words, too
	sha256sum $(find bpf native src dist -type f | LC_ALL=C sort) tsconfig.json deploy/prebuild.sh \
		$addons prebuilds/NOTICES
}

if [ "${npm_command-}" = publish ]; then
	blank=$(node -p 'const all = require("./package.json");
		const filled = (value) => value?.url ?? value?.name ?? value;
		["author", "homepage", "repository", "bugs"].filter((field) => !filled(all[field])).join(", ")')
	if [ -n "$blank" ]; then
		echo "blank in package.json: $blank" >&2
		echo 'to do: fill them in, take "private" out, make package' >&2
		exit 1
	fi
fi

if [ "${1-}" = record ]; then
	sums > "$record.new"
	mv "$record.new" "$record"
elif ! sums 2>&1 | cmp -s - "$record"; then
	echo 'the files to pack are missing, or were not made from the sources that are here' >&2
	echo 'to do: make package' >&2
	exit 1
fi
