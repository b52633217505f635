#!/bin/sh
# mounts.sh HOW COMMAND...: runs the command once for each word of HOW, in a mount namespace of
# its own, which ends with it: with "found" as the machine is, with "systemd" where tracefs,
# debugfs and bpffs are mounted as systemd does, with "none" where none of them is.
set -eu
if [ "$1" != in ]; then
	how=$1
	shift
	for each in $how; do
		[ "$how" = found ] || echo "mounts: $each"
		unshare --mount --propagation=private "$0" in "$each" "$@"
	done
	exit
fi
how=$2
shift 2
if [ "$how" != found ]; then
	umount --quiet --recursive /sys/kernel/debug /sys/kernel/tracing /sys/fs/bpf || :
fi
case $how in
	found | none) ;;
	systemd)
		mount --make-rshared /
		mount -t debugfs -o nosuid,nodev,noexec debugfs /sys/kernel/debug
		mount -t tracefs -o nosuid,nodev,noexec tracefs /sys/kernel/tracing
		mount -t bpf -o nosuid,nodev,noexec,mode=700 bpf /sys/fs/bpf
		;;
	*)
		echo "$how: no such mounts; there are found, systemd and none" >&2
		exit 2
		;;
esac
exec "$@"
