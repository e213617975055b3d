# What a newcomer and a continuous integration need. `make help` lists it.
# Everything is installed into $(VENV); point VENV at another environment to use that.

VENV ?= .venv
PORT ?= 7700
DEMO_HOME ?= .vitrine/demo
PYTEST_FLAGS ?=
# What `make reproduce` learns from, and how: files of Amazon Reviews 2023, or others like them.
REVIEWS ?= ../shared/data/reviews/reviews.jsonl.gz
ITEMS ?= ../shared/data/reviews/meta.jsonl.gz
RECIPES ?= training/recipes/best-minilm.toml
RERANKER ?=
DISTILL ?=
TEACHER ?=
# What it measures on beside that, and what items are made of; empty: nothing, titles.
JUDGEMENTS ?=
ITEM_FIELDS ?=
REPRODUCE_OUT ?= .vitrine/reproduce
SMOKE_OUT ?= .vitrine/train-smoke
SMOKE_ITEMS ?= 600

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO_EXTRAS := encoder,index,gateway,train,demo
PACKAGES := rpc cli encoder_service index_service gateway training
DEMO_STAMP := $(VENV)/.installed-demo
DEV_STAMP := $(VENV)/.installed-dev

.DELETE_ON_ERROR:
.PHONY: help demo train-smoke reproduce test check lint types imports check-protos check-deploy check-docs protos clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1  /p' Makefile | while read -r name what; do \
		printf '  %-14s %s\n' "$$name" "$$what"; done

demo: $(DEMO_STAMP) ## Install, build a sample catalogue, start everything, search (PORT=7700)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/vitrine demo --home $(DEMO_HOME) --port $(PORT)

train-smoke: $(DEMO_STAMP) ## Data set, training, bundle and report of the sample catalogue, in minutes
	$(BIN)/python -m training.sample_catalog --items $(SMOKE_ITEMS) --out $(SMOKE_OUT)/catalog
	$(BIN)/python -m training.reproduce --reviews $(SMOKE_OUT)/catalog/reviews.jsonl.gz \
		--items $(SMOKE_OUT)/catalog/items.jsonl.gz --recipe training/recipes/smoke.toml \
		--quantize none --out $(SMOKE_OUT)

reproduce: $(DEMO_STAMP) ## The same of real reviews, in hours (REVIEWS= ITEMS= ITEM_FIELDS= RECIPES= RERANKER= DISTILL= TEACHER= JUDGEMENTS= REPRODUCE_OUT=)
	$(BIN)/python -m training.reproduce $(REVIEWS:%=--reviews %) $(ITEMS:%=--items %) \
		$(ITEM_FIELDS:%=--item-fields %) $(RECIPES:%=--recipe %) $(RERANKER:%=--reranker %) \
		$(DISTILL:%=--distill %) $(TEACHER:%=--teacher %) $(JUDGEMENTS:%=--judgements %) \
		--out $(REPRODUCE_OUT)

test: $(DEV_STAMP) ## Run all tests (PYTEST_FLAGS="-k name")
	$(BIN)/python -m pytest $(PYTEST_FLAGS)
	$(BIN)/python -m pytest --doctest-modules --rootdir . -p no:cacheprovider $(PACKAGES)

check: lint types imports check-protos check-deploy check-docs ## Check style, types, layers, protos, manifests, docs

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_STAMP)
	$(BIN)/mypy

imports: $(DEV_STAMP)
	$(BIN)/lint-imports

# The protos are generated again beside the tree and compared, so that a tree with changes in it,
# or one that is no git checkout, can be checked, too.
check-protos: $(DEV_STAMP)
	$(BIN)/buf lint --path protos
	@again=$$(mktemp -d); trap 'rm -rf "$$again"' EXIT; \
	cp -r protos "$$again/"; \
	PATH="$(abspath $(BIN)):$$PATH" sh "$$again/protos/generate.sh"; \
	diff -r --exclude=__pycache__ protos "$$again/protos" || \
		{ echo "error: the generated code is not what the protos say; run make protos" >&2; exit 1; }

check-deploy: $(DEV_STAMP)
	PATH="$(abspath $(BIN)):$$PATH" sh deploy/check.sh

check-docs: $(DEV_STAMP)
	@if [ -d tests/docs ]; then $(BIN)/python -m pytest tests/docs; fi

protos: $(DEV_STAMP) ## Generate the Python code of the protos again
	PATH="$(abspath $(BIN)):$$PATH" sh protos/generate.sh

clean: ## Remove caches and build output; keeps $(VENV) and .vitrine
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@for candidate in $(PYTHON) python3.11 python3 python3.12 python3.13; do \
		"$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		echo "making $(VENV) with $$candidate"; \
		"$$candidate" -m venv $(VENV) && exit 0; \
		echo "error: $$candidate cannot make a virtual environment; install its venv module" >&2; \
		exit 1; \
	done; \
	echo "error: no Python 3.11 or later found; name one: make PYTHON=/path/to/python3.11" >&2; \
	exit 1

$(DEMO_STAMP): pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[$(DEMO_EXTRAS)]'
	@touch $@

$(DEV_STAMP): pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[$(DEMO_EXTRAS),dev]'
	@touch $(DEMO_STAMP) $@
