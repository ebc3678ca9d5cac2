"""From scores to advantages, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from minippo.advantages import ESTIMATORS, adjusted_scores, gae, token_rewards
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
