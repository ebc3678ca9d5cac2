"""Which settings have a meaning: asked before anything is read, trained or written."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass

from minippo.config import Config, DataConfig

MAX_SEED = 2**32 - 1

MIN_TEMPERATURE = 0.01
"""Below it nearly every token has a probability of 1 or 0, so that PPO has nothing to choose from or to learn from."""


def check(config: Config) -> None:
    """Raise ValueError, with the numbers in it, where settings have no meaning or contradict each other."""
    data, ppo, policy = config.data, config.ppo, config.model.policy
    for name, value, least in (
        ("data.query-length", data.query_length, 1),
        ("data.response-length", data.response_length, 1),
        ("data.crop-words", data.crop_words, 1),
        ("data.limit", data.limit, 0),
        ("sft.policy.tokens", config.sft.policy.tokens, 0),
        ("sft.reward.tokens", config.sft.reward.tokens, 0),
        ("sft.policy.batch-tokens", config.sft.policy.batch_tokens, 1),
        ("sft.reward.batch-tokens", config.sft.reward.batch_tokens, 1),
        ("rm.epochs", config.rm.epochs, 1),
        ("rm.batch-size", config.rm.batch_size, 1),
        ("rm.eval-comparisons", config.rm.eval_comparisons, 1),
        ("rm.eval-every", config.rm.eval_every, 1),
        ("rm.normalisation-samples", config.rm.normalisation_samples, 2),
        ("ppo.num-iterations", ppo.num_iterations, 1),
        ("ppo.rollout-batch-size", ppo.rollout_batch_size, 1),
        ("ppo.num-epochs", ppo.num_epochs, 1),
        ("ppo.num-minibatches", ppo.num_minibatches, 1),
        ("ppo.microbatch-size", ppo.microbatch_size, 1),
        ("ppo.min-new-tokens", ppo.min_new_tokens, 0),
        ("ppo.save-every", ppo.save_every, 1),
        ("ppo.ptx-batch-size", ppo.ptx_batch_size, 1),
        ("eval.every", config.eval.every, 1),
        ("eval.prompts", config.eval.prompts, 1),
        ("eval.final-prompts", config.eval.final_prompts, 1),
        ("eval.samples", config.eval.samples, 0),
        ("seed", config.seed, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    for name, number, low, high in (
        ("sft.policy.lr", config.sft.policy.lr, 0, None),
        ("sft.reward.lr", config.sft.reward.lr, 0, None),
        ("sft.policy.weight-decay", config.sft.policy.weight_decay, 0, None),
        ("sft.reward.weight-decay", config.sft.reward.weight_decay, 0, None),
        ("sft.policy.warmup", config.sft.policy.warmup, 0, 1),
        ("sft.reward.warmup", config.sft.reward.warmup, 0, 1),
        ("rm.lr", config.rm.lr, 0, None),
        ("rm.weight-decay", config.rm.weight_decay, 0, None),
        ("rm.warmup", config.rm.warmup, 0, 1),
        ("rm.token-dropout", config.rm.token_dropout, 0, 0.9),
        ("rm.label-smoothing", config.rm.label_smoothing, 0, 0.5),
        ("rm.dropout", config.rm.dropout, 0, 0.9),
        ("ppo.lr", ppo.lr, 0, None),
        ("ppo.weight-decay", ppo.weight_decay, 0, None),
        ("ppo.kl-coef", ppo.kl_coef, 0, None),
        ("ppo.gamma", ppo.gamma, 0, 1),
        ("ppo.lam", ppo.lam, 0, 1),
        ("ppo.clip-low", ppo.clip_low, 0, 1),
        ("ppo.clip-high", ppo.clip_high, 0, None),
        ("ppo.value-coef", ppo.value_coef, 0, None),
        ("ppo.entropy-coef", ppo.entropy_coef, 0, None),
        ("ppo.ptx-coef", ppo.ptx_coef, 0, None),
        ("ppo.warmup", ppo.warmup, 0, 1),
        ("ppo.adam-beta2", ppo.adam_beta2, 0, 0.999999),
        ("ppo.temperature", ppo.temperature, MIN_TEMPERATURE, None),
    ):
        if not number >= low or (high is not None and number > high):
            raise ValueError(f"{name} must be {f'from {low} to {high}' if high else f'{low} or more'}, not {number}")
    for name, number in (
        ("ppo.kl-target", ppo.kl_target),
        ("ppo.kl-horizon", ppo.kl_horizon),
        ("ppo.value-clip", ppo.value_clip),
        ("ppo.score-clip", ppo.score_clip),
        ("ppo.max-approx-kl", ppo.max_approx_kl),
        ("ppo.max-ratio", ppo.max_ratio),
        ("ppo.adam-eps", ppo.adam_eps),
        ("ppo.max-grad-norm", ppo.max_grad_norm),
        ("rm.max-grad-norm", config.rm.max_grad_norm),
        ("sft.policy.max-grad-norm", config.sft.policy.max_grad_norm),
        ("sft.reward.max-grad-norm", config.sft.reward.max_grad_norm),
    ):
        if number is not None and not number > 0:
            raise ValueError(f"{name} must be above 0, not {number}")
    check_finite(config)
    if config.seed > MAX_SEED:
        raise ValueError(f"seed must be at most {MAX_SEED}, not {config.seed}")
    given = [name for name in ("demonstrations", "preferences", "prompts") if getattr(data, name)]
    if given and data.source != "files":
        raise ValueError(f"data.{given[0]} is {getattr(data, given[0])}, but data.source is {data.source}, not files")
    if data.source == "files" and not given:
        raise ValueError(
            "data.source is files, but none of data.demonstrations, data.preferences, data.prompts is given"
        )
    if not 0 < data.hold_out < 1:
        raise ValueError(f"data.hold-out must be above 0 and below 1, not {data.hold_out}")
    splits = (data.train_split, data.validation_split, data.test_split)
    if not all(splits) or len(set(splits)) < 3:
        raise ValueError(
            "data.train-split, data.validation-split and data.test-split must be three names, not "
            f"{', '.join(map(repr, splits))}"
        )
    if data.limit in (1, 2):
        raise ValueError(
            f"data.limit must be 0 for all, or at least 3, since two demonstrations are held out; not {data.limit}"
        )
    if ppo.missing_eos == "subtract" and ppo.missing_eos_score < 0:
        raise ValueError(
            f"ppo.missing-eos subtract takes off ppo.missing-eos-score, so {ppo.missing_eos_score} is praise"
        )
    B, minibatches, M = ppo.rollout_batch_size, ppo.num_minibatches, ppo.microbatch_size
    if B % minibatches:
        raise ValueError(f"{minibatches} minibatches do not divide a rollout of {B} (ppo.rollout-batch-size)")
    if (B // minibatches) % M:
        raise ValueError(
            f"microbatches of {M} do not divide a minibatch of {B} / {minibatches} = {B // minibatches} "
            "(ppo.microbatch-size, ppo.rollout-batch-size, ppo.num-minibatches)"
        )
    for name, backbone in (("policy", policy), ("reward", config.model.reward)):
        if not backbone.weights:  # public ones bring a context of their own
            check_context(data, name, backbone.context, f"model.{name}.context")
    if ppo.min_new_tokens > data.response_length:
        raise ValueError(f"ppo.min-new-tokens {ppo.min_new_tokens} exceeds responses of {data.response_length} tokens")
    for name, backbone in (("policy", policy), ("reward", config.model.reward)):
        if min(backbone.layers, backbone.heads, backbone.channels, backbone.context) < 1:
            raise ValueError(f"model.{name}: layers, heads, channels and context must be at least 1")
        if backbone.channels % backbone.heads:
            raise ValueError(
                f"model.{name}: {backbone.channels} channels cannot be divided among {backbone.heads} heads"
            )


def check_context(data: DataConfig, backbone: str, context: int, source: str) -> None:
    """Raise ValueError unless the longest prompt and response fit into the context of the "policy" or the "reward"
    model, which `source` sets. The reward model's tokens are others, but about as many, and it appends its end-of-text:
    the score is read there."""
    model, end, also = {"policy": ("policy", 0, ""), "reward": ("reward model", 1, " and an end-of-text")}[backbone]
    if data.query_length + data.response_length + end > context:
        raise ValueError(
            f"prompts of {data.query_length} tokens and responses of {data.response_length}{also} do not fit the "
            f"{model}'s context of {context} (data.query-length, data.response-length, {source})"
        )


def check_finite(config: object, prefix: str = "") -> None:
    """Raise ValueError where a number of the settings is NaN or infinite."""
    for field in fields(config):  # type: ignore[arg-type]
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        if is_dataclass(value):
            check_finite(value, f"{name}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, not {value}")
