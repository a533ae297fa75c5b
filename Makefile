# Every target sets up what it needs: a virtual environment in $(VENV) with the versions of constraints.txt.
#
#   make run [CONFIG=path[:arg]] [WORKDIR=dir] [ARGS="--config.key=value ..."]
#   make test | test-fast | lint | format | venv | clean
#   make notebooks [NOTEBOOKS=notebooks/screen.py]
#   make docs | linkcheck | package
#   make test-faults [ARGS="--kills=42"]
#   make bench [SCRIPT=step_time] [ARGS="--flag=value ..."]

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= experiments/configs/simulated.py
WORKDIR ?=
ARGS ?=
SCRIPT ?= step_time two_sample
JOBS ?= 2
NOTEBOOKS ?= notebooks/*.py

EXTRAS ?= dev

BIN := $(VENV)/bin
comma := ,
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
# a file stays in one process: its fixtures train once; in the order of tests/conftest.py
PARALLEL := -n $(JOBS) --dist loadfile --no-loadscope-reorder
REQUIREMENTS := pyproject.toml constraints.txt
# as jupyter-execute does, without the times of day in every cell
EXECUTE := import sys, nbformat, nbclient; notebook = nbformat.read(sys.argv[1], 4); \
    nbclient.NotebookClient(notebook, record_timing=False).execute(); nbformat.write(notebook, sys.argv[1])

.PHONY: help venv extras run test test-fast test-faults lint format bench notebooks docs linkcheck package clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#  *make/make/p' Makefile

run: $(VENV)/core.stamp
	$(BIN)/python experiments/run.py --config=$(CONFIG) $(if $(WORKDIR),--workdir=$(WORKDIR)) $(ARGS)

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-fast: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

# Runs and sweeps are killed at all sorts of moments; a quarter of an hour.
test-faults: $(VENV)/dev.stamp
	$(BIN)/python experiments/lab/faults.py $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/bench.stamp
	set -e; for script in $(SCRIPT); do $(BIN)/python experiments/benchmarks/$$script.py $(ARGS); done

# In the order that leaves no long one for last.
notebooks: $(VENV)/notebooks.stamp
	printf '%s\n' $(NOTEBOOKS) | sort -r | sed 's/\.py$$//' | xargs -P $(JOBS) -I{} sh -ec '\
	    $(BIN)/jupytext --quiet --to ipynb --update --set-kernel python3 {}.py; \
	    $(BIN)/python -c "$(EXECUTE)" {}.ipynb'

docs: $(VENV)/docs.stamp
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	$(BIN)/python docs/check.py docs/_build/html
	@echo "The site: docs/_build/html/index.html"

# Pages of others; needs a network.
linkcheck: $(VENV)/docs.stamp
	$(BIN)/sphinx-build -q -b linkcheck docs docs/_build/linkcheck

# The wheel is built from the source archive, so that both are tried.
package: $(VENV)/package.stamp
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist

venv: $(VENV)/dev.stamp

# Several extras at once, make extras EXTRAS=dev,docs: pip looks at everything once, and not once for each.
extras: $(VENV)/core.stamp
	@echo "installing the extras $(EXTRAS) into $(VENV)"
	@$(INSTALL) --editable '.[$(EXTRAS)]'
	@touch $(foreach extra,$(subst $(comma), ,$(EXTRAS)),$(VENV)/$(extra).stamp)

# One stamp per extra, so that a run does not wait for the tools of a developer.
$(VENV)/core.stamp: $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "pdae_jax needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	         "Pass PYTHON=<path of a newer one>, for example make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing pdae_jax into $(VENV) (a minute or two, once)"
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/%.stamp: $(VENV)/core.stamp
	@echo "installing the extra '$*' into $(VENV)"
	@$(INSTALL) --editable '.[$*]'
	@touch $@

# Run folders stay.
clean:
	rm -rf $(VENV) build dist docs/_build docs/api/generated docs/notebooks .hypothesis .pytest_cache .ruff_cache
	find pdae_jax experiments tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
