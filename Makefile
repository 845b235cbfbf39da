# Each target makes .venv by itself where it is missing or older than pyproject.toml or constraints.txt.
PYTHON ?= python3
PRESET ?= mini
PHOTOS ?=
JOBS ?= 2
DEVICE ?= cpu
MINI ?= runs/mini
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

BIN := .venv/bin
READY := .venv/.ready
BENCHMARKS := $(filter-out benchmarks/record.py $(wildcard benchmarks/gpu_*.py),$(wildcard benchmarks/*.py))

# Of train-mini: the photographs, and for each variant the prior under its adapters and the losses before `even`.
MINI_DATA = --photos $(PHOTOS) $(if $(PROVENANCE),--provenance $(PROVENANCE)) --evaluation $(EVALUATION)
MINI_TRAIN = $(BIN)/omgsr train --base $(MINI)/$(BASE_$*)/mini-$(BASE_$*) --timestep auto $(MINI_DATA) --weights $(WEIGHTS)
BASE_s := ddpm
BASE_f := flow
LAST_s := polish
LAST_f := smooth

# All of the scripts, though one may miss its goals.
run_all = @failed=; for file in $(1); do echo "$$file"; $(BIN)/python "$$file" --out results/benchmarks || failed="$$failed $$file"; done; \
	if [ "$$failed" ]; then echo "A goal was missed by$$failed" >&2; exit 1; fi

.DEFAULT_GOAL := help
.PHONY: help reproduce study train-mini test test-browser lint bench bench-gpu lab demo pages clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile
	@echo "Variables, as in make reproduce PRESET=smoke:"
	@echo "  PYTHON=python3    interpreter that .venv is made with, 3.11 or newer"
	@echo "  PRESET=mini       of reproduce: smoke, mini, latents, paper, first-release or release"
	@echo "  PHOTOS=folder     of reproduce, study and train-mini: your own photographs, which train-mini needs"
	@echo "  EVALUATION=folder WEIGHTS=folder DEVICE=cpu    of train-mini: other photographs, LPIPS-SqueezeNet, cpu or cuda"
	@echo "  FULL=1            of study: all trainings, some twenty core-hours"
	@echo "  JOBS=2            of test and study: processes"

reproduce: $(READY) ## run notebooks 00 to 08 and write the report; a second run repeats only what changed
	$(BIN)/omgsr reproduce --preset $(PRESET) $(if $(PHOTOS),--photos "$(PHOTOS)")

study: $(READY) ## run the trainings behind the ablation tables (4 core-hours), resumable
	$(BIN)/omgsr study $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(EVALUATION),--evaluation $(EVALUATION)) \
		$(if $(PROVENANCE),--provenance $(PROVENANCE)) $(if $(WEIGHTS),--weights $(WEIGHTS)) $(if $(FULL),--full) --jobs $(JOBS)

train-mini: $(READY) ## train the small models anew into runs/mini (15 to 50 hours of 2 CPU cores), resumable
	@$(if $(and $(PHOTOS),$(EVALUATION),$(WEIGHTS)),,$(error make train-mini needs PHOTOS, EVALUATION (photographs) and WEIGHTS (LPIPS-SqueezeNet)))
	$(MAKE) -j 2 $(MINI)/s.done $(MINI)/f.done

$(MINI)/autoencoder.done:
	$(BIN)/omgsr pretrain autoencoder $(MINI_DATA) --perceptual $(WEIGHTS) --out $(MINI)/autoencoder --device $(DEVICE)
	@touch $@

$(MINI)/ddpm.done $(MINI)/flow.done: $(MINI)/%.done: $(MINI)/autoencoder.done
	$(BIN)/omgsr pretrain $* $(MINI_DATA) --autoencoder $(MINI)/autoencoder/mini-autoencoder --out $(MINI)/$* --device $(DEVICE)
	@touch $@

$(MINI)/s.done: $(MINI)/ddpm.done
$(MINI)/f.done: $(MINI)/flow.done
$(MINI)/s.done $(MINI)/f.done: $(MINI)/%.done:
	$(MINI_TRAIN) --variant $*-long --out $(MINI)/$*
	$(MINI_TRAIN) --variant $*-polish --start $(MINI)/$*/mini-$*-long --out $(MINI)/$*-polish
	$(if $(filter f,$*),$(MINI_TRAIN) --variant f-smooth --start $(MINI)/f-polish/mini-f-polish --out $(MINI)/f-smooth)
	$(MINI_TRAIN) --variant $*-even --start $(MINI)/$*-$(LAST_$*)/mini-$*-$(LAST_$*) --out $(MINI)/$*-even
	@touch $@

test: lint ## run lint, unit tests and every notebook with the smoke preset
	$(BIN)/pytest -n $(JOBS)

test-browser: $(READY) ## drive notebooks, explorer and its page in Chromium (the system's, else a download)
	@$(BIN)/pip install -q -c constraints.txt -e '.[browser]'
	@$(if $(CHROMIUM),,$(BIN)/playwright install chromium || { echo "Chromium is missing and cannot be downloaded: apt-get install chromium, or make test-browser CHROMIUM=path" >&2; exit 1; })
	CHROMIUM="$(CHROMIUM)" $(BIN)/pytest -m browser tests/browser

lint: $(READY) ## check code style and import contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

bench: $(READY) ## measure side by side on the CPU, one JSON file per run
	$(call run_all,$(BENCHMARKS))

bench-gpu: $(READY) ## measure full-size models with random weights on a GPU; without one at mini scale
	$(call run_all,$(wildcard benchmarks/gpu_*.py))

lab: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

demo: $(READY) ## open a page that restores a photograph, on this computer only (takes Pillow 12)
	@echo "Installing the extra demo, unless it is there"
	@$(BIN)/pip install -q -e '.[demo]'
	$(BIN)/omgsr demo

pages: $(READY) ## build the notebooks, report and explorer of results/mini as a static site in runs/pages
	@echo "Installing the extra pages, unless it is there"
	@$(BIN)/pip install -q -c constraints.txt -e '.[pages]'
	$(BIN)/python -m omgsr_lib.integrations.pages

clean: ## remove .venv and caches; results and runs stay
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache .import_linter_cache
	find omgsr_lib tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The stamp is the last line: an installation that was stopped half-way is taken up again.
# torch and torchvision in one command, so that pip takes a pair that fits together.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, $(PYTHON) is %d.%d: name another with make PYTHON=..." % sys.version_info[:2])'
	@echo "Setting up .venv (a few minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install -q -c constraints.txt torch torchvision
	@$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@
