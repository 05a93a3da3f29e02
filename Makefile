# Every target does its own set-up: a .venv with the pinned, hashed packages of requirements.lock.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
WITH_APP := $(VENV)/.app
# Of the page.
PORT ?= 7860
# Short tests gain nothing from two threads each when two of them run side by side.
WORKERS ?= 2
# Of the ablation: the corpus (synthetic or grid), seeds of each variant, and the variants (empty: all; else a,b,c).
DATA ?= synthetic
SEEDS ?= 3
VARIANTS ?=

# The corpus of make stage1-report: synthetic or grid.
STAGE1 ?= synthetic
# The end of a pipeline's name that a corpus stands for: nothing, or _grid.
corpus = $(addprefix _,$(filter-out synthetic,$(1)))

# The sweep of make grid-results: grid (two cores) or grid_gpu.
RECIPE ?= $(if $(shell command -v nvidia-smi),grid_gpu,grid)

.PHONY: help install app demo grid ablation stage1-report grid-results results check-results benchmark test test-avx2 lint format clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

install: $(INSTALLED) ## Make .venv and install the pinned packages

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed: install one, or name it with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# gradio asks for an older pillow than the rest has; the lock overrules it, and pip must not ask again (--no-deps).
$(WITH_APP): $(INSTALLED) requirements-app.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-app.lock
	@touch $@

app: $(WITH_APP) ## A page on this machine to make videos on: http://127.0.0.1:7860 (PORT=)
	$(RUN) scripts/app.py port=$(PORT)

demo: $(INSTALLED) ## A corpus on the spot, the shipped weights fine-tuned on it -> outputs/demo/report.md (FROM=nothing)
	$(RUN) scripts/pipeline.py pipeline=demo$(if $(filter nothing,$(FROM)),_from_nothing)

grid: $(INSTALLED) ## All from nothing on real people: make grid GRID=folder-of-the-GRID-corpus
	@test -n "$(GRID)" || { echo "Name the corpus folder: make grid GRID=..."; exit 1; }
	$(RUN) scripts/pipeline.py pipeline=demo_grid 'data.root="$(GRID)"'

stage1-report: $(INSTALLED) ## Stage 1 in figures -> outputs/stage1/report.md (STAGE1=grid GRID=folder: real people)
	$(RUN) scripts/pipeline.py pipeline=stage1$(call corpus,$(STAGE1)) $(if $(GRID),'data.root="$(GRID)"')

ablation: $(INSTALLED) ## Variants x seeds -> tables 1, 3, 4: DATA=synthetic SEEDS=3 VARIANTS=synctalklip,no_lip
	$(RUN) scripts/pipeline.py pipeline=ablation$(call corpus,$(DATA)) seeds=$(SEEDS) $(if $(VARIANTS),'sweep=[$(VARIANTS)]') \
		$(if $(GRID),'data.root="$(GRID)"')

grid-results: $(INSTALLED) ## All runs behind RESULTS.md, then RESULTS.md: make grid-results GRID=folder
	@test -n "$(GRID)" || { echo "Name the corpus folder: make grid-results GRID=..."; exit 1; }
	$(RUN) scripts/pipeline.py pipeline=results 'data.root="$(GRID)"' sweep_recipe=$(RECIPE)

results: $(INSTALLED) ## RESULTS.md again from data/results, without any run
	$(RUN) scripts/pipeline.py pipeline=results write=true collect=false data.root=GRID

check-results: $(INSTALLED) ## The shipped weights measured again: make check-results GRID=folder
	@test -n "$(GRID)" || { echo "Name the corpus folder: make check-results GRID=..."; exit 1; }
	$(RUN) scripts/check_results.py 'data.root="$(GRID)"'

benchmark: $(INSTALLED) ## Speed: parts against their naive forms, whole steps, inference -> outputs/benchmark
	$(RUN) scripts/benchmark.py stage1
	$(RUN) scripts/benchmark.py stage2
	$(RUN) scripts/benchmark.py inference

test: $(WITH_APP) ## The test suite (at most 10 minutes on 2 cores)
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS)

test-avx2: $(INSTALLED) ## The tests that train, as a machine without AVX-512 and bf16 runs them
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(WORKERS) -m trains

lint: $(WITH_APP) ## Check style, the order of imports, and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(INSTALLED) ## Mend what `make lint` finds, where a tool can
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean: ## Remove what demo, ablation and stage1-report made: outputs and the embedded corpora
	rm -rf outputs/demo outputs/demo_from_nothing outputs/ablation_* outputs/stage1 data/synthetic data/stage1 data/prepared/synthetic data/prepared/stage1
