# Everything runs in .venv, which the first target you call creates. It needs Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# How many processes run tests and chapters. Each computes on one thread: for small tensors a second would only wait.
WORKERS ?= $(shell nproc 2>/dev/null || echo 2)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# Tests go to whichever process is free; the cells of a chapter stay together, in their order.
SPREAD := -n $(WORKERS) --dist worksteal
WHOLE := -n $(WORKERS) --dist loadfile

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 18

install: $(INSTALLED)  ## what everything here needs, into .venv

book: $(INSTALLED)  ## run every chapter and build the book, from scratch and strictly
	rm -rf _build
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book: $(CURDIR)/_build/html/index.html"

# Every chapter runs once, in nbval, which compares its outputs with the stored ones; the pages are built from these.
test: $(INSTALLED)  ## lint, every chapter's outputs, the tests, and the book's pages in a browser
	$(MAKE) --no-print-directory -j2 lint pages
	$(PYTEST) $(WHOLE) --nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg book
	$(PYTEST) $(SPREAD) tests

pages: $(INSTALLED)  ## build the book, as strictly, from the outputs that its chapters have stored
	rm -rf _build
	mkdir _build
	sed 's/execute_notebooks: force/execute_notebooks: "off"/; s#: book/_ext#: ../book/_ext#g' _config.yml > _build/stored.yml
	$(BIN)/jupyter-book build . --config _build/stored.yml -W -n --keep-going --quiet

notebooks: pages  ## plain copies of the chapters, which run anywhere with the installed package
	@echo "The notebooks: $(CURDIR)/_build/html/notebooks"

pdf: pages  ## the whole book on paper, solutions opened, by Chromium
	$(BIN)/python book/printing.py pdf

slides: pages  ## the figures of every chapter as slides, one page of HTML
	$(BIN)/python book/printing.py slides

quick: $(INSTALLED)  ## lint, and the core's tests with few examples: under a minute on two cores
	$(MAKE) --no-print-directory -j2 lint core

core: $(INSTALLED)  ## the core's tests with few examples
	$(PYTEST) $(SPREAD) tests/core tests/package/test_house.py -q -x -m "not slow" -p no:nbval --hypothesis-profile quick

lab: $(INSTALLED)  ## the chapters in JupyterLab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/book/intro.ipynb

lint: $(INSTALLED)  ## style, the layers of einet/, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --exclude "*.ipynb" .
	$(BIN)/lint-imports
	$(BIN)/basedpyright

dist: $(INSTALLED)  ## wheel and sdist into dist/, and the wheel tried in an empty environment
	rm -rf dist build
	$(BIN)/python -m build
	$(BIN)/python tests/package/wheel.py dist/*.whl

experiments: $(INSTALLED)  ## race einet against the other libraries on this machine
	$(BIN)/python experiments/efficiency.py --quick

clean:  ## remove what the targets made, but no data
	rm -rf _build dist build .pytest_cache .ruff_cache .import_linter_cache .hypothesis $(VENV) .venv-bench

$(INSTALLED): requirements.txt pyproject.toml
	@echo "Installing into $(VENV): a minute or more."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -r requirements.txt  # Python compiles what is imported
	touch $@

.PHONY: help install book pages notebooks pdf slides quick core test lab lint dist experiments clean
