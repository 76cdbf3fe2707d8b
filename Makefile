# Everything a newcomer needs; each target makes the virtual environment first where it is missing.
FITS := import ensurepip, sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for name in python3.12 python3.13 python3.11 python3.14 python3; do $$name -c "$(FITS)" 2>/dev/null && echo $$name && break; done)
OUT ?= runs
ARGS ?=
BIN := .venv/bin

.PHONY: setup study scaling notebook docs test check lint types gpu-check
setup: .venv/ready

.venv/ready: pyproject.toml requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 to 3.14 is needed; name one with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python $(if $(TORCH),--torch-backend $(TORCH)) \
		--constraint requirements.txt --editable ".[dev]"
	touch .venv/ready

study: setup  ## the quickstart: a front on digits within minutes
	$(BIN)/cfamc tune --space quickstart.yaml --out $(OUT) $(ARGS)

scaling: setup  ## how the machine's work and the learning grow, and how a budget is best split, on digits
	$(BIN)/cfamc scale --space scaling.yaml --out $(OUT) $(ARGS)

notebook: setup  ## docs/notebook.ipynb, executed in a copy
	mkdir -p $(OUT)/notebook && cp docs/notebook.ipynb $(OUT)/notebook/
	$(BIN)/jupyter execute --inplace $(OUT)/notebook/notebook.ipynb

docs: setup  ## the documentation as a site in site/; ARGS=serve shows it on this machine and follows changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build)

test: setup
	$(BIN)/python -m pytest $(ARGS)

gpu-check: setup  ## whether trials and evaluations would fail, or wait for the host, on a GPU; without one
	$(BIN)/python -m benchmarks.gpu_check $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

check: lint types test
