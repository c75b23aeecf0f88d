# `make repro` rebuilds everything, `make test` says whether it works; both set up the environment if it is missing.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOCKS := infra/locks
READY := $(VENV)/.ready
PEERS ?= .peers
SHARED := tests/integration/test_adopted.py tests/integration/test_dvc.py tests/integration/test_faults.py  # they look at one chain
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Telemetry of everything underneath is off unless you say otherwise.
export DO_NOT_TRACK ?= 1
export DVC_NO_ANALYTICS ?= 1
export MLFLOW_DISABLE_TELEMETRY ?= true
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: help setup repro test test-slow lint closure lock peers ui clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## the environment, from the committed lock

$(READY): $(LOCKS)/requirements.txt $(LOCKS)/bootstrap.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] < (3, 14) else f"Python {sys.version.split()[0]} is here, where 3.11 to 3.13 was expected: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(LOCKS)/bootstrap.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(LOCKS)/requirements.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(READY)

repro: setup  ## from images to a guarded classifier: everything that params.yaml changed
	whorl repro

# Two halves of the tests side by side, for most of their time is spent waiting for processes to start. The second half's output
# comes at the end; both must pass.
define beside
second=$$(mktemp); trap 'rm -f "$$second"' EXIT; \
python -m pytest $(2) >"$$second" 2>&1 & \
python -m pytest $(1); one=$$?; \
wait $$!; two=$$?; cat "$$second"; exit $$((one || two))
endef

test: setup  ## the fast tests and one small real chain
	$(call beside,-m "not slow" --ignore tests/integration,-m "not slow" tests/integration)

test-slow: setup  ## killing, rerunning, worker counts
	$(call beside,-m slow $(SHARED),-m slow tests $(SHARED:%=--ignore %))

lint: setup  ## style, types, import contracts
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	python infra/closure.py

closure: setup  ## dvc.yaml's code dependencies, from the imports
	python infra/closure.py --write

lock: setup  ## the lock, from pyproject.toml
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate --extra dev pyproject.toml -o $(LOCKS)/requirements.txt

peers: $(PEERS)/.ready  ## the benchmarks' environment: the peers, from a lock of their own

$(PEERS)/.ready: benchmarks/peers.lock | setup
	$(PYTHON) -m venv $(PEERS)
	$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --require-hashes -r benchmarks/peers.lock
	$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --no-deps --no-build-isolation --editable .
	touch $@

ui: setup  ## the MLflow UI, on this machine alone
	whorl ui

clean:  ## work folders and caches of the tools (no artifact, no environment)
	rm -rf artifacts/.work .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
