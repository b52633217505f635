# Set-up, build and tests. `make help` lists the targets; V=1 shows the commands.
.DEFAULT_GOAL := help
.PHONY: help deps packages build run test test-mounts test-unit fuzz test-vm package test-package test-cluster check format bench soak pictures clean
.DELETE_ON_ERROR:

ifeq ($(V),1)
Q :=
note = @:
else
Q := @
note = @printf '  %-8s %s\n'
NPM_QUIET := --loglevel=error --no-fund --no-audit --no-update-notifier
endif

# System packages, by Debian's and Ubuntu's names. bpftool is a package of its
# own on Debian; Ubuntu has it among the tools of each kernel.
BPFTOOL := $(if $(shell grep -s '^ID=ubuntu' /etc/os-release),linux-tools-$(shell uname -r),bpftool)
# Ubuntu has perf there, too.
PERF := $(if $(shell grep -s '^ID=ubuntu' /etc/os-release),,linux-perf)
# To look at the page as users do.
CHROMIUM := $(if $(shell grep -s '^ID=ubuntu' /etc/os-release),chromium-browser,chromium)
# Docker brings a runc of its own, which Debian's would push out.
RUNC := $(if $(wildcard /usr/bin/runc /usr/sbin/runc),,runc)
# Whether make test-vm boots a kernel for arm64 too.
ARM64 := $(findstring arm64,$(or $(KERNELS),arm64))
PACKAGES := clang llvm libbpf-dev libc6-dev linux-libc-dev pkg-config g++ make python3 \
	$(if $(filter test test-mounts bench,$(MAKECMDGOALS)),$(BPFTOOL) bpftrace strace util-linux) \
	$(if $(filter test test-mounts pictures test-cluster,$(MAKECMDGOALS)),$(RUNC) busybox-static) \
	$(if $(filter test test-mounts test-unit,$(MAKECMDGOALS)),groff-base libfaketime openssl zsh fish) \
	$(if $(filter test test-unit pictures,$(MAKECMDGOALS)),$(CHROMIUM) fonts-dejavu-core tmux) \
	$(if $(filter pictures,$(MAKECMDGOALS)),aha pngquant) \
	$(if $(filter test-vm,$(MAKECMDGOALS)),qemu-system-x86 busybox-static cpio debian-archive-keyring debootstrap) \
	$(if $(filter test-vm,$(MAKECMDGOALS)),$(if $(ARM64),qemu-system-arm lld dpkg-dev \
		gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross)) \
	$(if $(filter package test-package,$(MAKECMDGOALS)),lld dpkg-dev debian-archive-keyring) \
	$(if $(filter test-package,$(MAKECMDGOALS)),debootstrap) \
	$(if $(filter test-cluster,$(MAKECMDGOALS)),$(BPFTOOL) debian-archive-keyring iproute2 openssl util-linux) \
	$(if $(filter bench,$(MAKECMDGOALS)),$(CHROMIUM) libbpf-tools prometheus-node-exporter $(PERF))

# With INSTALL=no, which npm's scripts set, nothing is installed or fetched: make names
# what is missing, and stops. $(call missing,WHAT)
ifeq ($(INSTALL),no)
missing = { echo "missing: $(1)"; echo 'to do: make $(MAKECMDGOALS), which installs what is missing'; exit 1; } >&2
else
missing = :
endif

# Where node-gyp finds Node's headers: beside the node that runs, where they
# usually are; else it downloads them.
NODE_PREFIX := $(shell node -p 'path.resolve(process.execPath, "../..")')
NODE_DIR := $(if $(wildcard $(NODE_PREFIX)/include/node/node_api.h),--nodedir=$(NODE_PREFIX))

# npm and the tests keep what they fetched there.
export HOME ?= $(shell getent passwd "$$(id -u)" | cut -d: -f6)

# By its path: root's $PATH may lead to another Node.js, or to none.
NODE := $(shell node -p process.execPath)
ifneq ($(shell node -p 'process.versions.node.split(".")[0] >= 20'),true)
$(error Node.js 20 or newer is needed, with npm)
endif
VITEST := node_modules/vitest/vitest.mjs run --config test/vitest.config.mts
ADDON := build/Release/execve_counter.node
SANITIZED := build/fuzz/build/Release/execve_counter.node
PREBUILDS := prebuilds/linux-x64/execve_counter.node prebuilds/linux-arm64/execve_counter.node
OBJECT := dist/execve_counter.bpf.o
TOOLS := build/test
TEST_TOOLS := $(addprefix $(TOOLS)/,storm deny perf restricted slow-names.so other.bpf.o usr/bin/prometheus)
C_SOURCES := $(wildcard bpf/*.[ch] native/*.cc native/*.h test/*/*.[ch] test/*/*.cc)
# -mcpu=v3 (Linux 5.1) is named, and paths are kept out, so that the object is
# the same wherever it is built.
BPF_CFLAGS := -target bpf -mcpu=v3 -O2 -g -Wall -Werror -Ibpf \
	-I/usr/include/$(shell uname -m)-linux-gnu -fdebug-compilation-dir=.

# For the tests that need root: see test/support/mounts.sh.
MOUNTS ?= found

help:
	@echo 'make run    install what is missing, build, and start the meter (ARGS="..." for its flags)'
	@echo 'make test   the same, and run every test (MOUNTS="systemd none": with tracefs mounted, and not)'
	@echo 'make test-mounts  where tracefs and bpffs are not mounted, run the tests that mind'
	@echo 'make test-unit  run only the tests that need neither root nor a kernel with BPF'
	@echo 'make fuzz   call the addon in random ways for a minute, sanitized (SECONDS=..., SEED=...)'
	@echo 'make test-vm  boot other kernels, and systemd, and test what is exact there (KERNELS=bullseye,sid-full: these only)'
	@echo 'make package  make the npm package, with addons for x64 and arm64, in build/'
	@echo 'make test-package  the same, and try it in fresh Debian systems with other versions of Node.js'
	@echo 'make test-cluster  run a real Kubernetes, made once in ten minutes or so, and the meter and the operator in it'
	@echo 'make deps   install what is missing (INSTALL=no, with any target: name it, and stop)'
	@echo 'make build  compile the BPF object, the addon and the agent'
	@echo 'make check  formatter, linter, types, architecture, and what the docs name'
	@echo 'make format format the sources'
	@echo 'make bench  measure (ONLY=idle,startTime: these parts only)'
	@echo 'make soak   count under load for half an hour, and show what is lost or grows (MINUTES=60: longer)'
	@echo 'make pictures  draw the pictures of docs/ and README.md anew, from three minutes of load'
	@echo 'make clean  remove what was built'

deps: packages node_modules/.package-lock.json

packages:
	$(install_packages)

build: deps $(OBJECT) $(ADDON) dist/cli.js

run: build
	$(call as_root,$(NODE) dist/cli.js $(ARGS))

test: build $(TEST_TOOLS) test-unit
	$(call as_root,test/support/mounts.sh '$(MOUNTS)' $(NODE) $(VITEST) --project kernel)

# Those that say how the agent starts, attaches and pins.
MIND_MOUNTS := addon calls cgroup counting failures kubernetes library lifecycle pins privileges \
	raw refusals replace stat
test-mounts: build $(TEST_TOOLS)
	$(call as_root,test/support/mounts.sh none $(NODE) $(VITEST) --project kernel \
		$(MIND_MOUNTS:%=test/kernel/%.test.ts))

test-unit: build $(TOOLS)/usr/bin/prometheus
	$(Q)$(NODE) $(VITEST) --project unit

fuzz: build $(SANITIZED)
	$(call as_root,env LIBASAN=$$($(CXX) -print-file-name=libasan.so) SECONDS=$(SECONDS) SEED=$(SEED) \
		$(NODE) test/fuzz/fuzz.mjs)

test-vm: build $(addprefix $(TOOLS)/,storm tiny) \
		$(if $(ARM64),package $(addprefix $(TOOLS)/arm64/,storm storm32 tiny))
	$(note) PACK initrd
	$(Q)test/vm/make-initrd.sh $(TOOLS)/initrd.gz
	$(if $(ARM64),$(Q)test/vm/make-initrd.sh $(TOOLS)/arm64/initrd.gz arm64)
	$(call as_root,test/vm/make-service-root.sh $(TOOLS)/service.gz)
	$(Q)$(NODE) $(VITEST) --project vm

package: build $(PREBUILDS)
	$(Q)deploy/prepack.sh record
	$(note) PACK build/execve-counter-$$(node -p 'require("./package.json").version').tgz
	$(Q)npm pack --pack-destination build $(NPM_QUIET) $(if $(Q),>/dev/null)

test-package: package $(TOOLS)/storm $(TOOLS)/tiny
	$(call as_root,$(NODE) $(VITEST) --project package)

test-cluster: build $(TOOLS)/storm
	$(note) CLUSTER 'Kubernetes (made once, in ten minutes or so)'
	$(call as_root,test/cluster/build.sh >/dev/null)
	$(call as_root,$(NODE) $(VITEST) --project cluster)

check: build
	$(note) CHECK 'formatter and linter'
	$(Q)node_modules/.bin/biome ci --error-on-warnings
	$(Q)node_modules/.bin/clang-format --dry-run -Werror $(C_SOURCES)
	$(note) CHECK types
	$(Q)node_modules/.bin/tsc -p test
	$(note) CHECK 'architecture and docs'
	$(Q)$(NODE) $(VITEST) --project unit architecture project/docs

format: node_modules/.package-lock.json
	$(Q)node_modules/.bin/biome check --write
	$(Q)node_modules/.bin/clang-format -i $(C_SOURCES)

bench: build $(addprefix $(TOOLS)/,storm tiny baseline.bpf.o)
	$(call as_root,test/support/mounts.sh '$(MOUNTS)' $(NODE) test/bench/bench.mjs)

soak: build $(addprefix $(TOOLS)/,storm tiny)
	$(call as_root,$(NODE) test/bench/soak.mjs $(or $(MINUTES),30))

pictures: build $(addprefix $(TOOLS)/,storm usr/bin/prometheus grafana.js)
	$(call as_root,env MINUTES=$(or $(MINUTES),3) $(NODE) $(VITEST) --project pictures)

clean:
	$(Q)rm -rf build dist node_modules prebuilds

node_modules/.package-lock.json: package.json package-lock.json | packages
	$(Q)$(call missing,node_modules as package-lock.json has it)
	$(note) NPM node_modules
	$(Q)npm ci --ignore-scripts $(NPM_QUIET) $(if $(Q),>/dev/null)
	$(Q)touch $@

$(OBJECT): bpf/execve_counter.bpf.c $(wildcard bpf/*.h) | packages
	$(bpf_object)

ADDON_SOURCES := $(wildcard native/*) bpf/execve_counter.h binding.gyp
GYP := MAKEFLAGS= node_modules/.bin/node-gyp configure build $(NODE_DIR) $(if $(Q),--loglevel=error >/dev/null)
$(ADDON): $(ADDON_SOURCES) node_modules/.package-lock.json
	$(note) GYP $@
	$(if $(NODE_DIR),,$(Q)$(call missing,the headers of Node.js beside it (Debian's libnode-dev has its own)))
	$(Q)pkg-config --exists --print-errors 'libbpf >= 1.0' || \
		{ echo 'libbpf 1.0 or newer is needed: Debian 12, Ubuntu 24.04 or newer have it'; exit 1; }
	$(Q)$(GYP)
	$(Q)touch $@

# In a directory of its own, and without what needs C++'s run-time types.
SANITIZE := -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=all
$(SANITIZED): $(ADDON_SOURCES) | $(ADDON)
	$(note) GYP $@
	$(Q)mkdir -p build/fuzz
	$(Q)ln -sfn ../../native ../../bpf ../../binding.gyp build/fuzz
	$(Q)CXXFLAGS='$(SANITIZE) -fno-omit-frame-pointer -g' LDFLAGS='$(SANITIZE)' $(GYP) --directory=build/fuzz
	$(Q)touch $@

$(PREBUILDS) &: $(wildcard native/*) bpf/execve_counter.h deploy/prebuild.sh deploy/suite.sh node_modules/.package-lock.json | packages
	$(note) CLANG 'prebuilds/ (takes a minute)'
	$(Q)mkdir -p build
	$(Q)deploy/prebuild.sh prebuilds >build/prebuild.log 2>&1 || { tail -n 30 build/prebuild.log; exit 1; }

dist/cli.js: $(wildcard src/*.ts src/*/*.ts src/web/browser/*) tsconfig.json node_modules/.package-lock.json
	$(note) TSC dist/
	$(Q)rm -rf dist/*.js dist/*/
	$(Q)node_modules/.bin/tsc -p .
	$(Q)node_modules/.bin/tsc -p src/web/browser
	$(Q)node_modules/.bin/esbuild src/web/browser/page.ts src/web/browser/page.css --bundle --minify --format=esm \
		--outdir=dist/web/browser --log-level=warning
	$(Q)cp src/web/browser/page.html dist/web/browser
	$(Q)cp node_modules/uplot/LICENSE dist/web/browser/uplot.LICENSE
	$(Q)chmod +x $@
	$(Q)touch $@

$(TOOLS)/%: test/support/%.c | packages
	$(note) CC $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -O2 -Wall -Wextra -Werror -pthread -o $@ $<

$(TOOLS)/%.so: test/support/%.c | packages
	$(note) CC $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -O2 -Wall -Wextra -Werror -fPIC -shared -o $@ $<

$(TOOLS)/restricted: test/support/restricted.cc $(wildcard native/*) | packages
	$(note) CXX $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CXX) -std=c++17 -O2 -Wall -Wextra -Werror -pthread -o $@ $< native/privileges.cc

$(TOOLS)/tiny: test/bench/tiny.c | packages
	$(note) CC $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -Os -Wall -Wextra -Werror -static -nostdlib -fno-stack-protector -o $@ $<

# For another architecture; storm32 as a 32-bit program.
$(TOOLS)/arm64/storm: test/support/storm.c | packages
	$(call cross,aarch64-linux-gnu-gcc -O2 -pthread)

$(TOOLS)/arm64/storm32: test/support/storm.c | packages
	$(call cross,arm-linux-gnueabihf-gcc -O2 -pthread)

$(TOOLS)/arm64/tiny: test/bench/tiny.c | packages
	$(call cross,aarch64-linux-gnu-gcc -Os -nostdlib -fno-stack-protector)

$(TOOLS)/baseline.bpf.o: test/bench/baseline.bpf.c $(wildcard bpf/*) | packages
	$(bpf_object)

# The same programs in other instructions, as another build has them.
$(TOOLS)/other.bpf.o: bpf/execve_counter.bpf.c $(wildcard bpf/*.h) | packages
	$(call bpf_object,-mcpu=v2)

$(TOOLS)/grafana.js: test/pictures/grafana.sh test/pictures/grafana.mjs
	$(note) BUNDLE $@
	$(Q)mkdir -p $(@D)
	$(Q)$< $@

# Unpacked rather than installed: installing it would start a Prometheus service.
# From Debian 13 on promtool is a package of its own.
$(TOOLS)/usr/bin/prometheus: | packages
	$(Q)$(call missing,$@ from Debian's package prometheus)
	$(note) UNPACK prometheus
	$(Q)mkdir -p $(TOOLS)
	$(Q)apt-cache show prometheus >/dev/null 2>&1 || \
		{ $(call become_root,sudo apt-get update); $$sudo apt-get update -qq; }
	$(Q)cd $(TOOLS) && apt-get download -qq -o APT::Sandbox::User=root prometheus $$(apt-cache pkgnames promtool) && \
		for package in *.deb; do dpkg-deb -x $$package . && rm $$package || exit; done
	$(Q)touch $@

define cross
$(note) CC $@
$(Q)mkdir -p $(@D)
$(Q)$(1) -Wall -Wextra -Werror -static -o $@ $<
endef

define bpf_object
$(note) CLANG $@
$(Q)mkdir -p $(@D)
$(Q)clang $(BPF_CFLAGS) $(1) -c $< -o $@
$(Q)llvm-strip -g $@
endef

# Sets $sudo to what makes a command root's; sudo only where it can ask or need not.
define become_root
if [ "$$(id -u)" = 0 ]; then sudo=; \
	elif command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then sudo=sudo; \
	else echo "this needs root; run: $(1)"; exit 1; fi
endef

# $(call as_root,COMMAND)
define as_root
$(Q)$(call become_root,sudo $(strip $(1))); \
	$$sudo $(1)
endef

define install_packages
$(Q)missing=$$(for name in $(PACKAGES); do \
		dpkg-query -W -f='$${db:Status-Status}' $$name 2>/dev/null | grep -qx installed || echo $$name; \
	done); \
	[ -z "$$missing" ] && exit; \
	missing=$$(echo $$missing); \
	$(call missing,the Debian packages $$missing); \
	command -v apt-get >/dev/null || \
		{ echo "install what corresponds to these Debian packages: $$missing"; exit 1; }; \
	install="apt-get install -y --no-install-recommends $$missing"; \
	$(call become_root,sudo apt-get update && sudo $$install); \
	printf '  %-8s %s\n' APT "$$missing"; \
	log=$$($$sudo apt-get update 2>&1 && $$sudo env DEBIAN_FRONTEND=noninteractive $$install 2>&1) || \
		{ echo "$$log"; exit 1; }
endef
