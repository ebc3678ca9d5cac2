"""Every formula of the method: pure functions of tensors and floats.

Legend: B rows, R response tokens, N unmasked tokens, V vocabulary, K completions of a ranking. Masks are bool, True at
real tokens. No function changes its inputs. Masked entries never affect a value or a gradient, not even if they are NaN
(`masking.py` says how), and results are 0 where masked.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from minippo.masking import Moments, last_response_index, masked_moments, masked_sum
from minippo.masking import masked_mean as masked_mean  # part of this module's public API

# ---------------------------------------------------------------------------------------------- reward model


def preference_loss(
    chosen_scores: Tensor, rejected_scores: Tensor, margin: float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """Bradley-Terry negative log-likelihood of preferences, (), in nats. It is log 2 if all scores are equal.

    -log sigmoid(chosen - rejected - margin): Ouyang et al. 2022 (2203.02155) eq. 1 with K = 2, and the margin of
    Touvron et al. 2023 (2307.09288) eq. 2. `label_smoothing` is the share of labels that are assumed to be wrong.
    """
    # logsigmoid, because log(sigmoid(x)) underflows to -inf for large negative x.
    difference = chosen_scores - rejected_scores - margin
    agree, flipped = F.logsigmoid(difference), F.logsigmoid(-difference)  # log P(chosen wins), log P(rejected wins)
    return -((1 - label_smoothing) * agree + label_smoothing * flipped).mean()


def ranking_loss(scores: Tensor, margin: float = 0.0, label_smoothing: float = 0.0) -> Tensor:
    """Preference loss of rankings, (), in nats; `scores` (B, K), best first.

    The mean over the K(K-1)/2 pairs of each row, so that a long ranking has the weight of one pair: the factor
    1 / (K choose 2) in Ouyang et al. 2022 eq. 1.
    """
    # Every pair above the diagonal: the completion that stands first in the ranking is the better one.
    better, worse = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1, device=scores.device)
    return preference_loss(scores[:, better], scores[:, worse], margin, label_smoothing)


def label_loss(scores: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy of labelled texts, (), in nats; `scores` (B, 2) of texts with label 1 and with label 0.

    Logistic regression (Cox 1958): a score is the log-odds of label 1, its sigmoid the probability. So a label is a
    preference against a fixed score of 0, log 2 if all scores are 0; a preference between texts leaves that level open.
    """
    positive, negative = scores.unbind(dim=1)  # (B,) each
    even = torch.zeros_like(positive)  # log-odds of a probability of 1/2
    losses = [preference_loss(*pair, label_smoothing=label_smoothing) for pair in ((positive, even), (even, negative))]
    return (losses[0] + losses[1]) / 2


def language_model_loss(logits: Tensor, targets: Tensor, num_tokens: Tensor | None = None) -> Tensor:
    """Cross-entropy of `targets` (N,) under `logits` (N, V), (), in nats per token, computed in float32.

    `num_tokens` is the divisor, by default N.
    """
    return F.cross_entropy(logits.float(), targets, reduction="sum") / (
        max(1, len(targets)) if num_tokens is None else num_tokens
    )


def average(x: Tensor, mask: Tensor, divisor: Tensor | float | None = None) -> Tensor:
    """Sum of the real entries of `x` (B, R), divided by their number or by `divisor`, ().

    The update passes the tokens of a whole minibatch, so that the averages of its microbatches add up; or a divisor for
    each row, (B, 1), which gives the rows of a minibatch other weights (`ppo.loss_divisor`).
    """
    if isinstance(divisor, Tensor) and divisor.dim() > 0:
        return masked_sum(x / divisor, mask)
    return masked_sum(x, mask) / (mask.sum().clamp(min=1) if divisor is None else divisor)


def whiten(x: Tensor, mask: Tensor, moments: Moments | None = None) -> Tensor:
    """`x`, shifted and scaled to mean 0 and (population) variance 1 over its real entries; 0 where masked.

    `moments` replaces the moments of `x` itself, for statistics of a larger batch.
    """
    x = torch.where(mask, x, 0)
    moments = moments or masked_moments(x, mask)
    return torch.where(mask, (x - moments.mean) * torch.rsqrt(moments.variance + 1e-8), 0)


def rescale(x: Tensor, mask: Tensor, moments: Moments | None = None) -> Tensor:
    """`x`, scaled to variance 1 over its real entries without changing its mean; 0 where masked.

    Used for rewards (Ziegler et al. 2019): their mean carries information, since it says whether responses are good.
    """
    x = torch.where(mask, x, 0)
    moments = moments or masked_moments(x, mask)
    rescaled = (x - moments.mean) * torch.rsqrt(moments.variance + 1e-8) + moments.mean
    return torch.where(mask, rescaled, 0)


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities of `tokens` (...), in nats, and those of the whole vocabulary, (..., V); float32.

    `logits` (..., V) are those that the tokens were drawn from. The softmax is computed in float32 whatever their
    dtype: in bfloat16, the noise of the ratios would be as large as the clip range.
    """
    logits = logits.float() if temperature == 1 else logits.float() / temperature  # dividing by 1 would copy them
    log_softmax = torch.log_softmax(logits, dim=-1)  # (..., V)
    logprobs = log_softmax.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)  # (...)
    return logprobs, log_softmax


def entropies(log_softmax: Tensor) -> Tensor:
    """Entropies, (...) in nats, of distributions whose log-probabilities are `log_softmax` (..., V)."""
    p = log_softmax.exp()  # (..., V)
    # Without gradients, the product may overwrite p: it is as large as the logits.
    return -(p * log_softmax if torch.is_grad_enabled() else p.mul_(log_softmax)).sum(-1)


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str = "k1") -> Tensor:
    """Estimate of KL(policy || reference) from tokens that the policy drew, (B, R), in nats.

    With p the policy and q the reference: k1 = log p - log q is unbiased, but can be negative and varies most. k2 =
    k1^2 / 2 is biased, but never negative. k3 = q/p - 1 + k1 is unbiased and never negative. Schulman 2020,
    http://joschu.net/blog/kl-approx.html. They estimate one number, but as penalties they have different gradients:
    `advantages.token_rewards` is about the reward, `kl_loss` about the loss.
    """
    k1 = logprobs - ref_logprobs  # (B, R)
    if kind == "k1":
        return k1
    if kind == "k2":
        return 0.5 * k1**2
    if kind == "k3":
        return torch.expm1(-k1) + k1  # expm1(x) = exp(x) - 1 without cancellation near 0
    raise ValueError(f"kl estimate must be k1, k2 or k3, not {kind!r}")


def kl_penalised_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    response_mask: Tensor,
    *,
    kl_coef: float,
    kind: str = "k1",
) -> tuple[Tensor, Tensor]:
    """Rewards and KL of each token, (B, R): -kl_coef * kl at every token, plus the score (B,) at the last one.

    `kind` is that of `kl_estimate`. So rewards + kl_coef * kl sum to the score in every row. Ziegler et al. 2019
    (1909.08593) eq. 2.
    """
    logprobs, ref_logprobs = (torch.where(response_mask, x, 0) for x in (logprobs, ref_logprobs))
    kl = kl_estimate(logprobs, ref_logprobs, kind)  # (B, R)
    # The score judges the whole response, so it arrives with the last token: end-of-text, if the response has one.
    last = last_response_index(response_mask).unsqueeze(1)  # (B, 1)
    return (-kl_coef * kl).scatter_add(1, last, scores.unsqueeze(1).to(kl.dtype)), kl


def penalise_missing_eos(
    scores: Tensor, has_eos: Tensor, *, mode: str = "off", missing_eos_score: float = 0.0
) -> Tensor:
    """Scores (B,) after penalising responses that did not end: "off", "replace" by a fixed score, or "subtract" it.

    A reward model has only been trained on complete texts. Stiennon et al. 2020 and Huang et al. 2024 (2403.17031)
    replace the score of a truncated response by -1.
    """
    if mode == "off":
        return scores
    if mode == "replace":
        return torch.where(has_eos, scores, missing_eos_score)
    if mode == "subtract":
        return torch.where(has_eos, scores, scores - missing_eos_score)
    raise ValueError(f"the penalty for a missing end must be off, replace or subtract, not {mode!r}")


def adaptive_kl_coef(kl_coef: float, observed_kl: float, *, target: float, horizon: float, batch_size: int) -> float:
    """The next KL coefficient, from a proportional controller in log space (Ziegler et al. 2019 section 2.2).

    `observed_kl` and `target` are nats per sequence, `horizon` is in sequences. A horizon shorter than a batch counts
    as one batch, so the coefficient changes by at most 20 % per update and stays positive. Without this bound, a short
    horizon could make it negative, and the penalty would reward KL.
    """
    error = min(max(observed_kl / target - 1, -0.2), 0.2)  # clipped, so that one unusual batch cannot change much
    return kl_coef * (1 + error * min(1.0, batch_size / horizon))


# ---------------------------------------------------------------------------------------------- advantages


def gae(rewards: Tensor, values: Tensor, response_mask: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates (not whitened) and returns, both (B, R). Schulman et al. 2016 eq. 16.

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lam A_{t+1}, with V = A = 0 after the last real token.
    Returns, the critic's targets, are A + V. `lam` trades bias for variance: with 0 the estimate trusts the critic one
    token ahead, with 1 it uses the rewards received, and the critic only as a baseline.
    """
    rewards = torch.where(response_mask, rewards, 0)
    values = torch.where(response_mask, values, 0)
    advantages = torch.zeros_like(values)  # (B, R)
    # Nothing comes after the last token, not even if the response was cut off there: its score is final, and
    # `ppo.missing_eos` says what that costs.
    next_value = next_advantage = torch.zeros_like(values[:, 0])  # (B,)
    for t in reversed(range(values.shape[1])):
        # How much better this token turned out than the critic expected, by the critic's own estimate of the rest.
        delta = rewards[:, t] + gamma * next_value - values[:, t]  # (B,)
        # Shorter responses of the batch have not begun yet, seen from the end: they stay 0 until their last token.
        next_advantage = torch.where(response_mask[:, t], delta + gamma * lam * next_advantage, 0)
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages, advantages + values


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns), (): 1 for a perfect critic, 0 for one no better than a constant."""
    residual, total = masked_moments(returns - values, mask).variance, masked_moments(returns, mask).variance
    return 1 - residual / total.clamp(min=1e-8)


# ---------------------------------------------------------------------------------------------- losses of the update


def policy_loss(
    new_logprobs: Tensor,
    logprobs: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    num_tokens: Tensor | float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate loss, (), Schulman et al. 2017 eq. 7 negated; the ratio is clipped to [1 - clip_low, 1 +
    clip_high].

    The maximum of the clipped and the unclipped loss makes the clip one-sided: a token whose probability has already
    moved far enough in the direction of its advantage has gradient 0, but one that moved the wrong way is pulled back.

    `num_tokens` is the divisor of `average`, by default the unmasked tokens. Statistics, with the same divisor:
    `ratio`, `clipfrac` (share of tokens at which the clip is active) and `approxkl` (half the mean squared log-ratio,
    Ziegler et al. 2019).
    """
    log_ratio = torch.where(response_mask, new_logprobs - logprobs, 0)  # (B, R)
    ratio = log_ratio.exp()  # p_new / p_old of the sampled token: importance sampling, since p_old drew it
    unclipped, clipped = -advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = average(torch.maximum(unclipped, clipped), response_mask, num_tokens)
    with torch.no_grad():
        statistics = {
            "ratio": average(ratio, response_mask, num_tokens),
            "clipfrac": average((clipped > unclipped).float(), response_mask, num_tokens),
            "approxkl": average(0.5 * log_ratio**2, response_mask, num_tokens),
        }
    return loss, statistics


def kl_loss(
    new_logprobs: Tensor,
    ref_logprobs: Tensor,
    response_mask: Tensor,
    *,
    kind: str,
    num_tokens: Tensor | float | None = None,
) -> Tensor:
    """Mean KL estimate of the tokens, (), as a term of the loss; GRPO uses k3 (Shao et al. 2024, 2402.03300, eq. 3, 4).

    Here the estimate is differentiated, which is not the same as estimating a gradient. With p the policy and q the
    reference, these are the gradients of the estimates and their means over the tokens that p draws:

    - k1: grad log p, of mean 0. There is only noise, and no penalty.
    - k2: (log p - log q) * grad log p, of mean grad KL(p || q), although the value of k2 is biased.
    - k3: (1 - q/p) * grad log p, of mean -E_q[grad log p] = grad KL(q || p), although the value of k3 estimates
      KL(p || q). It is at most 1 where p exceeds q, and large where p has lost the mass that q has.

    All of this given the tokens before. A token does not pay for the KL of later tokens that it leads to, as it does in
    the reward; and from the second step on, the tokens come from the policy of the rollout instead of p.
    """
    new_logprobs, ref_logprobs = (torch.where(response_mask, x, 0) for x in (new_logprobs, ref_logprobs))
    return average(kl_estimate(new_logprobs, ref_logprobs, kind), response_mask, num_tokens)


def value_loss(
    new_values: Tensor,
    values: Tensor,
    returns: Tensor,
    response_mask: Tensor,
    *,
    clip: float | None,
    num_tokens: Tensor | float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Half the mean squared error of the values against the returns, (). None as `clip` does not clip.

    Why clip values? The trunk is shared with the policy, and one rollout's returns are noisy. With `clip`, the loss is
    the larger of the plain error and the error of the value held within `clip` of the rollout's value, so that a value
    that has moved by `clip` gains nothing from moving further in the same direction (the PPO2 code of Dhariwal et al.
    2017).

    Statistics, with the divisor of `policy_loss`: `clipfrac`, and `error`, the mean squared error without clip and 1/2.
    """
    # Mask before squaring: the gradient of a masked square is 0 * 2x, which is NaN if x is.
    new_values, values, returns = (torch.where(response_mask, x, 0) for x in (new_values, values, returns))
    squared = (new_values - returns) ** 2
    worst = squared  # (B, R)
    if clip is not None:
        worst = torch.maximum(squared, (new_values.clamp(values - clip, values + clip) - returns) ** 2)
    loss = 0.5 * average(worst, response_mask, num_tokens)
    with torch.no_grad():
        statistics = {
            "clipfrac": average((worst > squared).float(), response_mask, num_tokens),
            "error": average(squared, response_mask, num_tokens),
        }
    return loss, statistics
