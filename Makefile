# The few commands of this project; `make` alone lists them. What a command needs, it installs first (bin/setup).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Airflow's processes compile every module again at each start when Python may not keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE

PYTHON := .venv/bin/python
UV := .venv/bin/uv
# How much of the machine the tests may use; those with servers mostly wait for them.
TEST_PROCESSES ?= 4

LOCK := $(UV) pip compile --quiet --python-version 3.11 --generate-hashes --custom-compile-command 'make lock'

.PHONY: help
help:
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "  make %-22s  %s\n", $$1, $$2 }'

.PHONY: setup
setup:
	@bin/setup

.PHONY: demo
demo: setup ## Train, register and serve a model on this machine, with a real Airflow; leaves everything up to look at.
	@$(PYTHON) -m demo run

.PHONY: down
down: ## Stop exactly what `make demo` started; models, images and logs are kept.
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m demo down; else echo "Nothing is installed here, so nothing runs."; fi

.PHONY: test
test: setup ## Check and test everything; starts and stops all it needs.
# Side by side, for mypy keeps but one processor busy; these tests wait for nothing, and more processes of theirs would only delay it.
	@$(MAKE) --no-print-directory --jobs 2 lint test-unit TEST_PROCESSES=2
	@$(PYTHON) -m pytest tests/integration tests/system -n $(TEST_PROCESSES) --dist loadfile -q
	@$(PYTHON) -m pytest tests/system/test_chaos.py -m chaos -q

.PHONY: test-unit
test-unit: setup ## Run only the tests that need no server.
	@$(PYTHON) -m pytest tests/unit tests/dags -n $(TEST_PROCESSES) -q

.PHONY: lint
lint: setup ## Check style and types: ruff and mypy --strict.
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy

.PHONY: lock
lock: setup ## Resolve every requirements.txt again, with hashes.
	@$(LOCK) requirements.txt -o requirements.lock
	@$(LOCK) requirements-dev.txt -c requirements.lock -o requirements-dev.lock
	@$(LOCK) include/training_scripts/breast_cancer/requirements.txt -o include/training_scripts/breast_cancer/requirements.lock
	@$(LOCK) include/serving/requirements.txt -o include/serving/requirements.lock

ROUNDS ?= 200
.PHONY: chaos
chaos: setup ## Kill processes and fail calls while the pipeline runs: make chaos ROUNDS=200 SEED=n.
	@PYTHONPATH=.:include:plugins $(PYTHON) -m tests.system.chaos --rounds $(ROUNDS) $(if $(SEED),--seed $(SEED)) --json .local/chaos.json

.PHONY: clean
clean: down ## Stop everything and remove all state, models and caches of this project; what is installed stays.
	@rm -rf --one-file-system .local .pytest_cache .mypy_cache .ruff_cache
	@find dags plugins include tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: test-azure-ml-restarts
test-azure-ml-restarts: setup ## Run every Azure ML contract test with the server killed between any two calls; about 3 minutes.
	@AZURE_ML_RESTARTS=1 $(PYTHON) -m pytest tests/integration/azure_ml -n $(TEST_PROCESSES) --dist loadfile -q

.PHONY: bench-azure-ml
bench-azure-ml: setup ## Measure the Azure ML stand-in and print the figures with the machine.
	@PYTHONPATH=include $(PYTHON) -m local_site.azure_ml.bench

.PHONY: bench-images
bench-images: setup ## Measure building and pushing a model image, next to other tools as far as they are installed.
	@PYTHONPATH=.:include:plugins $(PYTHON) -m tests.bench.images

.PHONY: bench-deploy
bench-deploy: setup ## Measure trying out and deploying a model image, and count the requests that fail during swaps.
	@PYTHONPATH=.:include:plugins $(PYTHON) -m tests.bench.deploy

.PHONY: bench-residency
bench-residency: setup ## Measure what watching for data costs.
	@PYTHONPATH=.:include:plugins:include/training_scripts $(PYTHON) -m tests.system.leaks.bench

.PHONY: bench-triggers
bench-triggers: setup ## Measure 1,000 deferred runs on one real triggerer; about 2 minutes.
	@$(PYTHON) -m demo.bench_triggers

.PHONY: bench-preload
bench-preload: setup ## Measure what a task saves when its process is forked from one that has imported the SDKs.
	@PYTHONPATH=include:plugins $(PYTHON) -m demo.bench_preload

.PHONY: bench-parse
bench-parse: setup ## Measure how long Airflow takes to read the DAG files, with one site and with fifty.
	@$(PYTHON) -m demo.bench_parse
