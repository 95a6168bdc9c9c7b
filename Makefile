# Two commands: `make lab` opens the notebooks, `make test` checks everything. README.md lists the others.

PYTHON ?= python3
ARGS   ?=
VENV   := .venv
BIN    := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
PY     := $(BIN)/python
PIP    := $(PY) -m pip --disable-pip-version-check $(if $(CI),-qq)

# The stamp's name hashes all that decides what is installed: while it exists there is nothing to do.
KEY := $(shell $(PYTHON) -c "import hashlib, os, sys; from pathlib import Path; \
  parts = [Path(p).read_bytes() for p in ('pyproject.toml', 'requirements.lock')]; \
  print(hashlib.sha256(b'|'.join(parts + [sys.version.encode(), os.getcwd().encode()])).hexdigest()[:16])" 2>&1)
STAMP := $(VENV)/installed-$(if $(filter 1,$(words $(KEY))),$(KEY),unknown)

# Comparisons must not depend on how many cores there are, nor on a display.
TEST_ENV := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 MPLBACKEND=agg
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout 120 --nbval-sanitize-with tests/nbval_sanitize.cfg

.PHONY: help install lab app test stress latency notebooks figures bench check clean

help:
	@echo "make lab        install what is missing and open JupyterLab (without a display: make lab ARGS=--no-browser)"
	@echo "make app        the explorers alone, as a page without code (another port: make app ARGS='--port 9000')"
	@echo "make test       install what is missing and run every test (one file: make test ARGS=tests/test_structure.py)"
	@echo "make install    only install, into $(VENV) (with another Python: make install PYTHON=python3.12)"
	@echo "make stress     the slow tests"
	@echo "make latency    how long from a key to new pixels, for every explorer, in a headless browser (some: ARGS=\"images bits\")"
	@echo "make notebooks  run all notebooks from top to bottom and store what they print and draw"
	@echo "make figures    take figures/ out of the notebooks (after make notebooks)"
	@echo "make bench      measure the speed beside other libraries, into figures/benchmarks.md (a quiet quarter of an hour)"
	@echo "make check      does every array library give the same answers here? (a GPU: make check ARGS='--device cuda')"
	@echo "make clean      remove $(VENV) and all caches"

install: $(STAMP)
	@echo "All is installed in $(VENV): go on with make lab, or make test"

lab: $(STAMP)
	@$(PY) -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(ARGS)

app: $(STAMP)
	@$(PY) -m vqcore app $(ARGS)

test: $(STAMP)
	@$(TEST_ENV) $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(NBVAL) $(ARGS)

stress: $(STAMP)
	@$(TEST_ENV) $(PY) -m pytest -m slow tests $(ARGS)

latency: $(STAMP)
	@$(TEST_ENV) $(PY) tests/latency.py $(ARGS)

notebooks: $(STAMP)
	@$(TEST_ENV) $(PY) tests/refresh_notebooks.py $(ARGS)

figures: $(STAMP)
	@$(PY) tests/make_figures.py

# An OpenBLAS that is older than the processor, as faiss brings one, takes it for an ancient one unless it is told.
CORE := $(if $(shell grep -m1 -o avx512bw /proc/cpuinfo 2>/dev/null),OPENBLAS_CORETYPE=SkylakeX,-u OPENBLAS_CORETYPE)
BENCH_ENV := env -u OPENBLAS_L2_SIZE -u OMP_NUM_THREADS -u NUMBA_NUM_THREADS $(CORE) MPLBACKEND=agg

bench: $(STAMP)
	@mkdir -p runs
	@$(BENCH_ENV) $(PY) -m papermill -k python3 -p quick False -p folder $(if $(ARGS),runs,figures) $(ARGS) \
	  notebooks/09_benchmarks.ipynb runs/09_benchmarks.ipynb

check: $(STAMP)
	@$(PY) -m vqcore check $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis
	find vqcore tests notebooks -name __pycache__ -prune -exec rm -rf {} +

$(STAMP):
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here: install Python 3.11 or later, or name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$$($(PYTHON) --version 2>&1) is too old: Python 3.11 or later is needed. Name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "This Python cannot create virtual environments. On Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	@[ "$$($(PY) -V 2>&1)" = "$$($(PYTHON) -V 2>&1)" ] || $(PYTHON) -m venv --clear $(VENV)
	$(PIP) install -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/installed-* && touch $@
