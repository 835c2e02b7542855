# Everything runs in .venv, which the first target you call creates. It needs Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' Makefile | expand -t 18

install: $(INSTALLED)  ## what everything here needs, into .venv

book: $(INSTALLED)  ## run every chapter and build the book, from scratch and strictly
	rm -rf _build
	$(BIN)/jupyter-book build . -W -n --keep-going
	@echo "The book: $(CURDIR)/_build/html/index.html"

test: lint  ## lint, the tests, every chapter's outputs, the book, and its pages in a browser
	$(BIN)/python -m pytest tests --ignore tests/book/test_browser.py
	$(BIN)/python -m pytest --nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg book
	$(MAKE) book
	$(BIN)/python -m pytest tests/book/test_browser.py

quick: $(INSTALLED)  ## lint, and the core's tests with few examples: under a minute on two cores
	$(MAKE) --no-print-directory -j2 lint core

core: $(INSTALLED)  ## the core's tests with few examples, on one thread
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/core tests/package/test_house.py -q -x -m "not slow" -p no:nbval \
	  --hypothesis-profile quick

lab: $(INSTALLED)  ## the chapters in JupyterLab
	$(BIN)/jupyter lab book

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
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.PHONY: help install book quick core test lab lint dist experiments clean
