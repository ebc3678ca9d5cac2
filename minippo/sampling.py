"""Batched generation with a KV cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from minippo.errors import TrainingError
from minippo.model import GPTConfig, KVCache


class LanguageModel(Protocol):
    """What can generate: a `GPT` or an `ActorCritic`."""

    def hidden(
        self, tokens: Tensor, attention_mask: Tensor, positions: Tensor | None, cache: KVCache | None
    ) -> Tensor: ...

    def logits(self, hidden: Tensor) -> Tensor: ...


@torch.no_grad()
def generate(
    model: LanguageModel,
    queries: Tensor,
    query_mask: Tensor,
    *,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_new_tokens: int = 0,
    stop_ids: Sequence[int] = (),
    generator: torch.Generator | None = None,
    uniforms: Tensor | None = None,
    on_token: Callable[[int, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Continue `queries` (B, P), left-padded, `query_mask` (B, P) True where real, by up to R = `max_new_tokens` each.

    Returns `responses` (B, R) and `response_mask` (B, R), True up to and including the first of `eos_id` and
    `stop_ids`, `pad_id` beyond. `temperature` 0 takes the likeliest token; `top_k` 0 and `top_p` 1 filter nothing.
    During the first `min_new_tokens` tokens no end is possible. `on_token` is called with the step and the tokens (B,)
    drawn there. `uniforms` (B, R), float64 in [0, 1), choose the tokens, one number for each; by default they are drawn
    from `generator` (on the CPU), B for each of the R steps.

    Raises ValueError if P + R exceeds the model's context or if top_p, top_k or temperature is out of range,
    TrainingError if a logit is NaN or positive infinity.
    """
    B, P = queries.shape
    context = _config(model).context
    if P + max_new_tokens > context:
        raise ValueError(f"{P} + {max_new_tokens} tokens do not fit the model's context of {context}")
    if P == 0:
        raise ValueError("there is nothing to continue: the longest query is empty")
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(f"need temperature >= 0, top_k >= 0, 0 < top_p <= 1: {temperature=}, {top_k=}, {top_p=}")
    device = queries.device
    if uniforms is None:
        uniforms = torch.rand(max_new_tokens, B, generator=generator, dtype=torch.float64).T
    uniforms = uniforms.to(device)
    ends = torch.tensor([eos_id, *stop_ids], device=device)
    responses = torch.full((B, max_new_tokens), pad_id, dtype=torch.long, device=device)
    response_mask = torch.zeros(B, max_new_tokens, dtype=torch.bool, device=device)

    rows = torch.arange(B, device=device)  # the rows in the batch, which shrinks as responses end
    alive = torch.ones(B, dtype=torch.bool, device=device)  # which of them go on
    mask = torch.cat([query_mask, query_mask.new_ones(B, max_new_tokens)], dim=1)
    tokens, positions = queries, None  # a query's positions are counted from its mask
    next_position = query_mask.sum(dim=1, keepdim=True)
    cache = KVCache(_config(model), B, P + max_new_tokens, _weight(model))
    for step in range(max_new_tokens):
        hidden = model.hidden(tokens, mask[:, : P + step], positions, cache)
        logits = model.logits(hidden[:, -1]).float()  # (rows, V)
        if step < min_new_tokens:
            logits[:, ends] = -torch.inf
        drawn = torch.where(alive, choose(logits, uniforms[rows, step], temperature, top_k, top_p), pad_id)
        responses[rows, step], response_mask[rows, step] = drawn, alive
        if on_token is not None:
            on_token(step, responses[:, step])
        alive = alive & ~torch.isin(drawn, ends)
        num_alive = int(alive.sum())
        if num_alive == 0:
            break
        tokens, positions = drawn.unsqueeze(1), next_position + step
        if num_alive <= 0.75 * len(rows):  # copying the cache pays once a quarter of the rows only idle along
            kept = alive.nonzero().squeeze(1)
            rows, alive, mask, next_position = rows[kept], alive[kept], mask[kept], next_position[kept]
            tokens, positions = tokens[kept], positions[kept]
            cache.keep_rows(kept)
    return responses, response_mask


def choose(logits: Tensor, uniform: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """One token of each row, (B,): logits (B, V), uniform (B,) in [0, 1) float64, by inversion of the distribution.

    Raises TrainingError if a logit is NaN or positive infinity: no token could be chosen.
    """
    highest = logits.amax(dim=-1, keepdim=True)  # (B, 1), NaN if any logit of the row is
    if not torch.isfinite(highest).all():
        raise TrainingError("the model's logits are NaN or infinite, so no token can be sampled")
    if temperature == 0:
        return logits.argmax(dim=-1)
    # The highest is 0 at any temperature; dividing first could overflow, and a temperature could round to 0.
    logits = (logits - highest) / max(temperature, torch.finfo(logits.dtype).tiny)
    if top_k:
        smallest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    probabilities = torch.softmax(logits, dim=-1)
    if top_p < 1:
        # Keep the likeliest tokens up to the one with which their sum reaches top_p (Holtzman et al. 2020).
        descending, order = probabilities.sort(descending=True)
        dropped = descending.cumsum(dim=-1) - descending >= top_p
        probabilities = probabilities.masked_fill(dropped.scatter(1, order, dropped), 0)
    cumulative = probabilities.double().cumsum(dim=-1)
    total = cumulative[:, -1:]
    # Strictly below the total, so that the first cumulative sum beyond the target is that of a possible token.
    target = torch.minimum(uniform.unsqueeze(1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)


def _config(model: LanguageModel) -> GPTConfig:
    return getattr(model, "gpt", model).config


def _weight(model: LanguageModel) -> Tensor:
    return getattr(model, "gpt", model).token_embedding.weight
