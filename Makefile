# make demo: set up and run the demo.  make test: set up and pass the tests.
PYTHON ?= python3.12
VENV ?= .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard mimo_plugins/*/pyproject.toml)
READY := $(VENV)/.ready

.PHONY: demo test lint

demo: $(READY)
	$(BIN)/mimo-pretrain

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml $(PLUGINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -e '.[dev]' $(foreach plugin,$(PLUGINS:/pyproject.toml=),-e ./$(plugin))
	touch $@
