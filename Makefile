# Everything runs from .venv. The first target creates it, and installs again whenever the lock changes.
# Needs Python 3.11 or newer.
.DEFAULT_GOAL := help
.PHONY: help demo unit test engine node lint bench soak fuzz lock

BIN := .venv/bin
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header $(UPGRADE) pyproject.toml

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8 | sed 's/^/make /'

demo: $(BIN)/.project  ## replay an incident through Kafka, Redis and a worker on this machine
	@trap : INT; $(BIN)/stormfold demo || [ $$? = 130 ]

unit: $(BIN)/.project  ## run the tests that need no server, under 30 s (ARGS="-k window")
	@$(BIN)/pytest --numprocesses auto tests/unit $(ARGS)

test: $(BIN)/.project  ## run all tests except `make engine` and `make node` (ARGS=tests/integration/redis)
	@$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

engine: $(BIN)/.project  ## run docker-compose.yml in a Docker engine that the tests start; needs root
	@$(BIN)/pytest tests/engine $(ARGS)

node: $(BIN)/.project  ## run k8s/ on a real node of Kubernetes that the tests start; needs root
	@$(BIN)/pytest tests/node $(ARGS)

lint: $(BIN)/.project  ## check style, types, import layers, spelling, wording
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/codespell
	@$(BIN)/python -m tests.language

bench: $(BIN)/.project  ## measure speed and size for docs/performance.md (PARTS="claim growth" ROUNDS=3)
	@$(BIN)/python -m tests.benchmarks $(PARTS) $(if $(ROUNDS),--rounds $(ROUNDS))
	@$(BIN)/python -m tests.docs

soak: $(BIN)/.project  ## inject faults under steady load for docs/reliability.md (MINUTES=30 SEED= RATE=3000)
	@$(BIN)/python -m tests.chaos.run --page --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED)) \
		$(if $(RATE),--rate $(RATE))

fuzz: $(BIN)/.project  ## fuzz the parsers (MINUTES=10 TARGET=record)
	@$(BIN)/python -m tests.fuzz.run --minutes $(or $(MINUTES),10) $(TARGET)

lock: $(BIN)/.dependencies  ## write the locks from pyproject.toml (UPGRADE=--upgrade for newer versions)
	$(COMPILE) --extra dev --output-file requirements-dev.lock
	$(COMPILE) --extra msk --constraint requirements-dev.lock --output-file requirements.lock

$(BIN)/python:
	@python=$$(for name in python3 python3.14 python3.13 python3.12 python3.11; do \
		$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$name && break; done); \
	test -n "$$python" || { echo 'stormfold needs Python 3.11 or newer: install it and run make again' >&2; exit 1; }; \
	$$python -m venv .venv || { rm -rf .venv; exit 1; }

$(BIN)/.dependencies: requirements-dev.lock | $(BIN)/python
	@echo 'Installing the dependencies into .venv (only when requirements-dev.lock changes)'
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar off --require-hashes --requirement $<
	@touch $@

$(BIN)/.project: pyproject.toml $(BIN)/.dependencies
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@
