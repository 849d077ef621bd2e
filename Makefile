# Everything happens in .venv and Cargo's target directory; nothing else on the machine changes.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; done)
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
# One interpreter for every cargo call, or PyO3 would be rebuilt in between.
export PYO3_PYTHON := $(CURDIR)/.venv/bin/python

BIN := .venv/bin
RUST := $(shell find rust -type f) Cargo.toml Cargo.lock
PROMPT ?= What is the capital of France, and what is it known for?

.PHONY: help
help:  ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */make \1\t/' | expand -t 16

.PHONY: run
run: build  ## Build, fetch the default model, and answer a prompt
	@$(BIN)/ferrule run smollm2 "$(PROMPT)" --stats

.PHONY: build
build: $(BIN)/.built  ## Build .venv with the package, and target/release/ferrule

.PHONY: emu
emu:  ## Build the emulated GPU, which tests run CUDA kernels on
	@if command -v $(CXX) >/dev/null; then \
		$(MAKE) --no-print-directory --silent -j2 -C cuda/emu OUT=$(CARGO_TARGET_DIR)/cuda-emu; \
	else echo "$(CXX) is missing: the emulated GPU is not built, and its tests are skipped"; fi

.PHONY: cuda
cuda: $(BIN)/.dev  ## Build with the kernels compiled for all GPUs, so that their first start compiles nothing
	$(call install_group,cuda)
	$(BIN)/python cuda/cubins.py $(CARGO_TARGET_DIR)/cubins
	FERRULE_CUBINS=$(CARGO_TARGET_DIR)/cubins VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/maturin develop --release
	FERRULE_CUBINS=$(CARGO_TARGET_DIR)/cubins cargo build --release --workspace --bins

.PHONY: gpu-test
gpu-test: $(BIN)/.dev emu  ## On a machine with an NVIDIA GPU: instructions, kernels, models and speeds there
	$(call install_group,cuda)
	@if $(BIN)/python tests/python/cuda/gpu.py; then \
		$(BIN)/python -m pytest -m gpu tests/python/cuda/test_layout.py && \
		$(BIN)/python -m pytest -m gpu && \
		FERRULE_TEST_DEVICE=cuda cargo test --release -p ferrule-engine --test cuda && \
		$(BIN)/python tests/python/cuda/bench.py && \
		$(BIN)/ferrule bench smollm2 --device cuda --batch 1,8,32; \
	fi

.PHONY: mutants
mutants: $(BIN)/.dev emu  ## Plant bugs in CUDA kernels, and see that tests catch them
	$(BIN)/python tests/python/cuda/mutants.py

.PHONY: evidence
evidence: $(BIN)/.dev emu  ## Write docs/cuda-evidence.md: what is known of CUDA kernels without a GPU
	$(call install_group,evidence)
	$(BIN)/python tests/python/cuda/evidence.py

.PHONY: test
test: $(BIN)/.dev emu  ## Run every test, Rust and Python
	cargo test --release --workspace
	$(BIN)/python -m pytest

.PHONY: clients
clients: $(BIN)/.dev  ## Install the large client libraries that some tests drive; without them these tests skip
	$(call install_group,clients)
	if command -v npm >/dev/null; then npm ci --silent --prefix tests/js; else echo "npm is missing: its clients are not tested"; fi

.PHONY: lint
lint: $(BIN)/.dev  ## Check format, lints, types, stubs and docs/openapi.json
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest ferrule._core
	$(CARGO_TARGET_DIR)/release/ferrule openapi | diff -u docs/openapi.json - || \
		{ echo "docs/openapi.json is not what the server says: make openapi writes it anew"; exit 1; }

.PHONY: openapi
openapi: build  ## Write docs/openapi.json, which lint compares with the server's
	$(CARGO_TARGET_DIR)/release/ferrule openapi > docs/openapi.json

.PHONY: format
format: $(BIN)/.dev  ## Format Rust and Python
	cargo fmt --all
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: build  ## Measure kernels, the scheduler, and the default model end to end
	cargo bench --workspace
	$(BIN)/ferrule bench smollm2

.PHONY: clean
clean:  ## Remove everything that was built
	cargo clean
	rm -rf .venv python/ferrule/_core*.so

$(BIN)/.maturin:
	@command -v cargo >/dev/null || { echo "make: Rust is missing: install it with rustup" >&2; exit 1; }
	@test -n "$(PYTHON)" || { echo "make: Python 3.10 or later is missing: install it, or set PYTHON" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet 'maturin>=1.9,<2'
	@touch $@

# Always the whole workspace: a part of it alone has other features, and would be built a second time.
$(BIN)/.built: $(RUST) pyproject.toml $(BIN)/.maturin
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/maturin develop --release
	cargo build --release --workspace --bins
	@touch $@

# Installs one of the package's optional groups without building the package once more.
define install_group
	$(BIN)/python -c 'from importlib.metadata import requires; \
		needs = [need.split(";") for need in requires("ferrule")]; \
		print(*(name for name, *marker in needs if "$(1)" in "".join(marker)), sep="\n")' > $(BIN)/.$(1).txt
	$(BIN)/pip install --quiet -r $(BIN)/.$(1).txt
endef

$(BIN)/.dev: pyproject.toml $(BIN)/.built
	$(call install_group,dev)
	@touch $@
