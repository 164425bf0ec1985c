# Two commands do everything: `make demo` and `make test`. See README.md.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

# Queries are checked against the committed .sqlx data, so that a build needs no database.
export SQLX_OFFLINE := true
# cargo-deny is pinned here and built once into .engines/.
DENY_VERSION := 0.20.2
DENY := .engines/tools/bin/cargo-deny

.PHONY: demo test up setup build fmt lint deny check suite bench clean-data

## A business that has lived for three months, in the browser. ARGS=--exit stops after the statement.
demo: setup
	@cargo build --quiet --bin farebox
	@target/debug/farebox demo $(ARGS)

## Everything on this machine, empty.
up: setup
	@cargo build --quiet --bin farebox
	@target/debug/farebox up $(ARGS)

## Everything checked: format, lints, dependencies, unit and property tests, whole-system tests, the browser.
test: setup-test fmt lint deny
	@cargo test --workspace

setup:
	@engines/fetch

.PHONY: setup-test
setup-test:
	@engines/fetch --browser

fmt:
	@cargo fmt --all --check

lint:
	@cargo clippy --workspace --all-targets --quiet -- --deny warnings

# Advisories need the network; without it they are left out, all else is checked.
deny: $(DENY)
	@$(DENY) --log-level error check bans licenses sources

$(DENY):
	@echo "Building cargo-deny $(DENY_VERSION), once"
	@cargo install --quiet --locked --debug --root .engines/tools cargo-deny@$(DENY_VERSION)

## Whole-system tests only; ARGS=name selects.
suite: setup-test
	@cargo test --package farebox --test suite -- $(ARGS)

## Ratios against limits measured in the same run.
bench: setup
	@cargo build --profile bench --package farebox --package farebox-bench --bin farebox --bin farebox-bench
	@target/release/farebox-bench $(ARGS)

.PHONY: fuzz fuzz-corpus
# The rooms have no unsafe code, so that no sanitizer is needed; and with it no nightly compiler.
FUZZ_VERSION := 0.13.2
FUZZ := .engines/tools/bin/cargo-fuzz
FUZZ_RUN := RUSTC_BOOTSTRAP=1 PATH="$(CURDIR)/.engines/tools/bin:$$PATH" cargo fuzz
FOR ?= 600
TARGETS = $(or $(TARGET),$(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs)))
## Fuzzes each decoder for FOR seconds. TARGET=name selects.
fuzz: $(FUZZ)
	@cd fuzz && for target in $(TARGETS); do \
	  $(FUZZ_RUN) run --sanitizer none $$target -- -max_total_time=$(FOR) -max_len=8192; \
	done

## Keeps of what fuzzing found only what reaches code that nothing smaller does.
fuzz-corpus: $(FUZZ)
	@cd fuzz && for target in $(TARGETS); do $(FUZZ_RUN) cmin --sanitizer none $$target -- -max_len=8192; done

$(FUZZ):
	@echo "Building cargo-fuzz $(FUZZ_VERSION), once"
	@cargo install --quiet --locked --debug --root .engines/tools cargo-fuzz@$(FUZZ_VERSION)
