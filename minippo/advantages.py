"""From scores to advantages: what each token of a response was worth.

    scores (B,)  ->  rewards (B, R)  ->  advantages, returns (B, R)

The scorer judges a whole response, but the policy is trained token by token. First, every token pays for moving away
from the reference, and the score is added at the last token: `token_rewards`. Then an estimator divides the credit
among the tokens. To try another estimator, write a function with the signature of `gae`, add it to `ESTIMATORS`,
and name it in `ESTIMATOR`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from minippo import equations
from minippo.config import PPOConfig


def adjusted_scores(raw_scores: Tensor, has_eos: Tensor, config: PPOConfig) -> Tensor:
    """Scores (B,) after clipping and after the penalty for responses that did not end; `has_eos` (B,) bool."""
    scores = raw_scores  # (B,)
    # Outliers of a reward model are often its mistakes, and PPO finds them. Clipped first, so that the penalty below
    # stays at the value that was set.
    if config.score_clip is not None:
        scores = scores.clamp(-config.score_clip, config.score_clip)
    return equations.penalise_missing_eos(
        scores, has_eos, mode=config.missing_eos, missing_eos_score=config.missing_eos_score
    )


def token_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, response_mask: Tensor, kl_coef: float, config: PPOConfig
) -> tuple[Tensor, Tensor]:
    """Rewards and KL of each token, (B, R): -kl_coef * kl, plus the score (B,) at the last token.

    Why k1 and not k3 in the reward? A reward is not differentiated; it multiplies the gradient of the token's
    log-probability. With p the policy and q the reference, the expectation of grad log p * k1, k1 = log p - log q, is
    the gradient of KL(p || q): just the penalty we want. k3 = q/p - 1 - log(q/p) has the same expectation as k1 and
    less variance, but in this product its extra term q/p contributes E_q[grad log p] = -grad KL(q || p), and the result
    is the gradient of KL(p || q) - KL(q || p). So k3 is a better curve (`objective/kl_k3`) and the wrong reward.
    """
    rewards, kl = equations.kl_penalised_rewards(scores, logprobs, ref_logprobs, response_mask, kl_coef=kl_coef)
    # One coefficient for the whole rollout: the update adapts it afterwards, for the next one.
    # `kl` stays in nats: it is what the run reports, and what an adaptive coefficient is controlled by.
    if config.whiten_rewards:
        rewards = equations.rescale(rewards, response_mask)
    return rewards, kl


def gae(rewards: Tensor, values: Tensor, response_mask: Tensor, config: PPOConfig) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016): per-token rewards and a critic."""
    # The critic predicts the return before a token is chosen; a token that leads to more than that has a positive
    # advantage. Without a critic, every token of a response would share the credit for its score.
    return equations.gae(rewards, values, response_mask, gamma=config.gamma, lam=config.lam)


Estimator = Callable[[Tensor, Tensor, Tensor, PPOConfig], tuple[Tensor, Tensor]]
"""Rewards, values and response mask, all (B, R), and the configuration -> advantages and returns, both (B, R), 0 where
masked. Advantages are not whitened here: the update does that per minibatch (`ppo.accumulate_gradient`)."""

# Name -> function. Estimators share one signature, so that a rollout does not depend on which is used.
ESTIMATORS: dict[str, Estimator] = {"gae": gae}
ESTIMATOR = "gae"
"""The estimator that rollouts use."""
