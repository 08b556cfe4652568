# make help lists the targets. Each sets up what it needs; a second call sets nothing up again.
SCALE ?= digits
EXECUTOR ?= auto
PYTHON ?= python3
SWEEP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OPTIONS = --scale $(SCALE) $(SWEEP_ARGS)

.DEFAULT_GOAL := help
ALL := reproduce-table1 sweep-mu table2 table3 figure4 schedule scaling mechanism figure1 figure2 figure3 theory report
.PHONY: help setup test lint reproduce-all bench figures clean $(ALL)

help: ## Show this list
	@echo "SCALE=toy|digits|fashion|paper (now $(SCALE))   EXECUTOR=auto|inline|local|slurm (now $(EXECUTOR))"
	@echo "SWEEP_ARGS passes further options on, for example SWEEP_ARGS='--seeds 5 --set train.lr=3e-5'"
	@grep -hE '^[a-z0-9 -]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(READY) ## Make .venv with the pinned packages (once)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; name one: make PYTHON=python3.12")'
	@echo "Setting up $(VENV) with $$($(PYTHON) --version) and the versions of requirements.lock; torch alone is some GB, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --compile-bytecode -r requirements.lock
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $(READY)
	@echo "Ready: $(BIN)/harness --help"

test: $(READY) ## Run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY) ## Check style and the floors of the house
	$(BIN)/ruff check harness experiments tests
	$(BIN)/lint-imports

reproduce-table1: $(READY) ## Table 1: IC, batch-OT and GC, trained, measured, judged
	@$(BIN)/harness sweep table1 --executor $(EXECUTOR) $(OPTIONS)
	@$(BIN)/python -m harness.metrics.baselines table1 $(OPTIONS)
	@$(BIN)/harness report table1 $(OPTIONS)

sweep-mu: $(READY) ## mu = 0, 0.1, ..., 1 beside batch-OT (shares Table 1's runs)
	@$(BIN)/harness sweep sweep_mu --executor $(EXECUTOR) $(OPTIONS)
	@$(BIN)/python -m harness.metrics.baselines sweep_mu $(OPTIONS)
	@$(BIN)/harness report sweep_mu $(OPTIONS)

table2: ## ECT: fine-tuning a pre-trained diffusion model with IC and with GC
table3: ## Ablations of GC: online predictor, dropout, stopped at IC's wall-clock
figure4: ## GC with a frozen endpoint predictor, a full and a weak one
schedule: ## Other noise schedules: n0, n1, rho
scaling: ## Less data, another width, fewer or more steps
mechanism: ## The same endpoint predictor, other pairs
table2 table3 figure4 schedule scaling mechanism: $(READY)
	@$(BIN)/harness sweep $@ --executor $(EXECUTOR) $(OPTIONS)
	@$(BIN)/python -m harness.metrics.baselines $@ $(OPTIONS)
	@$(BIN)/harness report $@ $(OPTIONS)

figure1: ## Sample paths of PF-ODE, IC and GC
figure2: ## The proxy Rtil_t of each coupling against t
figure3: ## Transport cost c(t) of each coupling against t
theory: ## R(theta), Theorems 1 and 2, Lemma 1 and the closed forms, measured against the truth
figure1 figure2 figure3 theory: $(READY)
	@$(BIN)/harness sweep $@ --quiet --executor $(EXECUTOR) $(OPTIONS)
	@$(BIN)/harness measure $@ $(OPTIONS)

report figures: $(READY) ## Redraw every table and figure from the records at hand, no training
	@$(BIN)/python harness/report.py

reproduce-all: $(READY) ## Everything at this scale, in order; the same command again continues
	@for target in $(ALL); do $(MAKE) --no-print-directory $$target || exit; done

bench: $(READY) ## Ratios of speeds on this machine: GC and batch-OT beside IC, and what makes steps fast
	@$(BIN)/harness bench --scale $(SCALE)

clean: ## Say what is generated; nothing is deleted unasked
	@echo "Generated: results/runs results/tables results/figures results/cache. 'harness clear' asks before it removes runs."
