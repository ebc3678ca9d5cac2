"""The embedding's gradient: that of `nn.Embedding`, bit for bit, added in place to one that is there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minippo.heads import RewardModel
from minippo.lookup import TiedEmbedding
from minippo.model import GPT, GPTConfig
from tests.live_memory import LiveMemory


def tables(rows: int, channels: int, dtype: torch.dtype) -> tuple[TiedEmbedding, nn.Embedding]:
    """Ours and PyTorch's, with the same weights."""
    ours, theirs = TiedEmbedding(rows, channels).to(dtype), nn.Embedding(rows, channels).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=60),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(),
    st.integers(0, 99),
)
def test_gradients_are_those_of_pytorch_bit_for_bit(ids, dtype, has_one, seed):
    torch.manual_seed(seed)
    ours, theirs = tables(7, 3, dtype)
    ids = torch.tensor(ids).view(1, -1)
    above, before = torch.randn(1, ids.shape[1], 3).to(dtype), torch.randn(7, 3).to(dtype)
    for table in (ours, theirs):
        if has_one:
            table.weight.grad = before.clone()
        for _ in range(2):
            table(ids).backward(above)
    assert torch.equal(ours(ids), theirs(ids))
    assert torch.equal(ours.weight.grad, theirs.weight.grad)
    assert not ours.weight.grad.is_sparse


def test_gradient_that_is_there_is_changed_in_place_without_another_table():
    ours, theirs = tables(5000, 4, torch.float32)
    ids, size = torch.randint(5000, (2, 9)), 5000 * 4 * 4
    peaks = []
    for table in (ours, theirs):
        gradient = table.weight.grad = torch.ones_like(table.weight)
        out = table(ids).sum()
        with LiveMemory([table.weight, gradient]) as memory:
            out.backward()
        assert table.weight.grad is gradient
        peaks.append(memory.peak)
    assert peaks[0] < 2 * size + 5000
    assert peaks[1] >= 3 * size


def test_lookup_in_the_same_graph_as_the_head():
    gpt = GPT(GPTConfig(11, 8, 1, 2, 8))
    tokens = torch.randint(11, (2, 6))
    for _ in range(2):  # the second one adds to the gradient of the first
        gpt(tokens).square().sum().backward()
    found = gpt.token_embedding.weight.grad
    gpt.zero_grad()
    gpt.token_embedding.__class__ = nn.Embedding
    for _ in range(2):
        gpt(tokens).square().sum().backward()
    torch.testing.assert_close(found, gpt.token_embedding.weight.grad, rtol=1e-5, atol=1e-6)


def test_table_without_a_head_gets_a_dense_gradient_in_every_backward_pass():
    """As in a reward model, over several microbatches."""
    model = RewardModel(GPT(GPTConfig(11, 8, 1, 2, 8)))
    tokens = torch.randint(11, (2, 6))
    once = []
    for _ in range(2):
        model(tokens, torch.ones_like(tokens, dtype=torch.bool)).sum().backward()
        once.append(model.gpt.token_embedding.weight.grad.clone())
    assert once[0].layout == torch.strided
    assert torch.equal(once[1], 2 * once[0])
    assert torch.equal(once[0].abs().sum(dim=1) > 0, torch.isin(torch.arange(11), tokens))


def test_frozen_table_gets_none():
    table = TiedEmbedding(5, 3).requires_grad_(False)
    assert not table(torch.tensor([1, 2])).requires_grad


def test_its_gradient_has_none():
    """An error instead of a wrong number, for those who try a method with second derivatives."""
    table = TiedEmbedding(5, 3)
    (gradient,) = torch.autograd.grad(table(torch.tensor([1, 2])).square().sum(), table.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
