# Every target works on a bare machine with Python >= 3.11, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo demo-llm evidence test test-slow check bench format clean

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Pairmill needs Python 3.11 or newer; this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet -e '.[train,serve,gguf,dev]'
	touch $@

demo: $(BIN)/.installed  ## the whole line on the embedded models, under five minutes
	$(BIN)/python examples/arithmetic/demo.py

demo-llm: $(BIN)/.installed  ## a real chat model as policy and as judge, about five minutes
	$(BIN)/python examples/llm/demo.py

evidence: $(BIN)/.installed  ## four versions of the embedded policy's pairs against each other, over seeds
	$(BIN)/python examples/arithmetic/evidence.py

test: $(BIN)/.installed  ## under ten minutes on two cores
	$(PYTEST) -n 2 --dist worksteal

test-slow: $(BIN)/.installed  ## servers, trainers, browsers
	$(PYTEST) -m slow --timeout 900

check: $(BIN)/.installed  ## what CI runs first
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

format: $(BIN)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(BIN)/.installed  ## JSON lines, one a measurement
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet -e '.[bench]'
	@for name in demo publish sampling overhead tree verifiers search step_data judging votes dedup selection nested_subsets views plan nightly; do $(BIN)/python benchmarks/$$name.py || exit 1; done

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
