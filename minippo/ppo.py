"""The PPO update: epochs > minibatches > microbatches of the clipped losses over one rollout.

A minibatch is one optimizer step. Microbatches only bound memory: their gradients add up to the minibatch's.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from minippo import equations, masking
from minippo.config import PPOConfig
from minippo.errors import require_finite
from minippo.language_model import backward_in_chunks
from minippo.masking import completion_mask, pad
from minippo.memory import phase
from minippo.optim import lr_schedule, set_lr
from minippo.rollout import Rollout, apply_heads, head_chunks, response_hidden
from minippo.state import PPOState
from minippo.streams import generator

Stats = dict[str, float]


def ppo_update(state: PPOState, rollout: Rollout, config: PPOConfig) -> Stats:
    """Improve `state.policy` on the rollout, and adapt the KL coefficient.

    Returns metrics averaged over the minibatches whose step was taken, or over all that were evaluated if none was.
    """
    B = len(rollout.queries)
    # The schedule counts completed iterations, not optimizer steps: all minibatches of a rollout have one learning
    # rate. (Random streams count iterations from 1.)
    lr = config.lr * lr_schedule(config.schedule, state.iteration, config.num_iterations, warmup=config.warmup)
    set_lr(state.optimizer, lr)
    orders = [
        torch.randperm(B, generator=generator(state.seed, "minibatches", state.iteration + 1, epoch))
        for epoch in range(config.num_epochs)
    ]
    # Every epoch visits each row once, in an order of its own.
    minibatches = [rows for order in orders for rows in order.split(B // config.num_minibatches)]
    minibatch_stats: list[Stats] = []
    for rows in minibatches:
        stats = update_on_minibatch(state, rollout.select(rows.to(rollout.queries.device)), config)
        minibatch_stats.append(stats)
        # The clip bounds the gradient of each token, not the sum of all steps. This limit stops an iteration that has
        # moved the policy too far from the one that drew the rollout.
        if exceeds(stats["policy/approxkl"], config.max_approx_kl):
            break
    state.optimizer.zero_grad()  # gradients take as much memory as the weights, and the next rollout needs it
    if config.kl_target is not None:  # adaptive: the next rollout pays another price per nat
        state.kl_coef = equations.adaptive_kl_coef(
            state.kl_coef,
            float(rollout.kl.sum(dim=1).mean()),
            target=config.kl_target,
            horizon=config.kl_horizon,
            batch_size=B,
        )
    taken = [stats for stats in minibatch_stats if "policy/grad_norm" in stats]
    counted = taken or minibatch_stats
    means = {name: sum(stats[name] for stats in counted) / len(counted) for name in counted[0]}
    return {"policy/grad_norm": 0.0} | means | {"policy/steps": len(taken), "lr": lr}


def exceeds(value: float, limit: float | None) -> bool:
    """Whether there is a limit and `value` is above it."""
    return limit is not None and value > limit


@phase("update")
def update_on_minibatch(state: PPOState, batch: Rollout, config: PPOConfig) -> Stats:
    """One optimizer step. The metrics contain a gradient norm if it was taken.

    A step beyond `max_approx_kl` or `max_ratio` is skipped entirely. Setting its loss to 0 instead would not do:
    momentum and weight decay would still move the weights.
    """
    state.optimizer.zero_grad()
    stats = accumulate_gradient(state, batch, config)
    # These statistics were computed with the weights before this step: they judge the steps taken so far.
    if exceeds(stats["policy/approxkl"], config.max_approx_kl) or exceeds(stats["policy/ratio"], config.max_ratio):
        return stats
    if state.demonstrations is not None:
        stats["loss/ptx"] = accumulate_pretraining_gradient(state, config)
    require_finite(stats)  # before the step: afterwards, NaN weights could not be undone
    grad_norm = state.optimizer.clip_gradients(config.max_grad_norm)  # a single rare token can have a huge gradient
    require_finite({"policy/grad_norm": grad_norm})
    state.optimizer.step()
    return stats | {"policy/grad_norm": grad_norm}


def accumulate_gradient(state: PPOState, batch: Rollout, config: PPOConfig) -> Stats:
    """Backward passes over the microbatches of a minibatch; their gradients add up to the minibatch's. Returns the
    minibatch's metrics."""
    if config.whiten_advantages:
        # Why whiten? Scale: the policy loss keeps its weight relative to the value loss and the clipped gradient norm,
        # whatever the scale of the scores. Mean: a good batch would raise the probability of every token in it, a bad
        # one lower it. Per minibatch, as in PPO's first implementations; the returns keep their scale.
        batch = replace(batch, advantages=equations.whiten(batch.advantages, batch.response_mask))
    totals = []
    by_length = masking.last_response_index(batch.is_response).argsort()  # rows of similar length need little padding
    for rows in by_length.split(config.microbatch_size):
        microbatch = batch.select(rows)
        hidden = response_hidden(state.policy, microbatch)  # (M, T, C)
        # Logits of a few rows at a time: the graph is cut at the hidden states, each chunk goes forward to its loss and
        # backward to its hidden states, and then the trunk goes backward once.
        states = hidden.detach().requires_grad_()
        with state.optimizer.gradients.together(state.policy.head_parameters):
            for chunk in head_chunks(microbatch):
                loss, stats = partial_loss(state, states[chunk], microbatch.select(chunk), batch, config)
                loss.backward()
                totals.append(torch.stack(list(stats.values())))  # (metrics,), still on the device
            hidden.backward(states.grad)  # reaches the embedding table once more
    # One transfer for the whole minibatch: on a GPU, reading each number at once would wait for the device every time.
    columns = zip(*torch.stack(totals).tolist(), strict=True)
    # The names in `stats` are those of the last chunk: they are the same for all.
    return {name: sum(column) for name, column in zip(stats, columns, strict=True)}


def accumulate_pretraining_gradient(state: PPOState, config: PPOConfig) -> float:
    """Add the gradient of ptx_coef * the language-model loss on the completions of demonstrations.

    Returns that loss, in nats per token.

    Ouyang et al. 2022 (2203.02155) eq. 2: the policy should not forget what it was pretrained on.
    """
    gpt, table = state.policy.gpt, state.policy.gpt.token_embedding.weight
    batch = state.demonstrations.rows[np.array(state.demonstrations.next_indices())]
    tokens, mask = pad(batch, 0, "right")  # (ptx_batch_size, T)
    # As in stage 1, a prompt is read but not predicted.
    tokens, mask = tokens.to(table.device), completion_mask(mask, batch.prompt_lengths).to(table.device)
    num_tokens, loss = mask[:, 1:].sum(), 0.0  # the first token of a row is not predicted
    for rows in torch.arange(len(tokens), device=table.device).split(config.microbatch_size):
        with state.optimizer.gradients.together([table]):
            part = backward_in_chunks(gpt, tokens[rows], mask[rows], num_tokens=num_tokens, weight=config.ptx_coef)
        loss += part.item()
    return loss


def loss_divisor(batch: Rollout, minibatch: Rollout, config: PPOConfig) -> Tensor:
    """What the losses of `batch`, a part of `minibatch`, are divided by: see `equations.average`.

    "token": the tokens of the minibatch, so that every token has the same weight. "sequence": the responses of the
    minibatch times the tokens of the response, so that every response has the same weight, however long it is.
    """
    if config.loss_normalisation == "token":
        return minibatch.response_mask.sum()  # ()
    return len(minibatch.queries) * batch.response_mask.sum(dim=1, keepdim=True)  # (M, 1)


def partial_loss(
    state: PPOState, hidden: Tensor, batch: Rollout, minibatch: Rollout, config: PPOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Policy loss + value_coef * value loss - entropy_coef * entropy: the share of `batch` in the minibatch's loss.

    `hidden` (M, T, C) are the hidden states of the batch. The metrics are shares too: they add up over the batches of a
    minibatch. Without a critic there is no value loss; `kl_placement` may add kl_coef * KL.
    """
    mask, divisor = batch.response_mask, loss_divisor(batch, minibatch, config)  # mask (M, R)
    logprobs, values, log_softmax = apply_heads(state.policy, hidden, batch)  # (M, R), (M, R), (N, V)
    # The advantages are constants here: they were computed once per rollout, from the values of that time.
    policy_loss, policy_stats = equations.policy_loss(
        logprobs,
        batch.logprobs,
        batch.advantages,
        mask,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        num_tokens=divisor,
    )
    with torch.set_grad_enabled(config.entropy_coef > 0):  # otherwise it is only a metric
        entropy = equations.average(masking.scatter(equations.entropies(log_softmax), mask), mask, divisor)  # ()
    loss = policy_loss
    stats = {
        "loss/policy": policy_loss,
        "policy/approxkl": policy_stats["approxkl"],
        "policy/clipfrac": policy_stats["clipfrac"],
        "policy/entropy": entropy,
        "policy/ratio": policy_stats["ratio"],
    }
    if values is not None:
        value_loss, value_stats = equations.value_loss(
            values, batch.values, batch.returns, mask, clip=config.value_clip, num_tokens=divisor
        )
        loss = loss + config.value_coef * value_loss
        stats["loss/value"] = value_loss
        stats |= {"value/clipfrac": value_stats["clipfrac"], "value/td_error": value_stats["error"]}
    if config.entropy_coef > 0:
        loss = loss - config.entropy_coef * entropy
    if config.kl_placement == "loss":
        kl_loss = equations.kl_loss(logprobs, batch.ref_logprobs, mask, kind=config.kl_estimate, num_tokens=divisor)
        loss = loss + state.kl_coef * kl_loss
        stats["loss/kl"] = kl_loss
    return loss, {name: value.detach() for name, value in sorted(stats.items())}
