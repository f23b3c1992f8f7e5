# demo, test, test-lowest and check each do all of their own set-up. PYTHON may name another interpreter (3.11 or 3.12).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# An environment of the lowest versions that are allowed.
LOWEST := .venv-lowest

.PHONY: demo test test-slow test-lowest check docs gpu base shards install clean

install: $(INSTALLED)

# torch first, and alone: asked for together with the rest a resolver may take the newest build and its gigabytes of CUDA
define make_environment
@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found: install Python 3.11 or 3.12, or name it: make PYTHON=python3.12" >&2; exit 1; }
$(PYTHON) -m venv $(@D)
$(@D)/bin/pip install --quiet --disable-pip-version-check -c $(word 2,$^) torch
$(@D)/bin/pip install --quiet --disable-pip-version-check -c $(word 2,$^) -e ".[dev]"
@touch $@
endef

$(INSTALLED): pyproject.toml constraints.txt
	$(make_environment)

$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	$(make_environment)

demo: $(INSTALLED)
	$(BIN)/python -m janus_train.demo.run_demo --out outputs/demo

# Two processes, for two cores. By file, so that what a module sets up is set up once; in the order of tests/conftest.py,
# which has the longest files first, and not by their numbers of tests, by which a long file of few tests would come last.
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)
	$(PYTEST)

# What takes minutes. BUDGET=1200 skips, by name, those that would start later than 1200 s after the beginning.
test-slow: $(INSTALLED)
	$(PYTEST) -m slow -rs $(if $(BUDGET),--time-budget=$(BUDGET))

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

# The fast tests, or TESTS="folders", with the lowest versions that pyproject.toml allows. On a CPU torch stays as it is (constraints-lowest.txt).
test-lowest: $(LOWEST)/.installed
	$(subst $(BIN),$(LOWEST)/bin,$(PYTEST)) $(if $(BUDGET),-rs --time-budget=$(BUDGET)) $(TESTS)

# The documentation as a site in site/. A broken link or a page that is left out of the menu fails it.
docs: $(INSTALLED)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

# Checks and measures on this machine's GPU, in 9 minutes. Without a network: bash benchmarks/gpu/run.sh
gpu: $(INSTALLED)
	$(BIN)/python -m benchmarks.gpu

# What `demo` starts from: the shards from their npm packages, and the base from the shards.
shards: $(INSTALLED)
	$(BIN)/python -m janus_train.demo.build.shards

base: $(INSTALLED)
	$(BIN)/python -m janus_train.demo.build.base --out data_recipes/demo/base

clean:
	rm -rf $(VENV) $(LOWEST) outputs site
