# Targets for users. They need Python 3.11 or 3.12 and make, nothing else; everything is installed into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3.11)
BIN := .venv/bin

.PHONY: setup demo demo-table test test-fast test-kernels check bench
.NOTPARALLEL:

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	@echo "== installing into .venv (a few minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[prepare,train,s3,demo,dev]'
	@touch $@

.venv/.triton: .venv/.ready
	@echo "== installing Triton, for the tests of GPU kernels"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[triton]'
	@touch $@

demo: setup
	$(BIN)/driftwork demo

demo-table: setup
	$(BIN)/driftwork demo table

# Two processes of one thread each; pytest exits 5 where it finds no test.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: setup .venv/.triton
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m "not slow and not ray and not process and not network"

test-kernels: setup
	$(BIN)/python -m tests.kernels

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.audit

bench: setup
	$(BIN)/python -m benchmarks.data.midi
	$(BIN)/python -m benchmarks.vsdn_step
	$(BIN)/python -m benchmarks.vsdn_sde_step
	$(BIN)/python -m benchmarks.gru_ode_passes
	$(BIN)/python -m benchmarks.ode2vae_step
	$(BIN)/python -m benchmarks.jax_peers
	$(BIN)/python -m benchmarks.data.guard
