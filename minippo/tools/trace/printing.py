"""The tensors, tables and formulas that `trace` prints."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from minippo import equations, masking
from minippo.config import PPOConfig
from minippo.heads import ActorCritic
from minippo.ppo import accumulate_gradient, ppo_update
from minippo.rollout import Environment, Rollout, collect_rollout, response_logprobs
from minippo.state import PPOState

CREATED_BY = {
    "prompt_texts response_texts": "Tokenizer.decode",
    "queries query_mask query_responses": "masking.pad",
    "responses response_mask": "sampling.generate",
    "sampling": "Environment.sampling",
    "is_response has_eos": "rollout.sample_responses",
    "logprobs values": "rollout.logprobs_and_values: the policy",
    "ref_logprobs": "rollout.logprobs_and_values: the reference",
    "raw_scores": "scoring.score_texts",
    "scores": "advantages.adjusted_scores",
    "kl rewards": "advantages.token_rewards",
    "advantages returns": "advantages.ESTIMATORS: the row that ppo.advantage names",
    "delta": "equations.gae: the advantages if lam were 0",
    "whitened": "equations.whiten: of the advantages",
    "new_logprobs new_values": "rollout.response_logprobs: the policy after the step of epoch 1",
    "ratio clipped policy_loss": "equations.policy_loss: of each token",
    "value_loss": "equations.value_loss: of each token",
    "kl_loss": "equations.kl_loss: of each token",
}
"""Tensors -> the function that creates them."""
FORMULAS = {
    "kl": "logprobs - ref_logprobs",
    "rewards": "-kl_coef * kl",
    "delta": "rewards + gamma * next_values - values",
    "advantages": "delta + gamma * lam * next_advantages",
    "returns": "advantages + values",
    "whitened": "(advantages - mean) / sqrt(variance + 1e-8)",
    "ratio": "exp(new_logprobs - logprobs)",
    "policy_loss": "max(-whitened * ratio, -whitened * clip(ratio, 1 - clip_low, 1 + clip_high))",
    "value_loss": "max((new_values - returns)**2,\n"
    "    (values + clip(new_values - values, -value_clip, value_clip) - returns)**2) / 2",
}
"""Of any token but the last, whose reward also contains the score; by default, see `formulas`."""
ESTIMATES = {"k1": "kl", "k2": "kl**2 / 2", "k3": "(exp(-kl) - 1 + kl)"}
"""`ppo.kl_estimate` -> the estimate."""
FUNCTIONS = {"exp": math.exp, "sqrt": math.sqrt, "clip": lambda x, low, high: min(max(x, low), high)}


def formulas(config: PPOConfig) -> dict[str, str]:
    """`FORMULAS`, as this configuration changes them. Without a critic, advantages depend on several responses."""
    found = FORMULAS | {"rewards": f"-kl_coef * {ESTIMATES[config.kl_estimate]}"}
    if config.kl_placement == "loss":
        found["rewards"] = "0.0"
        found["kl_loss"] = re.sub(r"\bkl\b", "(new_logprobs - ref_logprobs)", ESTIMATES[config.kl_estimate])
    if config.advantage != "gae":
        del found["advantages"]
    if not config.whiten_advantages:
        found["policy_loss"] = found["policy_loss"].replace("whitened", "advantages")
    return found


def per_token(loss: Callable[..., Any], *tensors: Tensor, **clip: Any) -> dict[str, Tensor]:
    """The loss of each token alone and its statistics, (B, R) each, by calling `loss` on tensors of shape (1, 1).

    The last of `tensors` (B, R) is the response mask.
    """
    results: dict[str, Tensor] = {}
    for b, t in tensors[-1].nonzero().tolist():
        value, stats = loss(*(x[b : b + 1, t : t + 1] for x in tensors), **clip)
        for name, part in {"loss": value, **stats}.items():
            results.setdefault(name, torch.zeros(tensors[-1].shape))[b, t] = part
    return results


@torch.no_grad()
def second_epoch(policy: ActorCritic, rollout: Rollout, config: PPOConfig) -> dict[str, Tensor]:
    """The terms of the second epoch's loss, (B, R) each, given the policy after the step of the first epoch."""
    mask, advantages, tensors = rollout.response_mask, rollout.advantages, {}
    if config.whiten_advantages:
        advantages = tensors["whitened"] = equations.whiten(advantages, mask)
    new_logprobs, new_values = response_logprobs(policy, rollout)
    clip = {"clip_low": config.clip_low, "clip_high": config.clip_high}
    actor = per_token(equations.policy_loss, new_logprobs, rollout.logprobs, advantages, mask, **clip)
    tensors |= {"new_logprobs": new_logprobs} | ({} if new_values is None else {"new_values": new_values})
    tensors |= {"ratio": actor["ratio"], "clipped": actor["clipfrac"], "policy_loss": actor["loss"]}
    if new_values is not None:
        old = rollout.values, rollout.returns
        tensors["value_loss"] = per_token(equations.value_loss, new_values, *old, mask, clip=config.value_clip)["loss"]
    if config.kl_placement == "loss":
        penalty = equations.kl_estimate(new_logprobs, rollout.ref_logprobs, config.kl_estimate)
        tensors["kl_loss"] = torch.where(mask, penalty, 0)
    return tensors


def in_tables(x: Any) -> bool:
    """Whether `x` is a float tensor (B, R)."""
    return isinstance(x, Tensor) and x.dim() == 2 and x.is_floating_point()


def print_tensor(name: str, x: Any) -> None:
    """Name, shape and origin of `x`, and its values unless they are in the tables."""
    shape = tuple(x.shape) if isinstance(x, Tensor) else (len(x),) if isinstance(x, list) else ""
    origin = next((text for names, text in CREATED_BY.items() if name in names.split()), "rollout.collect_rollout")
    print(f"{name:16}{shape!s:9}{origin}")
    if isinstance(x, Tensor):
        x = [] if in_tables(x) else (x.double().round(decimals=4) if x.is_floating_point() else x.int()).tolist()
    for row in x if isinstance(x, list) else [x]:
        print(textwrap.indent(textwrap.fill(repr(row), 116), "    "))


def print_table(tables: dict[str, Tensor], tokens: list[str], b: int) -> None:
    """Row b of each tensor (B, R) below its tokens."""
    print(" " * 14 + "".join(f"{token:>12}" for token in tokens))
    for name, x in tables.items():
        row = x[b, : len(tokens)].tolist()
        cells = [("yes" if value else "no") if name == "clipped" else f"{value:.4f}" for value in row]
        print(f"{name:14}" + "".join(f"{cell:>12}" for cell in cells))


def is_number(x: Any) -> bool:
    """Whether `x` is a number or a tensor with one element."""
    return isinstance(x, int | float) or (isinstance(x, Tensor) and x.numel() == 1)


def print_formula(name: str, formula: str, numbers: dict[str, Any]) -> None:
    """A formula, the formula with numbers instead of names, and the result, which is that of the tensor `name`."""

    def number(word: re.Match[str]) -> str:
        x = numbers.get(word[0])
        return word[0] if x is None else f"{x:.4f}" if x >= 0 else f"({x:.4f})"

    indent = " " * 12
    for start, text in ((f"{name:12}", formula), (indent, re.sub(r"[a-z_]+", number, formula))):
        print(f"{start}= {text}".replace("\n", f"\n{indent}"))
    value = eval(" ".join(formula.split()), FUNCTIONS, {key: float(x) for key, x in numbers.items() if is_number(x)})
    changed = "" if abs(value - numbers[name]) < 1e-3 else "   (changed code: this is not what the formula gives)"
    print(f"{indent}= {numbers[name]:.4f}{changed}")


def print_trace(state: PPOState, env: Environment, config: PPOConfig) -> None:
    """Collect a rollout, take the step of the first epoch, and print everything up to the loss of the second."""
    print(f"\n## Iteration {state.iteration + 1}: collect_rollout (float tensors (B, R) are in the tables below)\n")
    kl_coef = state.kl_coef  # of this rollout; the update may adapt it
    rollout = collect_rollout(state, env, next(state.prompts), config)
    mask, tables = rollout.response_mask, {}
    for field in fields(rollout):
        if getattr(rollout, field.name) is None:  # there is no critic
            continue
        if field.name == "advantages" and rollout.values is not None:
            tables["delta"], _ = equations.gae(rollout.rewards, rollout.values, mask, gamma=config.gamma, lam=0)
            print_tensor("delta", tables["delta"])
        x = getattr(rollout, field.name)
        print_tensor(field.name, x)
        tables |= {field.name: x} if in_tables(x) else {}

    print("\n## ppo_update, one step per epoch: the metrics are means over the tokens of the tables\n")
    for epoch, stats in ((1, ppo_update(state, rollout, config)), (2, accumulate_gradient(state, rollout, config))):
        names = ("loss/policy", "loss/value", "loss/kl", "policy/ratio", "policy/clipfrac")
        print(f"epoch {epoch}: {', '.join(f'{name} {stats[name]:.4f}' for name in names if name in stats)}")
    update = second_epoch(state.policy, rollout, config)
    for name, x in update.items():
        print_tensor(name, x)
    tables |= update

    for b, prompt in enumerate(rollout.prompt_texts):
        print(f"\n## Response {b}, to {prompt!r}\n")
        ids = rollout.responses[b][mask[b]].tolist()
        tokens = ["<eos>" if i == env.sampling.eos_id else repr(env.tokenizer.decode([i]))[:11] for i in ids]
        print_table(tables, tokens, b)
        total, terms, kind = rollout.rewards[b].sum(), "rewards", config.kl_estimate
        if config.kl_placement == "reward":
            penalty = equations.kl_estimate(rollout.logprobs[b], rollout.ref_logprobs[b], kind)
            total += kl_coef * penalty.sum()
            terms += f" + {kl_coef:g} * {'kl' if kind == 'k1' else kind}"
        print(f"{terms} sum to {total:.4f}; the score is {rollout.scores[b]:.4f}")

    last = int(masking.last_response_index(mask)[0])
    changed = int((update["ratio"][0, : max(last, 1)] - 1).abs().argmax())  # the token whose probability changed most
    moments = masking.masked_moments(rollout.advantages, mask)
    constants = vars(config) | {"kl_coef": kl_coef, "mean": moments.mean, "variance": moments.variance}
    for t in sorted({changed, last}):
        print(f"\n## Formulas of response 0, token {t} (mean and variance are those of all advantages)\n")
        numbers = constants | {name: x[0, t] for name, x in tables.items()} | {"scores": rollout.scores[0]}
        for name in {"values", "advantages"} & tables.keys():
            numbers[f"next_{name}"] = tables[name][0, t + 1] if t < last else 0.0
        for name, formula in formulas(config).items():
            if name in tables:
                print_formula(name, formula + " + scores" * (name == "rewards" and t == last), numbers)
