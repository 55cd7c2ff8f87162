# Every target makes its own .venv when there is none (or when the requirements have changed since).
#   make test ARGS="-k catalog"          ARGS goes to the command that a target runs
#   make demo PYTHON=/opt/python3.12/bin/python3

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install -qq --no-input --disable-pip-version-check
ARGS ?=
# With ARGS="-k name" one of the two parts of the tests may have none of that name, which pytest calls 5.
OR_NONE = $(if $(ARGS),|| [ $$? -eq 5 ])

# A PYTHONPATH from outside would put other packages before the ones that are installed here.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
# Pyright's wrapper would otherwise ask the network whether there is a newer one.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test unit check bench docs clean

help: ## this list
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.* ## ' '/^[a-z]+:.* ## / { printf "  %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.stamp-demo ## three services find each other over mDNS; one is killed, calls go on
	@$(VENV)/bin/microreg demo $(ARGS)

# Four at once, whatever the cores: half of the time these wait, for ttls, timeouts and servers that come back.
test: unit ## all tests: the unit tests, then those with processes, networks, servers and faults
	@echo "tests with processes, networks, servers and faults"; $(PY) -m pytest tests/integration plugins -n 4 --dist loadfile $(ARGS) $(OR_NONE)

unit: $(VENV)/.stamp-dev ## the unit tests only: no process, no network but loopback
	@echo "unit tests"; $(PY) -m pytest tests --ignore tests/integration -n auto --dist loadfile $(ARGS) $(OR_NONE)

check: $(VENV)/.stamp-dev ## ruff, mypy, pyright
	@echo "ruff check";  $(PY) -m ruff check . && $(PY) -m ruff format --check --quiet .
	@echo "mypy";        MYPYPATH=examples/microreg-dir $(PY) -m mypy microreg tests docs plugins/microreg-consul plugins/microreg-etcd plugins/microreg-nats examples/microreg-dir/microreg_dir $(wildcard examples/framework/*.py examples/asgi/*.py examples/fleet/*.py) $(wildcard benchmarks/*.py)
	@echo "pyright";     $(PY) -m pyright --pythonpath $(PY)

bench: $(VENV)/.stamp-dev ## benchmarks: each figure beside its floor, and which aims are met
	@$(PY) benchmarks/run.py $(ARGS)

docs: $(VENV)/.stamp-dev ## the reference pages that come from the code (docs/reference)
	@$(PY) docs/generate.py $(ARGS)

clean: ## removes .venv and everything else that was made here
	@rm -rf $(VENV) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps form a chain, so that `make -j demo test` never runs two pips in one environment.
$(VENV)/.stamp-dev: $(VENV)/.stamp-demo requirements-dev.txt
	@echo "installing the development tools into $(VENV) (requirements-dev.txt) ..."
	@$(PIP) -r requirements-dev.txt
	@touch $@

$(VENV)/.stamp-demo: $(VENV)/.stamp-venv pyproject.toml
	@echo "installing microreg into $(VENV) ..."
	@$(PIP) -e '.[cli]'
	@touch $@

# An environment that works is kept, whoever made it. Without ensurepip (Debian's python3 without
# python3-venv) the pip of the machine fills the new environment, if there is one.
$(VENV)/.stamp-venv:
	@if $(PY) -m pip --version >/dev/null 2>&1; then touch $@; exit 0; fi; \
	python=; \
	for candidate in '$(PYTHON)' python3 python3.14 python3.13 python3.12 python3.11; do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		found=$$('$(PYTHON)' --version 2>/dev/null) || found="not there"; \
		echo "microreg needs Python 3.11 or newer, but '$(PYTHON)' is $$found." \
			"Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; fi; \
	echo "making $(VENV) with $$("$$python" --version) ..."; \
	if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
		"$$python" -m venv --clear $(VENV) && touch $@; \
	elif "$$python" -c 'import pip, venv' 2>/dev/null; then \
		"$$python" -m venv --clear --without-pip $(VENV) && \
		"$$python" -m pip --python $(PY) install -qq --no-input --disable-pip-version-check pip && touch $@; \
	else \
		echo "'$$python' cannot make virtual environments:" \
			"install its venv module (Debian, Ubuntu: apt install python3-venv) and try again." >&2; exit 1; fi
