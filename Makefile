# BytePort. `make` alone lists the targets. All paths are relative, so the project may lie in any folder.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON := $(shell command -v python3.11 || command -v python3)
VENV_PYTHON := .venv/bin/python
PIP := $(VENV_PYTHON) -m pip --disable-pip-version-check --no-input
RUNTIME := .venv/.runtime-installed
DEVELOPMENT := .venv/.development-installed

TEST_WORKERS ?= 2
PYTEST = $(VENV_PYTHON) -m pytest -n $(TEST_WORKERS) --dist worksteal
# A program, the packages that bring it, the tests that need it.
TEST_PROGRAMS := 'chromium|chromium fonts-dejavu-core|the browser tests' \
	'sshd|openssh-server|the tests of hosts reached by SSH' \
	'prometheus-alertmanager|prometheus prometheus-alertmanager|the tests with a real Prometheus'
ARGS ?=

.PHONY: help setup run test proof lint bench lock clean programs

help: ## Lists the targets.
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 12
	@echo '  Arguments for a command: make test ARGS="-k disk", make run ARGS="--port 8080"'

setup: $(RUNTIME) ## Makes .venv with the exact requirements, the database and the first operator.
	@$(VENV_PYTHON) manage.py up --setup-only

run: $(RUNTIME) ## Runs all of BytePort on this machine until Ctrl-C.
	@exec $(VENV_PYTHON) manage.py up $(ARGS)

test: $(DEVELOPMENT) programs ## Runs the tests, but for the proofs.
	$(PYTEST) -m 'not proof' $(ARGS)

proof: $(DEVELOPMENT) programs ## Runs the proofs: drills, browsers, workers killed at every boundary.
	$(PYTEST) -m proof $(ARGS)

lint: $(DEVELOPMENT) ## Checks style, types, the order of imports, the chart's rights and missing migrations.
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m ruff format --check
	$(VENV_PYTHON) -m mypy .
	$(VENV_PYTHON) .venv/bin/lint-imports
	$(VENV_PYTHON) manage.py rbac --check
	@# Without a database there is no history to compare with: that warning is expected.
	$(VENV_PYTHON) -W 'ignore:Got an error checking:RuntimeWarning' manage.py makemigrations --check --dry-run

bench: $(RUNTIME) ## Measures throughput beside bare PostgreSQL, as JSON lines.
	@$(VENV_PYTHON) -m bench $(ARGS)

lock: ## Compiles requirements*.in to exact versions (newest ones: make lock ARGS=--upgrade).
	@tools="$$(mktemp -d)"; trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools"; \
	"$$tools/bin/python" -m pip --disable-pip-version-check install --quiet uv; \
	for name in requirements requirements-dev; do \
		"$$tools/bin/python" -m uv pip compile --quiet --no-header --python-version 3.11 $(ARGS) $$name.in -o $$name.txt; \
	done

clean: ## Removes .venv and all that is made from the source. Keeps the database (.byteport).
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache staticfiles test-results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip comes last into a new venv: where it is missing, the making was interrupted or never begun.
.venv/bin/pip:
	@if [ -z "$(PYTHON)" ] || ! "$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo 'BytePort needs Python 3.11 or newer: apt-get install python3 python3-venv' >&2; exit 1; \
	fi
	@if ! "$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null; then \
		echo 'This Python cannot make virtual environments: apt-get install python3-venv' >&2; exit 1; \
	fi
	"$(PYTHON)" -m venv .venv

$(RUNTIME): requirements.txt | .venv/bin/pip
	@echo 'Installing the requirements (about a minute the first time) ...'
	@$(PIP) install --quiet --requirement requirements.txt
	@touch $@

$(DEVELOPMENT): requirements-dev.txt $(RUNTIME) | .venv/bin/pip
	@echo 'Installing what checks and tests need ...'
	@$(PIP) install --quiet --requirement requirements.txt --requirement requirements-dev.txt
	@touch $@

# Debian's own programs that some tests need; those that are missing are skipped. No service is started.
programs:
	@for line in $(TEST_PROGRAMS); do \
		IFS='|' read -r program packages tests <<< "$$line"; \
		if PATH="$$PATH:/usr/sbin" command -v "$$program" >/dev/null; then continue; fi; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing $$packages for $$tests ..."; \
			export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
			if apt-get update -qq >/dev/null && apt-get install -yqq --no-install-recommends $$packages >/dev/null; \
			then continue; fi; \
		fi; \
		echo "$$program is missing, so $$tests are skipped. To run them, as root: apt-get install $$packages"; \
	done
