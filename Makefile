# Two commands do everything from a bare checkout: `make demo` and `make test`.
# TORCH=skip keeps the torch that the base Python already has (GPU machines: install torch for your driver first).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= pinned
BIN := .venv/bin
READY := .venv/ready

ifeq ($(TORCH),skip)
VENV_FLAGS := --system-site-packages
TORCH_PIN := true
else
TORCH_PIN := $(BIN)/pip install --quiet --constraint .venv/constraints.txt torch
endif

export TOKENIZERS_PARALLELISM = false

.PHONY: help setup torchdrug demo test test-slow bench check fix build clean

help: ## Show what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## Make the environment .venv and install everything into it

$(READY): pyproject.toml setup.py constraints.txt
	@rm -f $(READY)
	$(PYTHON) -m venv $(VENV_FLAGS) .venv
	@if [ "$(TORCH)" = skip ]; then grep -v '^torch==' constraints.txt; else cat constraints.txt; fi > .venv/constraints.txt
	$(TORCH_PIN)
	$(BIN)/pip install --quiet --constraint .venv/constraints.txt --editable '.[dev]'
	@touch $(READY)

# The second structure backend replaces torch.nn.Module when it is imported, so it gets an environment of its own. torch
# comes first: torch-scatter and torch-cluster are built against it. torchdrug's bounds (Python < 3.11, rdkit-pypi) are
# older than what it runs with; RDKit must still have mplCanvas. MAX_JOBS: each compiler takes 1 GB.
TORCHDRUG := .venv-torchdrug
TORCHDRUG_PIP := $(TORCHDRUG)/bin/pip install --quiet --constraint constraints-torchdrug.txt
torchdrug: $(TORCHDRUG)/ready ## Make the environment of the second structure backend (compiles for some minutes)

$(TORCHDRUG)/ready: constraints-torchdrug.txt
	@rm -f $@
	$(PYTHON) -m venv $(TORCHDRUG)
	$(TORCHDRUG_PIP) torch numpy setuptools wheel ninja
	MAX_JOBS=2 $(TORCHDRUG_PIP) --no-build-isolation --no-deps torch-scatter torch-cluster
	$(TORCHDRUG_PIP) --no-deps --ignore-requires-python torchdrug
	$(TORCHDRUG_PIP) rdkit decorator matplotlib tqdm networkx jinja2 lmdb fair-esm scipy
	$(TORCHDRUG)/bin/python -I featurize/encoders/torchdrug_script.py --prepare
	@touch $@

DEMO := demo
demo: $(READY) ## Go the whole way on a synthetic proteome: files, features, pretraining, analysis, fine-tuning, predictions
	rm -rf $(DEMO)
	$(BIN)/amma-manifest toy $(DEMO)/data --proteins 240 --seed 1
	$(BIN)/amma-manifest build --sequences $(DEMO)/data/sequences.fasta --structures $(DEMO)/data/structures \
	  --descriptions $(DEMO)/data/descriptions.tsv $(DEMO)/proteins.parquet
	$(BIN)/amma-featurize run $(DEMO)/proteins.parquet $(DEMO)/features.zarr --preset tiny
	$(BIN)/amma-featurize verify $(DEMO)/features.zarr
	cat $(DEMO)/data/valid.txt $(DEMO)/data/test.txt > $(DEMO)/held.txt
	$(BIN)/amma-train pretrain $(DEMO)/features.zarr $(DEMO)/run --preset tiny --epochs 5 --exclude $(DEMO)/held.txt
	$(BIN)/amma-eval alignment $(DEMO)/run $(DEMO)/features.zarr $(DEMO)/alignment
	$(BIN)/amma-eval function $(DEMO)/run $(DEMO)/features.zarr $(DEMO)/report --task ec --include $(DEMO)/alignment \
	  --labels $(DEMO)/data/ec.tsv --splits $(DEMO)/data --fusion-lr 1e-4 --head-lr 1e-3 --epochs 20
	$(BIN)/amma-eval predict $(DEMO)/report $(DEMO)/data/structures $(DEMO)/predictions

test: $(READY) ## Run the tests (offline, no GPU)
	$(BIN)/pytest -q -n auto --dist loadfile

test-slow: $(READY) ## Run the tests that take minutes
	$(BIN)/pytest -v -n auto --dist loadfile -m slow --durations 20

# `make torchdrug` first, or GearNet and Fmax stand without their peer.
bench: $(READY) ## Measure: the whole way, the encoders, the store, the training step and Fmax beside their peers (half an hour)
	$(BIN)/pip install --quiet --constraint .venv/constraints.txt '.[bench]'
	rm -rf $(DEMO)/bench $(DEMO)/bench-data
	$(BIN)/amma-manifest toy $(DEMO)/bench-data --proteins 240 --seed 1
	$(BIN)/python benchmarks/whole_way.py $(DEMO)/bench-data $(DEMO)/bench
	$(BIN)/python benchmarks/encoders.py
	$(BIN)/python benchmarks/store_reads.py --folder $(DEMO)/bench-data
	$(BIN)/python benchmarks/store_writes.py $(DEMO)/bench-data
	$(BIN)/python benchmarks/index.py
	$(BIN)/python benchmarks/training_step.py --folder $(DEMO)/bench-data
	$(BIN)/python benchmarks/step_profile.py --folder $(DEMO)/bench-data
	$(BIN)/python benchmarks/fmax_speed.py

check: $(READY) ## Format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(READY) ## Format and repair what can be repaired
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

build: $(READY) ## Build sdist and wheel into dist/
	rm -rf dist build
	$(BIN)/python -m build

clean: ## Remove everything that is made here
	rm -rf .venv .venv-torchdrug demo dist build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
