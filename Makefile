# Berth: what people and CI type. Every target installs what it needs first.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

CARGO ?= cargo
# A build that would change Cargo.lock is a mistake.
CARGO_FLAGS ?= --locked
HOST = $(shell rustc -vV | sed -n 's/^host: //p')
BIN := target/berth/bin
PREFIX ?= /usr
DESTDIR ?=

.PHONY: bench bench-engine probe-reference build demo test test-v2 test-faults test-units test-scopes test-inject fuzz unit integration conformance kubelet fmt fmt-check lint audit advisories tools install clean

## build: the release programs, in target/berth/bin
build:
	@integration/tools.sh build
	$(CARGO) build $(CARGO_FLAGS) --release -p berth-agent -p berthctl -p berth-oci -p berth-integration
	RUSTFLAGS="-C target-feature=+crt-static" \
	    $(CARGO) build $(CARGO_FLAGS) --profile shim -p berth-shim --target $(HOST)
	@mkdir -p $(BIN)
	@for program in berth-agent berthctl berth-oci berth-house; do \
	    install -m 0755 target/release/$$program $(BIN)/$$program; done
	@install -m 0755 target/$(HOST)/shim/berth-shim $(BIN)/berth-shim

## demo: a real image in a pod on this machine, from pull to clean end
demo:
	@integration/tools.sh demo
	@$(MAKE) --no-print-directory build
	@integration/demo/run.sh

## test: format, lints, unit tests, integration tests (as root)
test:
	@integration/test.sh

## unit: the tests of the crates, without the programs
unit:
	$(CARGO) test $(CARGO_FLAGS) --workspace --exclude berth-integration

## integration: the tests of the real programs (as root)
integration: build
	@integration/tools.sh test
	$(CARGO) test $(CARGO_FLAGS) -p berth-integration -- --test-threads=2

## probe-reference: writes anew what containers are known to have (integration/tests/security/reference)
probe-reference: build
	@integration/tools.sh test
	BERTH_RECORD=1 $(CARGO) test $(CARGO_FLAGS) -p berth-integration --test security reference

## conformance: the CRI's own test suite; writes docs/conformance.md (as root)
conformance: build
	@integration/tools.sh test
	@integration/conformance/run.sh

## kubelet: a kubelet's day with faults, for KUBELET_SECONDS (as root)
KUBELET_SECONDS ?= 300
kubelet: build
	@BERTH_BIN=$(CURDIR)/target/berth/bin BERTH_KUBELET_SECONDS=$(KUBELET_SECONDS) \
		cargo test --locked -p berth-integration --test node -- --nocapture kubelet::

## test-v2: what depends on the kernel, in guests with cgroup v2: the newest kernel and 6.1
test-v2: build
	@integration/tools.sh test
	@integration/tools.sh vm
	@integration/vm/test.sh

## test-faults: sweeps of hangs, deaths and power cuts, a storm and a soak (as root; tens of minutes)
test-faults: build
	@integration/tools.sh test
	$(CARGO) test $(CARGO_FLAGS) -p berth-integration --test faults -- --nocapture --test-threads=1 $(ONLY)

## test-units: the systemd units, in an emulated guest whose PID 1 is systemd
test-units: build
	@integration/tools.sh demo
	@integration/tools.sh vm
	@integration/vm/units.sh

## test-scopes: berth-oci's control groups as systemd's scopes, in the same kind of guest
test-scopes: build
	@integration/tools.sh demo
	@integration/tools.sh vm
	@integration/vm/scopes.sh

## test-inject: a failing system call at each call of a container's start-up (ONLY=short for some)
test-inject: build
	@integration/tools.sh test
	@integration/inject/run.sh $(ONLY)

## fuzz: look for input that breaks a parser; FUZZ_SECONDS=60 for each, TARGET=... for some
fuzz:
	@fuzz/run.sh $(TARGET)

## bench: Berth beside containerd and podman (ONLY=pull,verbs ROUNDS=6 RUNTIMES=berth,containerd PROFILE=1 RECORD=1)
bench: build
	@PROFILE=$(PROFILE) integration/tools.sh bench
	$(CARGO) build $(CARGO_FLAGS) --release -p berth-integration --bin berth-bench
	target/release/berth-bench --out target/bench $(if $(ONLY),--only $(ONLY)) \
	    $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(RUNTIMES),--runtimes $(RUNTIMES)) $(if $(PROFILE),--profile) \
	    $(if $(RECORD),--record docs/performance.md)

## bench-engine: one container's life beside crun, runc and a bare C program (ROUNDS=100 ENGINES=bare,berth-shim)
bench-engine: build
	@integration/tools.sh engine
	$(CARGO) build $(CARGO_FLAGS) --release -p berth-bench-engine
	target/release/berth-bench-engine --out target/bench-engine \
	    $(if $(ENGINES),--engines $(ENGINES)) $(if $(ROUNDS),--rounds $(ROUNDS))

## fmt: format the code
fmt:
	$(CARGO) fmt --all

fmt-check:
	$(CARGO) fmt --all --check

## lint: clippy, warnings are errors
lint:
	$(CARGO) clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings

## audit: licences, sources and unused dependencies (installs cargo-deny and cargo-machete)
audit:
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	@command -v cargo-machete >/dev/null || $(CARGO) install --locked cargo-machete
	$(CARGO) deny check bans licenses sources
	$(CARGO) machete

## advisories: known vulnerabilities of dependencies (fetches the advisory database)
advisories:
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check advisories

## tools: what demo and tests need, from Debian's packages
tools:
	@integration/tools.sh test

## install: programs, unit and configuration, below DESTDIR
install: build
	install -D -m 0755 $(BIN)/berth-agent $(DESTDIR)$(PREFIX)/bin/berth-agent
	install -D -m 0755 $(BIN)/berth-shim $(DESTDIR)$(PREFIX)/bin/berth-shim
	install -D -m 0755 $(BIN)/berthctl $(DESTDIR)$(PREFIX)/bin/berthctl
	install -D -m 0755 $(BIN)/berth-oci $(DESTDIR)$(PREFIX)/bin/berth-oci
	install -D -m 0644 deploy/systemd/berth-agent.service \
	    $(DESTDIR)$(PREFIX)/lib/systemd/system/berth-agent.service
	install -D -m 0644 deploy/systemd/berth-agent.socket \
	    $(DESTDIR)$(PREFIX)/lib/systemd/system/berth-agent.socket
	@mkdir -p $(DESTDIR)/etc/berth
	@# The default configuration is printed by the program, so that the two cannot differ.
	@[ -e $(DESTDIR)/etc/berth/config.toml ] || \
	    $(BIN)/berth-agent config default >$(DESTDIR)/etc/berth/config.toml

clean:
	$(CARGO) clean
