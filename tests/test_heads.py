"""The value head starts at zero; the reward is read at the last real token, whatever the padding."""

import math

import numpy as np
import pytest
import torch

from minippo.heads import ActorCritic, RewardModel
from minippo.model import GPT, GPTConfig

CONFIG = GPTConfig(vocab_size=23, context=12, layers=2, heads=2, channels=16)


def randomised(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def reward_model():
    return randomised(RewardModel(GPT(CONFIG)))


def random_rows(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(CONFIG.vocab_size, (length,), generator=generator) for length in lengths]


def padded(rows, side, pad_id=0, extra=0):
    T = max(len(row) for row in rows) + extra
    tokens, mask = torch.full((len(rows), T), pad_id), torch.zeros(len(rows), T, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(T - len(row), T)
        tokens[index, place], mask[index, place] = row, True
    return tokens, mask


def test_the_first_values_are_zero_and_leave_the_trunk_alone():
    policy = ActorCritic(randomised(GPT(CONFIG)))
    _, values = policy(*padded(random_rows([5, 3]), "left"))
    assert torch.all(values == 0)
    (values - 1).square().mean().backward()
    assert torch.all(policy.gpt.token_embedding.weight.grad == 0)
    assert policy.value_head.weight.grad.abs().max() > 0  # it can leave zero


@torch.no_grad()
def test_policy_and_critic_read_the_same_hidden_states():
    policy = randomised(ActorCritic(GPT(CONFIG)))
    tokens, mask = padded(random_rows([5, 3]), "left")
    logits, values = policy(tokens, mask)
    hidden = policy.gpt.hidden(tokens, mask)
    torch.testing.assert_close(logits, hidden @ policy.gpt.token_embedding.weight.T, rtol=1e-5, atol=1e-5)
    expected = (hidden * policy.value_head.weight[0]).sum(dim=-1) + policy.value_head.bias
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)
    assert values.shape == (2, 5)
    assert torch.equal(policy.gpt.logits(policy.gpt.hidden(tokens, mask)), logits)


@torch.no_grad()
def test_policy_without_a_critic_has_the_same_logits_and_nothing_else():
    gpt = randomised(GPT(CONFIG))
    policy, tokens = ActorCritic(gpt, None), padded(random_rows([5, 3]), "left")
    logits, values = policy(*tokens)
    assert torch.equal(logits, ActorCritic(gpt)(*tokens)[0])
    assert values is policy.values(gpt.hidden(*tokens)) is None
    assert [id(parameter) for parameter in policy.parameters()] == [id(parameter) for parameter in gpt.parameters()]
    assert policy.head_parameters == [gpt.token_embedding.weight]


@torch.no_grad()
def test_a_value_depends_on_nothing_that_comes_later():
    policy = randomised(ActorCritic(GPT(CONFIG)))
    tokens = random_rows([8])[0].unsqueeze(0)
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % CONFIG.vocab_size
    (_, before), (_, after) = policy(tokens), policy(changed)
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=1e-6)
    assert (after[:, 5] - before[:, 5]).abs() > 1e-3


@torch.no_grad()
def test_left_padding_changes_no_value():
    policy = randomised(ActorCritic(GPT(CONFIG)))
    row = random_rows([4])[0].unsqueeze(0)
    tokens, mask = padded([*row, random_rows([9], seed=1)[0]], "left")
    torch.testing.assert_close(policy(tokens, mask)[1][:1, 5:], policy(row)[1], rtol=0, atol=1e-5)


def test_values_and_scores_of_a_bfloat16_model_are_float32(reward_model):
    tokens = random_rows([5])[0].unsqueeze(0)
    assert randomised(ActorCritic(GPT(CONFIG))).bfloat16()(tokens)[1].dtype == torch.float32
    assert reward_model.bfloat16()(tokens).dtype == torch.float32


@torch.no_grad()
def test_float32_heads_read_the_hidden_states_of_a_bfloat16_transformer_without_rounding(reward_model):
    tokens = random_rows([5])[0].unsqueeze(0)
    policy = randomised(ActorCritic(GPT(CONFIG)))
    policy.gpt.bfloat16()
    hidden = policy.gpt.hidden(tokens)
    assert hidden.dtype == torch.bfloat16
    exact = hidden.double() @ policy.value_head.weight.double().T + policy.value_head.bias.double()
    torch.testing.assert_close(policy(tokens)[1].double(), exact.squeeze(-1), rtol=1e-5, atol=1e-6)
    reward_model.gpt.bfloat16()
    last = reward_model.gpt.hidden_at(tokens, torch.ones_like(tokens, dtype=torch.bool), torch.tensor([4]))
    exact = reward_model.gain * (last.double() @ reward_model.score_head.weight.double().T).flatten()
    torch.testing.assert_close(reward_model(tokens).double(), exact + reward_model.bias, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_score_is_read_at_the_last_real_token(reward_model):
    rows = random_rows([7, 1, 4])
    tokens, mask = padded(rows, "right", extra=2)
    hidden = reward_model.gpt.hidden(tokens, mask)
    weight = reward_model.score_head.weight[0]
    expected = torch.stack([hidden[row, len(ids) - 1] @ weight for row, ids in enumerate(rows)])
    torch.testing.assert_close(reward_model(tokens, mask), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_never_matters_to_a_score(reward_model, side):
    rows = random_rows([7, 1, 4])
    alone = torch.cat([reward_model(row.unsqueeze(0)) for row in rows])
    for pad_id in (0, 22):
        for extra in (0, 3):
            scores = reward_model(*padded(rows, side, pad_id, extra))
            torch.testing.assert_close(scores, alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_real_token_that_looks_like_a_pad_is_real(reward_model):
    rows = [torch.tensor([3, 5, 0, 0]), torch.tensor([3, 5])]
    scores = reward_model(*padded(rows, "right", pad_id=0))
    assert abs(scores[0] - scores[1]) > 1e-3


def test_score_has_a_gradient_down_to_the_embedding(reward_model):
    rows = random_rows([5, 3])
    reward_model(*padded(rows, "right")).sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in reward_model.parameters())


def test_score_head_starts_at_the_scale_of_its_width():
    torch.manual_seed(0)
    model = RewardModel(GPT(GPTConfig(vocab_size=2, context=2, layers=0, heads=1, channels=9999)))
    assert model.score_head.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert model.score_head.bias is None


@torch.no_grad()
def test_normalised_scores_have_mean_zero_and_variance_one(reward_model):
    batch = padded(random_rows([7, 1, 4, 6, 3, 12]), "right")
    raw = reward_model(*batch)
    reward_model.normalise(raw)
    scores = reward_model(*batch).double().numpy()
    np.testing.assert_allclose([scores.mean(), scores.var()], [0, 1], atol=1e-5)
    expected = (raw.double().numpy() - raw.double().numpy().mean()) / raw.double().numpy().std()
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@torch.no_grad()
def test_normalising_twice_normalises_to_the_second_samples(reward_model):
    first, second = padded(random_rows([7, 1, 4, 6]), "right"), padded(random_rows([2, 8, 5, 9, 3], seed=1), "right")
    reward_model.normalise(reward_model(*first))
    reward_model.normalise(reward_model(*second))
    scores = reward_model(*second).double().numpy()
    np.testing.assert_allclose([scores.mean(), scores.var()], [0, 1], atol=1e-5)


@torch.no_grad()
def test_gain_and_bias_are_saved_and_never_trained(reward_model):
    batch = padded(random_rows([7, 1, 4]), "right")
    reward_model.normalise(reward_model(*batch))
    assert {"gain", "bias"} <= reward_model.state_dict().keys()
    assert not {"gain", "bias"} & dict(reward_model.named_parameters()).keys()
    copy = RewardModel(GPT(CONFIG)).eval()
    copy.load_state_dict(reward_model.state_dict())
    assert torch.equal(copy(*batch), reward_model(*batch))


@torch.no_grad()
def test_a_probability_is_the_sigmoid_of_the_score(reward_model):
    batch = padded(random_rows([7, 1, 4, 6, 3, 12]), "right")
    log_odds = reward_model(*batch)
    reward_model.to_probability()
    torch.testing.assert_close(reward_model(*batch), 1 / (1 + (-log_odds).exp()), rtol=1e-6, atol=1e-7)
    assert reward_model(*batch).std() > 0.05
    assert "is_probability" not in dict(reward_model.named_parameters())


@pytest.mark.parametrize("scores", [[0.25] * 3, [math.nan, 1.0, 2.0]])
def test_scores_that_no_gain_can_spread_are_refused(reward_model, scores):
    with pytest.raises(ValueError, match="3 reference samples"):
        reward_model.normalise(torch.tensor(scores))
    assert reward_model.gain == 1
    assert reward_model.bias == 0


def test_either_value_head_starts_at_zero_and_the_deeper_one_bends():
    gpt, tokens = GPT(GPTConfig(50, 16, layers=1, heads=2, channels=8)), torch.arange(12).view(2, 6)
    deep = ActorCritic(gpt, "mlp")
    for model in (ActorCritic(gpt), deep):
        assert torch.equal(model(tokens)[1], torch.zeros(2, 6))
    last = deep.value_head[2]
    torch.nn.init.normal_(last.weight)
    hidden = gpt.hidden(tokens)
    first = deep.value_head[0]
    wide = torch.nn.functional.gelu(hidden @ first.weight.T + first.bias)
    torch.testing.assert_close(deep(tokens)[1], wide @ last.weight[0] + last.bias, rtol=1e-5, atol=1e-6)
    assert (deep.values(2 * hidden) - 2 * deep.values(hidden)).abs().max() > 1e-3  # no linear function
