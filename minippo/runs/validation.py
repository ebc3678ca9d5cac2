"""Checks of the settings, made before any data is read and before anything is trained or written."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from dataclasses import fields, is_dataclass

from minippo.advantages import ESTIMATORS
from minippo.config import (
    LARGEST_FLOAT,
    LARGEST_INTEGER,
    SMALLEST_FLOAT,
    Bounds,
    Config,
    DataConfig,
    PPOConfig,
    RMConfig,
)
from minippo.errors import quoted
from minippo.runs.system import physical_memory


def check(config: Config) -> None:
    """Raise ValueError, with the option and the numbers, if settings are invalid or too large for this machine."""
    check_settings(config)
    check_memory(config)


def check_settings(config: Config) -> None:
    """Raise ValueError if a value is out of bounds or if settings contradict, on any machine."""
    check_bounds(config)
    check_data(config.data)
    check_batches(config)
    check_objective(config.rm)
    check_estimators(config.ppo)
    ppo = config.ppo
    if ppo.missing_eos == "subtract" and ppo.missing_eos_score < 0:
        raise ValueError(
            f"with ppo.missing-eos subtract, ppo.missing-eos-score must be at least 0, not {ppo.missing_eos_score}: "
            "subtracting a negative number would reward responses that do not end"
        )
    if ppo.min_new_tokens > config.data.response_length:
        raise ValueError(
            f"ppo.min-new-tokens {ppo.min_new_tokens} exceeds data.response-length {config.data.response_length}"
        )
    for name, backbone in (("policy", config.model.policy), ("reward", config.model.reward)):
        if not backbone.weights:  # pretrained weights have their own context, which is checked when they are loaded
            check_context(config.data, name, backbone.context, f"model.{name}.context")
        if backbone.channels % backbone.heads:
            raise ValueError(f"model.{name}: {backbone.heads} heads do not divide {backbone.channels} channels")
        if backbone.weights and backbone.tokenizer.startswith("train:"):
            raise ValueError(
                f"model.{name}.weights {backbone.weights} needs the tokenizer that it was trained with, not a new one: "
                f"model.{name}.tokenizer is {backbone.tokenizer}"
            )


def check_bounds(options: object) -> None:
    """Raise ValueError if a number is outside the `Bounds` of its field or the range of all numbers, or is NaN or
    infinite, or if a text cannot be stored or name a file. Also checks sections.

    Works for every dataclass of options, such as those of the commands in `tools`.
    """
    for name, value, bounds in bounded_fields(options):
        if isinstance(value, str):
            if re.search("[\0\ud800-\udfff]", value):  # bytes that are not UTF-8 become lone surrogates
                raise ValueError(f"{name} has unreadable characters, NUL or not UTF-8: {quoted(value)}")
            continue
        if bounds is not None and value not in bounds:
            raise ValueError(f"{name} must be {bounds}, not {quoted(value)}")
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise ValueError(f"{name} must be at most {LARGEST_INTEGER:,}, not {quoted(value)}")
        if isinstance(value, float) and value != 0 and not SMALLEST_FLOAT <= abs(value) <= LARGEST_FLOAT:
            raise ValueError(
                f"{name} must be 0 or between {SMALLEST_FLOAT} and {LARGEST_FLOAT} in size, not {value}: training "
                "computes in float32"
            )


def bounded_fields(options: object, prefix: str = "") -> Iterator[tuple[str, float | str, Bounds | None]]:
    """Name as an option, value and bounds of all numbers and texts in a dataclass and its sections."""
    hints = typing.get_type_hints(type(options), include_extras=True)
    for field in fields(options):  # type: ignore[arg-type]
        name, value = prefix + field.name.replace("_", "-"), getattr(options, field.name)
        if is_dataclass(value):
            yield from bounded_fields(value, f"{name}.")
            continue
        metadata = getattr(hints[field.name], "__metadata__", ())
        bounds = next((item for item in metadata if isinstance(item, Bounds)), None)
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            yield name, value, bounds


def check_data(data: DataConfig) -> None:
    """Raise ValueError if the settings of the data contradict each other."""
    given = [name for name in ("demonstrations", "preferences", "prompts") if getattr(data, name)]
    if given and data.source != "files":
        raise ValueError(
            f"data.{given[0]} {quoted(getattr(data, given[0]), 200)} needs data.source files, but data.source is "
            f"{data.source}"
        )
    if data.source == "files" and not given:
        raise ValueError("data.source files needs data.demonstrations, data.preferences or data.prompts")
    splits = (data.train_split, data.validation_split, data.test_split)
    if not all(splits) or len(set(splits)) < 3:
        raise ValueError(
            "data.train-split, data.validation-split and data.test-split must be three different names, not "
            f"{', '.join(map(quoted, splits))}"
        )
    if data.min_crop_words > data.crop_words:
        raise ValueError(f"data.min-crop-words {data.min_crop_words} exceeds data.crop-words {data.crop_words}")
    if data.limit in (1, 2):
        raise ValueError(
            f"data.limit must be 0 (all) or at least 3 (one demonstration for each split), not {data.limit}"
        )


def check_batches(config: Config) -> None:
    """Raise ValueError unless a rollout divides into minibatches, and a minibatch into microbatches."""
    B, minibatches, M = config.ppo.rollout_batch_size, config.ppo.num_minibatches, config.ppo.microbatch_size
    if B % minibatches:
        raise ValueError(f"{minibatches} minibatches do not divide a rollout of {B} (ppo.rollout-batch-size)")
    if (B // minibatches) % M:
        raise ValueError(
            f"microbatches of {M} do not divide a minibatch of {B} / {minibatches} = {B // minibatches} "
            "(ppo.microbatch-size, ppo.rollout-batch-size, ppo.num-minibatches)"
        )


def check_objective(rm: RMConfig) -> None:
    """Raise ValueError if a setting has no meaning for the objective of the reward model."""
    if rm.objective == "labels" and rm.margin:
        raise ValueError(f"rm.objective labels compares no scores: rm.margin must be 0, not {rm.margin}")
    if rm.objective == "labels" and rm.normalise_before:
        raise ValueError("rm.objective labels returns probabilities, which are not normalised (rm.normalise-before)")


def check_estimators(ppo: PPOConfig) -> None:
    """Raise ValueError unless the advantages and the KL penalty can be computed."""
    if ppo.advantage not in ESTIMATORS:
        raise ValueError(f"ppo.advantage must be one of {', '.join(ESTIMATORS)}, not {quoted(ppo.advantage)}")
    B, K, fewest = ppo.rollout_batch_size, ppo.samples_per_prompt, ESTIMATORS[ppo.advantage].min_samples
    if B % K:
        raise ValueError(
            f"{K} samples per prompt do not divide a rollout of {B} (ppo.samples-per-prompt, ppo.rollout-batch-size)"
        )
    if fewest > K:
        raise ValueError(
            f"ppo.advantage {ppo.advantage} compares the responses to a prompt: ppo.samples-per-prompt must be at "
            f"least {fewest}, not {K}"
        )
    if ppo.kl_placement == "loss" and ppo.kl_estimate == "k1":
        raise ValueError(
            "ppo.kl-placement loss needs ppo.kl-estimate k2 or k3, not k1: in the loss, the gradient of k1 is 0 on "
            "average, so it penalises nothing"
        )


def check_memory(config: Config) -> None:
    """Raise ValueError if training surely needs more memory than the machine has."""
    memory, ppo = physical_memory(), config.ppo
    sizes = {}
    for name, backbone in (("policy", config.model.policy), ("reward", config.model.reward)):
        if not backbone.weights:
            num_weights = 12 * backbone.layers * backbone.channels**2 + backbone.context * backbone.channels
            # AdamW's two moments and the float32 weights, which are in CPU memory even if the model is on a GPU, and
            # the Python objects of a block.
            size = 12 * num_weights + 100_000 * backbone.layers
            sizes[f"model.{name}.layers, model.{name}.channels, model.{name}.context"] = size
    text = 8 * (config.data.query_length + config.data.response_length)  # its tokens
    sizes["ppo.rollout-batch-size"] = ppo.rollout_batch_size * text
    sizes["ppo.ptx-batch-size"] = ppo.ptx_batch_size * text
    sizes["rm.normalisation-samples"] = config.rm.normalisation_samples * text
    for options, size in sizes.items():
        if size > memory:
            raise ValueError(
                f"training would need at least {size // 2**30:,} GiB of memory, and this machine has "
                f"{memory / 2**30:,.0f} GiB ({options})"
            )


def check_context(data: DataConfig, backbone: str, context: int, source: str) -> None:
    """Raise ValueError unless the longest prompt and response fit into the context of a model.

    The reward model uses another tokenizer, for which the limits are only an estimate. It appends an end-of-text token.

    Args:
        backbone: "policy" or "reward".
        source: The option or file that determines `context`, for the message.
    """
    model, end, also = {"policy": ("policy", 0, ""), "reward": ("reward model", 1, " and an end-of-text")}[backbone]
    if data.query_length + data.response_length + end > context:
        raise ValueError(
            f"prompts of {data.query_length} tokens and responses of {data.response_length}{also} do not fit the "
            f"{model}'s context of {context} (data.query-length, data.response-length, {source})"
        )
