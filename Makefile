# make demo, make test: each works as the first command on a fresh machine (Python 3.11+, a C++20 compiler).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
NATIVE := $(shell find kernels -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt)

.PHONY: setup servers demo test lint bench conformance chart chart-package wheelhouses e2e-containers clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt scikit-build-core nanobind cmake ninja
	$(PIP) install -c constraints.txt --no-build-isolation -e ".[worker,onnx,postgres,redis,dev]"
	touch $@

# PostgreSQL and Redis for the tests: found, or installed as Debian packages. The tests start and stop them.
servers:
	tests/servers/install.sh

demo: setup
	$(BIN)/python tests/demo.py

test: setup servers
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m kernels.bench
	$(BIN)/python -m kernels.bench.peers
	$(BIN)/python tests/benchmarks/peak_memory.py

conformance: setup
	PYTHONPATH=. $(BIN)/python tests/conformance/run.py
	for part in architectures tokenizing mixes quality requantizing; do \
		PYTHONPATH=. $(BIN)/python tests/conformance/llama_cpp/$$part.py || exit 1; \
	done

# The chart's values.schema.json and the table in its README, from helm/model and values.yaml.
chart: setup
	$(BIN)/python -m helm.model

# build/chart/quantmill-VERSION.tgz; the same files give the same bytes.
chart-package: setup
	$(BIN)/python -m helm.package build/chart

# What images are built from, without network: build/images/service and build/images/worker (docs/containers.md).
wheelhouses: setup
	$(BIN)/python images/wheelhouse.py service build/images/service
	$(BIN)/python images/wheelhouse.py worker build/images/worker

# Builds the images and runs them with podman and runc; says what is missing where it cannot.
e2e-containers: setup servers
	PYTHONPATH=.:tests $(BIN)/python tests/e2e/containers.py

clean:
	rm -rf $(VENV) build .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
