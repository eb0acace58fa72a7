# Everything a newcomer needs; each target works from a bare checkout, as root or not.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYVERSION := $(shell $(PYTHON) -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null)
ifeq ($(PYVERSION),)
$(error $(PYTHON) does not run: install Python 3.11, 3.12 or 3.13, or name it, e.g. make PYTHON=python3.12)
endif
LOCK := requirements/py$(PYVERSION).txt

define BUILD_VENV
set -eo pipefail; \
echo "building $(VENV) from $(LOCK)"; \
$(PYTHON) -m venv --clear $(VENV); \
PYTHONUNBUFFERED=1 $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --require-hashes -r $(LOCK) \
| while read -r step _; do \
	case $$step in \
		Collecting) count=$$((count + 1)); [ $$((count % 20)) -ne 0 ] || echo "  $$count packages collected" ;; \
		Installing) echo "  installing them" ;; \
	esac; \
done; \
$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .; \
touch $(VENV)/.installed
endef

.PHONY: help demo test test-phones test-slow test-deploy image test-browser simulate up bench docs lint types imports lock clean

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# The stamp is newer than the lock and pyproject.toml exactly when the environment matches them.
$(VENV)/.installed: $(LOCK) pyproject.toml
	@test -w . || { echo "this checkout cannot be written: copy it to a folder of yours" >&2; exit 1; }
	@exec 9>.venv.lock; \
	if command -v flock >/dev/null && ! flock -n 9; then \
		echo "another make builds $(VENV): waiting for it"; flock 9; \
		[ -z "$$(find $@ -newer $(LOCK) -newer pyproject.toml 2>/dev/null)" ] || exit 0; \
	fi; \
	$(BUILD_VENV)

requirements/py%.txt:
	@echo "no locked dependencies for this Python ($*): use Python 3.11, 3.12 or 3.13, e.g. make PYTHON=python3.12" >&2; exit 1

demo: $(VENV)/.installed ## the whole flow on the sample lists, against the sandbox
	@$(BIN)/mm demo

up: $(VENV)/.installed ## the same stack, left running, with the Dagster UI on port 3000
	@$(BIN)/mm up --sandbox

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

imports: $(VENV)/.installed
	$(BIN)/lint-imports

# From Python 3.12 on coverage measures by sys.monitoring, which costs next to nothing.
ifneq ($(PYVERSION),311)
test: export COVERAGE_CORE = sysmon
endif
test: lint types imports ## lint, types, import contracts and tests with coverage
	$(BIN)/pytest -n 2 --cov --cov-report=term:skip-covered

test-phones: $(VENV)/.installed ## phone numbers of every region, against libphonenumber
	$(BIN)/pytest -m "slow or not slow" tests/identity/test_phone.py

test-slow: $(VENV)/.installed ## crash, scale and soak trials
	$(BIN)/pytest -m slow

test-deploy: $(VENV)/.installed ## manifests, alert rules, grants; with MM_TEST_IMAGE=NAME also that image
	$(BIN)/pytest -m "slow or not slow" tests/deploy

ENGINE ?= $(shell command -v podman || command -v docker)
IMAGE ?= mm_pipelines:latest
BASE ?= docker.io/library/python:3.12-slim-bookworm

image: $(VENV)/.installed ## the image for containers; BASE, IMAGE, ENGINE and BUILD_OPTIONS change how
	@rm -rf dist
	@$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --disable-pip-version-check --wheel-dir dist .
	$(ENGINE) build $(BUILD_OPTIONS) --build-arg BASE=$(BASE) --file deploy/Containerfile --tag $(IMAGE) .

test-browser: $(VENV)/.installed ## the Dagster UI in Chromium (needs Debian's chromium)
	$(BIN)/pytest -m browser

SEEDS ?= 1000
START ?= 0
simulate: $(VENV)/.installed ## the whole flow in virtual time with faults: SEEDS=1000 START=0
	$(BIN)/python -m tests.simulation --seeds $(SEEDS) --start $(START)

bench: $(VENV)/.installed ## the speed figures, each against a peer or a limit
	$(BIN)/python -m benchmarks

docs: $(VENV)/.installed ## the documentation as a site in .site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lock: $(VENV)/.installed ## renew the pinned requirements of every supported Python
	@for version in 3.11 3.12 3.13; do \
		$(BIN)/uv pip compile pyproject.toml --group dev --extra local --extra sandbox --extra s3 --python-version $$version --universal --no-strip-extras --no-header \
			--generate-hashes --upgrade --quiet --output-file requirements/py$${version/./}.txt || exit 1; \
	done
	@$(BIN)/uv pip compile pyproject.toml --extra s3 --extra gcs --extra azure --python-version 3.11 --universal --no-strip-extras \
		--no-header --no-annotate --generate-hashes --upgrade --quiet --output-file requirements/image.txt

clean: ## remove the environment and the local state
	@if [ -x $(BIN)/mm ]; then $(BIN)/mm db remove --yes || true; fi
	rm -rf $(VENV) .mm
