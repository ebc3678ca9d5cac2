"""Invalid settings are refused with one sentence that contains the numbers."""

from __future__ import annotations

import math
import re
import typing
from contextlib import nullcontext
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minippo import config as module
from minippo.config import Bounds, Config, LMTrainConfig, OptimizerConfig, PPOConfig, RMConfig
from minippo.runs.arguments import field_texts
from minippo.runs.validation import check


def changed(config, name: str, value):
    """`config` with the dotted field `name` set to `value`."""
    first, _, rest = name.partition(".")
    return replace(config, **{first: changed(getattr(config, first), rest, value) if rest else value})


def option(name: str) -> str:
    return name.replace("_", "-")


def leaves(config, prefix="") -> dict[str, object]:
    found = {}
    for field in fields(config):
        value = getattr(config, field.name)
        found |= leaves(value, f"{prefix}{field.name}.") if is_dataclass(value) else {prefix + field.name: value}
    return found


def test_defaults_are_valid():
    check(Config())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.query_length", 0),
        ("data.response_length", 0),
        ("data.crop_words", 0),
        ("data.min_crop_words", -1),
        ("data.limit", -1),
        ("data.limit", 2),
        ("sft.policy.tokens", -5),
        ("sft.reward.batch_tokens", 0),
        ("sft.policy.warmup", 1.5),
        ("sft.reward.lr", -0.1),
        ("rm.epochs", 0),
        ("rm.batch_size", 0),
        ("rm.lr", math.nan),
        ("rm.label_smoothing", 0.6),
        ("rm.eval_comparisons", 0),
        ("rm.eval_every", 0),
        ("rm.normalisation_samples", 1),
        ("rm.dropout", 1.0),
        ("rm.token_dropout", -0.1),
        ("rm.averaging", 1.0),
        ("ppo.num_iterations", 0),
        ("ppo.rollout_batch_size", 0),
        ("ppo.num_epochs", 0),
        ("ppo.num_minibatches", 0),
        ("ppo.microbatch_size", 0),
        ("ppo.lr", -1.0),
        ("ppo.lr", math.nan),
        ("ppo.kl_coef", -0.1),
        ("ppo.kl_target", 0.0),
        ("ppo.kl_horizon", 0.0),
        ("ppo.gamma", 1.1),
        ("ppo.lam", -0.5),
        ("ppo.clip_low", 1.5),
        ("ppo.clip_high", -0.2),
        ("ppo.value_clip", 0.0),
        ("ppo.value_coef", -1.0),
        ("ppo.temperature", 0.0),
        ("ppo.temperature", 0.009),
        ("ppo.max_grad_norm", 0.0),
        ("ppo.score_clip", -1.0),
        ("ppo.min_new_tokens", -1),
        ("ppo.adam_beta2", 1.0),
        ("ppo.adam_eps", 0.0),
        ("ppo.weight_decay", -0.1),
        ("rm.weight_decay", -0.1),
        ("sft.policy.weight_decay", -0.1),
        ("rm.max_grad_norm", 0.0),
        ("sft.reward.max_grad_norm", 0.0),
        ("ppo.entropy_coef", math.nan),
        ("ppo.save_every", 0),
        ("eval.every", 0),
        ("eval.prompts", 0),
        ("eval.final_prompts", 0),
        ("eval.samples", -1),
        ("seed", -1),
    ],
)
def test_value_out_of_range_is_named_with_its_option(name, value):
    with pytest.raises(ValueError, match=re.escape(option(name))) as error:
        check(changed(Config(), name, value))
    assert str(value) in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ppo.lr", 0.0),
        ("ppo.kl_coef", 0.0),
        ("ppo.gamma", 0.0),
        ("ppo.lam", 1.0),
        ("ppo.value_clip", None),
        ("ppo.kl_target", None),
        ("sft.policy.tokens", 0),
        ("data.limit", 0),
        ("data.limit", 3),
        ("ppo.temperature", 0.01),
        ("model.reward.context", 89),
        ("ppo.min_new_tokens", 64),
        ("model.policy.context", 88),
    ],
)
def test_value_at_the_edge_of_its_range_is_allowed(name, value):
    check(changed(Config(), name, value))


@given(batch=st.integers(1, 64), minibatches=st.integers(1, 12), microbatch=st.integers(1, 12))
def test_minibatches_and_microbatches_must_divide_without_rest(batch, minibatches, microbatch):
    ppo = replace(Config().ppo, rollout_batch_size=batch, num_minibatches=minibatches, microbatch_size=microbatch)
    config = replace(Config(), ppo=ppo)
    if batch % minibatches:
        with pytest.raises(ValueError, match=f"{minibatches} minibatches do not divide a rollout of {batch}"):
            check(config)
    elif (batch // minibatches) % microbatch:
        with pytest.raises(ValueError, match=f"microbatches of {microbatch} do not divide .* = {batch // minibatches}"):
            check(config)
    else:
        check(config)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"advantage": "grpo"}, r"ppo\.advantage must be one of gae, group, leave-one-out, batch, not 'grpo'"),
        ({"samples_per_prompt": 3}, r"3 samples per prompt do not divide a rollout of 128 .*ppo\.rollout-batch-size"),
        ({"advantage": "group"}, r"ppo\.advantage group .* ppo\.samples-per-prompt must be at least 2, not 1$"),
        ({"advantage": "leave-one-out"}, r"leave-one-out .* must be at least 2, not 1$"),
        ({"kl_placement": "loss"}, r"ppo\.kl-placement loss needs ppo\.kl-estimate k2 or k3, not k1: "),
    ],
)
def test_estimators_and_penalties_that_cannot_work_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        check(replace(Config(), ppo=replace(Config().ppo, **changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": "batch"},
        {"advantage": "group", "samples_per_prompt": 2},
        {"advantage": "leave-one-out", "samples_per_prompt": 128},
        {"samples_per_prompt": 4},
        {"kl_placement": "loss", "kl_estimate": "k2"},
        {"kl_estimate": "k3"},
    ],
)
def test_variants_are_allowed(changes):
    check(replace(Config(), ppo=replace(Config().ppo, **changes)))


def test_prompt_and_response_beyond_the_context_are_refused_with_the_three_numbers():
    roomy = changed(changed(Config(), "model.policy.context", 128), "model.reward.context", 129)
    with pytest.raises(ValueError, match=r"prompts of 65 tokens and responses of 64 .* the policy's context of 128"):
        check(changed(roomy, "data.query_length", 65))
    check(changed(roomy, "data.query_length", 64))


def test_context_of_pretrained_weights_replaces_the_configured_one():
    check(changed(changed(Config(), "model.policy.context", 5), "model.policy.weights", "gpt2"))
    with pytest.raises(ValueError, match="context of 5"):
        check(changed(changed(Config(), "model.policy.context", 5), "model.reward.weights", "gpt2"))


def test_minimum_length_beyond_the_response_is_refused():
    with pytest.raises(ValueError, match=r"ppo.min-new-tokens 65 exceeds data.response-length 64"):
        check(changed(Config(), "ppo.min_new_tokens", 65))


def test_shortest_crop_beyond_the_longest_is_refused():
    check(changed(Config(), "data.min_crop_words", 100))
    with pytest.raises(ValueError, match=r"data.min-crop-words 101 exceeds data.crop-words 100"):
        check(changed(Config(), "data.min_crop_words", 101))


@pytest.mark.parametrize("model", ["policy", "reward"])
def test_sizes_of_a_transformer_must_fit_each_other(model):
    wide = changed(Config(), f"model.{model}.channels", 128)
    with pytest.raises(ValueError, match=f"model.{model}: 3 heads do not divide 128 channels"):
        check(changed(wide, f"model.{model}.heads", 3))
    with pytest.raises(ValueError, match=f"model.{model}.layers must be at least 1, not 0"):
        check(changed(Config(), f"model.{model}.layers", 0))


def test_settings_never_change():
    config = Config()
    for section in (config, config.data, config.model.policy, config.sft.reward, config.rm, config.ppo, config.eval):
        name = fields(section)[0].name
        with pytest.raises(FrozenInstanceError):
            setattr(section, name, getattr(section, name))


def test_every_field_has_a_help_text():
    """The string below a field, or below the field of the base class that it overrides."""
    for name, value in vars(module).items():
        if is_dataclass(value) and value not in (Config, Bounds):
            assert set(field_texts(value)) == {field.name for field in fields(value)}, name


def test_a_field_that_overrides_the_base_class_keeps_its_bounds():
    """Otherwise a stage with a default of its own could lose the bounds that all others have."""
    for section in (RMConfig, PPOConfig, LMTrainConfig):
        hints, base = (typing.get_type_hints(each, include_extras=True) for each in (section, OptimizerConfig))
        assert {name: hints[name] for name in base} == base


def test_bounds_are_named_as_a_sentence_needs_them():
    assert str(Bounds(1)) == "at least 1"
    assert str(Bounds(0, exclusive=True)) == "above 0"
    assert str(Bounds(0, 1)) == "from 0 to 1"
    assert str(Bounds(0, 1, exclusive=True)) == "above 0 and below 1"


def test_bounds_of_a_missing_value_are_not_checked():
    check(replace(Config(), ppo=replace(Config().ppo, kl_target=None)))
    with pytest.raises(ValueError, match=r"ppo\.kl-target must be above 0, not -1"):
        check(replace(Config(), ppo=replace(Config().ppo, kl_target=-1.0)))


def test_range_of_every_number_is_checked():
    """-1 is invalid for every number except scores and margins."""
    meaningful = {"ppo.missing_eos_score", "rm.margin"}
    for name, value in leaves(Config()).items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in meaningful:
            with pytest.raises(ValueError, match=f"^{re.escape(option(name))} must be .*, not -1"):
                check(changed(Config(), name, type(value)(-1)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("section", "name"), [("rm", "margin"), ("ppo", "missing_eos_score"), ("ppo", "kl_coef")])
def test_nan_and_infinity_are_refused_in_every_section(section, name, value):
    changed = replace(Config(), **{section: replace(getattr(Config(), section), **{name: value})})
    with pytest.raises(ValueError, match=f"{section}.{name.replace('_', '-')} must be"):
        check(changed)


def test_seed_has_a_limit():
    check(replace(Config(), seed=2**32 - 1))
    with pytest.raises(ValueError, match="seed must be from 0 to 4294967295, not 4294967296"):
        check(replace(Config(), seed=2**32))


def test_what_compares_or_normalises_scores_is_refused_for_labels():
    check(Config(rm=RMConfig(objective="labels", label_smoothing=0.1)))
    with pytest.raises(ValueError, match=r"rm\.margin must be 0, not 0\.5"):
        check(Config(rm=RMConfig(objective="labels", margin=0.5)))
    with pytest.raises(ValueError, match=r"not normalised \(rm\.normalise-before\)"):
        check(Config(rm=RMConfig(objective="labels", normalise_before=True)))


def test_reward_model_must_have_room_for_prompt_response_and_its_end_of_text():
    reward = replace(Config().model.reward, context=24 + 64)
    message = "responses of 64 and an end-of-text do not fit the reward model's context of 88"
    with pytest.raises(ValueError, match=message):
        check(replace(Config(), model=replace(Config().model, reward=reward)))


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("model.policy.layers", 10**9, "model.policy.layers, model.policy.channels, model.policy.context"),
        ("model.reward.channels", 4 * 10**9, "model.reward.layers, model.reward.channels, model.reward.context"),
        ("model.policy.context", 10**12, "model.policy.layers, model.policy.channels, model.policy.context"),
        ("ppo.rollout_batch_size", 64 * 10**12, "ppo.rollout-batch-size"),
        ("ppo.ptx_batch_size", 10**13, "ppo.ptx-batch-size"),
        ("rm.normalisation_samples", 10**13, "rm.normalisation-samples"),
    ],
)
def test_sizes_beyond_the_memory_of_any_machine_are_refused(name, value, part):
    with pytest.raises(
        ValueError, match=r"training would need at least .* GiB of memory, and this machine has"
    ) as error:
        check(changed(Config(), name, value))
    assert str(error.value).endswith(f"GiB ({part})")


def test_sizes_are_compared_with_the_memory_of_this_machine(monkeypatch):
    monkeypatch.setattr("minippo.runs.validation.physical_memory", lambda: 2**20)
    with pytest.raises(ValueError, match="this machine has 0 GiB"):
        check(Config())


def test_weights_and_moments_in_cpu_memory_are_enough_for_training_on_a_gpu(monkeypatch):
    policy = replace(Config().model.policy, layers=1, channels=1024, heads=1, context=256)
    config = replace(Config(), model=replace(Config().model, policy=policy))
    num_weights = 12 * 1024**2 + 256 * 1024
    for free, fits in ((11.9 * num_weights, False), (12.1 * num_weights, True)):
        monkeypatch.setattr("minippo.runs.validation.physical_memory", lambda free=free: int(free))
        with nullcontext() if fits else pytest.raises(ValueError, match=r"model\.policy\.layers"):
            check(config)


@pytest.mark.parametrize("value", [1e39, 1e31, 1e-31, 1e-300])
def test_numbers_beyond_float32_are_refused(value):
    for name in ("ppo.lr", "ppo.adam_eps", "sft.policy.weight_decay", "ppo.kl_target"):
        with pytest.raises(
            ValueError, match=f"^{re.escape(option(name))} must be 0 or between 1e-30 and 1e.30 in size"
        ):
            check(changed(Config(), name, value))
    check(changed(Config(), "ppo.missing_eos_score", -1e30))
    with pytest.raises(ValueError, match="missing-eos-score must be 0 or between"):
        check(changed(Config(), "ppo.missing_eos_score", -value))


def test_huge_integers_are_refused():
    with pytest.raises(ValueError, match=r"eval\.every must be at most 1,000,000,000,000,000, not 10{15}1"):
        check(changed(Config(), "eval.every", 10**16 + 1))
    with pytest.raises(ValueError, match=r"eval\.every must be at most .*, not 1000.*000"):
        check(changed(Config(), "eval.every", 10**400))
