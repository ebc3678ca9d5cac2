"""Copies between a GPU and the buffers of offloaded gradients, counted without a GPU."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from minippo.memory import OffloadedGradients


def count_traffic(
    monkeypatch: pytest.MonkeyPatch, gradients: OffloadedGradients, events: list[str] | None = None
) -> tuple[Counter[Tensor], Counter[Tensor]]:
    """From now on, the number of copies from and to the buffer of each parameter, and in `events` their order.

    What is copied to a device is a new tensor, as it would be on a GPU.
    """
    owners = {buffer.data_ptr(): parameter for parameter, buffer in gradients.buffers.items()}
    loads: Counter[Tensor] = Counter()
    stores: Counter[Tensor] = Counter()
    to, copy = Tensor.to, Tensor.copy_

    def note(kind: str, counts: Counter[Tensor], buffer: Tensor, non_blocking: bool) -> None:
        if buffer.data_ptr() in owners:
            counts[owners[buffer.data_ptr()]] += 1
            if events is not None:
                events.append(f"{kind}, {non_blocking=}")

    def loaded(tensor: Tensor, target: object, non_blocking: bool = False) -> Tensor:
        if not isinstance(target, torch.device):
            return to(tensor, target)
        note("load", loads, tensor, non_blocking)
        return tensor.clone()

    def stored(tensor: Tensor, values: Tensor, non_blocking: bool = False) -> Tensor:
        note("store", stores, tensor, non_blocking)
        return copy(tensor, values)

    monkeypatch.setattr(Tensor, "to", loaded)
    monkeypatch.setattr(Tensor, "copy_", stored)
    return loads, stores
