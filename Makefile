# twill: the menu. `make demo` shows it working, `make test` proves it.

CARGO ?= cargo
# What building and testing need beside Rust, as Debian packages.
PACKAGES := protobuf-compiler libprotobuf-dev etcd-server etcd-client iperf3 iproute2 iputils-ping \
            iptables nftables ethtool tcpdump procps prometheus tmux openssl curl linux-perf
# What emulating a machine needs beyond that, and the Debian suites whose kernels it runs.
EMULATOR := qemu-system-x86 busybox-static cpio kmod xz-utils
KERNELS ?= bookworm bullseye trixie

.DEFAULT_GOAL := help
.PHONY: help demo perf test kernels lint bench build setup clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build ## two hosts in network namespaces, real traffic between their containers, one table
	./target/release/twill-perf demo

perf: build ## network paths side by side: throughput, latency, cost; a report in results/
	./target/release/twill-perf run

test: setup ## every test, on this machine's kernel (needs root)
	$(CARGO) test --workspace --no-fail-fast

kernels: setup ## engine and gateway tests on Debian's kernels, in a virtual machine (slow)
	@$(MAKE) --no-print-directory setup PACKAGES="$(EMULATOR)"
	CARGO="$(CARGO)" TWILL_KERNELS_LIMIT=$${TWILL_KERNELS_LIMIT:-5400} tests/kernels/all $(KERNELS)

lint: setup ## formatting, clippy and the documentation, warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

bench: setup ## micro-benchmarks of the pure half
	$(CARGO) bench --package twill-bench

build: setup ## optimised binaries in target/release
	$(CARGO) build --release --workspace --bins

setup: ## Debian packages that are missing
	@missing=""; for package in $(PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q 'install ok installed' \
			|| missing="$$missing $$package"; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "installing$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
			apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

clean: ## remove what was built
	$(CARGO) clean
