# make demo and make test set everything up on a fresh machine: a virtual environment with the tested versions.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow test-gpu reliability soak bench bench-scoring bench-calibrators lint format schema figures study notebooks \
	docker-check docker-build clean

demo: $(READY)
	$(BIN)/medcalib demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-gpu: $(READY)
	$(BIN)/python -m pytest tests/gpu tests/ops/test_triton.py -k "not interpreted and not machine_code"

# every fault of tests/fault_list.py, the slow ones too; writes docs/reliability.md
reliability: $(READY)
	$(BIN)/python -m pytest -m fault --faults build/faults.json; code=$$?; \
	$(BIN)/python docs/reliability.py build/faults.json; exit $$code

# 2,000 cases scored while processes are killed at random moments, against an undisturbed run: some 15 minutes alone
soak: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/soak.py

bench: $(READY)
	$(BIN)/medcalib bench losses --ledger tests/benchmarks/ledger.csv
	$(BIN)/python tests/benchmarks/loss_memory.py

bench-scoring: $(READY)
	$(BIN)/python tests/benchmarks/scoring.py

bench-calibrators: $(READY)
	$(BIN)/python tests/benchmarks/calibrators.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(READY)
	$(BIN)/medcalib schema --out configs/medcalib.schema.json

figures: $(READY)
	$(BIN)/python docs/figures.py

# about five minutes on one core; `python -m estimators --redraw` redraws page and figures from the numbers
study: $(READY)
	OMP_NUM_THREADS=1 PYTHONPATH=docs/studies $(BIN)/python -m estimators

notebooks: $(READY)
	$(BIN)/python docs/notebooks.py
	$(BIN)/python -m pytest tests/test_notebooks.py

docker-check: $(READY)
	$(BIN)/python -m pytest tests/test_docker.py

# a real build without a daemon, and a run of what it built; needs root, buildah and debootstrap
docker-build:
	docker/trial.sh "$${TMPDIR:-/tmp}/medcalib-image"

# torch goes first: on a machine with a CUDA card choose its build with TORCH_INDEX, for example
#   make TORCH_INDEX=<the index of the CUDA build> demo
$(READY): pyproject.toml constraints.txt docker/install.sh $(wildcard medcalib/ops/csrc/*)
	PYTHON="$(PYTHON)" TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" docker/install.sh $(VENV) --editable ".[report,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
