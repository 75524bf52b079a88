# make demo: set up and run the demo, on CPUs.  make test: set up and pass the tests.
# make test-long: the tests that take too long for every change.
PYTHON ?= python3.12
VENV ?= .venv
BIN := $(VENV)/bin
PLUGINS := $(wildcard mimo_plugins/*/pyproject.toml)
READY := $(VENV)/.ready

.PHONY: demo test test-long lint

demo: export MIMO_PLATFORM ?= cpu
demo: $(READY)
	$(BIN)/mimo-pretrain

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-long: $(READY)
	$(BIN)/python -m pytest -m long

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(READY): pyproject.toml $(PLUGINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip setuptools
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet --no-build-isolation -e '.[dev]' $(foreach plugin,$(PLUGINS:/pyproject.toml=),-e ./$(plugin))
	touch $@
