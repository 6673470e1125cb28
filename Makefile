# Needs only Python 3.11+ and make; each target does its own set-up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8000
DATA ?= .wald
DEMO ?= --demo
BENCH ?=

.PHONY: help run test test-long coverage fmt lint bench bench-bandits bench-judging bench-rollouts calibrate lock clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 18

$(VENV)/.installed: requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Wald needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# The lock file is complete, so pip resolves nothing and a later release changes nothing.
	@# Python compiles modules when it imports them: a quarter of ten thousand.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes --no-deps -r requirements-dev.txt
	@# Hide the warning of setuptools about folders that are named like their packages.
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip --disable-pip-version-check check
	@touch $@

run: $(VENV)/.installed  ## Serve on http://127.0.0.1:$(PORT) with embedded engines and a demo; no demo with DEMO=
	$(BIN)/wald up --data-dir $(DATA) --port $(PORT) $(DEMO)

# Each process uses one thread of linear algebra, because there is one process per processor. Files
# run in alphabetical order, so the few long files of `acceptance` start first. By default
# pytest-xdist sorts by number of tests; the long files would start last, and others would wait.
TESTS := OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=logical --dist=loadfile --no-loadscope-reorder

test: $(VENV)/.installed  ## Run the tests on real engines
	$(TESTS) -m "not long"

test-long: $(VENV)/.installed  ## Run the tests that need minutes, because they wait for leases and drift
	$(TESTS) -m long

coverage: $(VENV)/.installed  ## Run all tests and list the lines that no test ran
	$(TESTS) --cov --cov-report=term:skip-covered

fmt: $(VENV)/.installed  ## Format the code and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.installed  ## Check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers auto
	$(BIN)/lint-imports

bench: $(VENV)/.installed  ## Measure speed (docs/benchmarks.md), each figure beside a reference from the same run
	$(BIN)/python -m benchmarks

$(VENV)/.peers: requirements-peers.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-peers.txt
	@touch $@

bench-bandits: $(VENV)/.peers  ## Compare policies with other libraries: 6 minutes, or 90 with BENCH=--full
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.policies $(BENCH)

bench-judging: $(VENV)/.installed  ## Measure judges, and quality from real scores: five minutes
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.judging
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m benchmarks.judging_quality

bench-rollouts: $(VENV)/.installed  ## Measure false and missed rollbacks: an hour, or 15 minutes with BENCH=--quick
	$(BIN)/python -m benchmarks.rollouts $(BENCH)
	$(BIN)/python -m benchmarks.rollout_live

calibrate: $(VENV)/.installed  ## Measure the validity table: half an hour of one core, or a part with BENCH="--only V8"
	$(BIN)/python -m benchmarks.calibrate $(BENCH)

lock: $(VENV)/.installed  ## Renew the lock files from pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --extra embedded -o requirements.txt pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --extra embedded --extra dev -c requirements.txt -o requirements-dev.txt pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --extra peers -c requirements-dev.txt -o requirements-peers.txt pyproject.toml

clean:  ## Remove the virtual environment and builds
	rm -rf $(VENV) build dist *.egg-info
