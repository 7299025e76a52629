# make install  set up everything into .venv, which the others do first
# make demo     run the whole chain on a synthetic season (offline once set up)
# make test     run all tests
# make check    what .ci/run runs: tests, lint, types, import contracts

# TORCH_INDEX=URL takes torch from another index of wheels: on Linux that of the CPU builds, which pytorch.org/get-started
# names, saves gigabytes of CUDA.

PYTHON ?= python3
TORCH_INDEX ?=
VENV   ?= .venv
BIN    := $(VENV)/bin
SOURCES := setup.py pyproject.toml constraints.txt $(shell find csrc -type f 2>/dev/null)
PIP    := PIP_CONSTRAINT="$(CURDIR)/constraints.txt" $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: install demo test fast lint types imports check clean

install: $(VENV)/installed

demo: $(VENV)/installed
	$(BIN)/eokit demo --overwrite

test: $(VENV)/installed $(VENV)/triton
	$(BIN)/python -m pytest -n auto --dist loadfile

fast: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow"

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy

imports: $(VENV)/installed
	$(BIN)/lint-imports --no-cache

check: test lint types imports

# torch comes first and alone, so that the extension is compiled against the very torch that will load it.
$(VENV)/torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install setuptools wheel pybind11 ninja numpy torch $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	touch $@

# One install for demo, tests and checks: a second one would compile the extension again.
$(VENV)/installed: $(VENV)/torch $(SOURCES)
	$(PIP) install --no-build-isolation --editable '.[dev]'
	touch $@

# For the tests of the GPU kernels alone, which need no GPU; half a gigabyte that a demo can do without.
$(VENV)/triton: $(VENV)/installed
	$(PIP) install --no-deps triton || echo 'no Triton for this system: the tests of its kernels are skipped'
	touch $@

clean:
	rm -rf build *.egg-info eokit/*.so $(VENV)
