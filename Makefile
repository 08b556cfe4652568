# `make help` lists the targets. Each one sets up what it needs; a second call does not set up again.
SCALE ?= digits
EXECUTOR ?= auto
PYTHON ?= python3
SWEEP_ARGS ?=
BIN := .venv/bin
READY := .venv/.ready
REPRODUCE = @$(BIN)/harness reproduce --executor $(EXECUTOR) --scale $(SCALE)

EXPERIMENTS := $(sort $(basename $(notdir $(wildcard experiments/*.py))))
NAMES := $(sort $(EXPERIMENTS) $(subst _,-,$(EXPERIMENTS)))

.DEFAULT_GOAL := help
.PHONY: help setup test lint wheel reproduce-all report figures readme bench clean $(NAMES) $(NAMES:%=reproduce-%)

help: ## Show this list
	@echo "SCALE=toy|digits|fashion|paper (now $(SCALE))   EXECUTOR=auto|inline|local|slurm (now $(EXECUTOR))"
	@echo "SWEEP_ARGS passes further options to harness reproduce, for example SWEEP_ARGS='--seeds 5 --set train.lr=3e-5'"
	@sed -nE 's/^([a-z0-9 -]+):.*## /\1\t/p' Makefile | expand -t 20
	@echo "Each experiment is a target, also as reproduce-NAME and with - for _, such as make table1 and make reproduce-table1:"
	@for name in $(EXPERIMENTS); do printf '%s\t%s\n' $$name "$$(sed -n '1s/"""//gp' experiments/$$name.py)"; done | expand -t 20

setup: $(READY) ## Create .venv with the pinned packages (once)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) .ci/set_up.py
	@touch $(READY)

test: $(READY) ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY) ## Check style, format, import layers and types
	$(BIN)/ruff check harness experiments tests
	$(BIN)/ruff format --check harness experiments tests
	$(BIN)/lint-imports
	$(BIN)/mypy

wheel: $(READY) ## Build dist/*.whl, which runs without this checkout
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .

$(NAMES): $(READY)
	$(REPRODUCE) $@ $(SWEEP_ARGS)

$(NAMES:%=reproduce-%): reproduce-%: $(READY)
	$(REPRODUCE) $* $(SWEEP_ARGS)

reproduce-all: $(READY) ## Every experiment at this scale, then the report; the same command again continues
	$(REPRODUCE) all $(SWEEP_ARGS)

report figures: $(READY) ## Redraw every table and figure from the records, without training
	@$(BIN)/python harness/report.py $(if $(filter file,$(origin SCALE)),,--scale $(SCALE)) $(SWEEP_ARGS)

readme: $(READY) ## Write the tables and figures of README.md from the published records
	@$(BIN)/python tests/readme_blocks.py

bench: $(READY) ## Measure how far training, evaluation and commands are from this machine's limit, in about five minutes
	@$(BIN)/harness bench $(SWEEP_ARGS)

clean: ## Say what is generated; nothing is deleted without being asked
	@echo "Generated: results/runs results/tables results/figures results/cache. 'harness clear' asks before it removes runs."
