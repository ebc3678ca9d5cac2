"""Less memory on the GPU, for models that would not fit: gradients and frozen models that wait in CPU memory.

Nothing here changes a result, except that gradients of bfloat16 weights add up in float32 once they are offloaded. All
of it works without a GPU as well. `phase` names what was computed when the
memory was not enough.
"""

from __future__ import annotations

import re
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from minippo.config import MemoryConfig
from minippo.errors import GPUMemoryError
from minippo.optim import Gradients

Model = TypeVar("Model", bound=nn.Module)

COPIES_IN_FLIGHT = 12
"""Gradients that may wait for their copy, as many as a block of the transformer has. Each is on the GPU until then."""
PART = 2**24
"""Numbers that are copied at a time: the float32 copies on the GPU take 64 MiB each, however large the tensor is."""


class OffloadedGradients(Gradients):
    """Gradients in float32 CPU memory, where each goes as soon as the backward pass has computed it.

    So the GPU holds the gradients of about one block, instead of all. Several backward passes add up as they would in
    `parameter.grad`, in the same order, and in float32 even if the gradients are bfloat16. On a GPU the copies have a
    stream of their own, and the backward pass goes on meanwhile. It adds on the GPU, which is faster than the CPU
    although the sum so far has to be copied there and back. Within `together`, the sums of a few parameters stay there.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__(parameters)
        on_gpu = any(parameter.is_cuda for parameter in parameters)
        # Only page-locked memory can be copied to and from while the CPU does something else.
        self.buffers = {p: torch.empty(p.shape, dtype=torch.float32, pin_memory=on_gpu) for p in parameters}
        self.arrived: set[Tensor] = set()
        """The parameters whose buffer holds a gradient."""
        self.stream = torch.cuda.Stream(parameters[0].device) if on_gpu else None
        self.copies: deque[torch.cuda.Event] = deque()
        """The ends of the copies that may not have finished, oldest first."""
        move = weakref.WeakMethod(self._move)  # the model must not keep the buffers alive after training
        for parameter in parameters:
            hook = parameter.register_post_accumulate_grad_hook(lambda parameter: move()(parameter))
            weakref.finalize(self, hook.remove)

    def __deepcopy__(self, memo: dict[int, object]) -> OffloadedGradients:
        # The hooks stay with the original's parameters: a copy would never get a gradient.
        raise TypeError("an optimizer whose gradients are offloaded cannot be copied")

    def of(self, parameter: Tensor) -> Tensor | None:
        if self.stream is not None:
            self.stream.synchronize()
        return self.buffers[parameter] if parameter in self.arrived else None

    @contextmanager
    def together(self, parameters: Iterable[Tensor]) -> Iterator[None]:
        # Until the end, the buffers of these parameters are on the GPU. The frozen ones have none.
        waiting = {p: self.buffers[p] for p in parameters if p in self.buffers}
        with torch.cuda.stream(self.stream):  # does nothing if that is None
            self.buffers |= {p: buffer.to(p.device, non_blocking=True) for p, buffer in waiting.items()}
        try:
            yield
        finally:
            with torch.cuda.stream(self.stream):
                for parameter, buffer in waiting.items():
                    buffer.copy_(self.buffers[parameter], non_blocking=True)
            self.buffers |= waiting

    def clear(self) -> None:
        self.arrived.clear()  # the next gradient overwrites the buffer

    @torch.no_grad()
    def _move(self, parameter: Tensor) -> None:
        """Add the gradient of one backward pass to the buffer. Called when the pass has just computed it."""
        gradient, parameter.grad = parameter.grad, None
        is_first = parameter not in self.arrived
        self.arrived.add(parameter)
        with self._on_copy_stream(gradient):
            parts = zip(gradient.flatten().split(PART), self.buffers[parameter].flatten().split(PART), strict=True)
            for part, kept in parts:
                part = part.float()  # here, because a copy that also converts would wait for the GPU
                kept.copy_(part if is_first else kept.to(part.device, non_blocking=True) + part, non_blocking=True)

    @contextmanager
    def _on_copy_stream(self, gradient: Tensor) -> Iterator[None]:
        """Issue copies that wait for `gradient`, without making the backward pass wait for them."""
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream(gradient.device))
        with torch.cuda.stream(self.stream):
            yield
        gradient.record_stream(self.stream)  # its memory must not be reused before the copy has ended
        self.copies.append(self.stream.record_event())
        if len(self.copies) > COPIES_IN_FLIGHT:  # if the bus is slower than the GPU, gradients would pile up
            self.copies.popleft().synchronize()


def gradient_storage(config: MemoryConfig) -> type[Gradients]:
    """Where an optimizer keeps its gradients."""
    return OffloadedGradients if config.offload_gradients else Gradients


# ---------------------------------------------------------------------------------------------- parked models


def park(model: Model, device: torch.device) -> Model:
    """Keep a frozen model in CPU memory from now on; `loaded` puts it on `device` while it is used."""
    model.to("cpu")
    if device.type == "cuda":
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.pin_memory()  # page-locked: copied several times as fast
    model.parked_for = device
    return model


@contextmanager
def loaded(model: nn.Module) -> Iterator[None]:
    """The phase in which `model` is used: it is on its device. Does nothing unless the model is parked.

    Nothing is copied back at the end, since a frozen model does not change. Phases may be nested; the outermost counts.
    """
    device = vars(model).pop("parked_for", None)
    if device is None:
        yield
        return
    waiting = [(tensor, tensor.data) for tensor in (*model.parameters(), *model.buffers())]
    try:
        for tensor, data in waiting:
            tensor.data = data.to(device, non_blocking=True)
        yield
    finally:
        for tensor, data in waiting:
            tensor.data = data
        model.parked_for = device


# ---------------------------------------------------------------------------------------------- running out of memory


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Name what is computed within, or by the decorated function.

    If the GPU runs out of memory, GPUMemoryError is raised with the name of the innermost phase. The others are in its
    `path`, whose end is the name that the phase has in the plan (`runs.phases`).
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise GPUMemoryError(name, _figures(str(error))) from error
    except GPUMemoryError as error:
        error.path = f"{name}: {error.path}"
        raise


def _figures(message: str) -> str:
    """What was allocated when PyTorch gave up, from its own message of several lines; "" if that has no figures."""

    def size(before: str, after: str = "") -> str:
        found = re.search(rf"{before}([\d.]+ \w?i?B)\b{after}", message)
        return found[1] if found else ""

    allocated, more = size("", " is allocated by PyTorch"), size("Tried to allocate ")
    total = size("", " allowed;") or size("total capacity of ")  # a process may have a limit of its own
    if not (allocated and total and more):
        return ""
    return f": {allocated} of {total} were allocated, and {more} more were needed"
