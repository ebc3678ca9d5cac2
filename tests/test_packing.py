"""Rearranged weights against products in float64, and generation with and without them."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minippo import packing
from minippo.model import GPT, GPTConfig
from minippo.packing import PackedLinear, is_packable, packed_linear
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
    context = packed_linear(layer)
    for seed in range(3):
        x = torch.randn(*shape, 2 * LARGE[1], generator=torch.Generator().manual_seed(seed))[..., ::2]
        with context:
            result = layer(x)
        expected = x.double() @ layer.weight.double().T + (layer.bias.double() if bias else 0)
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=3e-6)
    assert len(packed) == 1  # and the copy was used: without one, nothing would be counted


def test_only_large_float32_weights_without_gradients_are_rearranged():
    weight = large_layer().weight
    assert not is_packable(weight)  # with gradients, the product must be differentiable
    with torch.no_grad():
        assert is_packable(weight)
        assert is_packable(nn.Parameter(torch.ones(2, packing.SMALL // 2 + 1)))
        assert not is_packable(nn.Parameter(torch.ones(2, packing.SMALL // 2)))
        assert not is_packable(nn.Parameter(torch.ones(2 * packing.SMALL)))
        assert not is_packable(nn.Parameter(weight.bfloat16()))
        assert not is_packable(nn.Parameter(weight.to("meta")))
        assert not is_packable(weight[:299])  # a new tensor each time, which would be rearranged each time


@torch.no_grad()
def test_other_functions_and_other_weights_are_left_alone(packed):
    layer, x = large_layer(), torch.randn(3, LARGE[1])
    with packed_linear(layer):
        part = F.linear(x, layer.weight[:10], layer.bias[:10])
        by_name = F.linear(x, weight=layer.weight, bias=layer.bias)
        total = x.sum(dim=1)
    assert packed == []
    torch.testing.assert_close(part, layer(x)[:, :10])
    torch.testing.assert_close(by_name, layer(x))
    torch.testing.assert_close(total, x @ torch.ones(LARGE[1]))


def test_gradients_pass_through_the_context():
    layer, x = large_layer(), torch.randn(3, LARGE[1])
    with PackedLinear():
        layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, x.sum(dim=0).expand(LARGE))


@torch.no_grad()
def test_small_models_need_no_context(make_policy):
    assert isinstance(packed_linear(make_policy(0).gpt), nullcontext)
    assert isinstance(packed_linear(large_layer()), PackedLinear)


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
