# `make` prints the targets. Variables:
#   CONFIG     preset or YAML file             make train CONFIG=smoke
#   ARGS       more options of the stages      make train ARGS="--seed 2" RUN_DIR=runs/seed-2
#   RUN_DIR    run directory                   make evaluate RUN_DIR=runs/seed-2
#   INIT_FROM  run directory to copy the earlier stages from, instead of training them:
#              make train-ppo INIT_FROM=runs/reviews RUN_DIR=runs/reviews-2 ARGS="--ppo.kl-coef 0.05"

CONFIG ?= reviews
ARGS ?=
INIT_FROM ?=
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_DIR ?= runs/$(basename $(notdir $(CONFIG)))
OPTIONS = --config '$(CONFIG)' --run-dir '$(RUN_DIR)' $(if $(INIT_FROM),--init-from '$(INIT_FROM)') $(ARGS)
export TOKENIZERS_PARALLELISM := false

help:            ## print all targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/##/' | awk -F' *## *' '{printf "  %-12s %s\n", $$1, $$2}'

install: $(VENV)/installed            ## create .venv and install minippo into it
install-plot: $(VENV)/installed-plot
install-test: $(VENV)/installed-test
install-dev: $(VENV)/installed-dev

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("minippo needs Python 3.10 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/installed-plot: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[plot]'
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed-test
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

train: train-ppo            ## run all three stages on the bundled reviews and print the results
	@echo
	@echo 'What to try next:'
	@echo '  make generate$(if $(filter-out runs/reviews,$(RUN_DIR)), RUN_DIR=$(RUN_DIR))                  responses to your own prompts'
	@echo '  make curves$(if $(filter-out runs/reviews,$(RUN_DIR)), RUN_DIR=$(RUN_DIR))                    the learning curves, as $(RUN_DIR)/curves.png'
	@echo '  PPO with another KL penalty, from the same reward model, and then both runs side by side:'
	@echo '  make train-ppo $(if $(filter-out reviews,$(CONFIG)),CONFIG=$(CONFIG) )INIT_FROM=$(RUN_DIR) RUN_DIR=$(RUN_DIR)-2 ARGS="--ppo.kl-coef 0.05"'
	@echo '  make compare RUNS="$(RUN_DIR) $(RUN_DIR)-2"'

sft: install            ## stage 1: train the reference policy
	@$(BIN)/python -m minippo sft $(OPTIONS)

train-rm: $(if $(INIT_FROM),install,sft)            ## stage 2: train the reward model, after stage 1 if it is missing
	@$(BIN)/python train_rm.py $(OPTIONS)

train-ppo: $(if $(INIT_FROM),install,train-rm)            ## stage 3: train the policy with PPO, after stages 1 and 2 if they are missing
	@$(BIN)/python train_ppo.py $(OPTIONS)

evaluate: install            ## evaluate policy and reward model on held-out data, with confidence intervals
	@$(BIN)/python -m minippo evaluate --run '$(RUN_DIR)' $(ARGS)

generate: install            ## print responses of the trained policy and the reference to prompts that you type
	@$(BIN)/python -m minippo generate --run '$(RUN_DIR)' --reference

trace: install            ## print one PPO iteration tensor by tensor: make trace ARGS="--run runs/reviews"
	@$(BIN)/python -m minippo trace $(ARGS)

curves: install-plot            ## plot the learning curves of a run
	@$(BIN)/python -m minippo curves '$(RUN_DIR)'

frontier: install-plot            ## compare PPO, GRPO, RLOO and best-of-n of a run at equal KL (30 to 40 minutes), resumable
	@$(BIN)/python -m minippo frontier '$(RUN_DIR)' $(ARGS)

compare: install            ## print settings, results and differences of several runs: make compare RUNS="runs/a runs/b"
	@$(BIN)/python -m minippo compare $(RUNS)

test: install-test            ## run the tests (under five minutes)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow'

test-all: install-test            ## run all tests, including the slow ones, and the mutation tests
	$(BIN)/python -m pytest -n 2 --dist loadfile
	$(BIN)/python -m tests.mutants.run --tests-passed

mutants: install-test            ## mutation tests: insert bugs one by one and check that the tests catch each
	$(BIN)/python -m tests.mutants.run

faults: install-test            ## interrupt and damage tiny runs in hundreds of ways and check that each can be resumed
	$(BIN)/python -m tests.faults.run

soak: install-test            ## 2,000 tiny PPO iterations: memory, open files, speed and file sizes must stay flat
	$(BIN)/python -m tests.faults.soak

lint: install-dev            ## check style and format with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: install-dev            ## measure speed and memory next to transformers and TRL: make bench ARGS="rollout optimizer"
	$(BIN)/python -m bench $(ARGS)

bench-gpu: install-dev            ## measure PPO of GPT-2 XL, OPT-1.3b and OPT-2.7b with 11.3 GiB of GPU memory, next to the plan
	$(BIN)/python -m bench gpu $(ARGS)

results: install-dev            ## store the results of all finished runs, and render README.md and docs/results.md from them
	$(BIN)/python -m bench.documents $(ARGS)

tensorboard: install            ## show the curves of all runs in TensorBoard
	$(BIN)/tensorboard --logdir runs

clean-runs:            ## delete the runs of the presets
	rm -rf runs/reviews runs/smoke runs/imdb-small runs/imdb runs/imdb-12gb runs/imdb-rl4lms runs/imdb-rl4lms-small

clean:            ## delete the environment and the caches, but not the runs
	rm -rf $(VENV) *.egg-info build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: faults soak help install install-plot install-test install-dev train sft train-rm train-ppo evaluate generate trace curves frontier compare test test-all mutants lint bench bench-gpu results tensorboard clean-runs clean
