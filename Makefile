# `make demo` and `make test` do all their own set-up: they need Python >= 3.10, make and a network to install from.
#
#   make demo PHOTOS="cat.jpg dog.jpg"     your own photos
#   make test PYTHON=python3.12            another Python
#   make test PYTEST_ARGS="-k frame -x"    some of the tests
#   make test-all                          all of them, as CI does

ifndef PYTHON
PYTHON := $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
endif

PHOTOS ?=
CONSTRAINTS = constraints.txt
PYTEST_ARGS ?=
PAGE_VENDOR := src/bottlenet/cloud/page/vendor/ort-wasm-simd-threaded.wasm.gz
AXE := tests/vendor/axe.min.js
PIP_INSTALL = -m pip install -qq --no-input --disable-pip-version-check --only-binary=:all: --constraint $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help demo page docs test test-all test-zoo lint format setup setup-demo setup-docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv-demo/.ready ## classify photos with a network cut in two: a device process, a socket, a server process
	.venv-demo/bin/bottlenet demo $(PHOTOS)

page: $(PAGE_VENDOR) ## fetch with npm what the server's page runs the network in

docs: .venv-docs/.ready ## the documentation as a site in site/; a link to nothing is an error
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --clean --config-file website/mkdocs.yml

test: .venv/.ready lint ## lint, types, and the tests that are not marked slow
	.venv/bin/python -m pytest -m "not slow" -n 3 --dist loadfile $(PYTEST_ARGS)

# Without npm the tests of the page are skipped.
test-all: .venv/.ready lint ## lint, types, every test, coverage
	-@$(MAKE) --no-print-directory $(PAGE_VENDOR) $(AXE)
	.venv/bin/python -m pytest --cov -n 2 --dist loadfile $(PYTEST_ARGS)

test-zoo: .venv-zoo/.ready ## cut 75 networks of torchvision and timm: their own .venv-zoo, 6 GB, a quarter of an hour
	.venv-zoo/bin/python -m pytest tests_zoo -n 2 -p no:logging $(PYTEST_ARGS)

lint: .venv/.ready ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/.ready ## rewrite the code as ruff wants it
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

setup: .venv/.ready ## .venv: everything, with torch
setup-docs: .venv-docs/.ready ## .venv-docs: what `make docs` needs
setup-demo: .venv-demo/.ready ## .venv-demo: device and server only, no torch

.venv/.ready: EXTRAS := cloud,mqtt,video,ray,train,models,dev
.venv/.ready: SIZE := with torch: from 1 GB, some minutes
.venv-docs/.ready: EXTRAS := docs
.venv-docs/.ready: SIZE := no torch: about 350 MB, under a minute
.venv-demo/.ready: EXTRAS := cloud
.venv-demo/.ready: SIZE := no torch: about 250 MB, under a minute
.venv-zoo/.ready: EXTRAS := cloud,train,torchvision,timm,transformers,zoo
.venv-zoo/.ready: CONSTRAINTS := constraints-zoo.txt
.venv-zoo/.ready: SIZE := with torch and torchvision: about 6 GB, some minutes

# The stamp is written last, so that an interrupted set-up starts again.
.venv-zoo/.ready: constraints-zoo.txt
.venv/.ready .venv-docs/.ready .venv-demo/.ready .venv-zoo/.ready: pyproject.toml constraints.txt hatch_build.py src/bottlenet/wire/entropy.c
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "bottlenet needs Python 3.10 or newer; name one: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Setting up $(@D) ($(SIZE)) ..."
	@$(@D)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python $(PIP_INSTALL) --editable '.[$(EXTRAS)]'
	@touch $@

$(PAGE_VENDOR): src/bottlenet/cloud/vendor.py
	@PYTHONPATH=src $(PYTHON) -m bottlenet.cloud.vendor

$(AXE): tests/axe.py src/bottlenet/cloud/vendor.py
	@PYTHONPATH=src $(PYTHON) tests/axe.py

clean: ## remove what was set up, built and cached
	rm -rf .venv .venv-docs .venv-demo .venv-zoo site src/bottlenet/wire/_entropy.so $(dir $(PAGE_VENDOR)) $(dir $(AXE)) build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests tests_zoo benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
