"""The PPO update: epochs x minibatches x microbatches of the clipped losses over one rollout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from minippo import equations, masking
from minippo.config import PPOConfig
from minippo.errors import require_finite
from minippo.language_model import backward_in_chunks
from minippo.masking import pad
from minippo.optim import lr_schedule, set_lr
from minippo.rollout import Rollout, response_logprobs
from minippo.state import PPOState
from minippo.streams import generator


def ppo_update(state: PPOState, rollout: Rollout, end_ids: Sequence[int], config: PPOConfig) -> dict[str, float]:
    """Improve `state.policy` on the rollout, and adapt the KL coefficient.

    Returns means over the minibatches whose step was taken; where none was, over those that were looked at.
    """
    B = len(rollout.queries)
    lr = config.lr * lr_schedule(config.schedule, state.iteration, config.num_iterations, warmup=config.warmup)
    set_lr(state.optimizer, lr)
    orders = [
        torch.randperm(B, generator=generator(state.seed, "minibatches", state.iteration + 1, epoch))
        for epoch in range(config.num_epochs)
    ]
    minibatches = [rows for order in orders for rows in order.split(B // config.num_minibatches)]
    found: list[dict[str, float]] = []
    for rows in minibatches:
        found.append(update_on_minibatch(state, rollout.select(rows.to(rollout.queries.device)), end_ids, config))
        if exceeds(found[-1]["policy/approxkl"], config.max_approx_kl):
            break
    if config.kl_target is not None:
        state.kl_coef = equations.adaptive_kl_coef(
            state.kl_coef,
            float(rollout.kl.sum(dim=1).mean()),
            target=config.kl_target,
            horizon=config.kl_horizon,
            batch_size=B,
        )
    taken = [figures for figures in found if "policy/grad_norm" in figures]
    counted = taken or found
    means = {name: sum(figures[name] for figures in counted) / len(counted) for name in counted[0]}
    return {"policy/grad_norm": 0.0} | means | {"policy/steps": len(taken), "lr": lr}


def exceeds(value: float, limit: float | None) -> bool:
    """Whether there is a limit and `value` is beyond it."""
    return limit is not None and value > limit


def update_on_minibatch(state: PPOState, batch: Rollout, end_ids: Sequence[int], config: PPOConfig) -> dict[str, float]:
    """One optimizer step; its figures have a gradient norm where it was taken.

    A step beyond `max_approx_kl` or `max_ratio` is not taken at all: with the loss at 0 instead, momentum and weight
    decay would still move the weights.
    """
    state.optimizer.zero_grad(set_to_none=True)
    figures = accumulate_gradient(state, batch, end_ids, config)
    if exceeds(figures["policy/approxkl"], config.max_approx_kl) or exceeds(figures["policy/ratio"], config.max_ratio):
        return figures
    if state.demonstrations is not None:
        figures["loss/ptx"] = accumulate_pretraining_gradient(state, config)
    require_finite("update", **{name.replace("/", " "): value for name, value in figures.items()})
    grad_norm = torch.nn.utils.clip_grad_norm_(list(state.policy.parameters()), config.max_grad_norm).item()
    require_finite("update", gradient_norm=grad_norm)
    state.optimizer.step()
    return figures | {"policy/grad_norm": grad_norm}


def accumulate_gradient(state: PPOState, batch: Rollout, end_ids: Sequence[int], config: PPOConfig) -> dict[str, float]:
    """Backward passes over the microbatches of a minibatch; their gradients add up to that of the whole.

    The losses divide by the minibatch's tokens, so microbatches only add up to it. Returns the minibatch's figures.
    """
    num_tokens = batch.response_mask.sum()
    advantages = batch.advantages
    if config.whiten_advantages:
        advantages = equations.whiten(advantages, batch.response_mask)
    sums: defaultdict[str, float] = defaultdict(float)
    by_length = masking.last_response_index(batch.is_response).argsort()  # rows of like length have few pads
    for rows in by_length.split(config.microbatch_size):
        loss, figures = microbatch_loss(state, batch, rows, advantages[rows], num_tokens, end_ids, config)
        loss.backward()
        for name, value in figures.items():
            sums[name] += float(value)
    return dict(sums)


def accumulate_pretraining_gradient(state: PPOState, config: PPOConfig) -> float:
    """Add the gradient of ptx_coef * the language-model loss on some demonstrations; returns that loss, nats per token.

    Ouyang et al. 2022 (2203.02155) eq. 2: the policy is held to what it was pretrained on.
    """
    device = state.policy.gpt.token_embedding.weight.device
    tokens, mask = (tensor.to(device) for tensor in pad(next(state.demonstrations), 0, "right"))
    num_tokens, loss = mask[:, 1:].sum(), 0.0
    for rows in torch.arange(len(tokens), device=device).split(config.microbatch_size):
        part = backward_in_chunks(
            state.policy.gpt, tokens[rows], mask[rows], num_tokens=num_tokens, weight=config.ptx_coef
        )
        loss += part.item()
    return loss


def microbatch_loss(
    state: PPOState,
    batch: Rollout,
    rows: Tensor,
    advantages: Tensor,
    num_tokens: Tensor,
    end_ids: Sequence[int],
    config: PPOConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Policy loss + value_coef * value loss - entropy_coef * entropy, as this microbatch's share of the minibatch's."""
    mask = batch.response_mask[rows]
    logprobs, values, entropies = response_logprobs(state.policy, batch, rows, end_ids, config)
    policy_loss, policy_figures = equations.policy_loss(
        logprobs,
        batch.logprobs[rows],
        advantages,
        mask,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        num_tokens=num_tokens,
    )
    value_loss, value_figures = equations.value_loss(
        values, batch.values[rows], batch.returns[rows], mask, clip=config.value_clip, num_tokens=num_tokens
    )
    entropy = entropies.sum() / num_tokens  # 0 where masked
    loss = policy_loss + config.value_coef * value_loss
    if config.entropy_coef > 0:  # else its backward pass, as long as that of the log-probabilities, is for nothing
        loss = loss - config.entropy_coef * entropy
    figures = {
        "loss/policy": policy_loss,
        "loss/value": value_loss,
        "policy/approxkl": policy_figures["approxkl"],
        "policy/clipfrac": policy_figures["clipfrac"],
        "policy/entropy": entropy,
        "policy/ratio": policy_figures["ratio"],
        "value/clipfrac": value_figures["clipfrac"],
        "value/td_error": value_figures["error"],
    }
    return loss, {name: value.detach() for name, value in figures.items()}
