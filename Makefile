# Everything runs in .venv, which is made when it is missing; `make demo` and `make test` are all one needs.
PYTHON ?= python3
BIN := .venv/bin
# Processes of the tests, each with one core.
WORKERS ?= 2

.PHONY: demo test nightly lint bench

demo: .venv/ready-all  ## train on biased faces, see what the network looks at, repair it, compare
	$(BIN)/python -m recipes.lipstick.train

test: .venv/ready-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -ra --durations=10 --cov --cov-report=term:skip-covered

nightly: .venv/ready-dev  ## the tests that train networks for half an hour
	$(BIN)/python -m pytest -ra -m nightly

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready-dev
	$(BIN)/python benchmarks/dissection.py
	$(BIN)/python -m benchmarks.context_bias
	OMP_WAIT_POLICY=passive $(BIN)/python -m benchmarks.filter_loss
	OMP_WAIT_POLICY=passive $(BIN)/python -m benchmarks.explanatory_graph

# Installed once for each version of pyproject.toml; the part after the dash is the extra.
.venv/ready-%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[$*]"
	touch $@

# Some systems ship venv without ensurepip; their own pip can then fill the environment.
$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv || { $(PYTHON) -m venv --clear --without-pip .venv && \
		$(PYTHON) -m pip --python $(BIN)/python install pip; }
