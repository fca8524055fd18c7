# Each target works on a fresh machine with Python 3.10 or newer and a package index, and nothing else.
PYTHON ?= python3
BIN := .venv/bin
# Bytecode is kept, whatever the machine says: with it torch is imported in half the time.
export PYTHONDONTWRITEBYTECODE :=
.PHONY: demo test test-oldest check mutants faults faults-full format lock clean

# The environment: uv, itself installed by pip, brings everything in about half a minute.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev]'
	touch $@

demo: .venv/ready
	$(BIN)/python examples/demo.py

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# The oldest versions that pyproject.toml allows; without ONNX, whose export needs a newer torch.
test-oldest:
	$(PYTHON) -m venv build/oldest
	build/oldest/bin/pip install --quiet --disable-pip-version-check uv
	build/oldest/bin/uv pip install --quiet --python build/oldest/bin/python --resolution lowest-direct -e '.[test]'
	OMP_NUM_THREADS=1 build/oldest/bin/python -m pytest -n 2 --dist loadfile --ignore=tests/faults $(ARGS)

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# What a run survives: a sample of every fault in some twenty minutes, and the figures of docs/reliability.md in up to two hours.
faults: .venv/ready
	FAULTS=sample OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/faults
	$(BIN)/python tests/mutants/run.py --today

faults-full: .venv/ready
	rm -f build/faults.jsonl
	FAULTS=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile tests/faults
	$(BIN)/python tests/faults/table.py

mutants: .venv/ready
	$(BIN)/python tests/mutants/run.py

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Exact versions and hashes for every Python from 3.10 on; nothing younger than a week, by when a bad release is mostly found.
lock: .venv/ready
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate --exclude-newer '7 days' --extra dev --upgrade --output-file requirements-lock.txt pyproject.toml

clean:
	rm -rf .venv build dist *.egg-info src/*.egg-info
