# Everything a contributor runs. Works on a bare machine: it makes its own virtual environment, and the tests
# install the servers they need, or say which those are. Plain `make` lists the targets.

PYTHON ?= python3#        the Python that .venv is made with
ARGS ?=#                  handed to pytest: make test ARGS="-k emit -x"
AT_ONCE ?= 4#             how many processes run make test: most tests wait for servers
FAULTS_AT_ONCE ?= 2#      how many run make test-faults FAULTS=bounded: more would disturb what is measured
FILES ?=#                 handed to the demo
FAULTS ?= full#           how long the fault tests look for trouble: full or bounded
MATRIX ?= oldest newest#  which pairs of versions make test-matrix runs
MATRIX_ARGS ?=#           handed to pytest by make test-matrix
MATRIX_PYTHON ?=#         in place of the Python that make test-matrix finds by itself
export FAULTS MATRIX_ARGS MATRIX_PYTHON

venv := .venv
python := $(venv)/bin/python
pip := $(python) -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- to see it work ---------------------------------------------------------------------------------------

.PHONY: demo
demo: $(venv)/.has-runtime ## run the example on a few documents, with no server at all
	@$(python) -m example_project.demo $(FILES)

.PHONY: example
example: $(venv)/.has-example ## start the example site, with its servers and workers (EXAMPLE_PORT=8000)
	@$(python) -m example_project.serve $(ARGS)

# --- to test it -------------------------------------------------------------------------------------------

# Thousands of processes import the package: let them not compile it each time.
unexport PYTHONDONTWRITEBYTECODE

# All tests of a file run in one process and share what they start; tests/conftest.py has the longest files begin.
by-file := --dist loadfile --no-loadscope-reorder

.PHONY: test
test: $(venv)/.has-test ## all tests but the slow ones below, against real servers
	@scripts/ensure-servers
	$(python) -m pytest --ignore=tests/faults --ignore=tests/benchmarks -n $(AT_ONCE) $(by-file) $(ARGS)

# The full form compares latencies, so nothing may run beside it.
faults-at-once = $(if $(filter bounded,$(FAULTS)),-n $(FAULTS_AT_ONCE) --dist loadfile)

.PHONY: test-faults
test-faults: $(venv)/.has-test ## kill workers and servers, and count (FAULTS=bounded: the short form)
	@scripts/ensure-servers
	$(python) -m pytest tests/faults $(faults-at-once) $(ARGS)

.PHONY: soak
soak: $(venv)/.has-test ## a constant load with kills at random; SOAK_MINUTES=20, SOAK_RATE=20: does anything grow?
	@scripts/ensure-servers
	$(python) -m tests.faults.soak

.PHONY: test-matrix
test-matrix: ## the tests on the oldest and on the newest versions of everything
	@scripts/ensure-servers
	@scripts/test-matrix $(MATRIX)

.PHONY: bench
bench: $(venv)/.has-bench ## measure against plain Celery (ARGS=engines: against other engines; --help)
	@scripts/ensure-servers
	$(python) -m tests.benchmarks $(ARGS)

# --- to check it ------------------------------------------------------------------------------------------

.PHONY: check
check: check-format check-lint check-types check-floors check-size check-docs check-dist ## all that needs no run

.PHONY: check-format check-lint check-types check-floors check-size check-docs check-dist
check-format: $(venv)/.has-check
	$(python) -m ruff format --check

check-lint: $(venv)/.has-check
	$(python) -m ruff check

check-types: $(venv)/.has-check
	$(python) -m mypy
	$(venv)/bin/pyright

check-floors: $(venv)/.has-check
	$(venv)/bin/lint-imports

check-size:
	@find celery_fanout -name '*.py' -exec wc -l {} + | awk '$$2 != "total" && $$1 > 400 \
		{ print $$2 ": " $$1 " lines; at most 400, so that a file can be read in one go"; bad = 1 } \
		END { exit bad }'

check-docs: $(venv)/.has-check
	$(venv)/bin/zensical build --clean --strict

check-dist: $(venv)/.has-check
	@rm -rf dist
	$(python) -m build --outdir dist
	$(python) scripts/check-dist dist

# --- to write about it ------------------------------------------------------------------------------------

.PHONY: docs
docs: $(venv)/.has-docs ## build the documentation into site/
	$(venv)/bin/zensical build --clean

.PHONY: timelines
timelines: $(venv)/.has-test ## draw the timelines in the documentation anew, from real runs
	@scripts/ensure-servers
	$(python) -m tests.docs.timelines

.PHONY: house
house: $(venv)/.has-test ## draw the rooms of the package anew, from the import contract
	$(python) scripts/draw-house > docs/images/the-house.svg

# --- to begin again ---------------------------------------------------------------------------------------

.PHONY: clean
clean: ## remove what was built, the environments too
	rm -rf $(venv) .matrix build dist site .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One virtual environment, and a stamp for each group of dependencies that it has.

$(python):
	@scripts/make-venv '$(PYTHON)' '$(venv)'

# The runtime dependencies, and the extra for a ledger in memory: no server is needed. The pip that Debian's venv
# comes with will do.
$(venv)/.has-runtime: pyproject.toml | $(python)
	@$(pip) --editable '.[memory]'
	@touch $@

# pip knows --group since 25.1.
$(venv)/.has-%: pyproject.toml | $(python)
	@echo "Installing the dependencies of: $*"
	@$(pip) --upgrade 'pip>=25.1'
	@$(pip) --editable '.[memory]' --group $*
	@touch $@ $(venv)/.has-runtime
