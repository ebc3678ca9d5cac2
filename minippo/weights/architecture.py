"""Whether `model.py` still implements the transformer that the public formats describe, or has been changed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minippo.model import GPT, GPTConfig
from minippo.weights.families import FAMILIES, tensor_names
from minippo.weights.shards import some_of

PUBLIC_FIELDS = {*FAMILIES["gpt2"].sizes, "dropout", "activation", "suppress_tokens"}
"""The fields of `GPTConfig` that config.json has keys for."""

PROBE_LOGITS = {
    "gelu_new": (-1.86792, 2.03074, -0.78684, -1.00211, 2.09689),
    "relu": (-1.87676, 2.04924, -0.80219, -1.00055, 2.1102),
}
"""Activation -> logits of a tiny GPT-2 (or OPT) with the weights that `computes_the_same` fills in."""


class _NoInitialisation(TorchFunctionMode):
    """Skip the initialisation of new tensors, which takes time, memory and random numbers."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def empty_model(config: GPTConfig, dtype: torch.dtype = torch.float32) -> GPT:
    """A model whose weights are not initialised: they have addresses, but occupy no memory until they are filled."""
    with _NoInitialisation():
        gpt = GPT(config)
    for parameter in gpt.parameters():
        parameter.data = torch.empty_like(parameter, dtype=dtype)  # `to(dtype)` would read, and so occupy, the memory
    for buffer in gpt.buffers():
        buffer.data = buffer.to(dtype) if buffer.is_floating_point() else buffer
    return gpt


def own_tensors(gpt: GPT) -> dict[str, Tensor]:
    """The weights of a model under its own names. A tensor with two names, such as a tied output embedding, has the
    first."""
    tensors = {}
    for name, tensor in gpt.state_dict(keep_vars=True).items():
        tensors.setdefault(id(tensor), (name, tensor.detach()))
    return dict(tensors.values())


def unsupported(gpt: GPT, family: str) -> list[str]:
    """What the format of `family` cannot express of a changed model, in words; empty if it can express the model."""
    config, own = gpt.config, {name: tuple(tensor.shape) for name, tensor in own_tensors(gpt).items()}
    public = public_shapes(config, family)
    reasons = []
    if extra := [name for name in own if name not in public]:
        reasons.append(f"it has no name for {some_of(extra)}")
    if missing := [name for name in public if name not in own]:
        reasons.append(f"it requires {some_of(missing)}")
    if other := [name for name, shape in own.items() if public.get(name, shape) != shape]:
        reasons.append(f"it has another shape for {some_of(other)}")
    if settings := [f"GPTConfig.{field.name}" for field in fields(config) if field.name not in PUBLIC_FIELDS]:
        reasons.append(f"it has no key for {some_of(settings)}")
    if config.activation not in FAMILIES[family].requirements(config.channels)["activation_function"][0]:
        reasons.append(f"it has no activation {config.activation!r}")
    return reasons


@torch.no_grad()
def computes_the_same() -> bool:
    """Whether a model without `unsupported` parts also computes what public ones compute. Names and shapes do not tell,
    for example, another activation."""
    for activation, expected in PROBE_LOGITS.items():
        config = GPTConfig(vocab_size=5, context=4, layers=2, heads=2, channels=4, activation=activation)
        gpt = empty_model(config).eval()
        for index, (_, tensor) in enumerate(sorted(own_tensors(gpt).items())):
            tensor.copy_(torch.sin(torch.arange(tensor.numel()) + index).view_as(tensor))
        logits = gpt(torch.tensor([[1, 2, 3, 0]]))[0, -1]  # (V,)
        if not torch.allclose(logits, torch.tensor(expected), rtol=0, atol=1e-4):
            return False
    return True


def public_shapes(config: GPTConfig, family: str) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the weights of our transformer, and of what OPT's files store besides."""
    C = config.channels
    others = {
        "token_embedding.weight": (config.vocab_size, C),
        "position_embedding.weight": (config.context, C),
        "attention.qkv.weight": (3 * C, C),
        "attention.qkv.bias": (3 * C,),
        "attention.out.weight": (C, C),
        "up.weight": (4 * C, C),
        "up.bias": (4 * C,),
        "down.weight": (C, 4 * C),
    }
    names = [names.ours[-1] for names in tensor_names(family, config.layers)]
    return {name: others.get(name.split(".", 2)[2] if name.startswith("blocks.") else name, (C,)) for name in names}
