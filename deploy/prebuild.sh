#!/bin/sh
# prebuild.sh DIRECTORY: compiles the addon to DIRECTORY/linux-x64 and DIRECTORY/linux-arm64,
# for the glibc of Debian 11 and newer. All else that it needs is inside: libbpf, libelf and zlib
# from Debian 12's source packages, and the C++ library. Every machine makes the same bytes.
set -eu
mkdir -p "$1"
out=$(realpath "$1")
project=$(realpath "$(dirname "$0")/..")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export LC_ALL=C TZ=UTC

# fetch ARCHITECTURE PACKAGE...: unpacks Debian 11's packages as a root to compile for.
fetch() {
	root=$work/root-$1
	mkdir "$work/debs"
	options=$("$project/deploy/suite.sh" bullseye "$1")
	shift
	# shellcheck disable=SC2086 # these are words
	(cd "$work/debs" && apt-get $options download "$@")
	for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$root"; done
	rm -r "$work/debs"
	# Links that are absolute would lead out of it, to this machine's libraries.
	find "$root" -type l -lname '/*' | while read -r link; do
		ln -sf "$root$(readlink "$link")" "$link"
	done
}

# build NODE_ARCH DEBIAN_ARCH GNU_ARCH
build() (
	fetch "$2" libc6 libc6-dev linux-libc-dev libcrypt-dev libgcc-s1 libgcc-10-dev libstdc++6 libstdc++-10-dev
	cp -r "$work/source" "$work/$1"
	cd "$work/$1"
	target="--target=$3-linux-gnu --sysroot=$work/root-$2"
	flags="-O2 -fPIC -ffile-prefix-map=$work=. -ffile-prefix-map=$project=."
	export MAKEFLAGS="-j$(nproc)" CC="clang $target" AR=llvm-ar RANLIB=llvm-ranlib CFLAGS="$flags" CHOST="$3-linux-gnu"

	(cd zlib-* && LDFLAGS=-fuse-ld=lld ./configure --static && make libz.a)
	zlib=$(echo "$PWD"/zlib-*)
	(cd elfutils-* &&
		./configure --host="$3-linux-gnu" --disable-debuginfod --disable-libdebuginfod --disable-nls \
			--without-bzlib --without-lzma --without-zstd \
			CPPFLAGS="-I$zlib" LDFLAGS="-L$zlib -fuse-ld=lld" &&
		make -C lib && make -C libelf libelf.a)
	elf=$(echo "$PWD"/elfutils-*/libelf)
	mkdir bpf
	make -C libbpf-*/src BUILD_STATIC_ONLY=1 NO_PKG_CONFIG=1 OBJDIR="$PWD/bpf" DESTDIR="$PWD" \
		LIBSUBDIR=lib INCLUDEDIR=/include LIBDIR=/lib UAPIDIR=/include \
		CFLAGS="$flags -I$elf -I$zlib" install install_uapi_headers

	mkdir -p "$out/linux-$1"
	# As in binding.gyp.
	# shellcheck disable=SC2086
	clang++ $target $flags -std=c++17 -Wall -Wextra -Werror \
		-DNAPI_VERSION=8 -DNODE_ADDON_API_DISABLE_DEPRECATED -DNAPI_CPP_EXCEPTIONS \
		-I"$PWD/include" \
		-Inode-addon-api -I"$project/node_modules/node-api-headers/include" \
		-shared -fuse-ld=lld -static-libstdc++ -static-libgcc -Wl,--version-script="$work/exports" \
		-Wl,--gc-sections,--strip-all,--build-id=sha1,-z,relro,-z,now,-z,nodelete -o "$out/linux-$1/execve_counter.node" \
		"$project"/native/*.cc lib/libbpf.a "$elf/libelf.a" "$zlib/libz.a"
)

# Nothing of the libraries is shared with Node.js, which has a C++ library of its own.
echo '{ global: napi_register_module_v1; node_api_module_get_api_version_v1; local: *; };' > "$work/exports"

mkdir "$work/source"
options=$("$project/deploy/suite.sh" bookworm amd64)
# shellcheck disable=SC2086
(cd "$work/source" && apt-get $options source --download-only zlib elfutils libbpf &&
	for package in *.dsc; do dpkg-source -q --no-check -x "$package"; done && find . -maxdepth 1 -type f -delete)

cp -r "$project/node_modules/node-addon-api" "$work/source"

# The licences have to be passed on with these.
(
	cd "$work/source"
	echo 'The addons contain, besides the code of execve-counter itself, this and the runtime libraries of'
	echo 'GCC 10 (under the GCC Runtime Library Exception):'
	printf '\t%s\n' *
	for file in */LICENSE.md */debian/copyright elfutils-*/COPYING-LGPLV3 elfutils-*/COPYING; do
		printf '\n==> %s <==\n\n' "$file"
		cat "$file"
	done
) > "$out/NOTICES"

build x64 amd64 x86_64
build arm64 arm64 aarch64
