#!/bin/sh
# make-service-root.sh FILE: packs a Debian with systemd, the built project and its unit for
# a test machine. The Debian is made once, and kept outside of the project.
set -eu
out=$(realpath "$1")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/execve-counter
debian=$cache/bookworm-systemd.tar
if [ ! -e "$debian" ]; then
	archive=$(deploy/archive.sh)
	mkdir -p "$cache"
	rm -rf --one-file-system "$cache/making"
	debootstrap --variant=minbase --include=systemd,systemd-sysv,libnss-systemd,libelf1,libbpf1 bookworm \
		"$cache/making" "$archive" >&2
	tar -C "$cache/making" --exclude=./var/cache/apt --exclude=./var/lib/apt --exclude=./usr/share/doc \
		--exclude=./usr/share/locale --exclude=./usr/share/man -cf "$debian.new" .
	rm -r "$cache/making"
	mv "$debian.new" "$debian"
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
tar -C "$root" -xf "$debian"

app=$root/usr/local/lib/node_modules/execve-counter
mkdir -p "$app" "$root/usr/local/bin"
cp "$(node -p process.execPath)" "$root/usr/local/bin/node"
cp -r --parents dist build/Release/execve_counter.node package.json "$app"
for path in $(node -p 'const { packages } = require("./package-lock.json"); Object.keys(packages).filter((path) => path && !packages[path].dev).join(" ")'); do
	cp -r --parents "$path" "$app"
done
ln -s ../lib/node_modules/execve-counter/dist/cli.js "$root/usr/local/bin/execve-counter"
cp build/test/storm test/vm/service-guest.mjs "$root/usr/local/bin"

cp deploy/systemd/*.service deploy/systemd/*.socket "$root/etc/systemd/system"
mkdir -p "$root/usr/lib/sysusers.d"
cp deploy/systemd/execve-counter.sysusers "$root/usr/lib/sysusers.d/execve-counter.conf"
cp -r deploy/systemd/pin.conf "$root/root"
cat > "$root/etc/systemd/system/guest.service" <<'END'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/local/bin/node /usr/local/bin/service-guest.mjs
ExecStopPost=systemctl poweroff --force
[Install]
WantedBy=default.target
END
ln -s ../guest.service "$root/etc/systemd/system/multi-user.target.wants/guest.service"
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > "$out"
