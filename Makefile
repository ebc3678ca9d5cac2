# `make` prints this list. CONFIG picks a preset or file, ARGS adds options: make train CONFIG=smoke ARGS="--seed 2"

CONFIG ?= reviews
ARGS ?=
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_DIR = runs/$(basename $(notdir $(CONFIG)))
export TOKENIZERS_PARALLELISM := false

help:            ## print every target
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/##/' | awk -F' *## *' '{printf "  %-12s %s\n", $$1, $$2}'

install: $(VENV)/installed            ## create .venv and install minippo into it
install-test: $(VENV)/installed-test
install-dev: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("minippo needs Python 3.10 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed-test
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

train: sft train-rm train-ppo            ## the three stages and the evaluation, on the bundled reviews; prints the result

sft: install            ## stage 1: the reference policy
	@$(BIN)/python -m minippo.sft --config $(CONFIG) $(ARGS)

train-rm: sft            ## stage 2: the reward model (runs stage 1 if it is missing)
	@$(BIN)/python train_rm.py --config $(CONFIG) $(ARGS)

train-ppo: train-rm            ## stage 3: PPO (runs stages 1 and 2 if they are missing)
	@$(BIN)/python train_ppo.py --config $(CONFIG) $(ARGS)

evaluate: install            ## answer the held-out prompts again with a finished run, print the result
	@$(BIN)/python -m minippo.evaluate --run-dir $(RUN_DIR)

test: install-test            ## the tests, under five minutes
	$(BIN)/python -m pytest -m 'not slow'

test-all: install-test            ## the tests, the slow ones and the mutants too
	$(BIN)/python -m pytest
	$(BIN)/python -m tests.mutants.run

mutants: install-test            ## put bugs in, one by one, and see that the tests catch each
	$(BIN)/python -m tests.mutants.run

lint: install-dev            ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: install-dev            ## speed, side by side with transformers
	$(BIN)/python bench/rollout_speed.py

tensorboard: install            ## show the curves of all runs
	$(BIN)/tensorboard --logdir runs

clean-runs:            ## delete the runs of the presets, so that the next one starts afresh
	rm -rf runs/reviews runs/smoke runs/imdb-small runs/imdb

clean:            ## delete the environment and the caches, not the runs
	rm -rf $(VENV) *.egg-info build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help install install-test install-dev train sft train-rm train-ppo evaluate test test-all mutants lint bench tensorboard clean-runs clean
