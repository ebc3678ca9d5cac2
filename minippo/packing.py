"""Faster matrix products with few rows on a CPU, for generation.

A decoding step multiplies every weight by one row per response. Before each matrix product, PyTorch rearranges the
weight for the processor, which takes as long as the product itself if there are few rows. oneDNN, which comes with
PyTorch, can keep the rearranged weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from minippo.model import GPT

SMALL = 2**17
"""Weights of at most this many numbers are not rearranged: they fit into the processor's cache anyway."""


@contextmanager
def packed_linear(model: nn.Module) -> Iterator[None]:
    """A context in which the model's linear layers and its output embedding read rearranged copies of large weights.

    The weights must not change inside, and there are no gradients. The copies take as much CPU memory as the weights.
    Results differ by rounding. Nothing changes on a GPU, in bfloat16, or if PyTorch was built without oneDNN.
    """
    products = [
        (module, name, packed_product(weight, bias))
        for module in model.modules()
        for name, weight, bias in weights(module)
        if is_packable(weight)
    ]
    for module, name, product in products:
        setattr(module, name, product)  # an attribute of the object hides the method of its class
    try:
        yield
    finally:
        for module, name, _ in products:
            delattr(module, name)


def weights(module: nn.Module) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """The method of this module that is a matrix product, with its weight and bias, if it has one."""
    if isinstance(module, nn.Linear):
        yield "forward", module.weight, module.bias
    if isinstance(module, GPT):
        yield "unembed", module.token_embedding.weight, None


def packed_product(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The function x -> x @ weight.T + bias, with a rearranged copy of `weight`."""
    # The layout is the same for all numbers of rows but 1; 16 stands for them.
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 16)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, packed, bias, "none", [], "")


def is_packable(weight: Tensor) -> bool:
    """Whether `packed_linear` rearranges this weight."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.numel() > SMALL
        and torch.backends.mkldnn.is_available()
    )
