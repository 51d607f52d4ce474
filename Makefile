# One environment for everything, .venv, made on first use and again when pyproject.toml or constraints.txt change.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

unexport PYTHONDONTWRITEBYTECODE  # the tests start many processes, and each would compile the package again

.PHONY: help demo test lint clean
.DELETE_ON_ERROR:

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "make demo PYTHON=python3.12 takes another Python than python3; 3.11 is the oldest that will do."

demo: $(VENV)/.installed ## train and evaluate on handwritten digits: takes minutes on two CPU cores, ends with a report
	$(RUN) train.py

test: $(VENV)/.installed-dev ## run the tests
	$(RUN) -m pytest -n 2 --dist loadfile

lint: $(VENV)/.installed-dev ## formatting, style, types, docstrings, and who may import whom
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m tests.docstrings
	$(VENV)/bin/lint-imports

clean: ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info

# The stamp is the last thing to appear: an environment without one was interrupted and is made from nothing.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "$(PYTHON) is not Python 3.11 \
	or newer; name one that is: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $$(test -f $@ || echo --clear) $(VENV)
	@rm -f $(VENV)/.installed*
	$(RUN) -m pip install --editable . --constraint constraints.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@rm -f $(VENV)/.installed*
	$(RUN) -m pip install --editable '.[dev]' --constraint constraints.txt
	@touch $(VENV)/.installed $@
