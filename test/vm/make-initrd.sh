#!/bin/sh
# make-initrd.sh FILE: packs the built project, Node.js and busybox for a test machine.
set -eu
out=$(realpath "$1")
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/app/build/test"
cp test/vm/init "$root/init"
cp /bin/busybox "$root/bin/"
for name in sh mount ip poweroff sleep taskset; do ln -s busybox "$root/bin/$name"; done
cp "$(node -p process.execPath)" "$root/bin/node"
cp -r --parents dist build/Release/execve_counter.node package.json test/vm/guest.mjs build/test/storm "$root/app"
cp build/test/tiny "$root/bin/program"
for path in $(node -p 'const { packages } = require("./package-lock.json"); Object.keys(packages).filter((path) => path && !packages[path].dev).join(" ")'); do
	cp -r --parents "$path" "$root/app"
done
for library in $(ldd "$root/bin/node" build/Release/execve_counter.node build/test/storm |
	grep -o '/[^ ]*' | grep '\.so' | sort -u); do
	cp -L --parents "$library" "$root"
done
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > "$out"
