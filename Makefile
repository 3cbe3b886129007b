# Everything sets up what it needs by itself: a virtual environment from the lock, and .env.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
# Tests wait for servers and processes for three tenths of their time.
WORKERS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))

.PHONY: setup demo dev test test-fast lint bench chaos docs pictures wheel sbom lock clean
.DEFAULT_GOAL := setup

setup: .venv/installed .env

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kraken_pipeline needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/installed: requirements.lock pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv/installed-dev: requirements-dev.lock .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.lock
	@touch $@

.venv/installed-docs: requirements-docs.lock .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.lock
	@touch $@

.env: .env.example
	@sed 's|$${PWD}|$(CURDIR)|g' .env.example > $@
	@echo "wrote .env from .env.example"

demo: setup
	$(BIN)/kraken-pipeline demo $(ARGS)

# DEMO=1 shows the world of `make demo` instead of your own: Dagster reads the .env of the folder it is started in.
# The history is made first, by one process: of four that find none, one fails.
dev: setup
	@cd $(if $(DEMO),demo-data,.) && $(CURDIR)/$(BIN)/kraken-pipeline status --limit 1 > /dev/null
	cd $(if $(DEMO),demo-data,.) && $(CURDIR)/$(BIN)/dagster dev -w $(CURDIR)/workspace.yaml $(ARGS)

# Compiled tests are kept, whatever the shell says: to compile all of them takes 14 s of each of three processes.
test: export PYTHONDONTWRITEBYTECODE =
test: .venv/installed-dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# What needs no server, no process and no browser, and is quick: in under a minute.
test-fast: export PYTHONDONTWRITEBYTECODE =
test-fast: .venv/installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not (servers or process or browser or slow)" \
		--ignore=kraken_pipeline_tests/e2e $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	KRAKEN_DAGSTER_STORAGE=$(CURDIR)/.venv/dg $(BIN)/dg check defs
	$(BIN)/yamllint --strict --config-file deploy/.yamllint deploy dagster.yaml workspace.yaml
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	$(BIN)/hadolint deploy/Dockerfile

bench: .venv/installed-dev
	$(BIN)/python -m benchmarks $(ARGS)

# Damage of every kind to a small world, ten minutes of it: make chaos ARGS="--seed 7 --minutes 10"
chaos: .venv/installed-dev
	$(BIN)/python -m chaos $(ARGS)

# The docs as a site, to be read without a network. A warning, such as a broken link, fails.
docs: .venv/installed-docs
	@rm -rf site
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet -c docs -d .venv/docs . site
	@echo "built the docs: open $(CURDIR)/site/index.html"

# Every picture in docs/images anew, from a demo world in a temporary folder.
pictures: .venv/installed-dev
	$(BIN)/python -m docs.pictures

# What is installed without a checkout: pipx install dist/*.whl
wheel: .venv/bin/python
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
	@rm -rf build
	@ls -l dist/*.whl

# What the program consists of, for scanners: every dependency of the lock, in CycloneDX's format.
sbom: .venv/bin/python
	$(BIN)/python -m pip install --quiet uv
	mkdir -p dist
	$(BIN)/uvx --quiet --from cyclonedx-bom cyclonedx-py requirements requirements.lock --pyproject pyproject.toml \
		--output-reproducible --output-file dist/kraken_pipeline.cdx.json
	@ls -l dist/kraken_pipeline.cdx.json

# What `make` installs: every dependency at one version, for Python 3.11 and newer, with the hashes of its files, so that
# pip refuses a file that is another one. No host is named: any index that has these files will do.
lock: .venv/bin/python
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate --no-header pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate --no-header --extra dev pyproject.toml -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate --no-header --extra docs --constraints requirements-dev.lock pyproject.toml -o requirements-docs.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-annotate --no-header --extra alerts --extra celery --extra kubernetes --extra s3 --constraints requirements.lock pyproject.toml -o deploy/requirements.lock

clean:
	rm -rf .venv demo-data site
