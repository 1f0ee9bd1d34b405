# Every target works from a fresh clone: the first one builds .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
BENCH_STAMP := .venv/.installed_bench
NAMES ?=
ROWS ?=
# One worker a core, one thread a worker: with more threads they wait for each other. An idle worker
# takes over what another has not begun, or a row of notebooks would keep one core waiting.
WORKERS ?= 2
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help run test lint lab notebooks bench clean distclean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

run: $(STAMP) ## Run every recipe's fit and write the report
	@$(BIN)/pyro-cookbook run

test: lint ## Check style and types, then run every test
	@$(ONE_THREAD) $(BIN)/pytest -n $(WORKERS) --dist worksteal

lint: $(STAMP) ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

lab: $(STAMP) ## Open the recipes in JupyterLab
	@$(BIN)/jupyter lab recipes

notebooks: $(STAMP) ## Rebuild the notebooks, or some: make notebooks NAMES="04b_calculus_of_variations"
	@$(BIN)/python -m pyro_cookbook.publish.notebooks $(NAMES)

bench: $(BENCH_STAMP) ## Time beside peers, or some rows: make bench ROWS="mean_field em"
	@$(BIN)/python -m benchmarks $(ROWS)

clean: ## Remove results and caches
	@rm -rf results build *.egg-info .pytest_cache .mypy_cache .ruff_cache
	@find . -path ./.venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

distclean: clean ## Remove .venv too
	@rm -rf .venv

# The stamp is written last, so an interrupted install is taken up again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null \
		|| { echo "Python 3.12 or newer is needed ($(PYTHON) is not): make PYTHON=python3.13 ..." >&2; exit 1; }
	@echo "Setting up .venv (the first time takes some minutes) ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --disable-pip-version-check --editable '.[dev]'
	@touch $@

# The peers of the benchmark, which nothing else needs.
$(BENCH_STAMP): $(STAMP)
	@echo "Installing what is timed beside (NumPyro, PyMC) into .venv ..."
	@$(BIN)/pip install -qq --disable-pip-version-check --editable '.[bench]'
	@touch $@
