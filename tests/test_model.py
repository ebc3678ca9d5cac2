"""The transformer agrees with that of `transformers`; left padding and the cache do not change its results."""

import math

import pytest
import torch

from minippo.equations import entropies, token_logprobs
from minippo.model import GPT, GPTConfig, KVCache, attention_pattern, position_ids

SHAPE = {"vocab_size": 37, "context": 16, "layers": 2, "heads": 2, "channels": 16}


def make_gpt(seed=0, **changes):
    """A `GPT` with random weights everywhere, norms and biases included."""
    gpt = GPT(GPTConfig(**(SHAPE | changes))).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return gpt


def public_twin(gpt):
    """The same model in `transformers`; copies the weights without `minippo.weights`, as an independent check."""
    transformers = pytest.importorskip("transformers")
    config = gpt.config
    twin = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.context,
            n_layer=config.layers,
            n_head=config.heads,
            n_embd=config.channels,
            activation_function=config.activation,
        )
    ).eval()
    with torch.no_grad():
        twin.transformer.wte.weight.copy_(gpt.token_embedding.weight)
        twin.transformer.wpe.weight.copy_(gpt.position_embedding.weight)
        pairs = [(gpt.final_norm, twin.transformer.ln_f)]
        for ours, theirs in zip(gpt.blocks, twin.transformer.h, strict=True):
            pairs += [(ours.attention_norm, theirs.ln_1), (ours.mlp_norm, theirs.ln_2)]
            pairs += [(ours.attention.qkv, theirs.attn.c_attn), (ours.attention.out, theirs.attn.c_proj)]
            pairs += [(ours.up, theirs.mlp.c_fc), (ours.down, theirs.mlp.c_proj)]
        for ours, theirs in pairs:
            theirs.weight.copy_(ours.weight.t() if isinstance(ours, torch.nn.Linear) else ours.weight)
            theirs.bias.copy_(ours.bias)
    return twin


def random_tokens(B, T, seed=0):
    return torch.randint(SHAPE["vocab_size"], (B, T), generator=torch.Generator().manual_seed(seed))


def left_mask(lengths, T):
    return torch.arange(T) >= T - torch.tensor(lengths).unsqueeze(1)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
@torch.no_grad()
def test_logits_equal_those_of_transformers(activation):
    gpt, tokens = make_gpt(activation=activation), random_tokens(3, 16)
    torch.testing.assert_close(gpt(tokens), public_twin(gpt)(tokens).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_left_padded_logits_equal_those_of_transformers():
    gpt, tokens, mask = make_gpt(), random_tokens(4, 12), left_mask([12, 7, 1, 4], 12)
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    expected = public_twin(gpt)(tokens, attention_mask=mask.long(), position_ids=positions).logits
    torch.testing.assert_close(gpt(tokens, mask)[mask], expected[mask], rtol=1e-5, atol=1e-5)


def test_gradients_equal_those_of_transformers():
    gpt, tokens = make_gpt(), random_tokens(2, 9)
    twin = public_twin(gpt)
    torch.log_softmax(gpt(tokens), -1)[:, :, 0].sum().backward()
    torch.log_softmax(twin(tokens).logits, -1)[:, :, 0].sum().backward()
    theirs = twin.transformer
    for ours, expected in (
        (gpt.token_embedding.weight.grad, theirs.wte.weight.grad),  # as input and as output embedding
        (gpt.position_embedding.weight.grad, theirs.wpe.weight.grad),
        (gpt.blocks[0].attention.qkv.weight.grad.t(), theirs.h[0].attn.c_attn.weight.grad),
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_each_row_of_a_left_padded_batch_gets_what_it_gets_alone():
    gpt, lengths, T = make_gpt(), [12, 1, 5, 8, 2], 12
    tokens = random_tokens(5, T)
    logprobs = torch.log_softmax(gpt(tokens, left_mask(lengths, T)), -1)
    for row, length in enumerate(lengths):
        alone = torch.log_softmax(gpt(tokens[row : row + 1, T - length :]), -1)[0]
        torch.testing.assert_close(logprobs[row, T - length :], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_right_padding_does_not_change_real_positions():
    gpt, tokens = make_gpt(), random_tokens(2, 10)
    mask = torch.arange(10) < torch.tensor([[10], [4]])
    torch.testing.assert_close(gpt(tokens, mask)[1, :4], gpt(tokens[1:, :4])[0], rtol=0, atol=1e-5)


def test_masked_tokens_change_neither_values_nor_gradients():
    gpt, mask = make_gpt(), left_mask([3, 6], 6)
    results = []
    for filler in (0, 36):
        gpt.zero_grad()
        tokens = random_tokens(2, 6).masked_fill(~mask, filler)
        logits = gpt(tokens, mask)[mask]
        logits.square().mean().backward()
        qkv_gradient = gpt.blocks[0].attention.qkv.weight.grad
        results.append((logits.detach(), qkv_gradient.clone(), gpt.position_embedding.weight.grad.clone()))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)


def test_a_row_of_only_padding_has_finite_values_and_gradients():
    for T in (1, 4):
        gpt, mask = make_gpt(), left_mask([0, T], T)
        logits = gpt(random_tokens(2, T), mask)
        assert torch.isfinite(logits).all()
        logits.sum().backward()
        assert all(torch.isfinite(parameter.grad).all() for parameter in gpt.parameters())


@torch.no_grad()
def test_logits_after_only_padding_do_not_depend_on_its_length():
    gpt, T = make_gpt(), 5
    tokens = torch.full((1, T), 3)
    longer = gpt(tokens, left_mask([0], T))[:, -1]
    for shorter in (1, 2):
        alone = gpt(tokens[:, :shorter], left_mask([0], shorter))[:, -1]
        torch.testing.assert_close(alone, longer, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_later_token_does_not_change_earlier_logits():
    gpt, tokens = make_gpt(), random_tokens(1, 8)
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 37
    before, after = gpt(tokens), gpt(changed)
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=1e-6)
    assert torch.all((after[:, 5:] - before[:, 5:]).abs().amax(dim=-1) > 1e-3)


@pytest.mark.parametrize("lengths", [[10, 4, 1], None])
def test_hidden_at_one_position_equals_hidden_at_all_positions(lengths):
    gpt, tokens, index = make_gpt(), random_tokens(3, 10), torch.tensor([9, 3, 6])
    mask = torch.ones(3, 10, dtype=torch.bool) if lengths is None else left_mask(lengths, 10)
    results = []
    for hidden in (gpt.hidden_at(tokens, mask, index), gpt.hidden(tokens, mask)[torch.arange(3), index]):
        gpt.zero_grad()
        hidden.square().mean().backward()
        results.append((hidden.detach(), [parameter.grad.clone() for parameter in gpt.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)
    assert results[0][0].shape == (3, 16)


# Without and with padding; the tokens one by one, in pieces, or all but one at once.
@pytest.mark.parametrize("lengths", [None, [10, 4, 1]])
@pytest.mark.parametrize("pieces", [[1] * 10, [4, 1, 3, 2], [9, 1], [3, 7]])
@torch.no_grad()
def test_logits_with_a_cache_equal_those_of_the_whole_sequence(lengths, pieces):
    gpt, tokens = make_gpt(), random_tokens(3, 10)
    mask = left_mask(lengths, 10) if lengths else None
    whole = gpt(tokens, mask)
    cache = KVCache(gpt.config, 3, 10, gpt.token_embedding.weight)
    for layer in cache.layers:  # the memory is not initialised
        layer.keys.fill_(math.nan), layer.values.fill_(math.nan)
    logits = []
    for piece in tokens.split(pieces, dim=1):
        seen = cache.length
        logits.append(gpt(piece, None if mask is None else mask[:, : seen + piece.shape[1]], cache=cache))
    assert cache.length == 10
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_logits_with_a_cache_equal_those_of_transformers():
    gpt, tokens, mask = make_gpt(), random_tokens(3, 10), left_mask([10, 6, 7], 10)
    twin, cache, past = public_twin(gpt), KVCache(gpt.config, 3, 10, gpt.token_embedding.weight), None
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    for start, end in ((0, 6), (6, 7), (7, 8), (8, 10)):
        piece = slice(start, end)
        theirs = twin(
            tokens[:, piece],
            attention_mask=mask[:, :end].long(),
            position_ids=positions[:, piece],
            past_key_values=past,
            use_cache=True,
        )
        past = theirs.past_key_values
        ours = gpt(tokens[:, piece], mask[:, :end], cache=cache)
        real = mask[:, piece]
        torch.testing.assert_close(ours[real], theirs.logits[real], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_cache_continues_with_the_rows_it_keeps():
    gpt, tokens, mask = make_gpt(), random_tokens(4, 6), left_mask([6, 4, 5, 6], 6)
    cache = KVCache(gpt.config, 4, 6, gpt.token_embedding.weight)
    gpt(tokens[:, :5], mask[:, :5], cache=cache)
    kept = torch.tensor([3, 1])
    cache.keep_rows(kept)
    last = gpt(tokens[kept, 5:], mask[kept], cache=cache)
    torch.testing.assert_close(last[:, 0], gpt(tokens, mask)[kept, 5], rtol=0, atol=1e-5)


def test_positions_count_real_tokens_only():
    tokens, mask = torch.zeros(2, 5), left_mask([5, 2], 5)
    assert position_ids(mask, tokens, 0).tolist() == [[0, 1, 2, 3, 4], [0, 0, 0, 0, 1]]
    assert position_ids(mask, tokens[:, 3:], 3).tolist() == [[3, 4], [0, 1]]
    assert position_ids(None, tokens[:, 3:], 3).tolist() == [[3, 4]]


@pytest.mark.parametrize("lengths", [[4, 2, 0], None])
@pytest.mark.parametrize("T", [1, 2, 4])
def test_each_token_attends_to_itself_and_to_earlier_real_tokens(lengths, T):
    S = 4
    mask = torch.ones(3, S, dtype=torch.bool) if lengths is None else left_mask(lengths, S)
    pattern = attention_pattern(None if lengths is None else mask, S - T, T, mask.device)
    if pattern is None:  # stands for plain causal attention
        pattern = torch.ones(T, S, dtype=torch.bool).tril()[None, None]
    pattern = pattern.expand(3, 1, T, S)
    for row in range(3):
        for new in range(T):
            place = S - T + new
            expected = [s == place or (s < place and bool(mask[row, s])) for s in range(S)]
            assert pattern[row, 0, new].tolist() == expected


def test_context_overflow_raises_with_the_numbers():
    gpt = make_gpt(context=8)
    with pytest.raises(ValueError, match=r"0 \+ 9 tokens .* context of 8"):
        gpt(random_tokens(1, 9))
    cache = KVCache(gpt.config, 1, 9, gpt.token_embedding.weight)
    gpt(random_tokens(1, 8), cache=cache)
    with pytest.raises(ValueError, match=r"8 \+ 1 tokens .* context of 8"):
        gpt(random_tokens(1, 1), cache=cache)


def test_channels_must_be_divisible_by_heads():
    with pytest.raises(ValueError, match=r"10 channels .* 3 heads"):
        GPTConfig(vocab_size=5, context=4, layers=1, heads=3, channels=10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_suppressed_tokens_have_probability_zero_and_the_others_sum_to_one(dtype):
    never = (0, 5, 35, 36)
    ours, plain, tokens = make_gpt(suppress_tokens=never).to(dtype), make_gpt().to(dtype), random_tokens(2, 5)
    logits = ours(tokens)
    assert logits.dtype == dtype
    probabilities = torch.softmax(logits.float() / 2, -1)
    assert not probabilities[..., never].any()
    others = [i for i in range(37) if i not in never]
    expected = torch.softmax(plain(tokens)[..., others].float() / 2, -1)
    torch.testing.assert_close(probabilities[..., others], expected, rtol=1e-5, atol=1e-7)
    _, log_softmax = token_logprobs(logits, tokens.clamp(1, 4))
    assert torch.isfinite(entropies(log_softmax)).all()


def test_gradients_with_suppressed_tokens_equal_those_of_a_softmax_over_the_others():
    tokens, never = random_tokens(2, 5), (0, 36)
    ours, plain = make_gpt(suppress_tokens=never), make_gpt()
    others = list(range(1, 36))
    torch.log_softmax(ours(tokens), -1)[..., 3].sum().backward()
    torch.log_softmax(plain(tokens)[..., others], -1)[..., 2].sum().backward()
    for found, expected in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-5)
    ours.set_suppress_tokens(())
    assert torch.equal(ours(tokens), plain(tokens))


def test_suppressed_tokens_are_not_in_the_state_dict():
    ours = make_gpt(suppress_tokens=(1, 2))
    assert ours.state_dict().keys() == make_gpt().state_dict().keys()


def test_dropout_acts_in_training_alone():
    gpt, tokens = make_gpt(dropout=0.5), random_tokens(2, 6)
    torch.manual_seed(0)
    assert torch.equal(gpt(tokens), gpt(tokens))
    torch.testing.assert_close(gpt(tokens), make_gpt()(tokens), rtol=0, atol=0)
    gpt.train()
    assert not torch.allclose(gpt(tokens), gpt(tokens))
    gpt.set_dropout(0.0)
    assert torch.equal(gpt(tokens), gpt(tokens))


@pytest.mark.parametrize("silent", ["attention.out", "down"])
def test_dropout_acts_on_attention_and_mlp_separately(silent):
    """If one residual branch is zero, dropout still changes the other."""
    gpt, tokens = make_gpt(dropout=0.5), random_tokens(2, 6)
    gpt.dropout.p = 0.0  # no dropout after the embedding
    with torch.no_grad():
        for block in gpt.blocks:
            branch = block.get_submodule(silent)
            branch.weight.zero_()
            branch.bias.zero_()
        gpt.eval()
        still = gpt.hidden(tokens)
        gpt.train()
        torch.manual_seed(0)
        assert not torch.allclose(gpt.hidden(tokens), still, atol=1e-2)


def test_dropout_reaches_the_embedding_and_every_residual_branch():
    gpt, tokens = make_gpt(dropout=0.5), random_tokens(1, 6)
    dropouts = [module for module in gpt.modules() if isinstance(module, torch.nn.Dropout)]
    torch.manual_seed(0)
    for kept in dropouts:
        gpt.train()
        gpt.set_dropout(0.0)
        kept.p = 0.5
        assert not torch.allclose(gpt(tokens), gpt(tokens))
    assert len(dropouts) == 1 + SHAPE["layers"]


def test_initialisation_is_gpt2s():
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(vocab_size=500, context=300, layers=8, heads=4, channels=64))
    for weight in (gpt.token_embedding.weight, gpt.position_embedding.weight, gpt.blocks[3].attention.qkv.weight):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    for residual in (gpt.blocks[0].attention.out, gpt.blocks[7].down):  # 16 residual branches in 8 layers
        assert residual.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
    assert torch.all(gpt.blocks[0].up.bias == 0)
    assert torch.all(gpt.final_norm.weight == 1)


def test_a_masked_bfloat16_model_is_finite_and_keeps_its_dtype():
    gpt, mask = make_gpt().bfloat16(), left_mask([6, 2, 0], 6)
    logits = gpt(random_tokens(3, 6), mask)
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()
