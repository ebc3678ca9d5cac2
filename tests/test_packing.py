"""Rearranged weights against products in float64, and generation with and without them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from minippo import packing
from minippo.model import GPT, GPTConfig
from minippo.packing import is_packable, packed_linear
from minippo.runs import memory_model
from minippo.sampling import generate

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")
LARGE = (300, 500)


@pytest.fixture
def packed(monkeypatch):
    """The weights that have been rearranged, in order."""
    weights, reorder = [], torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(
        torch.ops.mkldnn, "_reorder_linear_weight", lambda weight, rows: weights.append(weight) or reorder(weight, rows)
    )
    return weights


def large_layer(bias=True) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(LARGE[1], LARGE[0], bias=bias)


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (2,), (16,), (70,), (3, 5), (4, 1)])
def test_products_are_those_of_float64(packed, shape, bias):
    layer = large_layer(bias)
    with packed_linear(layer):
        for seed in range(3):
            x = torch.randn(*shape, 2 * LARGE[1], generator=torch.Generator().manual_seed(seed))[..., ::2]
            result = layer(x)
            expected = x.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
            torch.testing.assert_close(result.double(), expected, rtol=0, atol=3e-6)
    assert len(packed) == 1  # and the copy was used: without one, nothing would be counted


@torch.no_grad()
def test_the_copies_are_used_inside_the_context_only():
    layer, x = large_layer(), torch.randn(3, LARGE[1])
    before = layer(x)
    with packed_linear(layer):
        layer.weight.add_(1)
        torch.testing.assert_close(layer(x), before)  # the copy still has the old weights
    torch.testing.assert_close(layer(x), x @ layer.weight.T + layer.bias)


@torch.no_grad()
def test_the_layers_are_restored_after_an_error():
    layer = large_layer()
    with pytest.raises(ZeroDivisionError), packed_linear(layer):
        layer(torch.zeros(LARGE[1]) / (1 // 0))
    assert "forward" not in vars(layer)


def test_only_large_float32_weights_on_a_cpu_are_rearranged():
    weight = large_layer().weight
    assert is_packable(weight)
    assert is_packable(torch.ones(2, packing.SMALL // 2 + 1))
    assert not is_packable(torch.ones(2, packing.SMALL // 2))
    assert not is_packable(weight.bfloat16())
    assert not is_packable(weight.to("meta"))


def test_gradients_pass_after_the_context():
    layer, x = large_layer(), torch.randn(3, LARGE[1])
    with packed_linear(layer):
        pass
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(dim=0).expand(LARGE))


def test_generation_rearranges_each_weight_once_and_draws_the_same_tokens(packed, monkeypatch):
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(60, 40, layers=2, heads=2, channels=16)).eval()
    queries = torch.randint(59, (8, 5))
    settings = {"max_new_tokens": 30, "eos_id": 59, "pad_id": 0, "stop_ids": (1, 2)}  # rows end and are dropped

    def draw():
        return generate(
            gpt, queries, torch.ones_like(queries, dtype=torch.bool), **settings, generator=torch.Generator()
        )

    plain = draw()
    assert packed == []
    monkeypatch.setattr(packing, "SMALL", 0)
    responses, mask = draw()
    assert torch.equal(responses, plain[0])
    assert torch.equal(mask, plain[1])
    assert len(set(mask.sum(dim=1).tolist())) > 2
    assert len(packed) == 2 * 4 + 1  # four weights in a block, and the output embedding
    monkeypatch.setattr(memory_model, "SMALL", 0)
    assert memory_model.PlannedModel(gpt, on_gpu=False).packed == sum(weight.nbytes for weight in packed)
    assert memory_model.PlannedModel(gpt, on_gpu=True).packed == 0
    assert memory_model.PlannedModel(copy.deepcopy(gpt).bfloat16(), on_gpu=False).packed == 0
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    moved = draw()[0]
    monkeypatch.setattr(packing, "SMALL", 10**9)
    assert torch.equal(moved, draw()[0])  # the next generation reads the new weights
    assert not torch.equal(moved, responses)
