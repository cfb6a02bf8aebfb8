# `make test` needs Python >= 3.11 and a package registry; it sets up what it needs.

PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo "$$each" && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: test lint types clean

test: .venv/dev lint types  ## all that has to hold
	@$(BIN)/python -m pytest -q

lint: .venv/dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/dev
	@$(BIN)/mypy

clean:
	rm -rf .venv

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON to one." >&2; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/dev: .venv/bin/python pyproject.toml
	@echo "Installing what the tests need ..."
	@$(PIP) --editable '.[dev]'
	@touch $@
