# The front door. Bare `make` says what there is; every target does its own set-up first.

EXPERIMENT ?= digits
STUDENT    ?= distilled
CACHE      ?= caches/$(EXPERIMENT)
RUNS       ?= runs/$(EXPERIMENT)

PYTHON     ?= python3
VENV       := .venv
BIN        := $(VENV)/bin
BENCH      := .venv-bench
SOFTLABELS := $(BIN)/softlabels
CONFIG     := configs/$(EXPERIMENT).toml
SET        := --set 'cache.path="$(CACHE)"'

# A Python for the newest zarr, which needs 3.12. Where there is none, what needs it is skipped and named.
NEWEST     ?= $(shell for each in python3.13 python3.12; do $$each --version >/dev/null 2>&1 && echo $$each && break; done)
READERS    := $(if $(NEWEST),.venv-readers/ready)

# What builds this package is pinned too, not only what it needs.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup teacher soft-labels train-student students verify lint format test slow torture readers check
.PHONY: bench-setup bench clean

help: ## Say what there is to make.
	@echo "make TARGET [EXPERIMENT=$(EXPERIMENT)] [STUDENT=$(STUDENT)] [CACHE=$(CACHE)] [RUNS=$(RUNS)]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[dev,transformers,lightning]'
	@touch $@

setup: $(VENV)/ready ## Make the environment in .venv, every dependency pinned.

teacher: $(VENV)/ready ## Get the teacher: train it, if its checkpoint does not exist.
	$(SOFTLABELS) fit-teacher $(CONFIG) $(SET)

soft-labels: teacher ## Stage one: ask the teacher once, write the label cache.
	$(SOFTLABELS) generate $(CONFIG) $(SET)

train-student: soft-labels ## Stage two: train STUDENT and its baseline from the cache; ends with a table.
	$(SOFTLABELS) train $(CONFIG) $(SET) --runs $(RUNS) --student $(STUDENT)

students: soft-labels ## Train every student of the experiment from the one cache.
	$(SOFTLABELS) train $(CONFIG) $(SET) --runs $(RUNS)

verify: $(VENV)/ready ## Check every byte of the cache against its receipts.
	$(SOFTLABELS) verify $(CACHE)

lint: $(VENV)/ready-dev ## Check style and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/ready-dev ## Put the code in the formatter's shape.
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

test: $(VENV)/ready-dev ## Run the tests (a few minutes on two cores).
	$(BIN)/python -m pytest

slow: $(VENV)/ready-dev ## Run the long tests too.
	$(BIN)/python -m pytest -m 'slow or not slow'

torture: $(VENV)/ready-dev $(READERS) ## Attack every promise of docs/promises.md at full length (half an hour); print a table.
	$(BIN)/python -m pytest -m 'promise' --torture --timeout 3600 -q

readers: .venv-readers/ready ## Make the environment of the newest readers of Zarr, in .venv-readers (Python 3.12 or newer).

.venv-readers/ready: export PIP_CONSTRAINT := tests/golden/constraints.txt
.venv-readers/ready: tests/golden/constraints.txt
	@test -n '$(NEWEST)' || { echo 'make readers needs Python 3.12 or 3.13; name one: make readers NEWEST=python3.12'; exit 1; }
	$(NEWEST) -m venv .venv-readers
	.venv-readers/bin/python -m pip install --quiet zarr zarrs tensorstore
	@touch $@

check: lint test ## All that a change must pass.

$(BENCH)/ready: export PIP_CONSTRAINT := benchmarks/constraints.txt
$(BENCH)/ready: pyproject.toml constraints.txt benchmarks/constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --editable . datasets Brotli python-snappy zstd
	$(BENCH)/bin/python -m pip install --quiet --no-deps mosaicml-streaming # see benchmarks/constraints.txt
	@touch $@

bench-setup: $(BENCH)/ready ## Make the environment of the formats that we are measured against, in .venv-bench.

bench: $(VENV)/ready bench-setup ## Remake every figure: reading, peers, both stages, encoding, size, durability (40 minutes).
	$(BIN)/python -m benchmarks.gather $(QUICK)
	$(BENCH)/bin/python -m benchmarks.peers $(QUICK)
	$(SOFTLABELS) fit-teacher configs/fashion_mnist.toml
	$(BIN)/python -m benchmarks.stage_one $(QUICK)
	$(BIN)/python -m benchmarks.stage_two $(QUICK)
	$(BIN)/python -m benchmarks.encoding $(QUICK)
	$(BIN)/python -m benchmarks.scale $(QUICK)
	$(BIN)/python -m benchmarks.durability $(QUICK)

clean: ## Remove caches, runs and teachers made here; the environment stays.
	rm -rf caches runs checkpoints
