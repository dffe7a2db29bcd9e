# twill: the menu. `make demo` shows it working, `make test` proves it.

CARGO ?= cargo
# What is needed beside Rust, as Debian packages: to build, to demonstrate and measure, to test.
BUILDING := protobuf-compiler libprotobuf-dev
MEASURING := iperf3 iproute2 iputils-ping nftables ethtool linux-perf
TESTING := etcd-server etcd-client iptables tcpdump procps prometheus tmux openssl curl
PACKAGES := $(BUILDING) $(MEASURING) $(TESTING)
# What emulating a machine needs beyond that, and the Debian suites whose kernels it runs.
EMULATOR := qemu-system-x86 busybox-static cpio kmod xz-utils
KERNELS ?= bookworm bullseye trixie

.DEFAULT_GOAL := help
.PHONY: help demo perf test kernels lint bench build setup building measuring clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: measuring build ## two hosts in network namespaces, real traffic between their containers, one table
	./target/release/twill-perf demo

perf: measuring build ## network paths side by side: throughput, latency, cost; a report in results/
	./target/release/twill-perf run

test: setup ## every test, on this machine's kernel (needs root)
	@tests/kube/build
	$(CARGO) test --workspace --no-fail-fast

kernels: setup ## engine and gateway tests on Debian's kernels, in a virtual machine (slow)
	@tests/install $(EMULATOR)
	CARGO="$(CARGO)" TWILL_KERNELS_LIMIT=$${TWILL_KERNELS_LIMIT:-5400} tests/kernels/all $(KERNELS)

lint: building ## formatting, clippy and the documentation, warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

bench: building ## micro-benchmarks of the pure half
	$(CARGO) bench --package twill-bench

build: building ## optimised binaries in target/release
	$(CARGO) build --release --workspace --bins

setup: ## Debian packages that are missing
	@tests/install $(PACKAGES)

building:
	@tests/install $(BUILDING)

measuring: building
	@tests/install $(MEASURING)

clean: ## remove what was built
	$(CARGO) clean
