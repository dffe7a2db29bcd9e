# `make demo` shows twill working, `make test` tests it, `make` lists the targets.

CARGO ?= cargo
# Debian packages, besides Rust: to build, to run the demo and measurements, to run the tests.
BUILDING := protobuf-compiler libprotobuf-dev clang libbpf-dev
MEASURING := iperf3 iproute2 iputils-ping nftables ethtool linux-perf
TESTING := systemd etcd-server etcd-client iptables tcpdump procps prometheus tmux openssl curl
# To make packages, and to test them in clean Debian machines.
PACKAGING := binutils umoci skopeo
STATIC := musl-tools
ROOTS := debootstrap systemd-container
# To run containers by Docker and by CNI.
CONTAINERS := busybox-static jq
# To run arm64 programs.
CROSS := gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
PACKAGES := $(BUILDING) $(MEASURING) $(TESTING)
# Where `make install` puts the programs.
PREFIX ?= /usr/local
# Debian packages for virtual machines: for that of `make arm64-smoke` and for that of `make kernels`, and the
# suites whose kernels the latter boots.
MACHINE := cpio kmod xz-utils
EMULATOR_ARM64 := qemu-system-arm $(MACHINE)
EMULATOR := qemu-system-x86 busybox-static $(MACHINE)
KERNELS ?= bullseye bookworm trixie trixie-backports
# How long `make soak` runs, and the seed of its faults; without one, the clock's.
SOAK_MINUTES ?= 10
SOAK_SEED ?=

.DEFAULT_GOAL := help
.PHONY: help demo perf soak test packages-test pages-test arm64-test arm64-smoke kernels lint deny miri bench build install deb deb-arm64 image static release setup building packaging measuring clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: measuring build ## send traffic between two hosts in network namespaces, print one table (needs root)
	./target/release/twill-perf demo

perf: measuring build ## compare throughput, latency and CPU cost of network paths; report in results/ (needs root)
	./target/release/twill-perf run

soak: setup build ## ten minutes of faults under load, with invariants checked all the time (needs root)
	./target/release/twill-perf soak --minutes $(SOAK_MINUTES) $(SOAK_SEED:%=--seed %)

test: setup ## run all tests on this machine's kernel (needs root)
	@tests/kube/build
	$(CARGO) test --workspace --no-fail-fast
	@tests/flanneld/newer-etcd "$(CARGO)"

packages-test: deb image static ## start Debian packages in clean machines, the image, and the static program (needs root)
	@tests/install $(TESTING) $(ROOTS) $(CONTAINERS)
	@command -v dockerd >/dev/null || tests/install docker.io
	tests/packages/debian
	tests/packages/containers
	tests/packages/image
	tests/packages/static
	tests/packages/release

pages-test: build ## look at a report in a browser: wide and narrow, light and dark (needs root)
	@tests/install chromium fonts-liberation
	tests/pages/report

arm64-test: deb-arm64 ## run the arm64 programs, and tests of twill-datapath for arm64, in an emulator
	tests/packages/arm64

arm64-smoke: deb-arm64 ## run two gateways on Debian's kernel for arm64, in an emulated machine
	@tests/install $(EMULATOR_ARM64)
	tests/kernels/arm64

kernels: setup ## run engine and gateway tests on Debian's kernels in a virtual machine (slow)
	@tests/install $(EMULATOR)
	CARGO="$(CARGO)" tests/kernels/all $(KERNELS)

lint: building ## check formatting, clippy and rustdoc; warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

deny: ## check licences, sources and duplicates of dependencies; installs cargo-deny
	@command -v cargo-deny >/dev/null || $(CARGO) install cargo-deny --locked
	$(CARGO) deny check licenses bans sources

miri: ## run unit tests of twill-datapath under Miri, if nightly has it
	@if $(CARGO) +nightly miri --version >/dev/null 2>&1; then \
		PROPTEST_CASES=2 MIRIFLAGS=-Zmiri-disable-isolation \
			$(CARGO) +nightly miri test --package twill-datapath --lib; \
	else echo "SKIPPED Miri: not installed; run: rustup toolchain install nightly --component miri"; fi

bench: building ## run the micro-benchmarks of twill-datapath and of lease tables
	$(CARGO) bench --package twill-bench

build: building ## build optimised binaries in target/release
	$(CARGO) build --release --workspace --bins

install: build ## install into DESTDIR and PREFIX (default /usr/local): programs, units, documents
	packages/install target/release "$(DESTDIR)" "$(PREFIX)"

deb: build ## make Debian packages in target/packages
	packages/deb $$(dpkg --print-architecture) target/release

deb-arm64: building ## make Debian packages for arm64 in target/packages, with a cross compiler
	@tests/install $(CROSS)
	packages/cross arm64
	packages/deb arm64 target/aarch64-unknown-linux-gnu/release

image: build packaging ## make an OCI image, without a daemon
	packages/image target/release/twill

static: building ## make an archive of a program that needs no library
	@tests/install $(STATIC)
	packages/static

release: deb deb-arm64 image static ## make all packages, lists of their crates, and checksums
	packages/release

setup: ## install the Debian packages that are missing (needs root)
	@tests/install $(PACKAGES)

building:
	@tests/install $(BUILDING)

packaging: building
	@tests/install $(PACKAGING)

measuring: building
	@tests/install $(MEASURING)

clean: ## remove build output
	$(CARGO) clean
