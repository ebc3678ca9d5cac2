"""From scores to advantages: what each token of a response was worth.

    scores (B,)  ->  rewards (B, R)  ->  advantages, returns (B, R)

The scorer judges a whole response, but the policy is trained token by token. First, every token pays for moving away
from the reference, and the score is added at the last token: `token_rewards`. Then an estimator, a row of `ESTIMATORS`,
divides the credit among the tokens; `ppo.advantage` names it. To try another, write a function and add a row
(docs/variants.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
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
    """Rewards and KL of each token, (B, R): -kl_coef * kl, plus the score (B,) at the last token. With the penalty in
    the loss, the score alone.

    Why k1 in the reward? A reward is not differentiated; it multiplies the gradient of the token's log-probability.
    With p the policy and q the reference, the expectation of grad log p * k1, k1 = log p - log q, is the gradient of
    KL(p || q): just the penalty we want. k3 = q/p - 1 - log(q/p) has the same expectation as k1 and less variance, but
    in this product its extra term q/p contributes E_q[grad log p] = -grad KL(q || p), and the result is the gradient of
    KL(p || q) - KL(q || p). So k3 is a better curve (`objective/kl_k3`) and the wrong reward. k2 = k1^2 / 2 gives the
    gradient of E_p[k2] - KL(p || q). Both cost a token that has become rare as much as one that has become frequent, so
    it becomes rarer still, and near the reference the two cancel. `equations.kl_loss` is about the penalty in the loss.
    """
    if config.kl_placement == "loss":
        kl_coef = 0.0  # `ppo.partial_loss` adds the penalty
    rewards, _ = equations.kl_penalised_rewards(
        scores, logprobs, ref_logprobs, response_mask, kl_coef=kl_coef, kind=config.kl_estimate
    )
    # One coefficient for the whole rollout: the update adapts it afterwards, for the next one.
    # `kl` stays k1, in nats: it is what the run reports, and what an adaptive coefficient is controlled by.
    kl = torch.where(response_mask, equations.kl_estimate(logprobs, ref_logprobs), 0)  # (B, R)
    if config.whiten_rewards:
        rewards = equations.rescale(rewards, response_mask)
    return rewards, kl


# ---------------------------------------------------------------------------------------------- estimators


def gae(
    rewards: Tensor, values: Tensor | None, response_mask: Tensor, config: PPOConfig
) -> tuple[Tensor, Tensor | None]:
    """Generalised advantage estimation (Schulman et al. 2016): per-token rewards and a critic."""
    # The critic predicts the return before a token is chosen; a token that leads to more than that has a positive
    # advantage. Without a critic, every token of a response shares the credit for its score.
    return equations.gae(rewards, values, response_mask, gamma=config.gamma, lam=config.lam)


def group(returns: Tensor) -> Tensor:
    """GRPO: returns (B / K, K), shifted and scaled to mean 0 and (population) variance 1 for each prompt.

    Shao et al. 2024 (2402.03300), section 4.1.2. After division by the deviation, prompts whose answers hardly differ
    count as much as others: Liu et al. 2025 (2503.20783) call this a bias and leave it out.
    """
    centred = returns - returns.mean(dim=1, keepdim=True)
    return centred * torch.rsqrt((centred**2).mean(dim=1, keepdim=True) + 1e-8)  # 0 if all returns are the same


def leave_one_out(returns: Tensor) -> Tensor:
    """RLOO: returns (B / K, K) minus the mean of the other K - 1 returns of the prompt.

    Ahmadian et al. 2024 (2402.14740), after Kool et al. 2019. The baseline of a response does not depend on it, so the
    gradient is unbiased. It equals K / (K - 1) times the difference from the mean of all K.
    """
    return returns - (returns.sum(dim=1, keepdim=True) - returns) / (returns.shape[1] - 1)


def batch(returns: Tensor) -> Tensor:
    """REINFORCE: returns (B / K, K) minus the mean of the batch (Williams 1992, with that mean as the baseline).

    Which prompts are hard is part of the noise. The baseline contains the response itself, which makes the expected
    gradient smaller by a factor of 1 - 1 / B.
    """
    return returns - returns.mean()


Estimate = Callable[[Tensor, Tensor | None, Tensor, PPOConfig], tuple[Tensor, Tensor | None]]
"""Rewards, values and response mask, all (B, R), and the configuration -> advantages and the critic's targets, both
(B, R), 0 where masked. Advantages are not whitened here: the update does that per minibatch
(`ppo.accumulate_gradient`). Without a critic, values and targets are None."""


def of_responses(advantages_of: Callable[[Tensor], Tensor]) -> Estimate:
    """The estimator that takes a response as one action: its return is the sum of its rewards, and all its tokens have
    its advantage. `advantages_of` computes these from the returns, (B / K, K), a row per prompt."""

    def estimate(
        rewards: Tensor, values: Tensor | None, response_mask: Tensor, config: PPOConfig
    ) -> tuple[Tensor, None]:
        returns = torch.where(response_mask, rewards, 0).sum(dim=1)  # (B,)
        advantages = advantages_of(returns.view(-1, config.samples_per_prompt))  # (B / K, K)
        return torch.where(response_mask, advantages.view(-1, 1), 0), None

    return estimate


@dataclass(frozen=True)
class Estimator:
    """A row of `ESTIMATORS`."""

    estimate: Estimate
    has_critic: bool = False
    """Whether it needs values. If not, there is no value head, and no value is computed, stored or logged."""
    min_samples: int = 1
    """The least K, responses to a prompt, that it needs."""


ESTIMATORS: dict[str, Estimator] = {
    "gae": Estimator(gae, has_critic=True),
    "group": Estimator(of_responses(group), min_samples=2),
    "leave-one-out": Estimator(of_responses(leave_one_out), min_samples=2),
    "batch": Estimator(of_responses(batch)),
}
"""`ppo.advantage` -> estimator. They share one signature, so that a rollout does not depend on which is used."""


def value_head(config: PPOConfig) -> str | None:
    """The value head of the policy, None if the estimator has no critic."""
    return config.value_head if ESTIMATORS[config.advantage].has_critic else None
