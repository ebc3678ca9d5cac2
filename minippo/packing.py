"""Faster matrix products with few rows on a CPU, for generation.

A decoding step multiplies every weight by one row per response. Before each matrix product, PyTorch rearranges the
weight for the processor, which takes as long as the product itself if there are few rows. oneDNN, which comes with
PyTorch, can keep the rearranged weights.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

SMALL = 2**17
"""Weights of at most this many numbers are not rearranged: they fit into the processor's cache anyway."""


def packed_linear(model: nn.Module) -> AbstractContextManager[object]:
    """A context in which `F.linear` rearranges each large weight of the model once, and keeps the copy.

    It can be entered several times, as long as the weights do not change. It takes as much CPU memory again as these
    weights. Results differ by rounding. Nothing changes on a GPU, in bfloat16, or if PyTorch was built without oneDNN.
    """
    return PackedLinear() if any(map(is_packable, model.parameters())) else nullcontext()


class PackedLinear(TorchFunctionMode):
    """`F.linear` with rearranged weights, see `packed_linear`."""

    def __init__(self) -> None:
        super().__init__()
        self.packed: dict[Tensor, Tensor] = {}

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called by PyTorch instead of each of its functions while the context is active."""
        if function is F.linear and not kwargs and is_packable(args[1]):
            return self.linear(*args)
        return function(*args, **(kwargs or {}))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """`F.linear(x, weight, bias)`."""
        if weight not in self.packed:
            # The layout is the same for all numbers of rows but 1; 16 stands for them.
            self.packed[weight] = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 16)
        return torch.ops.mkldnn._linear_pointwise(x, self.packed[weight], bias, "none", [], "")


def is_packable(weight: Tensor) -> bool:
    """Whether `PackedLinear` rearranges this weight."""
    return (
        isinstance(weight, nn.Parameter)  # parts of a weight are new tensors each time
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.dim() == 2
        and weight.numel() > SMALL
        and torch.backends.mkldnn.is_available()
        and not torch.is_grad_enabled()
    )
