"""The tracker of live tensors, on allocations whose sizes are known."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from tests.live_memory import LiveMemory

KIB = 1024 // 4
"""Numbers of a float32 tensor of one KiB."""


def ones(kib: int, **options: bool) -> torch.Tensor:
    return torch.ones(kib * KIB, **options)


def test_tensor_counts_from_its_creation_until_its_last_reference_is_gone():
    with LiveMemory() as memory:
        a = ones(3)
        assert memory.live == 3 * 1024
        b = ones(5)
        assert (memory.live, memory.peak) == (8 * 1024, 8 * 1024)
        del a
        c = ones(1)  # the tracker looks when an operator runs
        assert (memory.live, memory.peak) == (6 * 1024, 8 * 1024)
        memory.restart()
        assert memory.peak == 6 * 1024
        del b, c


def test_a_packed_weight_counts_once_while_it_is_there():
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of PyTorch packs nothing")
    with LiveMemory() as memory:
        weight = ones(4).view(64, -1)
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
        assert memory.at_peak["packed weight"] == 4 * 1024
        assert memory.live == 8 * 1024
        torch.ops.mkldnn._linear_pointwise(weight[:1], packed, None, "none", [], "")  # 64 numbers
        assert memory.live == 8 * 1024 + 256
        del packed
        ones(1)
        assert memory.live == 5 * 1024


def test_views_and_operators_in_place_take_no_memory():
    with LiveMemory() as memory:
        a = ones(4)
        b = a.view(2, -1)[1:]
        b.mul_(2)
        a.detach().add_(1)
        assert (memory.live, memory.peak) == (4 * 1024, 4 * 1024)
        del a  # the view keeps the whole storage
        ones(1)
        assert memory.live == 5 * 1024
    assert b.sum() == 2 * KIB * 3


def test_temporaries_count_at_the_peak():
    with LiveMemory() as memory:
        a = ones(2)
        b = (a + 1) * (a + 2)  # both sums and the product
        assert memory.peak == 4 * 2 * 1024
        b = b + 1
        assert memory.live == 3 * 2 * 1024  # the old value has gone when the line has ended, which is noticed later
        ones(1)
        assert memory.live == 2 * 2 * 1024 + 1024
    assert memory.at_peak == {"aten.ones.default (512,) float32": 2048} | {
        "aten.add.Tensor (512,) float32": 2 * 2048, "aten.mul.Tensor (512,) float32": 2048
    }  # fmt: skip


def test_tensors_made_before_count_if_they_are_given_or_when_they_are_used():
    given, used, unused = ones(1), ones(2), ones(4)
    with LiveMemory([given]) as memory:
        assert memory.live == memory.peak == 1024
        total = used.sum()
        assert memory.live == 3 * 1024 + 4
    del unused, total


def test_what_the_graph_keeps_counts_until_the_backward_pass_has_used_it():
    weight = ones(1, requires_grad=True)
    with LiveMemory([weight]) as memory:
        loss = weight.exp().exp().sum()  # both results are kept, although no name holds them
        assert memory.live == 3 * 1024 + 4
        memory.restart()
        loss.backward()
        ones(1)
        # The weight, its gradient, the loss, and the last line.
        assert memory.live == 3 * 1024 + 4
        assert memory.peak >= 4 * 1024


@pytest.mark.parametrize(("checkpointed", "kept"), [(False, 3), (True, 1)])
def test_checkpointing_keeps_less(checkpointed, kept):
    x = ones(1, requires_grad=True)

    def layers(x: torch.Tensor) -> torch.Tensor:
        return x.exp().exp().exp().sum()

    with LiveMemory([x]) as memory:
        loss = checkpoint(layers, x, use_reentrant=False) if checkpointed else layers(x)
        ones(0)
        assert memory.live - 4 == (1 + (0 if checkpointed else kept)) * 1024
        loss.backward()
    assert x.grad is not None


def test_dtype_and_shared_storages_are_respected():
    with LiveMemory() as memory:
        a = ones(4).to(torch.bfloat16)
        ones(0)
        assert memory.live == 2 * 1024
        rows = [a[i : i + 8] for i in range(0, 64, 8)]
        assert memory.live == 2 * 1024
        del rows
