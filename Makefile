# `make train` and `make test` do all the set-up: a virtual environment in .venv with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
CONSTRAINTS ?= constraints.txt
UV := $(shell command -v uv)
# A process for each core and one thread for each process: threads of several processes would wait for each other spinning.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

.PHONY: install train test test-all lint clean project

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
ifdef UV
	$(UV) venv --quiet --allow-existing --seed --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --constraint $(CONSTRAINTS) --editable ".[dev]"
else
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable ".[dev]"
endif
	touch $@

train: install  ## make train ARGS="optimizer=sgd lr=0.1"
	$(BIN)/python train.py $(ARGS)

test: install
	$(PYTEST) $(ARGS)

test-all: install
	$(PYTEST) -m "not gpu" $(ARGS)

lint: install
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

project: install  ## make project NAME=shapes: the template becomes yours (docs/customizing.md)
	$(BIN)/python scripts/make_project.py $(NAME)
	$(BIN)/python -m pip uninstall --quiet --yes lithydra
	$(MAKE) install
	-$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
