# `make demo` and `make test` need Python >= 3.11 and a package registry; both set up what they need.

PYTHON ?= $(shell for each in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& echo "$$each" && break; done)
BIN := .venv/bin
OLDER := .venv-openai2/bin
PIP := -m pip install --quiet --disable-pip-version-check
# langchain-tests brings plugins that warn unless they are told this, and warnings are errors here.
PLUGINS := -p no:codspeed -o asyncio_default_fixture_loop_scope=function -o asyncio_mode=auto \
	-W ignore::pytest_benchmark.logger.PytestBenchmarkWarning
# What reaches the SDK in ways of its own; the rest is the same with every generation of it.
REACHING := cassettes standard hub flows responses other_servers packaging chat_model_answers \
	llama_llm_failures llama_llm_structured turns_once streams_once

.PHONY: demo test lint types chaos bench record record-offline record-standard clean

demo: .venv/demo  ## hold the Alice conversation of the documents, offline or with your key
	@$(BIN)/python examples/alice.py

test: .venv/dev .venv-openai2/dev lint types  ## all that has to hold; with openai 2, what reaches it
	@$(BIN)/python -m pytest -q -n 4
	@$(OLDER)/python -m pytest -q -n 4 $(PLUGINS) $(REACHING:%=tests/test_%.py)

lint: .venv/dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/dev
	@$(BIN)/mypy

chaos: .venv/dev  ## 10,000 turns with a fault each, then crowds; SEED=n takes the same again
	@$(BIN)/python -m chaos $(SEED:%=--seed %)
	@$(BIN)/python -m chaos crowd

bench: .venv/dev .venv-openai2/dev  ## what a client costs, beside others: docs/performance*.md
	@$(BIN)/python -m benchmarks
	@$(OLDER)/python -m benchmarks --llamaindex  # the stock class does without openai 3

record: .venv/dev  ## cassettes from Qwen, with DASHSCOPE_API_KEY, and what they show of it
	@$(BIN)/python -m recording

record-offline: .venv/dev  ## the cassettes that need no key
	@$(BIN)/python -m recording offline

record-standard: .venv-openai2/dev  ## the cassette of LangChain's own tests, without a key
	@$(OLDER)/python -m pytest -q $(PLUGINS) --record-standard tests/test_standard.py -k TestReplayed

clean:
	rm -rf .venv .venv-openai2

.venv/bin/python .venv-openai2/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON to one." >&2; exit 1; }
	@$(PYTHON) -m venv $(@:/bin/python=)

.venv/demo: .venv/bin/python pyproject.toml
	@echo "Installing what the demo needs ..."
	@$(BIN)/python $(PIP) --editable '.[langchain,llamaindex,offline]'
	@touch $@

.venv/dev: .venv/bin/python pyproject.toml
	@echo "Installing what the tests need ..."
	@$(BIN)/python $(PIP) --editable '.[dev]' 'openai>=3' 'vcrpy>=9'
	@touch $@

.venv-openai2/dev: .venv-openai2/bin/python pyproject.toml
	@echo "Installing what the tests need with openai 2 ..."
	@$(OLDER)/python $(PIP) --editable '.[dev,oracles]'
	@touch $@
