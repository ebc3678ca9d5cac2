"""Print one PPO iteration tensor by tensor, to check the algorithm by hand.

python -m minippo trace                       # tiny models, trained in a second
python -m minippo trace --run runs/reviews    # the models of a finished run

The numbers come from the functions that `train_ppo.py` calls. The formulas at the end contain the numbers of one token,
so that you can calculate the results yourself. The command writes no files.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated

from minippo import masking
from minippo.checks import check_first_rollout
from minippo.config import Bounds, PPOConfig, Seed
from minippo.heads import ActorCritic, RewardModel
from minippo.language_model import backward_in_chunks
from minippo.model import GPT, GPTConfig
from minippo.optim import CPUAdamW
from minippo.ppo import ppo_update
from minippo.rollout import Environment, collect_rollout
from minippo.runs import (
    Argument,
    command_frame,
    command_line,
    load_environment,
    load_policy,
    load_run,
    wrong_input_exits,
)
from minippo.sampling import SamplingParams
from minippo.scoring import RewardScorer
from minippo.state import PPOState
from minippo.storage import bundled
from minippo.streams import seed_global
from minippo.tokenizer import load_tokenizer
from minippo.tools.trace.printing import print_trace

SUBJECTS = (" The film is", " The plot seems", " I found it", " It was")
ADJECTIVES = (" lovely.", " rather dull.", " sad.")
"""The tiny policy learns each subject followed by each adjective."""
CONTEXT = 64
"""Maximum sequence length of the tiny models, in tokens."""


@dataclass(frozen=True)
class TraceOptions:
    """Options of `trace`."""

    run: Annotated[Path | None, Argument(alias="--run-dir")] = None
    """Run directory of a finished run. None: train tiny models."""
    scorer: str | None = None
    """The run's scorer, if it was trained on a function of yours (docs/scorer.md): a function that only the run
    directory names is not called."""
    prompt: tuple[str, ...] = ("A drama about a shy boxer.", "I saw a comedy.")
    """One or more prompts, with one response each."""
    response_length: Annotated[int, Bounds(1, 8)] = 8
    """Maximum response length in tokens. At most 8, because each is a column of the tables."""
    seed: Seed = 8
    """Random seed."""


def tiny_models(prompts: tuple[str, ...]) -> tuple[ActorCritic, Environment]:
    """A policy that has begun to learn twelve responses to each prompt, and a reward model with random weights."""
    tokenizer, reward_tokenizer = (load_tokenizer(bundled(f"data/{name}.tiktoken")) for name in ("policy", "reward"))
    gpt, reward_gpt = (
        GPT(GPTConfig(t.vocab_size, CONTEXT, layers=1, heads=2, channels=32, suppress_tokens=t.non_text_ids))
        for t in (tokenizer, reward_tokenizer)
    )
    rows = [[*tokenizer.encode("".join(text)), tokenizer.eos_id] for text in product(prompts, SUBJECTS, ADJECTIVES)]
    optimizer = CPUAdamW(gpt.parameters(), lr=1e-2)
    for _ in range(46):  # so few that the policy stays unsure: otherwise most log-probabilities would be near 0
        optimizer.zero_grad()
        backward_in_chunks(gpt, *masking.pad([row[:CONTEXT] for row in rows], tokenizer.pad_id, "right"))
        optimizer.step()
    reference = ActorCritic(copy.deepcopy(gpt)).eval().requires_grad_(False)
    scorer = RewardScorer(RewardModel(reward_gpt), reward_tokenizer)
    sampling = SamplingParams(CONTEXT, tokenizer.eos_id, tokenizer.pad_id)
    return ActorCritic(gpt), Environment(reference, scorer, tokenizer, sampling)


def run_models(folder: Path, scorer: str | None) -> tuple[ActorCritic, Environment]:
    """The final policy of a run, and its environment."""
    run = load_run(folder, "cpu")
    run.require_finished("ppo")
    return load_policy(run, "ppo"), load_environment(run, scorer)


def begin(options: TraceOptions, config: PPOConfig) -> tuple[PPOState, Environment]:
    """The state before PPO, and its environment. Raises ValueError if a prompt is empty or too long."""
    seed_global(options.seed, "trace")
    policy, env = run_models(options.run, options.scorer) if options.run else tiny_models(options.prompt)
    queries = [env.tokenizer.encode(prompt) for prompt in options.prompt]
    if not all(queries):
        raise ValueError("a prompt is empty")
    longest, context = max(map(len, queries)), policy.gpt.config.context
    if longest + options.response_length > context:
        raise ValueError(
            f"a prompt of {longest} tokens and a response of {options.response_length} tokens (--response-length) "
            f"exceed the policy's context of {context}"
        )
    env = replace(env, sampling=replace(env.sampling, max_new_tokens=options.response_length))
    return PPOState.initial(policy, queries, None, config, options.seed), env


def warm_up(state: PPOState, env: Environment, config: PPOConfig) -> None:
    """Two iterations, as in `train_ppo.py`, so that the KL and the values are not 0."""
    for iteration in (1, 2):
        rollout = collect_rollout(state, env, next(state.prompts), config)
        if iteration == 1:
            check_first_rollout(state, env, rollout, config)
        ppo_update(state, rollout, config)
        state.iteration = iteration


@command_frame()
def main() -> None:
    """`python -m minippo trace`."""
    options = command_line(TraceOptions, __doc__)
    with wrong_input_exits():
        settings = load_run(options.run, "cpu").config.ppo if options.run else PPOConfig(lr=2.5e-3)
        B = len(options.prompt) * settings.samples_per_prompt
        sizes = {"rollout_batch_size": B, "num_epochs": 1, "num_minibatches": 1, "microbatch_size": B, "ptx_coef": 0.0}
        config = replace(settings, schedule="constant", **sizes)
        state, env = begin(options, config)
    if options.run:
        print(f"Policy, reference and reward function of {options.run}.")
    else:
        print("Tiny models: the policy knows twelve sentences; the scores of the random reward model mean nothing.")
        warm_up(state, env, config)
        print("Two iterations have moved the policy away from the reference. The first passed check_first_rollout.")
    print_trace(state, env, config)
