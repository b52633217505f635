#!/bin/sh
# build.sh: prints a directory with the programs of a Kubernetes: etcd, a control plane, a node and
# kubectl of 1.20, and the newest server of custom resources, all from Debian's archive. They are
# made once, in ten minutes or so on two CPUs, and kept outside of the project.
set -eu
cache=${XDG_CACHE_HOME:-$HOME/.cache}/execve-counter/cluster
bin=$cache/bin
suite=$(realpath "$(dirname "$0")/../../deploy/suite.sh")
architecture=$(dpkg --print-architecture)
mkdir -p "$bin"
exec 9>"$cache/lock"
flock 9
trap 'rm -rf "$cache/work"' EXIT

# made PROGRAM...: whether they are there.
made() {
	for name in "$@"; do [ -x "$bin/$name" ] || return; done
}

# work: an empty directory to make something in.
work() {
	echo "cluster: makes $*" >&2
	chmod -Rf u+w "$cache/work" || :
	rm -rf "$cache/work"
	mkdir -p "$cache/work/root" "$cache/work/out"
	cd "$cache/work"
}

# unpack OPTIONS PACKAGE...: the newest of them, into root/, not installed.
unpack() {
	options=$1
	shift
	mkdir debs
	# shellcheck disable=SC2086 # these are words
	(cd debs && apt-get $options download "$@" >&2)
	for deb in debs/*.deb; do dpkg-deb -x "$deb" root; done
	rm -r debs
}

# keep FILE...: the last step, so that what is there is whole.
keep() {
	mv "$@" "$bin"
	cd /
	rm -rf "$cache/work"
}

# go_build OUT PACKAGE...: statically, with the Go in root/, from sources in a GOPATH.
go_build() {
	out=$1
	shift
	go=$(echo "$cache"/work/root/usr/lib/go-*)
	GOROOT=$go GO111MODULE=off GOFLAGS='' GOTOOLCHAIN=local GOCACHE=$cache/work/cache CGO_ENABLED=0 \
		"$go/bin/go" build -trimpath -ldflags "-s -w ${VERSION:-}" -o "$out" "$@" >&2
}

if ! made etcd; then
	work etcd
	unpack "$("$suite" trixie "$architecture")" etcd-server
	keep root/usr/bin/etcd
fi

if ! made containerd containerd-shim-runc-v2 ctr bridge host-local loopback kubectl; then
	work 'containerd and its network'
	unpack "$("$suite" bookworm "$architecture")" containerd containernetworking-plugins kubernetes-client
	keep root/usr/bin/containerd root/usr/bin/containerd-shim-runc-v2 root/usr/bin/ctr root/usr/bin/kubectl \
		root/usr/lib/cni/bridge root/usr/lib/cni/host-local root/usr/lib/cni/loopback
fi

kubernetes='kube-apiserver kube-controller-manager kube-scheduler kubelet'
# shellcheck disable=SC2046,SC2086 # these are words
if ! made $kubernetes; then
	work "$kubernetes"
	options=$("$suite" bookworm "$architecture")
	unpack "$options" golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev
	apt-get $options source --download-only kubernetes >&2
	version=$(echo kubernetes_*.orig.tar.gz | sed 's/.*[_y]\([0-9.]*\)\.orig\.tar\.gz$/\1/')
	export GOPATH="$cache/work/go"
	source=$GOPATH/src/k8s.io/kubernetes
	mkdir -p "$source"
	tar -xzf kubernetes_*.orig.tar.gz -C "$source" --strip-components=1
	# With Go 1.18 and newer the vendored one, 1.0.1, panics when it decodes a map.
	rm "$source"/vendor/github.com/modern-go/reflect2/*.go "$source"/vendor/github.com/modern-go/reflect2/*.s
	cp root/usr/share/gocode/src/github.com/modern-go/reflect2/*.go \
		root/usr/share/gocode/src/github.com/modern-go/reflect2/*.s "$source/vendor/github.com/modern-go/reflect2"
	cd "$source"
	# What the API server serves as its OpenAPI is made from the types that say so.
	go_build "$cache/work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
	types=$(grep -RlF --include='*.go' --exclude='*_test.go' --exclude-dir=testdata '+k8s:openapi-gen=' \
		cmd pkg plugin vendor | grep -v -e ^vendor/k8s.io/code-generator/ -e ^vendor/k8s.io/sample- \
		-e ^vendor/k8s.io/kube-openapi/ | xargs -n 1 dirname | sort -u | sed 's,^,k8s.io/kubernetes/,' | paste -sd ,)
	PATH=$(echo "$cache"/work/root/usr/lib/go-*)/bin:$PATH GOROOT=$(echo "$cache"/work/root/usr/lib/go-*) \
		GO111MODULE=off "$cache/work/openapi-gen" --logtostderr -i "$types" -p k8s.io/kubernetes/pkg/generated/openapi \
		-O zz_generated.openapi -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r /dev/null >&2
	VERSION=$(for package in component-base client-go/pkg; do
		printf -- '-X k8s.io/kubernetes/vendor/k8s.io/%s/version.gitVersion=v%s ' "$package" "$version"
		printf -- '-X k8s.io/kubernetes/vendor/k8s.io/%s/version.gitMajor=%s ' "$package" "${version%%.*}"
		minor=${version#*.}
		printf -- '-X k8s.io/kubernetes/vendor/k8s.io/%s/version.gitMinor=%s ' "$package" "${minor%%.*}"
	done)
	go_build "$cache/work/out/" $(printf './cmd/%s ' $kubernetes)
	VERSION=''
	cd "$cache/work"
	keep out/*
fi

if ! made apiextensions-apiserver; then
	work apiextensions-apiserver
	options=$("$suite" sid "$architecture")
	# shellcheck disable=SC2046,SC2086 # these are words
	unpack "$options" $(apt-get $options -s --no-install-recommends install golang-go \
		golang-k8s-apiextensions-apiserver-dev | awk '/^Inst golang-/ { print $2 }')
	export GOPATH="$cache/work/root/usr/share/gocode"
	cd "$GOPATH/src/k8s.io/apiextensions-apiserver"
	go_build "$cache/work/out/" .
	cd "$cache/work"
	keep out/*
fi

echo "$bin"
