"""The PPO update: epochs x minibatches x microbatches of the clipped losses over one rollout."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from minippo import equations
from minippo.checkpoint import PPOState
from minippo.config import PPOConfig
from minippo.optim import linear_schedule, set_lr
from minippo.rollout import Rollout, judge_tokens


def ppo_update(state: PPOState, rollout: Rollout, eos_id: int, config: PPOConfig) -> dict[str, float]:
    """Improve `state.policy` on the rollout, and adapt the KL coefficient. Returns means over the minibatches."""
    B = len(rollout.queries)
    rows_in_minibatch = B // config.num_minibatches
    lr = config.lr * linear_schedule(state.iteration, config.num_iterations)
    set_lr(state.optimizer, lr)
    sums: defaultdict[str, float] = defaultdict(float)
    for _ in range(config.num_epochs):
        order = torch.randperm(B, generator=state.generator).to(rollout.queries.device)
        for rows in order.split(rows_in_minibatch):
            for name, value in update_on_minibatch(state, rollout.select(rows), eos_id, config).items():
                sums[name] += value
    if config.kl_target is not None:
        state.kl_coef = equations.adaptive_kl_coef(
            state.kl_coef,
            float(rollout.kl.sum(dim=1).mean()),
            target=config.kl_target,
            horizon=config.kl_horizon,
            batch_size=B,
        )
    num_steps = config.num_epochs * config.num_minibatches
    return {name: value / num_steps for name, value in sums.items()} | {"lr": lr}


def update_on_minibatch(state: PPOState, batch: Rollout, eos_id: int, config: PPOConfig) -> dict[str, float]:
    """One optimizer step. The losses divide by the minibatch's tokens, so microbatches only add up to it."""
    parameters = list(state.policy.parameters())
    state.optimizer.zero_grad(set_to_none=True)
    figures = accumulate_gradient(state, batch, eos_id, config)
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    state.optimizer.step()
    return figures | {"policy/grad_norm": grad_norm.item()}


def accumulate_gradient(state: PPOState, batch: Rollout, eos_id: int, config: PPOConfig) -> dict[str, float]:
    """Backward passes over the microbatches of a minibatch; their gradients add up to that of the whole."""
    num_tokens = batch.response_mask.sum()
    advantages = batch.advantages
    if config.whiten_advantages:
        advantages = equations.whiten(advantages, batch.response_mask)
    sums: defaultdict[str, float] = defaultdict(float)
    for rows in torch.arange(len(advantages), device=advantages.device).split(config.microbatch_size):
        loss, figures = microbatch_loss(state, batch, rows, advantages[rows], num_tokens, eos_id, config)
        loss.backward()
        for name, value in figures.items():
            sums[name] += float(value)
    return dict(sums)


def microbatch_loss(
    state: PPOState,
    batch: Rollout,
    rows: Tensor,
    advantages: Tensor,
    num_tokens: Tensor,
    eos_id: int,
    config: PPOConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Policy loss + value_coef * value loss - entropy_coef * entropy, as this microbatch's share of the minibatch's."""
    mask = batch.response_mask[rows]
    logprobs, values, entropies = judge_tokens(state.policy, batch, rows, eos_id, config)
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
        "val/ratio": policy_figures["ratio"],
        "val/clipfrac": value_figures["clipfrac"],
        "val/td_error": value_figures["error"],
    }
    return loss, {name: value.detach() for name, value in figures.items()}


def check_promises(state: PPOState, rollout: Rollout, eos_id: int, config: PPOConfig) -> None:
    """Raise RuntimeError unless, before the first step, every ratio is 1 and the KL to the reference is 0.

    Both to 1e-5 in float32. What breaks it: dropout left on, a temperature applied in one place only, positions that
    count pads, a reference that is not the policy's start.
    """
    rows = torch.arange(min(config.microbatch_size, len(rollout.queries)), device=rollout.queries.device)
    with torch.no_grad():
        logprobs, _, _ = judge_tokens(state.policy, rollout, rows, eos_id, config)
    off = float((logprobs - rollout.logprobs[rows]).abs().max())
    if not off <= 1e-5:
        raise RuntimeError(f"before the first step every ratio should be 1, but a log-ratio is {off:.2g}")
    kl = float(rollout.kl.abs().max())
    if state.iteration == 0 and not kl <= 1e-5:
        raise RuntimeError(f"before the first step the policy is the reference, but a token's KL is {kl:.2g}")
