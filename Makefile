# `make demo` and `make test` work from a fresh clone: they make .venv first. See `make help`.

SHELL := /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV    ?= .venv
NEWEST  ?= .venv-newest
OLDEST  ?= .venv-oldest
# What goes into .venv beside the package. On a GPU machine: make venv EXTRAS=test,examples,cuda13
EXTRAS  ?= test,examples
# Passed on: make demo ARGS="--seeds 3", make test ARGS="-k adjoint", make bench CASE=list
ARGS    ?=
CASE    ?= list
# Two test processes share the cases; WORKERS= runs them in one.
WORKERS ?= -n 2 --dist worksteal
LINTERS ?= ruff==0.17.*

# XLA reads NPROC when it sizes its thread pools. With several simulated devices on fewer than
# four cores, jax 0.10 can wait for ever on a collective unless the pools are larger.
export NPROC ?= 8

PY := $(VENV)/bin/python
comma := ,
# The stamp's name holds the extras, so that other extras are another environment to install.
STAMP := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

# $(call install,ENV,FINDER-MODE,REQUIREMENTS...): make ENV if it is not there or no longer runs, then install.
define install
	@set -e; \
	if ! $(1)/bin/python -c "" 2>/dev/null; then \
	    python=$$(sh .ci/find-python $(2)); \
	    echo "making $(1) with $$python"; \
	    if command -v uv >/dev/null 2>&1; then uv venv --quiet --clear --seed --python "$$python" $(1); \
	    else "$$python" -m venv --clear $(1); fi; \
	fi; \
	echo "installing into $(1) (the first time takes a few minutes)"; \
	if command -v uv >/dev/null 2>&1; then uv pip install --quiet --python $(1)/bin/python $(3); \
	else $(1)/bin/python -m pip install --quiet --disable-pip-version-check $(3); fi
endef

# An environment whose interpreter has gone is made again.
ifneq ($(shell $(PY) -c "print(1)" 2>/dev/null),1)
$(STAMP): FORCE
endif

$(STAMP): pyproject.toml
	$(call install,$(VENV),default,-e ".[$(EXTRAS)]")
	@rm -f $(VENV)/.installed-*; touch $@

.PHONY: help venv demo test test-slow test-newest test-oldest bench lint format types docs clean FORCE

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

venv: $(STAMP) ## only make .venv with what the targets below need

demo: $(STAMP) ## train and compare the four models on diffusion-sorption (ARGS="--seeds 3")
	$(PY) examples/diffusion_sorption_experts.py $(ARGS)

test: $(STAMP) ## the tests, without the slow ones (ARGS="-k adjoint")
	$(PY) -m pytest $(WORKERS) $(ARGS)

test-slow: $(STAMP) ## the slow tests
	$(PY) -m pytest -m slow $(ARGS)

# The default environment holds the jax that `python3` can have; this one the newest jax of all.
test-newest: $(STAMP) ## the derivative tests on the newest Python and jax of this machine
	@set -e; \
	files=$$(ls tests/test_derivatives*.py 2>/dev/null || true); \
	if [ -z "$$files" ]; then echo "test-newest: skipped, there is no tests/test_derivatives*.py"; exit 0; fi; \
	minor='import sys; print("%d.%d" % sys.version_info[:2])'; \
	newest=$$(sh .ci/find-python newest); ours=$$($(PY) -c "$$minor"); theirs=$$($$newest -c "$$minor"); \
	if [ "$$ours" = "$$theirs" ]; then \
	    echo "test-newest: skipped, no Python newer than $(VENV)'s $$ours that runs is on this machine"; exit 0; fi; \
	$(MAKE) --no-print-directory $(NEWEST)/.installed; \
	echo "test-newest: Python $$theirs, jax $$($(NEWEST)/bin/python -c 'import jax; print(jax.__version__)')"; \
	$(NEWEST)/bin/python -m pytest $(WORKERS) $$files $(ARGS)

$(NEWEST)/.installed: pyproject.toml
	$(call install,$(NEWEST),newest,--upgrade -e ".[test]")
	@touch $@

# Every lower bound of pyproject.toml, exactly.
test-oldest: ## the tests on the oldest versions that pyproject.toml allows
	@$(MAKE) --no-print-directory $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest $(ARGS)

$(OLDEST)/.installed: pyproject.toml
	@mkdir -p out; python3 -c 'import re; \
	text = open("pyproject.toml").read().split("dependencies = [", 1)[1].split("]", 1)[0]; \
	print("\n".join(f"{n}=={v}" for n, v in re.findall(r"\"([\w-]+)>=([\d.]+)\"", text)))' > out/oldest.txt
	$(call install,$(OLDEST),default,-c out/oldest.txt -e ".[$(EXTRAS)]")
	@touch $@

bench: $(STAMP) ## one benchmark case, e.g. make bench CASE=hard_constraint ARGS=--quick
	$(PY) -m benchmarks $(CASE) $(ARGS)

$(VENV)/.linters: $(STAMP)
	$(call install,$(VENV),default,"$(LINTERS)")
	@touch $@

lint: $(VENV)/.linters ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(VENV)/.linters ## ruff: mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(STAMP) ## pyright on jaxsci/
	@$(PY) -c "import pyright" 2>/dev/null || $(PY) -m pip install --quiet "pyright>=1.1.400"
	$(PY) -m pyright --pythonpath $(PY)

docs: $(STAMP) ## the documentation, into site/
	$(call install,$(VENV),default,-e ".[docs]")
	$(PY) -m mkdocs build --strict

clean: ## remove what builds and tests leave (not the environments, not out/)
	rm -rf build dist site .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
