"""The training of the three stages, a second time: what `tests/independent.py` is to the results of a run.

Each function trains a model in place and returns the lines that the stage should have written to metrics.jsonl.
Advantages are the sums that define them, not a recursion; a batch is one forward pass, not microbatches.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from itertools import combinations, count, islice
from types import SimpleNamespace as Settings

import torch
from torch import Tensor, nn

from tests.pipeline.independent import (
    Answered,
    Ids,
    Policy,
    RewardModel,
    Tokenizer,
    compared_scores,
    drawn,
    generator,
    judge,
    language_model_loss,
    pairs,
    sample_responses,
    uniforms,
    windows,
)

Line = dict[str, float]


def adamw(model: nn.Module, weight_decay: float, betas: tuple[float, float], eps: float) -> torch.optim.AdamW:
    """Matrices decay, vectors do not."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=eps)


def scheduled(settings: Settings, step: int, num_steps: int) -> float:
    """The learning rate at `step`, from 0: up in a line, then down to 0 as the schedule says, or level."""
    rise, fall = settings.warmup * num_steps, num_steps - settings.warmup * num_steps
    left = min(1.0, (num_steps - step) / max(1.0, fall))
    down = {"linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2, "constant": 1.0}[settings.schedule]
    return settings.lr * min(down, (step + 1) / max(1.0, rise))


def take_step(optimizer: torch.optim.AdamW, loss: Tensor, lr: float, max_grad_norm: float) -> float:
    """One step down `loss`, its gradient clipped; returns the norm before."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient * min(1.0, max_grad_norm / (norm + 1e-6))
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return norm


# ---------------------------------------------------------------------------------------------- language models


def length_batches(rows: list[Ids], batch_tokens: int, stream: torch.Generator) -> list[list[Ids]]:
    """The rows in batches of like length, at most `batch_tokens` with their padding, in random order."""
    order = sorted(torch.randperm(len(rows), generator=stream).tolist(), key=lambda index: len(rows[index]))
    batches: list[list[Ids]] = []
    for index in order:
        if not batches or (len(batches[-1]) + 1) * len(rows[index]) > batch_tokens:
            batches.append([])
        batches[-1].append(rows[index])
    return [batches[place] for place in torch.randperm(len(batches), generator=stream).tolist()]


def train_language_model(
    model: Policy, rows: dict[str, list[Ids]], settings: Settings, seed: int, name: str
) -> list[Line]:
    """Stage 1, of one backbone: `settings` is sft.policy or sft.reward, `name` "policy" or "reward"."""
    pieces = windows(rows["train"], model.context)
    epoch_tokens = sum(map(len, pieces))
    num_steps = round(
        settings.tokens / epoch_tokens * len(length_batches(pieces, settings.batch_tokens, torch.Generator()))
    )
    epochs = (length_batches(pieces, settings.batch_tokens, generator(seed, f"sft {name}", n)) for n in count(1))
    batches = (batch for epoch in epochs for batch in epoch)
    optimizer, lines = adamw(model, settings.weight_decay, (0.9, 0.99), 1e-8), []
    for step, batch in enumerate(islice(batches, num_steps)):
        lr = scheduled(settings, step, num_steps)
        loss = language_model_loss(model, batch)
        norm = take_step(optimizer, loss, lr, settings.max_grad_norm)
        if (step + 1) % 10 == 0 or step + 1 == num_steps:
            lines.append({"step": step + 1, "loss/lm": loss.item(), "train/grad_norm": norm, "lr": lr})
    with torch.no_grad():
        loss = language_model_loss(model, windows(rows["validation"], model.context))
    return [*lines[:-1], (lines[-1] if lines else {"step": 0}) | {"eval/loss": loss.item()}]


# ---------------------------------------------------------------------------------------------- reward model


def comparison_batches(rows: list[list[Ids]], batch_size: int, stream: torch.Generator) -> list[list[list[Ids]]]:
    """Comparisons in batches, pairs and rankings apart, of like length; the batches in random order."""
    order = [rows[index] for index in torch.randperm(len(rows), generator=stream).tolist()]
    batches = []
    for size in sorted({len(row) for row in rows}):
        alike = sorted((row for row in order if len(row) == size), key=lambda row: max(map(len, row)))
        batches += [alike[start : start + batch_size] for start in range(0, len(alike), batch_size)]
    return [batches[place] for place in torch.randperm(len(batches), generator=stream).tolist()]


def hide_tokens(rows: list[Ids], end: int, share: float, stream: torch.Generator) -> list[Ids]:
    """The rows with some tokens replaced by `end`."""
    hidden = (torch.rand(len(rows), max(map(len, rows)), generator=stream) < share).tolist()
    return [
        [end if hide else i for i, hide in zip(ids, row, strict=False)] for ids, row in zip(rows, hidden, strict=True)
    ]


def train_reward_model(
    model: RewardModel, rows: list[list[Ids]], validation: list[list[Ids]], settings: Settings, seed: int
) -> list[Line]:
    """Stage 2, the training; `settings` is rm. In the end, the weights are their running means."""
    end = model.tokenizer.end
    epochs = [
        comparison_batches(rows, settings.batch_size, generator(seed, "rm batches", n)) for n in range(settings.epochs)
    ]
    num_steps, step, averaged = sum(map(len, epochs)), 0, copy.deepcopy(model)
    optimizer, lines = adamw(model, settings.weight_decay, (0.9, 0.99), 1e-8), []
    for epoch in epochs:
        for batch in epoch:
            stream = generator(seed, "rm hidden tokens", step + 1)
            read = hide_tokens([ids for row in batch for ids in row], end, settings.token_dropout, stream)
            scores = (model.gain * model(read) + model.bias).view(len(batch), -1)  # (B, K)
            differences = torch.cat([scores[:, i] - scores[:, j] for i, j in combinations(range(scores.shape[1]), 2)])
            right = torch.sigmoid(differences - settings.margin)  # probability of the order that was given
            smoothing = settings.label_smoothing
            loss = -((1 - smoothing) * right.log() + smoothing * (1 - right).log()).mean()
            lr = scheduled(settings, step, num_steps)
            norm = take_step(optimizer, loss, lr, settings.max_grad_norm)
            step += 1
            old = min(settings.averaging, (1 + step) / (10 + step))
            for mean, weight in zip(averaged.parameters(), model.parameters(), strict=True):
                mean.data = old * mean.data + (1 - old) * weight.data
            accuracy = float((differences > 0).double().mean())
            lines.append(
                {"step": step, "loss/rm": loss.item(), "rm/accuracy": accuracy, "rm/grad_norm": norm, "lr": lr}
            )
            if step % settings.eval_every == 0 or step == num_steps:
                lines[-1]["eval/accuracy"] = float((pairs(compared_scores(averaged, validation)) > 0).mean())
    model.load_state_dict(averaged.state_dict())
    return lines


def normalise(
    model: RewardModel, reference: Policy, queries: list[Ids], settings: Settings, tokenizer: Tokenizer
) -> None:
    """Set gain and bias so that the reference's answers have scores of mean 0 and variance 1."""
    draws = uniforms(settings.seed, "normalisation", 0, range(len(queries)), settings.data.response_length)
    responses = sample_responses(reference, queries, draws, settings, tokenizer.ends(settings.ppo.stop_token))
    scores = model.scores([tokenizer.text(ids) for ids in queries], [tokenizer.text(ids) for ids in responses])
    raw = (scores - model.bias) / model.gain
    model.gain = 1 / float(raw.std(correction=0))
    model.bias = -float(raw.mean()) * model.gain


# ---------------------------------------------------------------------------------------------- PPO


def advantages_of(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> Tensor:
    """Generalised advantage estimates of one response, as the sum of its discounted temporal differences."""
    following = torch.cat([values[1:], values.new_zeros(1)])
    deltas, T = rewards + gamma * following - values, len(values)
    return torch.stack([sum((gamma * lam) ** k * deltas[t + k] for k in range(T - t)) for t in range(T)])


def without_critic(rewards: list[Tensor], ppo: Settings) -> list[Tensor]:
    """Advantages of responses as single actions, the same for each token; neighbours answer one prompt."""
    K, totals, found = ppo.samples_per_prompt, [float(reward.sum()) for reward in rewards], []
    for index, total in enumerate(totals):
        siblings = totals[index // K * K :][:K]
        others = [x for place, x in enumerate(siblings) if place != index % K]
        deviation = math.sqrt(sum((x - sum(siblings) / K) ** 2 for x in siblings) / K + 1e-8)
        found.append(
            (total - sum(siblings) / K) / deviation if ppo.advantage == "group" else total - sum(others) / len(others)
        )
    return [torch.full_like(reward, x) for reward, x in zip(rewards, found, strict=True)]


def penalty(log_ratio: Tensor, kind: str) -> Tensor:
    """The estimate of the KL at each token, from log p - log q."""
    return {"k1": log_ratio, "k2": log_ratio**2 / 2, "k3": (-log_ratio).exp() - 1 + log_ratio}[kind]


def treated(scores: Tensor, ended: Sequence[bool], ppo: Settings) -> Tensor:
    """Scores after the limit and what becomes of responses without an end."""
    if ppo.score_clip is not None:
        scores = scores.clamp(-ppo.score_clip, ppo.score_clip)
    other = {
        "off": scores,
        "replace": torch.full_like(scores, ppo.missing_eos_score),
        "subtract": scores - ppo.missing_eos_score,
    }
    return torch.where(torch.tensor(ended), scores, other[ppo.missing_eos])


@torch.no_grad()
def roll_out(
    policy: Policy, reference: Policy, scorer: RewardModel, queries: list[Ids], iteration: int, kl_coef: float,
    settings: Settings, tokenizer: Tokenizer,
) -> tuple[tuple, Line]:  # fmt: skip
    """Answers to the queries and, of their tokens, log-probabilities, values, advantages and returns; and the line of
    the rollout."""
    ppo, ends, B = settings.ppo, tokenizer.ends(settings.ppo.stop_token), len(queries)
    draws = uniforms(settings.seed, "rollout", iteration, range(B), settings.data.response_length)
    responses = sample_responses(policy, queries, draws, settings, ends)
    has_critic = ppo.advantage == "gae"
    logprobs, _, values = judge(policy, queries, responses, settings, ends, values=has_critic)
    ref_logprobs, *_ = judge(reference, queries, responses, settings, ends)
    ended = [response[-1] in ends for response in responses]
    raw = scorer.scores([tokenizer.text(ids) for ids in queries], [tokenizer.text(ids) for ids in responses])
    scores = treated(raw, ended, ppo)
    kl = [p - q for p, q in zip(logprobs, ref_logprobs, strict=True)]
    in_reward = kl_coef if ppo.kl_placement == "reward" else 0.0
    rewards = [-in_reward * penalty(x, ppo.kl_estimate) for x in kl]
    for reward, score in zip(rewards, scores, strict=True):
        reward[-1] += score
    if ppo.whiten_rewards:
        mean, deviation = moments(rewards)
        rewards = [(reward - mean) / deviation + mean for reward in rewards]
    if has_critic:
        advantages = [advantages_of(r, v, ppo.gamma, ppo.lam) for r, v in zip(rewards, values, strict=True)]
    else:
        advantages = without_critic(rewards, ppo)
    returns = [a + v for a, v in zip(advantages, values, strict=True)]
    kl_of_response, k1, value, target = torch.stack([x.sum() for x in kl]), *map(torch.cat, (kl, values, returns))
    line = {
        "objective/scores": raw.mean(),
        "objective/scores_std": raw.std(correction=0),
        "objective/kl": kl_of_response.mean(),
        "objective/kl_k2": (k1**2 / 2).sum() / B,
        "objective/kl_k3": ((-k1).exp() - 1 + k1).sum() / B,
        "objective/kl_coef": kl_coef,
        "objective/rlhf_reward": (scores - kl_coef * kl_of_response).mean(),
        "objective/non_score_reward": -kl_coef * kl_of_response.mean(),
        "value/mean": value.mean(),
        "value/returns": target.mean(),
        "value/explained_variance": 1 - (target - value).var(correction=0) / target.var(correction=0),
        "response/length": sum(map(len, responses)) / B,
        "response/eos_rate": sum(ended) / B,
    }
    if not has_critic:
        line = {name: x for name, x in line.items() if not name.startswith("value/")}
    return (queries, responses, logprobs, ref_logprobs, values, advantages, returns), line


def train_ppo(
    policy: Policy, reference: Policy, scorer: RewardModel, prompts: list[Ids], demonstrations: list[Answered],
    settings: Settings, tokenizer: Tokenizer,
) -> Iterator[Line]:  # fmt: skip
    """Stage 3: the line of each iteration, without its eval/ entries."""
    ppo, seed, ends = settings.ppo, settings.seed, tokenizer.ends(settings.ppo.stop_token)
    optimizer = adamw(policy, ppo.weight_decay, (0.9, ppo.adam_beta2), ppo.adam_eps)
    queries = drawn(prompts, seed, "ppo prompts")
    texts = drawn(windows(demonstrations, policy.context), seed, "ppo demonstrations")
    B, kl_coef, steps = ppo.rollout_batch_size, ppo.kl_coef, 0
    for iteration in range(1, ppo.num_iterations + 1):
        batch = [query for query in islice(queries, B // ppo.samples_per_prompt) for _ in range(ppo.samples_per_prompt)]
        rollout, line = roll_out(policy, reference, scorer, batch, iteration, kl_coef, settings, tokenizer)
        line |= {"step": iteration, "lr": scheduled(ppo, iteration - 1, ppo.num_iterations)}
        seen: list[Line] = []
        epochs = range(ppo.num_epochs)
        orders = [torch.randperm(B, generator=generator(seed, "minibatches", iteration, epoch)) for epoch in epochs]
        for rows in (rows.tolist() for order in orders for rows in order.split(B // ppo.num_minibatches)):
            minibatch = ([x[i] for i in rows] for x in rollout)
            loss, figures = minibatch_loss(policy, *minibatch, kl_coef, settings, ends)
            seen.append(figures)
            if ppo.max_approx_kl is not None and figures["policy/approxkl"] > ppo.max_approx_kl:
                break
            if ppo.max_ratio is not None and figures["policy/ratio"] > ppo.max_ratio:
                continue
            if ppo.ptx_coef > 0:
                pretraining = language_model_loss(policy, list(islice(texts, ppo.ptx_batch_size)))
                figures["loss/ptx"] = pretraining.item()
                loss = loss + ppo.ptx_coef * pretraining
            steps += 1
            if ppo.tensorflow_eps:  # added before the second moment is corrected for its start at 0
                for group in optimizer.param_groups:
                    group["eps"] = ppo.adam_eps / math.sqrt(1 - ppo.adam_beta2**steps)
            figures["policy/grad_norm"] = take_step(optimizer, loss, line["lr"], ppo.max_grad_norm)
        taken = [figures for figures in seen if "policy/grad_norm" in figures]
        line |= {name: sum(figures[name] for figures in taken) / len(taken) for name in taken[0]}
        line["policy/steps"] = len(taken)
        if ppo.kl_target is not None:
            error = min(max(float(line["objective/kl"]) / ppo.kl_target - 1, -0.2), 0.2)
            kl_coef *= 1 + error * min(1.0, B / ppo.kl_horizon)
        yield {name: float(value) for name, value in line.items()}


def moments(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the numbers of all rows together."""
    x = torch.cat(rows)
    return x.mean(), (x.var(correction=0) + 1e-8).sqrt()


def minibatch_loss(
    policy: Policy, queries: list[Ids], responses: list[Ids], old_logprobs: list[Tensor], ref_logprobs: list[Tensor],
    old_values: list[Tensor], advantages: list[Tensor], returns: list[Tensor], kl_coef: float, settings: Settings,
    ends: Ids,
) -> tuple[Tensor, Line]:  # fmt: skip
    """The loss of PPO over a minibatch's tokens, and its figures."""
    ppo, has_critic = settings.ppo, settings.ppo.advantage == "gae"
    judged = judge(policy, queries, responses, settings, ends, values=has_critic)
    new_logprobs, entropies, values = map(torch.cat, judged)
    lengths = torch.cat([torch.full((len(ids),), float(len(ids)), dtype=torch.float64) for ids in responses])
    by_token = ppo.loss_normalisation == "token"
    weights = 1 / (torch.full_like(lengths, len(lengths)) if by_token else lengths * len(responses))

    def average(x: Tensor) -> Tensor:
        return (weights * x).sum()

    if ppo.whiten_advantages:
        mean, deviation = moments(advantages)
        advantages = [(a - mean) / deviation for a in advantages]
    log_ratio, a = new_logprobs - torch.cat(old_logprobs), torch.cat(advantages)
    old, target = torch.cat(old_values), torch.cat(returns)
    ratio = log_ratio.exp()
    gain, limited = ratio * a, ratio.clamp(1 - ppo.clip_low, 1 + ppo.clip_high) * a
    errors = limited_errors = (values - target) ** 2
    if ppo.value_clip is not None:
        change = values - old
        held = torch.where(change.abs() > ppo.value_clip, old + ppo.value_clip * change.sign(), values)
        limited_errors = (held - target) ** 2
    policy_loss = -average(torch.minimum(gain, limited))
    value_loss = average(torch.maximum(errors, limited_errors)) / 2
    entropy = average(entropies)
    figures = {
        "loss/policy": policy_loss,
        "loss/value": value_loss,
        "policy/approxkl": average(log_ratio**2) / 2,
        "policy/clipfrac": average((limited < gain).double()),
        "policy/entropy": entropy,
        "policy/ratio": average(ratio),
        "value/clipfrac": average((limited_errors > errors).double()),
        "value/td_error": average(errors),
    }
    loss = policy_loss + ppo.value_coef * value_loss - ppo.entropy_coef * entropy
    if not has_critic:
        loss = policy_loss - ppo.entropy_coef * entropy
        figures = {name: x for name, x in figures.items() if "value" not in name}
    if ppo.kl_placement == "loss":
        figures["loss/kl"] = average(penalty(new_logprobs - torch.cat(ref_logprobs), ppo.kl_estimate))
        loss = loss + kl_coef * figures["loss/kl"]
    return loss, {name: value.item() for name, value in figures.items()}
