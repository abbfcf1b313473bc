# Every target works from a fresh clone: `setup` runs first and only when its inputs changed. Needs make, git and python3.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
STAMP := .venv/.installed
PYTEST := $(BIN)/python -m pytest
PATHS := regime_pipeline assets jobs sensors scripts tests
DATA ?=
LIVE ?=
ARGS ?=

.PHONY: help setup demo test test-all soak lint type format bench dev migrate backfill docs pins clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install the pinned, hash-checked packages

$(STAMP): requirements.txt pyproject.toml scripts/find_python.sh
	@rm -f $@
	@python="$$(PYTHON="$(PYTHON)" bash scripts/find_python.sh)" \
	    && { $(BIN)/python -c '' 2>/dev/null || "$$python" -m venv --clear .venv; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
	@echo "setup: $$($(BIN)/python --version) in .venv"

demo: setup ## a simulated venue, the three Dagster jobs, the board (DATA=folder: on recorded bars; LIVE=1: on the real venues)
	@$(BIN)/regime demo $(if $(DATA),--data "$(DATA)") $(if $(LIVE),--live)

test: setup ## the fast tests
	@$(PYTEST) -n 2 -q -m "not slow and not live"

test-all: setup ## every test that needs no network
	@$(PYTEST) -n 2 -q -m "not live"

soak: setup ## a day of faulty venues in half an hour, against the truth (ARGS="--hours 3")
	@$(BIN)/regime soak $(ARGS)

lint: setup ## ruff, its formatter, spelling, SQL, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell $(PATHS) docs *.md
	@$(BIN)/sqlfluff lint --nocolor sql
	@$(BIN)/lint-imports --no-logo

type: setup ## mypy, strict
	@$(BIN)/mypy

format: setup ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## speed against peers, in ratios of one run (ARGS="--only engine")
	@$(BIN)/python -m benchmarks $(ARGS)

dev: setup ## embedded Postgres, migrations, Dagster web server and daemon; ctrl-C stops all
	@$(BIN)/regime up

migrate: setup ## bring the database to the newest schema
	@$(BIN)/regime db migrate

backfill: setup ## replay recorded bars into the database (DATA=folder)
	@[ -n "$(DATA)" ] || { echo "backfill needs a folder of bars: make backfill DATA=../shared/market" >&2; exit 2; }
	@$(BIN)/regime replay "$(DATA)"

docs: setup ## write the generated pages under docs/
	@$(BIN)/python scripts/write_configuration.py

pins: setup ## resolve requirements.txt again after a change in pyproject.toml
	@$(BIN)/python scripts/pin_requirements.py

clean: ## remove caches and builds; .venv and .regime stay
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
