# make demo, make test, make lint, make bench, make docs: each makes .venv first if it has to. Nothing but Python >= 3.11 is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUT ?= build/demo
PYTEST_ARGS ?=

# real sections, where a checkout has them beside it; a value of the user's own goes first
ST_CONCEPTS_DATA ?= $(abspath $(wildcard ../shared/data))
ifneq ($(strip $(ST_CONCEPTS_DATA)),)
export ST_CONCEPTS_DATA
endif

.PHONY: demo test lint format bench install docs clean
.DEFAULT_GOAL := demo

demo: $(STAMP)
	$(BIN)/st-concepts demo --out $(OUT)

# a worker a core, one thread each: deterministic, and quicker than one process with many threads. A file stays with
# one worker (see tests/conftest.py), and the order is that of tests/conftest.py: what takes longest goes first
test: $(STAMP)
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n 2 \
		--dist loadgroup --no-loadscope-reorder $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# each prints a table and writes JSON under build/benchmarks/
bench: $(STAMP)
	@set -e; for module in $$(ls benchmarks/*.py | sed -e 's|.*/||' -e 's|\.py$$||' | grep -v '^_'); do \
		echo "== benchmarks.$$module"; $(BIN)/python -m benchmarks.$$module; done

# pages in docs/_build/html; nothing is fetched, and a warning is an error
docs: $(STAMP)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

install: $(STAMP)

# torch goes first: alone it can come from an index or a folder of its own (CPU-only wheels, say)
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,scvi,notebooks,docs]'
	touch $@

clean:
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis
