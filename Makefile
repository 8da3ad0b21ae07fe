# Set-up and the jobs of the project. `make test` and `make demo` need nothing but Python >= 3.10, g++ and
# (for the CUDA library, optional) nvcc.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
SOURCES = setup.py pyproject.toml requirements.txt requirements-demo.txt $(shell find kernels -type f)

.PHONY: setup test lint format demo bench compat sanitize levels clean

setup: $(VENV)/.built$(MYOPS_WERROR)

$(VENV)/.installed: requirements.txt requirements-demo.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-demo.txt
	touch $@

$(VENV)/.built$(MYOPS_WERROR): $(VENV)/.installed $(SOURCES)
	$(BIN)/python -m pip install --disable-pip-version-check --no-build-isolation --no-deps --verbose -e . \
		| sed -n '/myops:/p; /warning *:/p; /error/p; /FAILED/p'
	$(BIN)/python -c "import myops; print('myops:', myops.build_info())"
	touch $@

# A file of tests for each process at a time. Threads that wait must not spin on the cores that the others need.
test: setup
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu' '*.cuh')

demo: setup
	$(BIN)/python -m benchmarks.demo

bench: setup
	$(BIN)/python -m myops.bench dense

# The wheel built against the pinned torch, run under the oldest and the newest torch (CUDA builds: 5 GB each).
COMPAT ?= 2.11.0 2.15.0
compat: setup
	rm -rf dist build/lib* && $(BIN)/python -m build --wheel --no-isolation
	for version in $(COMPAT); do \
		{ test -x .venv-$$version/bin/python || { $(PYTHON) -m venv .venv-$$version && \
		.venv-$$version/bin/python -m pip install --quiet torch==$$version numpy pytest expecttest ninja setuptools; }; } && \
		./tests/compat.sh .venv-$$version/bin/python dist/*.whl || exit 1; \
	done

sanitize: setup
	./tests/sanitize.sh $(BIN)/python

levels: setup
	./tests/levels.sh $(BIN)/python

clean:
	rm -rf build dist .build *.egg-info myops/*.so $(VENV)/.built*
