#!/bin/sh
# cluster.sh DIRECTORY [GROUP/VERSION...]: runs a Kubernetes with one node, node0, until its stdin
# ends, and prints "ready PID" once it is up. DIRECTORY, which is made and removed again, has the
# kubeconfig, the logs, and the API without a password at api.sock. The programs have a network, mounts
# and processes of their own, and end with these; nsenter --target PID --net --mount --pid leads there.
# The groups that are named are served by the newest server of custom resources; without one it
# does not run, and kube-apiserver has those of 1.20.
set -eu

if [ "$1" != in ]; then
	directory=$(realpath "$1")
	shift
	here=$(realpath "$(dirname "$0")")
	bin=$("$here/build.sh")
	hierarchies=$(awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/self/mounts)
	remove() {
		for hierarchy in $hierarchies; do
			group=$hierarchy/${directory##*/}
			# What has just ended can keep its control group busy.
			for _ in $(seq 100); do
				find "$group" -depth -type d -delete 2>/dev/null || :
				[ -e "$group" ] || break
				sleep 0.1
			done
		done
		rm -rf --one-file-system "$directory"
	}
	mkdir "$directory"
	trap remove EXIT
	trap 'exit 1' HUP INT TERM
	# One that is mounted twice, as for a chroot, has it already.
	for hierarchy in $hierarchies; do mkdir -p "$hierarchy/${directory##*/}"; done
	"$here/../support/mounts.sh" systemd unshare --net --pid --fork --kill-child \
		"$here/cluster.sh" in "$here/up.sh" "$bin" "$directory" "$@"
	exit
fi

# From here on this is the first process of a PID namespace: when it ends, all others do.
shift
read -r pid _ </proc/self/stat
mount -t proc proc /proc
exec 3<&0
cat <&3 >/dev/null &
end=$!
{ "$@" && echo "ready $pid" || kill $end; } &
wait $end
