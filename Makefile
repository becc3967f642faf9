# Two commands: `make demo` runs the main job, `make test` passes every test. Both set up everything first.
PYTHON ?= python3.11
export PYTHON
RECIPE := .venv/bin/recipe
QUICKSTART := recipes/quickstart.yaml
CONFIG := generated/quickstart/cpu/axolotl.yaml
TRAINED := outputs/quickstart/cpu/trained.sha256
# axolotl starts `accelerate`, which has to be found; nothing of a run is reported to anybody.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export AXOLOTL_DO_NOT_TRACK := 1
export HF_HUB_OFFLINE := 1
export LITELLM_LOCAL_MODEL_COST_MAP := True
# Threads that wait for one another soon sleep instead of spinning: with something else on the two cores, spinning made
# a training step ten times slower (docs/decisions.md, 2026-11-22).
export GOMP_SPINCOUNT := 20000

.PHONY: help setup demo test lint

help:
	@echo "make demo    set up everything, then documents -> dataset -> config -> training -> before/after (15 minutes on two cores)"
	@echo "make test    set up everything, then pass every test"
	@echo "make setup   only set up .venv and the embedded model"

setup:
	@requirements/install.sh
	@$(RECIPE) prepare

demo: setup
	@echo "== 1/4 recipe data: documentation -> question/answer pairs"
	@$(RECIPE) data $(QUICKSTART)
	@echo "== 2/4 recipe build: recipe -> training config"
	@$(RECIPE) build $(QUICKSTART)
	@echo "== 3/4 axolotl train $(CONFIG)"
	@if [ -f $(TRAINED) ] && sha256sum --quiet -c $(TRAINED) 2>/dev/null; then \
	  echo "unchanged since it was trained"; \
	else \
	  axolotl train $(CONFIG) && sha256sum $(CONFIG) > $(TRAINED); \
	fi
	@echo "== 4/4 recipe eval: before and after"
	@$(RECIPE) eval $(QUICKSTART) --target cpu

lint: setup
	@.venv/bin/ruff check .

test: lint
	@requirements/browser.sh
	@$(RECIPE) build --check
	@.venv/bin/python -m pytest
