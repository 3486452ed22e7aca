# `make help` lists the targets. PYTHON names the interpreter the environment is made from (3.11 or newer).
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
# The programs of an environment name its folder: after a move or a copy of the project it is made anew.
ifneq ($(shell cat $(READY) 2> /dev/null),$(CURDIR))
.PHONY: $(READY)
CLEAR := --clear
endif
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Files keep their order: by their number of tests, those of few and long ones would come last, one process waiting.
PYTEST := --numprocesses auto --dist loadfile --no-loadscope-reorder
# Temporary files of tests lie in memory where it has room for them: databases then wait for no disk.
export PYTEST_DEBUG_TEMPROOT ?= $(shell df --output=avail /dev/shm 2> /dev/null | awk 'NR == 2 && $$1 > 4e6 { print "/dev/shm" }')
# One process more than there are cores: tests wait for programs that they start, for databases and for locks.
export PYTEST_XDIST_AUTO_NUM_WORKERS ?= $(shell expr $$(nproc 2> /dev/null || echo 1) + 1)
export PYTHONUNBUFFERED := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: help repro test test-nightly test-quick check format docs tour screenshots bench bench-full calibration growth ui env clean
.DEFAULT_GOAL := repro

help:                    ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

repro: $(READY)          ## raw images to the comparison of all variants
	@cave check
	@dvc repro
	@cave link

test: $(READY)           ## all but what takes longest; test-nightly has the rest
	@python -m pytest $(PYTEST)

test-nightly: $(READY)   ## every test with all its variations: more than 100 kills, PostgreSQL at every step
	@CAVE_NIGHTLY=1 python -m pytest $(PYTEST)

test-quick: $(READY)     ## the tests that start no process and train next to nothing
	@python -m pytest $(PYTEST) -m "not slow"

check: $(READY)          ## linter, formatter, type checker
	@ruff check .
	@ruff format --check .
	@mypy

format: $(READY)         ## what the linter and the formatter can correct by themselves
	@ruff check --fix .
	@ruff format .

docs: $(READY)           ## the comments of params.yaml, docs/parameters.md, and the figure of docs/architecture.md
	@cave params --write
	@python -m tests.rooms

tour: $(READY)           ## docs/tour.md and its pictures, from the results of experiments/shadows
	@python -m experiments.shadows.tour

screenshots: $(READY)    ## docs/images of MLflow, the report and the terminal, from the finished default study
	@python -m experiments.screenshots.take

bench: $(READY)          ## speed as ratios, beside the kept ones: 3 minutes on two quiet cores
	@python experiments/speed/measure.py

bench-full: $(READY)     ## the same, larger, and against pythae and JAX, in an environment of their own
	@python experiments/speed/measure.py --full

calibration: $(READY)    ## the spread of repeated measurements against their printed errors, on digits and MNIST
	@python experiments/calibration/measure.py digits
	@python experiments/calibration/measure.py mnist

growth: $(READY)         ## how time and memory grow with images, depth, width, draws and trials: table and figure
	@python experiments/speed/growth.py

ui: $(READY)             ## the MLflow UI, on this machine alone
	@cave ui

env: $(READY)            ## the environment in .venv, which every target makes where it is missing

# torch first and by its pin: another package would bring a build of its own choice.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
ifdef CLEAR
	@test ! -s $(READY) || echo "the environment in $(VENV) was made for $$(cat $(READY)), and not for this folder"
	@test ! -L $(VENV) || rm $(VENV)
endif
	@echo "making the environment in $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(CLEAR) $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@pwd -P > $(READY)

clean:                   ## what can be made again: caches, but not results or what MLflow lacks
	find .cache -mindepth 1 -maxdepth 1 ! -name runs ! -name outbox -exec rm -rf {} + 2> /dev/null || true
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
