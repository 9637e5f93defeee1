# Needs git, make and Python 3.11 to 3.14. Everything is installed into .venv, as pinned in requirements.lock;
# `make PYTHON=/path/to/python3.12` chooses the Python, `make UV=/path/to/uv` the installer.

VENV := .venv
BIN := $(VENV)/bin

export PYTHON UV
export UV_HTTP_TIMEOUT ?= 300
# Waiting OpenMP threads that spin take the cores from Numba's, and on two cores that is half of the machine.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast lint format docs docs-cards docs-cli docs-figures view lock clean

help:  ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

install:  ## install into .venv; with extras: make install EXTRAS=view,onnx
	.ci/install.sh $(EXTRAS)
	@touch $(VENV)/.installed

demo: $(VENV)/.installed  ## every cell of the sample slide, into demo/
	$(BIN)/celldetr demo -o demo --overwrite
	@find demo -name summary.html -exec echo "Open {}" \;
	@echo "Look at its cells in the browser, and teach types (needs the extra view: make install EXTRAS=view):"
	@echo "  $(BIN)/celldetr view demo --slides \"\$$($(BIN)/python -m celldetr.demo_slide)\" --open"

test: $(VENV)/.installed-dev  ## run all tests (minutes)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-fast: $(VENV)/.installed-dev  ## run all but the slow tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder -m "not slow"

lint: $(VENV)/.installed-dev  ## check format and style (ruff), types (mypy), layers (import-linter)
	@failed=0; \
	for check in "ruff format --check ." "ruff check ." "mypy" "lint-imports --no-logo"; do \
		echo "$$check"; $(BIN)/$$check || failed=1; \
	done; exit $$failed

format: $(VENV)/.installed-dev  ## let ruff format and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed-dev  ## build the site into site/ (open site/index.html); a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-cards: $(VENV)/.installed-dev  ## write docs/models from the cards and metrics of the models in the package
	$(BIN)/python docs/model_cards.py

docs-figures: $(VENV)/.installed-dev  ## draw the figures of the pages on concepts
	$(BIN)/python docs/figures.py

docs-cli: $(VENV)/.installed-dev  ## write docs/reference/cli.md from the commands
	$(BIN)/python docs/cli_reference.py

view:  ## bundle the page of celldetr view, after changes in view/ (needs Node)
	cd view && npm install --no-package-lock --no-audit --no-fund && npm run build

# One version a package for every supported Python and system: what is tested here is what is installed there.
lock:  ## resolve requirements.lock anew (needs uv)
	$(or $(UV),uv) pip compile --universal --fork-strategy fewest --upgrade --no-emit-index-url --no-header --no-annotate \
		--extra dev --quiet pyproject.toml --output-file requirements.lock

clean:  ## remove .venv, the demo's result, the site and caches
	rm -rf $(VENV) demo dist site .cache .pytest_cache .mypy_cache .import_linter_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: nothing is done when neither the lock nor the package's metadata changed.
$(VENV)/.installed: requirements.lock pyproject.toml
	.ci/install.sh
	@touch $@

$(VENV)/.installed-dev: requirements.lock pyproject.toml
	.ci/install.sh dev
	@touch $@ $(VENV)/.installed
