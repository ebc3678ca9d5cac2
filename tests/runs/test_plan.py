"""The plan of the memory, against what is alive while the real functions run on small models; and what it prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from minippo.config import Config
from minippo.equations import ranking_loss
from minippo.heads import ActorCritic, RewardModel
from minippo.language_model import backward_in_chunks, held_out_loss
from minippo.model import GPT, GPTConfig
from minippo.ppo import ppo_update
from minippo.rollout import Environment, collect_rollout, logprobs_and_values
from minippo.runs.arguments import override
from minippo.runs.phases import Phase, Planner
from minippo.sampling import SamplingParams, generate
from minippo.scoring import RewardScorer, score_tokens
from minippo.state import PPOState, TrainState
from tests.live_memory import LiveMemory

TOLERANCE = 0.1


class Tokenizer:
    """Every text has `length` tokens, which is all that memory depends on."""

    eos_id = pad_id = 0

    def __init__(self, length: int) -> None:
        self.length = length

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[1] * self.length for _ in texts]

    def decode(self, ids: list[int]) -> str:
        return "text"


class Measured:
    """Peaks by phase, to be compared with the plan."""

    def __init__(self, config: Config, models: dict[str, GPTConfig], stage: str) -> None:
        self.planned = {phase.name: phase for phase in Planner(config, models, on_gpu=False).phases(stage)}
        self.stage, self.peaks = stage, {}

    @contextmanager
    def phase(self, name: str, *owners: Any) -> Iterator[None]:
        """Measure a phase in which these modules, with their gradients, and optimizers exist."""
        with LiveMemory(tensor for owner in owners for tensor in tensors(owner)) as memory:
            yield
        self.peaks[name] = memory

    def check(self) -> None:
        """Every phase was measured, and the plan is within 10 % of it."""
        assert self.peaks.keys() == self.planned.keys()
        for name, memory in self.peaks.items():
            planned = self.planned[name]
            error = planned.total("CPU") / memory.peak - 1
            assert abs(error) < TOLERANCE, f"{name}: {error:+.1%}\n{planned.usage}\n{memory.at_peak.most_common(12)}"
            assert sum(planned.usage.values()) == planned.total("CPU")


def tensors(owner: Any) -> Iterator[torch.Tensor]:
    if isinstance(owner, torch.nn.Module):
        yield from owner.parameters()
        yield from (parameter.grad for parameter in owner.parameters() if parameter.grad is not None)
    else:
        yield from (x for state in owner.state.values() for x in state.values() if isinstance(x, torch.Tensor))
        yield from getattr(owner.gradients, "buffers", {}).values()


def settings(**changes: Any) -> Config:
    """A configuration; "__" stands for the dots of a name."""
    return override(Config(), {name.replace("__", "."): value for name, value in changes.items()})


GPT2 = GPTConfig(vocab_size=60, context=64, layers=2, heads=4, channels=32)
OPT = replace(GPT2, activation="relu")
WIDE_VOCABULARY = replace(GPT2, vocab_size=3000, channels=16)
WIDE = replace(OPT, channels=128)
DEEP = replace(GPT2, layers=6)
CHECKPOINT, OFFLOAD = {"memory__checkpoint_activations": True}, {"memory__offload_gradients": True}


# ---------------------------------------------------------------------------------------------- measured


@pytest.mark.parametrize(
    ("model", "batch_tokens", "options"),
    [
        (GPT2, 1024, {}),
        (OPT, 1024, {}),
        (WIDE_VOCABULARY, 256, {}),
        (WIDE_VOCABULARY, 1024, OFFLOAD),
        (WIDE, 128, {}),
        (WIDE, 512, CHECKPOINT | OFFLOAD),
        (DEEP, 512, {}),
        (DEEP, 512, CHECKPOINT),
        (replace(OPT, context=512), 2048, CHECKPOINT),
    ],
)
def test_language_model_training_takes_what_was_planned(model, batch_tokens, options):
    config = settings(sft__policy__batch_tokens=batch_tokens, sft__reward__batch_tokens=batch_tokens, **options)
    measured = Measured(config, {"policy": model, "reward": model}, "sft")
    gpt = GPT(model)
    state = TrainState.initial(gpt, None, config.sft.policy, 0, config.memory)
    tokens = torch.randint(model.vocab_size, (batch_tokens // model.context, model.context))

    def step() -> None:
        state.optimizer.zero_grad()
        backward_in_chunks(gpt, tokens, torch.ones_like(tokens, dtype=torch.bool))
        state.optimizer.clip_gradients(1.0)
        state.optimizer.step()

    step()  # the moments are made in the first step
    state.optimizer.zero_grad()
    for name in ("policy", "reward"):
        with measured.phase(f"{name}: training step", gpt, state.optimizer):
            step()
        with measured.phase(f"{name}: held-out loss", gpt, state.optimizer):
            held_out_loss(gpt, tokens.tolist(), 0, batch_tokens)
        state.optimizer.zero_grad()
    measured.check()


@pytest.mark.parametrize(
    ("model", "batch_size", "length", "options"),
    [
        (GPT2, 16, 32, {}),
        (OPT, 16, 32, {}),
        (OPT, 4, 128, {"rm__dropout": 0.1}),
        (WIDE_VOCABULARY, 4, 24, {}),
        (WIDE, 4, 32, {}),
        (WIDE, 4, 32, OFFLOAD | {"rm__dropout": 0.1}),
        (DEEP, 8, 32, {}),
        (DEEP, 8, 32, CHECKPOINT | {"rm__dropout": 0.1}),
        (replace(DEEP, activation="relu"), 8, 32, CHECKPOINT | OFFLOAD),
    ],
)
def test_reward_model_training_takes_what_was_planned(model, batch_size, length, options):
    model = replace(model, context=max(model.context, length))
    config = settings(
        data__source="imdb",
        data__query_length=8,
        data__response_length=length - 9,
        rm__batch_size=batch_size,
        rm__normalisation_samples=32,
        ppo__rollout_batch_size=16,
        **options,
    )
    measured = Measured(config, {"policy": model, "reward": model}, "rm")
    reward = RewardModel(GPT(model))
    reward.gpt.set_dropout(config.rm.dropout)
    state = TrainState.initial(reward, None, config.rm, 0, config.memory)
    tokens = torch.randint(model.vocab_size, (2 * batch_size, length))

    def step() -> None:
        state.optimizer.zero_grad()
        scores = reward.train()(tokens, torch.ones_like(tokens, dtype=torch.bool)).view(-1, 2)
        ranking_loss(scores).backward()
        state.optimizer.clip_gradients(1.0)
        state.optimizer.step()

    step()
    state.optimizer.zero_grad()
    with measured.phase("training step", reward, state.optimizer):
        step()
    reward.eval()
    with measured.phase("evaluation", reward, state.optimizer):
        score_tokens(reward, [[1] * length] * 64, 0)
    del state
    reference = ActorCritic(GPT(model)).eval()
    with measured.phase("normalisation", reward, reference):
        sample(reference, 16, config)
        score_tokens(reward, [[1] * length] * 64, 0)
    measured.check()


def sample(policy: ActorCritic, rows: int, config: Config) -> None:
    queries = torch.ones(rows, config.data.query_length, dtype=torch.long)
    R = config.data.response_length
    generate(policy.gpt, queries, queries > 0, max_new_tokens=R, eos_id=0, pad_id=0, min_new_tokens=R)


@pytest.mark.parametrize(
    ("model", "lengths", "batches", "options"),
    [
        (GPT2, (6, 12), (16, 1, 16), {}),
        (OPT, (6, 12), (16, 2, 4), {"ppo__value_head": "mlp"}),
        (WIDE_VOCABULARY, (6, 12), (16, 1, 16), {}),
        (WIDE_VOCABULARY, (20, 6), (16, 2, 4), OFFLOAD | CHECKPOINT),
        (WIDE, (6, 12), (8, 2, 2), {}),
        (WIDE, (6, 12), (8, 1, 8), CHECKPOINT | OFFLOAD),
        (DEEP, (6, 10), (16, 1, 8), {"memory__park_models": True}),
        (DEEP, (4, 16), (16, 1, 16), CHECKPOINT),
        (replace(DEEP, activation="relu"), (6, 10), (8, 2, 2), CHECKPOINT | OFFLOAD),
        (OPT, (10, 90), (4, 1, 2), {"eval__prompts": 12}),
        (GPT2, (6, 12), (16, 1, 4), {"ppo__ptx_coef": 0.5, "ppo__ptx_batch_size": 4}),
    ],
)
def test_ppo_takes_what_was_planned(model, lengths, batches, options):
    (P, R), (B, minibatches, M) = lengths, batches
    model = replace(model, context=max(model.context, P + R + 1))
    config = settings(
        data__query_length=P,
        data__response_length=R,
        ppo__rollout_batch_size=B,
        ppo__num_minibatches=minibatches,
        ppo__microbatch_size=M,
        ppo__num_epochs=1,
        **{"eval__prompts": 2, "eval__final_prompts": 2} | options,
    )
    models = {"policy": model, "reward": replace(model, layers=2, vocab_size=100)}
    measured = Measured(config, models, "ppo")
    policy, reference = ActorCritic(GPT(model), config.ppo.value_head).eval(), ActorCritic(GPT(model)).eval()
    scorer = RewardScorer(RewardModel(GPT(models["reward"])), Tokenizer(P + R))
    sampling = SamplingParams(R, 0, 0, min_new_tokens=R)
    env = Environment(reference.requires_grad_(False), scorer, Tokenizer(P + R), sampling)
    demonstrations = [[1] * model.context] * 8 if config.ppo.ptx_coef else []
    prompts = torch.randint(1, model.vocab_size, (2 * B, P)).tolist()
    state = PPOState.initial(policy, prompts, demonstrations, config.ppo, 0, config.memory)
    everything = (policy, reference, scorer.reward_model, state.optimizer)
    rollout = collect_rollout(state, env, next(state.prompts), config.ppo)
    ppo_update(state, rollout, config.ppo)

    with measured.phase("generation", *everything):
        sample(policy, B, config)
    with measured.phase("log-probabilities", *everything):
        logprobs_and_values(policy, rollout, M)
    with measured.phase("reference's log-probabilities", *everything):
        logprobs_and_values(reference, rollout, M)
    with measured.phase("scoring", *everything):
        scorer([""] * B, [""] * B)
    with measured.phase("optimizer step", *everything):
        state.optimizer.step()
    if config.eval.prompts > B:
        with measured.phase("evaluation", *everything):
            sample(policy, config.eval.prompts, config)
    state.optimizer.zero_grad()
    with measured.phase("update", *everything):
        ppo_update(state, rollout, config.ppo)
    measured.check()
