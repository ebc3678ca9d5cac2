"""The models of earlier stages, as later stages use them."""

from __future__ import annotations

from minippo.config import Config
from minippo.heads import ActorCritic
from minippo.memory import Model, park, phase
from minippo.rollout import Environment
from minippo.runs.run import Run
from minippo.runs.scorers import load_stored_scorer
from minippo.sampling import SamplingParams
from minippo.scoring import RewardScorer, Scorer
from minippo.tokenizer import Tokenizer
from minippo.weights import check_tokenizer, load_actor_critic, load_pretrained, load_reward_model


def sampling_params(config: Config, tokenizer: Tokenizer) -> SamplingParams:
    """How a run draws responses. Raises ValueError if `ppo.stop_token` is not one token."""
    eos_id, *stop_ids = tokenizer.end_ids(config.ppo.stop_token)
    return SamplingParams(
        max_new_tokens=config.data.response_length,
        eos_id=eos_id,
        pad_id=tokenizer.pad_id,
        stop_ids=tuple(stop_ids),
        temperature=config.ppo.temperature,
        min_new_tokens=config.ppo.min_new_tokens,
    )


@phase("loading")
def load_policy(run: Run, stage: str, value_head: str | None = "linear") -> ActorCritic:
    """The policy of "sft" (with a new value head, or none) or of "ppo", on the run's device."""
    return _stored_policy(run, stage, value_head).to(run.device)


@phase("loading")
def load_frozen_policy(run: Run, stage: str) -> ActorCritic:
    """The policy of "sft" or "ppo", which does not change any more. Use it within `memory.loaded`."""
    return _frozen(_stored_policy(run, stage), run)


def load_reference(run: Run) -> ActorCritic:
    """The frozen policy of "sft"."""
    return load_frozen_policy(run, "sft")


def _stored_policy(run: Run, stage: str, value_head: str | None = "linear") -> ActorCritic:
    folder = run.earlier(stage) / "policy"
    dtype = run.dtype("policy")
    policy = (
        ActorCritic(load_pretrained(folder, dtype), value_head) if stage == "sft" else load_actor_critic(folder, dtype)
    )
    check_tokenizer(policy.gpt, run.tokenizers()[0], folder)
    return policy


def _frozen(model: Model, run: Run) -> Model:
    """`model` without dropout and gradients, on the run's device or, with `memory.park_models`, waiting in CPU
    memory."""
    model.eval().requires_grad_(False)
    return park(model, run.device) if run.config.memory.park_models else model.to(run.device)


@phase("loading")
def load_run_scorer(run: Run, scorer: str | None = None) -> Scorer:
    """The function that `ppo.scorer` names, or the run's reward model.

    `scorer` is the function that the command line names. Raises ValueError if it is another one or none, or does not
    exist.
    """
    if run.config.ppo.scorer or scorer:
        return load_stored_scorer(run.config.ppo.scorer, scorer, run.folder)
    return load_reward_scorer(run)


@phase("loading")
def load_reward_scorer(run: Run) -> RewardScorer:
    """The run's reward model."""
    folder, (_, tokenizer) = run.earlier("rm"), run.tokenizers()
    model = load_reward_model(folder, run.dtype("reward"))
    check_tokenizer(model.gpt, tokenizer, folder)
    return RewardScorer(_frozen(model, run), tokenizer)


def load_environment(run: Run, scorer: str | None = None) -> Environment:
    """What PPO and its evaluation need besides the policy: the frozen reference, the scorer, tokenizer and sampling.

    `scorer` is the function that the command line names, see `load_run_scorer`.
    """
    tokenizer, _ = run.tokenizers()
    sampling = sampling_params(run.config, tokenizer)
    return Environment(load_reference(run), load_run_scorer(run, scorer), tokenizer, sampling)
