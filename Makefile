# Needs only make and python3 (3.11-3.13) with venv; every target makes and refreshes .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
PYTEST_FLAGS ?=

.PHONY: help demo test test-graphon lint format bench soak docs lock clean
help:
	@echo "make demo    three jobs from file to picture, on a simulated ComfyUI (COMFYUI_URL=http://... for a real one)"
	@echo "make test    every test; starts the servers it needs by itself"
	@echo "make lint    ruff, mypy --strict, import rules, generated pages up to date"
	@echo "make bench   speed and memory as ratios, side by side in one run"
	@echo "make soak    the long forms of the tests"
	@echo "make test-graphon GRAPHON_PYTHON=...    the Dify flows in Dify's own engine"
	@echo "make docs    regenerate the generated parts of README.md and docs/"

# The lock is installed with hashes, then the project itself without looking at any index.
.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: .venv/ready
	@$(BIN)/handoff demo $(if $(COMFYUI_URL),--comfyui-url $(COMFYUI_URL))

test: .venv/ready
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/ready
	$(BIN)/python -m bench

soak: .venv/ready
	SOAK=1 $(BIN)/python -m pytest $(PYTEST_FLAGS)

# Dify's engine needs Python 3.12 or newer and hundreds of megabytes, so it is no part of the lock: pip install graphon==0.8.0
# into an environment of its own, and name its Python here.
test-graphon: .venv/ready
	GRAPHON_PYTHON=$(GRAPHON_PYTHON) $(BIN)/python -m pytest -n 0 tests/adapter/test_real_engine.py $(PYTEST_FLAGS)

docs: .venv/ready
	$(BIN)/python docs/generate.py

# For maintainers: needs uv. One file for every supported Python, with hashes, naming no index.
lock:
	uv pip compile --universal --generate-hashes --python-version 3.11 --all-extras \
		--no-header --no-annotate --no-emit-index-url pyproject.toml -o requirements.lock

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
