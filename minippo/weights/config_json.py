"""config.json: the architecture of a model, in the keys of a public family or, natively, the fields of `GPTConfig`."""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from minippo.errors import quoted
from minippo.model import GPTConfig
from minippo.storage import checked, entry
from minippo.weights.families import FAMILIES
from minippo.weights.format import FileFormat

NATIVE = "minippo"
"""The `model_type` of a model that no family can express."""

MAX_SIZES = {"vocab_size": 10**7, "context": 10**7, "layers": 1000, "heads": 10**4, "channels": 10**5}
"""Far above those of any public model. Larger ones would take minutes before they turn out not to fit the weights."""


def to_public(config: GPTConfig, form: FileFormat) -> dict[str, Any]:
    """The config.json of a language model of this architecture."""
    family = FAMILIES[form.family]
    eos_id = config.vocab_size - 1 if form.eos_id is None else form.eos_id
    return {
        "architectures": [family.causal],
        "model_type": form.family,
        **{key: getattr(config, field) for field, key in family.sizes.items()},
        **{key: values[0] for key, (values, _) in family.requirements(config.channels).items()},
        "activation_function": config.activation,
        **{key: config.dropout if is_ours else 0.0 for key, is_ours in family.dropout.items()},
        "bos_token_id": eos_id,
        "eos_token_id": eos_id,
        "pad_token_id": form.pad_id,
        "never_sampled": list(config.suppress_tokens),  # not a key of the family: other tools ignore it
    }


def from_public(public: dict[str, Any], name: str) -> tuple[GPTConfig, FileFormat]:
    """The architecture in the config.json of `name`. Raises ValueError if it is not that of `model.py`."""
    where = f"the config.json of {name}"
    model_type = entry(public, "model_type", where, str, NoneType)
    if model_type not in FAMILIES:
        supported = " and ".join(map(repr, FAMILIES))
        raise ValueError(f"{name} has the model type {quoted(model_type)}; only {supported} can be loaded")
    family = FAMILIES[model_type]
    sizes = {field: entry(public, key, where, int) for field, key in family.sizes.items()}
    suppress_tokens = entry(public, "never_sampled", where, list, NoneType) or []
    _check_sizes(sizes, family.sizes, suppress_tokens, where)
    requirements = family.requirements(sizes["channels"])
    settings = {key: public.get(key, values[0]) for key, (values, _) in requirements.items()}
    different = [
        f"{requirements[key][1]} ({key} is {quoted(value)})"
        for key, value in settings.items()
        if value not in requirements[key][0]
    ]
    if different:
        raise ValueError(f"{name} has an architecture that cannot be loaded: {'; '.join(different)}")
    eos_id = entry(public, "eos_token_id", where, int, list, NoneType)
    if isinstance(eos_id, list):  # several ids end a response; the first ends a text
        eos_id = checked(eos_id[0] if eos_id else None, f"{where}: the first eos_token_id", int)
    config = GPTConfig(
        **sizes,
        activation="relu" if settings["activation_function"] == "relu" else "gelu_new",
        suppress_tokens=tuple(suppress_tokens),
    )
    return config, FileFormat(model_type, eos_id, entry(public, "pad_token_id", where, int, NoneType))


def _check_sizes(sizes: dict[str, int], keys: dict[str, str], suppress_tokens: list[int], where: str) -> None:
    """Raise ValueError if no model has such sizes, which the file calls `keys`, or there is no such id to suppress."""
    for field, largest in MAX_SIZES.items():
        if not 1 <= sizes[field] <= largest:
            bounds = "at least 1" if sizes[field] < 1 else f"at most {largest:,}"
            raise ValueError(f"{where}: {keys[field]} must be {bounds}, not {quoted(sizes[field])}")
    if sizes["channels"] % sizes["heads"]:
        channels, heads = (f"{keys[field]} {sizes[field]}" for field in ("channels", "heads"))
        raise ValueError(f"{where}: {channels} is not divisible by {heads}")
    ids = keys.get("suppress_tokens", "never_sampled")
    for i in suppress_tokens:
        if not 0 <= checked(i, f"{where}: an id in {ids}", int) < sizes["vocab_size"]:
            raise ValueError(f"{where}: {ids} contains {i}, but the largest id is {sizes['vocab_size'] - 1}")


def to_native(config: GPTConfig) -> dict[str, Any]:
    """The config.json of a model that only this `model.py` implements: every field of its `GPTConfig`."""
    return {"model_type": NATIVE, **asdict(config)}


def from_native(native: dict[str, Any], name: str) -> GPTConfig:
    """The inverse of `to_native`. Raises ValueError if the `GPTConfig` that was saved had other fields."""
    where, types = f"the config.json of {name}", get_type_hints(GPTConfig)
    own = [field.name for field in fields(GPTConfig)]
    required = [field.name for field in fields(GPTConfig) if field.default is field.default_factory is MISSING]
    unknown = [key for key in native if key not in own and key != "model_type"]
    missing = [key for key in required if key not in native]
    if unknown or missing:
        raise ValueError(
            f"{name} was saved with another minippo/model.py: its config.json has the unknown fields {unknown} and "
            f"lacks the fields {missing} of GPTConfig"
        )
    values = {key: native[key] for key in own if key in native}
    for key, value in values.items():
        if types[key] in (int, str, bool):
            checked(value, f"{where}: {key}", types[key])
        if types[key] is float and not (type(value) in (int, float) and math.isfinite(value)):
            raise ValueError(f"{where}: {key} should be a finite number, but is {quoted(value)}")
        if get_origin(types[key]) is Literal and value not in get_args(types[key]):
            raise ValueError(f"{where}: {key} should be one of {get_args(types[key])}, but is {quoted(value)}")
    suppress_tokens = entry(values, "suppress_tokens", where, list, NoneType) or []
    _check_sizes(values, {field: field for field in own}, suppress_tokens, where)
    return GPTConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
