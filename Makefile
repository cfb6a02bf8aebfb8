# `make demo` and `make test` need Python >= 3.11 and a package registry; both set up what they need.

PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo "$$each" && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint types bench clean

demo: .venv/demo  ## hold the Alice conversation of the documents, offline or with your key
	@$(BIN)/python examples/alice.py

test: .venv/dev lint types  ## all that has to hold
	@$(BIN)/python -m pytest -q -n 4

lint: .venv/dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/dev
	@$(BIN)/mypy

bench: .venv/dev  ## what a turn costs the client, beside the bare SDK
	@$(BIN)/python benchmarks/cpu.py

clean:
	rm -rf .venv

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON to one." >&2; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python pyproject.toml
	@echo "Installing what the demo needs ..."
	@$(PIP) --editable '.[langchain,offline]'
	@touch $@

.venv/dev: .venv/bin/python pyproject.toml
	@echo "Installing what the tests need ..."
	@$(PIP) --editable '.[dev]'
	@touch $@
