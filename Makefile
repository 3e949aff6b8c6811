# Two commands do all on a fresh machine with Python 3.11 or newer: `make up` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One more than there are cores, since some tests wait for a process or a clock.
TEST_WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
# Tests start hundreds of Pythons, each of which would compile every file again.
unexport PYTHONDONTWRITEBYTECODE
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Scripts are found by their first line.
SHELL_SCRIPTS = $(shell grep -lsI '^\#!.*bash' .ci/* scripts/* scripts/*/*)

.PHONY: help demo up down test e2e real-vllm manifests lint smoke bench lock clean

help:                     ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# In a container the demo needs only the command; the service's packages, 35 more, only as a child process.
demo: | $(BIN)/python     ## See it work: simulated engines, no GPU and no hub
	@case " $(ARGS) " in *" process "*) needed=runtime ;; \
	  *) if podman info >/dev/null 2>&1 || docker info >/dev/null 2>&1; then needed=host; else needed=runtime; fi ;; esac; \
	  $(MAKE) --no-print-directory $(VENV)/$$needed
	@exec $(BIN)/kvcache demo $(ARGS)

up: $(VENV)/native        ## The service, on the container runtime that is there; options in ARGS
	@exec $(BIN)/kvcache up $(ARGS)

down: $(VENV)/runtime     ## Removes it
	@$(BIN)/kvcache down $(ARGS)

test: $(VENV)/dev $(VENV)/native ## All tests that need no container runtime
	$(BIN)/python -m pytest -q --numprocesses $(TEST_WORKERS) --dist worksteal --ignore tests/e2e --ignore tests/real_vllm $(ARGS)

e2e: $(VENV)/dev $(VENV)/native ## The real image and containers, on every container runtime that is there
	$(BIN)/python -m pytest -q -rs --durations 10 --numprocesses 2 --dist loadgroup tests/e2e $(ARGS)

real-vllm: $(VENV)/dev $(VENV)/native ## Predictions for whole vLLM servers; VLLM is the command of scripts/real_vllm/install
	KVCACHE_VLLM=$(VLLM) $(BIN)/python -m pytest -q -rs --durations 10 --numprocesses 2 --dist loadfile tests/real_vllm $(ARGS)

manifests: $(VENV)/dev $(VENV)/deploy ## Renders and validates deploy/
	$(BIN)/python -m pytest -q -rs tests/deploy $(ARGS)

lint: $(VENV)/dev         ## Linters, formatter and type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/shellcheck $(SHELL_SCRIPTS)

smoke: $(VENV)/native     ## Up, one call of each endpoint, down
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/smoke $(ARGS)

bench: $(VENV)/dev $(VENV)/native ## Speed, side by side with NVIDIA Dynamo; parts in ARGS
	$(BIN)/python -m scripts.bench $(ARGS)

lock:                     ## Pins dependencies again (needs uv)
	scripts/lock

clean:                    ## Removes the environment
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "kvcache needs Python 3.11 or newer: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Python's venv is missing: apt-get install python3-venv (Debian, Ubuntu)" >&2; exit 1; }

# What is installed is written down, so that it happens again only when a lock file changes.
$(VENV)/runtime: requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing kvcache and the service into $(VENV) (once, 57 packages; a minute or two)"
	@$(PIP_INSTALL) --require-hashes -r requirements.lock
	@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/host: requirements-host.lock pyproject.toml | $(BIN)/python
	@test -e $(VENV)/runtime || { echo "Installing the kvcache command into $(VENV) (once, 24 packages)"; \
	  $(PIP_INSTALL) --require-hashes -r requirements-host.lock && \
	  $(PIP_INSTALL) --no-deps --no-build-isolation --editable .; }
	@touch $@

# The service as a child process runs on this Python; the image compiles its own.
$(VENV)/native: $(wildcard service/native/*.p[xy]*) service/native/requirements.lock $(VENV)/runtime
	@if command -v cc >/dev/null; then \
	  echo "Compiling the service's inner loops (once)" && \
	  $(PIP_INSTALL) --require-hashes -r service/native/requirements.lock && $(BIN)/python -m service.native.build; \
	fi || echo "They could not be compiled, and run as plain Python: the service is slower"
	@touch $@

$(VENV)/dev: requirements-dev.lock $(VENV)/runtime
	@echo "Installing what the tests need into $(VENV) (once)"
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/deploy: deploy/requirements.lock $(VENV)/dev
	@echo "Installing what renders and validates deploy/ into $(VENV) (once)"
	@$(PIP_INSTALL) --require-hashes -r deploy/requirements.lock
	@touch $@
