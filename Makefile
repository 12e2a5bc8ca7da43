# Two commands a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-other-kernel test-databases test-torch test-manifold test-browser check coverage fuzz mutants docs figures format bench clean

# One stamp a dependency set: re-installed only when pyproject.toml changes.
$(VENV)/.core: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/.test: $(VENV)/.core
	$(PIP) -e '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(PIP) -e '.[dev]'
	touch $@

$(VENV)/.databases: $(VENV)/.test
	$(PIP) -e '.[databases]'
	touch $@

$(VENV)/.torch: $(VENV)/.test
	$(PIP) -e '.[test-torch]'
	touch $@

$(VENV)/.manifold: $(VENV)/.test
	$(PIP) -e '.[manifold]'
	touch $@

$(VENV)/.browser: $(VENV)/.test
	$(PIP) -e '.[browser]'
	touch $@

$(VENV)/.bench: $(VENV)/.core
	$(PIP) -e '.[bench]'
	touch $@

$(VENV)/.mutation: $(VENV)/.test
	$(PIP) -e '.[mutation]'
	touch $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) -e '.[docs]'
	touch $@

demo: $(VENV)/.core
	$(BIN)/nearfold demo

# Tests share the cores best as processes of one thread each; those of the wheel use all threads.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
ALL_CORES := -n auto --maxprocesses 8

# With COVERAGE=1, `make test` counts lines and `make test-databases` adds its own: at least 95% together.
ifdef COVERAGE
COUNTED := --cov=nearfold --cov-report=
ADDED := --cov=nearfold --cov-append --cov-report=term:skip-covered --cov-fail-under=95
endif

test: $(VENV)/.test
	$(ONE_THREAD) $(BIN)/python -m pytest $(ALL_CORES) $(COUNTED)
	$(BIN)/python -m pytest -m wheel

# The same tests as on a processor of another make: OpenBLAS is told to use kernels that are not its choice here.
OTHER_KERNEL := $(if $(filter Sandybridge,$(OPENBLAS_CORETYPE)),Nehalem,Sandybridge)
test-other-kernel: $(VENV)/.test
	OPENBLAS_CORETYPE=$(OTHER_KERNEL) $(ONE_THREAD) $(BIN)/python -m pytest $(ALL_CORES)

test-torch: $(VENV)/.torch
	$(BIN)/python -m pytest -m torch

test-manifold: $(VENV)/.manifold
	$(BIN)/python -m pytest -m manifold

test-databases: $(VENV)/.databases
	$(BIN)/python -m pytest -m databases $(ADDED)

# Needs Chromium on the PATH (Debian's package chromium).
test-browser: $(VENV)/.browser
	$(BIN)/python -m pytest -m browser

coverage:
	$(MAKE) test test-databases COVERAGE=1

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzzing --files 100000

mutants: $(VENV)/.mutation
	$(BIN)/python benchmarks/mutants.py --measure

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Warnings are errors: a link to nowhere, a page in no menu, a name without a docstring. Then every block runs.
docs: $(VENV)/.docs $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python -m pytest -m docs

figures: $(VENV)/.docs
	$(BIN)/python docs/figures/make.py

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# DATA is a folder with the vectors that benchmarks/README.md names.
DATA ?= ../shared/data
bench: $(VENV)/.torch $(VENV)/.manifold $(VENV)/.bench
	$(BIN)/python benchmarks/page.py --data $(DATA)
	$(BIN)/python benchmarks/quality.py --data $(DATA)
	$(BIN)/python benchmarks/speed.py --data $(DATA)
	$(BIN)/python benchmarks/paper.py --data $(DATA)
	$(BIN)/python benchmarks/objective.py --data $(DATA)
	$(BIN)/python benchmarks/codes.py --data $(DATA) --bytes 24 48
	$(BIN)/python benchmarks/plans.py --data $(DATA)
	$(BIN)/python benchmarks/search.py --data $(DATA)
	$(BIN)/python benchmarks/queries.py --data $(DATA)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
