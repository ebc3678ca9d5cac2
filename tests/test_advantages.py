"""From scores to advantages, against numbers worked out by hand."""

from __future__ import annotations

import itertools
import statistics

import pytest
import torch

from minippo.advantages import (
    ESTIMATORS,
    adjusted_scores,
    batch,
    gae,
    group,
    leave_one_out,
    token_rewards,
    value_head,
)
from minippo.config import PPOConfig

RAW = torch.tensor([3.0, -0.5, -4.0, -4.0])
HAS_EOS = torch.tensor([True, False, True, False])
MASK = torch.tensor([[True, True, True], [True, False, False]])
LOGPROBS = torch.tensor([[-1.0, -2.0, -0.5], [-3.0, 0.0, 0.0]])
REF_LOGPROBS = torch.tensor([[-1.5, -1.0, -0.5], [-2.0, 0.0, 0.0]])  # k1: 0.5, -1, 0 and -1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [3.0, -0.5, -4.0, -4.0]),
        ({"score_clip": 1.0}, [1.0, -0.5, -1.0, -1.0]),
        ({"missing_eos": "replace", "missing_eos_score": -2.0}, [3.0, -2.0, -4.0, -2.0]),
        ({"missing_eos": "replace", "missing_eos_score": -2.0, "score_clip": 1.0}, [1.0, -2.0, -1.0, -2.0]),
        ({"missing_eos": "subtract", "missing_eos_score": 0.75, "score_clip": 1.0}, [1.0, -1.25, -1.0, -1.75]),
    ],
)
def test_scores_are_clipped_before_the_penalty_for_a_missing_end(changes, expected):
    assert adjusted_scores(RAW, HAS_EOS, PPOConfig(**changes)).tolist() == expected
    assert RAW.tolist() == [3.0, -0.5, -4.0, -4.0]


def test_every_token_pays_its_kl_and_the_last_one_gets_the_score():
    config = PPOConfig(kl_coef=7.0)  # the coefficient that counts is the state's, which adapts
    rewards, kl = token_rewards(torch.tensor([2.0, -1.0]), LOGPROBS, REF_LOGPROBS, MASK, 0.2, config)
    torch.testing.assert_close(kl, torch.tensor([[0.5, -1.0, 0.0], [-1.0, 0.0, 0.0]]))
    torch.testing.assert_close(rewards, torch.tensor([[-0.1, 0.2, 2.0], [-0.8, 0.0, 0.0]]))


def test_whitened_rewards_have_variance_one_and_keep_their_mean_while_the_kl_stays():
    scores = torch.tensor([2.0, -1.0])
    plain, plain_kl = token_rewards(scores, LOGPROBS, REF_LOGPROBS, MASK, 0.2, PPOConfig())
    rewards, kl = token_rewards(scores, LOGPROBS, REF_LOGPROBS, MASK, 0.2, PPOConfig(whiten_rewards=True))
    assert torch.equal(kl, plain_kl)
    assert rewards[MASK].var(correction=0) == pytest.approx(1, abs=1e-5)
    assert rewards[MASK].mean() == pytest.approx(plain[MASK].mean().item(), abs=1e-6)
    assert not rewards[~MASK].any()


def test_gae_discounts_by_gamma_and_weighs_by_gamma_times_lambda():
    config = PPOConfig(gamma=0.9, lam=0.5)
    rewards, values = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.5, 1.0, -1.0]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), config)
    errors = [1 + 0.9 * 1.0 - 0.5, 0 + 0.9 * -1.0 - 1.0, 2 + 1.0]
    by_hand = [errors[0] + 0.45 * errors[1] + 0.45**2 * errors[2], errors[1] + 0.45 * errors[2], errors[2]]
    torch.testing.assert_close(advantages, torch.tensor([by_hand]))
    torch.testing.assert_close(returns, torch.tensor([by_hand]) + values)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_ignore_what_is_masked_and_give_0_there(name):
    config = PPOConfig(gamma=0.9, lam=0.5, samples_per_prompt=2)
    rewards, values = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    estimator, garbage = ESTIMATORS[name], torch.where(MASK, 0, torch.nan)
    others = values + garbage
    if not estimator.has_critic:
        values = others = None
    found = estimator.estimate(rewards, values, MASK, config)
    for ours, theirs in zip(found, estimator.estimate(rewards + garbage, others, MASK, config), strict=True):
        assert (ours is None) == (theirs is None) == (ours is not found[0] and not estimator.has_critic)
        if ours is not None:
            torch.testing.assert_close(ours[MASK], theirs[MASK])
            assert ours[MASK].any()
            assert not ours[~MASK].any()
            assert not theirs[~MASK].any()


# ---------------------------------------------------------------------------------------------- without a critic

RETURNS = torch.tensor([[0.5, 2.0, -1.0, 0.1], [3.0, 3.0, 3.5, 2.0]], dtype=torch.float64)  # two prompts, K = 4


def test_group_advantages_are_standard_scores_within_the_responses_to_a_prompt():
    expected = [[(r - statistics.mean(row)) / statistics.pstdev(row) for r in row] for row in RETURNS.tolist()]
    torch.testing.assert_close(group(RETURNS), torch.tensor(expected).double(), rtol=1e-6, atol=1e-7)
    assert not group(torch.full((2, 3), 0.7)).any()  # nothing to learn, and not NaN


def test_leave_one_out_advantages_compare_with_the_mean_of_the_others():
    expected = [[r - statistics.mean(row[:i] + row[i + 1 :]) for i, r in enumerate(row)] for row in RETURNS.tolist()]
    torch.testing.assert_close(leave_one_out(RETURNS), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    centred = RETURNS - RETURNS.mean(dim=1, keepdim=True)
    torch.testing.assert_close(leave_one_out(RETURNS), 4 / 3 * centred, rtol=0, atol=1e-12)


def test_batch_advantages_compare_with_the_mean_of_all_responses():
    mean = statistics.mean(r for row in RETURNS.tolist() for r in row)
    torch.testing.assert_close(batch(RETURNS), RETURNS - torch.full_like(RETURNS, mean), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("advantages_of", "share"), [(leave_one_out, 1.0), (batch, 2 / 3)])
def test_expected_gradient_is_that_of_the_expected_score(advantages_of, share):
    """An exact expectation over all triples of four actions. A baseline that contains the response itself takes away
    1 / K of the gradient."""
    generator = torch.Generator().manual_seed(0)
    logits, scores = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    logprobs = torch.log_softmax(logits.requires_grad_(), dim=0)
    surrogate = torch.zeros(())
    for actions in map(list, itertools.product(range(4), repeat=3)):
        advantages = advantages_of(scores[actions].unsqueeze(0))[0]
        surrogate = surrogate + logprobs[actions].sum().exp().detach() * (advantages * logprobs[actions]).mean()
    (found,) = torch.autograd.grad(surrogate, logits, retain_graph=True)
    (expected,) = torch.autograd.grad((logprobs.exp() * scores).sum(), logits)
    torch.testing.assert_close(found, share * expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "K"), [("group", 2), ("group", 4), ("leave-one-out", 2), ("leave-one-out", 4), ("batch", 1), ("batch", 2)]
)
def test_all_tokens_of_a_response_have_the_advantage_of_the_sum_of_its_rewards(name, K):
    rewards = torch.tensor([[1.0, -1.0, 9.0], [1.0, 9.0, 9.0], [3.0, 0.5, 0.0], [-3.0, 0.5, 9.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]]).bool()
    sums = [0.0, 1.0, 3.5, -2.5]
    by_hand = {
        "group": lambda i, rows: (sums[i] - statistics.mean(rows)) / statistics.pstdev(rows),
        "leave-one-out": lambda i, rows: len(rows) / (len(rows) - 1) * (sums[i] - statistics.mean(rows)),
        "batch": lambda i, rows: sums[i] - statistics.mean(sums),
    }[name]
    expected = [by_hand(i, sums[i // K * K : i // K * K + K]) for i in range(4)]  # adjacent rows are one prompt's
    config = PPOConfig(samples_per_prompt=K, gamma=0.5)  # nothing is discounted
    advantages, targets = ESTIMATORS[name].estimate(rewards, None, mask, config)
    assert targets is None
    for row, one in enumerate(expected):
        assert advantages[row][mask[row]].tolist() == pytest.approx([one] * int(mask[row].sum()), abs=1e-5)


def test_value_head_is_the_configured_one_if_there_is_a_critic():
    assert [value_head(PPOConfig(value_head=head)) for head in ("linear", "mlp")] == ["linear", "mlp"]
    assert all(
        value_head(PPOConfig(advantage=name, value_head="mlp")) is None for name in ("group", "leave-one-out", "batch")
    )


# ---------------------------------------------------------------------------------------------- variants of the penalty


def test_rewards_have_the_penalty_of_the_chosen_estimate_while_the_kl_stays_k1():
    scores, k1 = torch.tensor([2.0, -1.0]), torch.tensor([[0.5, -1.0, 0.0], [-1.0, 0.0, 0.0]])
    for kind, penalty in (("k1", k1), ("k2", k1**2 / 2), ("k3", (-k1).exp() - 1 + k1)):
        rewards, kl = token_rewards(scores, LOGPROBS, REF_LOGPROBS, MASK, 0.2, PPOConfig(kl_estimate=kind))
        torch.testing.assert_close(kl, k1)
        expected = -0.2 * penalty
        expected[0, 2] += 2.0
        expected[1, 0] -= 1.0
        torch.testing.assert_close(rewards, torch.where(MASK, expected, 0))


def test_rewards_are_the_score_alone_if_the_penalty_is_in_the_loss():
    config = PPOConfig(kl_placement="loss", kl_estimate="k3")
    rewards, kl = token_rewards(torch.tensor([2.0, -1.0]), LOGPROBS, REF_LOGPROBS, MASK, 0.2, config)
    assert rewards.tolist() == [[0, 0, 2], [-1, 0, 0]]
    torch.testing.assert_close(kl, torch.tensor([[0.5, -1.0, 0.0], [-1.0, 0.0, 0.0]]))
