# The commands of this repository; `make` lists them.
# A recipe line without @ is printed before it runs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
# Without compiled files every process of the tests compiles what it imports, again.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
T ?=
S ?=
SEED ?=
JOBS ?= 3
PARALLEL = $(if $(filter-out 0 1,$(JOBS)),-n $(JOBS) --dist loadfile --no-loadscope-reorder)
PROFILES ?=
VOLUMES ?=
COMMA := ,
COMPOSE ?= docker compose $(foreach profile,$(subst $(COMMA), ,$(PROFILES)),--profile $(profile))
# The lock excludes releases younger than a week: defects of a release are found in its first days.
LOCK_AGE ?= 7 days ago
# The extras of `make demo`; the others are added for development.
RUNTIME_EXTRAS := api generator merger muxer ops embedded install

##@ Everyday

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@/ { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\n'

.PHONY: setup
setup: ## Create .venv with what Segue needs to run (PYTHON=… sets the interpreter)
	@tools/setup/run.sh $(if $(PYTHON),"$(PYTHON)",'')

.PHONY: develop
develop: ## Add the tools of `make check` and `make test` to .venv
	@tools/setup/run.sh $(if $(PYTHON),"$(PYTHON)",'') --development

.PHONY: check
check: develop ## Check format, lint, import rules and types, as CI does before the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

.PHONY: fix
fix: develop ## Format the code, and apply the fixes of lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: test
test: develop ## Run all tests, or those of T=path, on JOBS=3 sets of servers in parallel
	@$(BIN)/python -m tests.support.fetch_servers
	$(BIN)/python -m pytest $(PARALLEL) $(or $(T),tests)

##@ Run

.PHONY: up
up: ## Start Segue in Docker (PROFILES=scale,observability adds services)
	@sh deploy/compose/make-env.sh .env
	$(COMPOSE) build
	$(COMPOSE) up --detach --wait --wait-timeout 300
	@echo 'api: http://127.0.0.1:4000   make logs S=generator   make down'

.PHONY: down
down: ## Stop what `make up` started; keep its data (VOLUMES=yes removes it)
	$(COMPOSE) --profile '*' down --remove-orphans $(if $(filter yes,$(VOLUMES)),--volumes)

.PHONY: logs
logs: ## Follow the logs of all services, or of one: S=api
	$(COMPOSE) --profile '*' logs --follow --tail 200 $(S)

.PHONY: embedded
embedded: setup ## Run Segue on this machine without Docker, until Ctrl-C
	@$(BIN)/python -m ops up

.PHONY: native
native: setup ## Run the same on Apache Kafka, PostgreSQL and MinIO
	@$(BIN)/python -m ops up --stack native

.PHONY: demo
demo: setup ## Score a generated video, or VIDEO=… with SCENES=…, into out/demo
	@$(BIN)/python -m ops demo $(if $(VIDEO),--video "$$VIDEO") $(if $(SCENES),--scenes "$$SCENES")

.PHONY: doctor
doctor: setup ## Check this machine: what is missing, and how to fix it
	@$(BIN)/python -m ops doctor

##@ Test

.PHONY: unit
unit: develop ## Tests that need no server: rules, and adapters on files and ffmpeg
	$(BIN)/python -m pytest $(PARALLEL) tests/unit

.PHONY: contract
contract: develop ## Run one suite per port, on every adapter and fake
	$(BIN)/python -m pytest tests/contract

.PHONY: histories
histories: develop ## Replay recorded event streams through today's code
	$(BIN)/python -m pytest tests/histories

.PHONY: integration
integration: develop ## Run the tests on real servers (by address, Docker, native, else embedded)
	$(BIN)/python -m pytest tests/integration

.PHONY: e2e
e2e: develop ## Run whole jobs through the running services
	$(BIN)/python -m pytest tests/e2e

.PHONY: faults
faults: develop ## Kill services at every step; print the figures of docs/reliability.md
	$(BIN)/python -m pytest tests/faults -rP

.PHONY: chaos
chaos: develop ## Kill services at random for at most 45 minutes (SEED=… repeats a run)
	@seed=$(or $(SEED),$$RANDOM); \
	echo "to repeat this run: make chaos SEED=$$seed"; \
	SEGUE_CHAOS=long SEGUE_CHAOS_SEED=$$seed timeout 45m \
	  $(BIN)/python -m pytest tests/faults/test_chaos.py tests/faults/test_joining.py \
	    tests/faults/test_api_rebuild.py tests/faults/test_api_postgres.py tests/faults/test_api_kafka.py \
	    tests/faults/test_api_flood.py tests/faults/test_soak.py tests/faults/test_many_jobs.py \
	    tests/faults/test_simulation.py tests/integration/test_ops_watch.py -rP

.PHONY: prove
prove: develop ## Build the images and run the compose file from them (root)
	$(BIN)/python -m tests.deployment

.PHONY: mutants
mutants: develop ## Changes of the core that the unit tests miss (SAMPLE=200 or all, SEED=1)
	nice $(BIN)/python -m tools.mutants.measure --sample $(or $(SAMPLE),200) --seed $(or $(SEED),1) --jobs $(JOBS)

.PHONY: coverage
coverage: develop ## Run all tests, and list the lines that they do not cover
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered tests

##@ Measure

.PHONY: bench
bench: develop ## Run all benchmarks, or B=lanes, projection, merge, cuts (RESULTS=folder of the JSON)
	@for name in $(or $(B),lanes projection merge cuts); do \
	  $(BIN)/python -m benchmarks.bench_$$name --out "$(or $(RESULTS),out/bench)"; done

##@ Docs and lock

.PHONY: schemas
schemas: develop ## Generate the schemas, AsyncAPI, two pages of docs, the dashboard
	$(BIN)/python -m ops schemas

.PHONY: screens
screens: develop ## Record docs/screens: output of `segue watch` and `segue job` at work
	$(BIN)/python -m tests.support.screens

.PHONY: lock
lock: ## Resolve requirements.lock again from pyproject.toml (needs uv)
	@set -x; options="--universal --no-strip-extras --python-version 3.11 --no-annotate --no-header --quiet"; \
	uv pip compile pyproject.toml $$options --all-extras --generate-hashes \
	  --exclude-newer "$$(date -u -d '$(LOCK_AGE)' +%Y-%m-%d)" -o requirements.lock; \
	uv pip compile pyproject.toml $$options $(RUNTIME_EXTRAS:%=--extra %) -c requirements.lock \
	  | python3 -m tools.setup.lock_file

.PHONY: clean
clean: ## Remove .venv, caches and out/
	rm -rf $(VENV) out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
