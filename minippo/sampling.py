"""Sampling: a batch of prompts -> responses, with a key-value cache.

Legend: B prompts, P length of the longest prompt, R most new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minippo.errors import TrainingError
from minippo.memory import phase
from minippo.model import GPT, KVCache
from minippo.packing import packed_linear


@dataclass(frozen=True)
class SamplingParams:
    """How the responses of a run are drawn.

    Log-probabilities are comparable only if they are computed under the same parameters, so every batch of responses
    carries its own (`Responses.sampling`), and the functions that evaluate the batch cannot use other ones.
    """

    max_new_tokens: int
    """R, the most tokens of a response."""
    eos_id: int
    """End-of-text; it ends a response and belongs to it."""
    pad_id: int
    """Fills the batch after a response has ended. Masks, not ids, say what is padding."""
    stop_ids: tuple[int, ...] = ()
    """Further tokens that end a response."""
    temperature: float = 1.0
    min_new_tokens: int = 0
    """A response cannot end before it has this many tokens."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Every token that ends a response."""
        return (self.eos_id, *self.stop_ids)


@phase("generation")
def generate(
    model: GPT,
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
    """Continue left-padded `queries` (B, P) by up to R = `max_new_tokens` tokens each.

    Args:
        queries: (B, P) token ids.
        query_mask: (B, P), True at real tokens.
        eos_id, pad_id: The token that ends a response, and the one that fills the batch after it.
        temperature: 0 takes the most likely token.
        top_k, top_p: Sample only from the k most likely tokens, or from the most likely tokens whose probabilities add
            up to p; 0 and 1 keep all. Rollouts never use them: PPO needs the log-probabilities of the distribution that
            was sampled from.
        min_new_tokens: No end token is drawn before this many tokens.
        stop_ids: Tokens that end a response in addition to `eos_id`.
        uniforms: (B, R) float64 in [0, 1); one number chooses one token. By default drawn from `generator` (CPU), B
            numbers for each of the R steps.
        on_token: Called after each step with its index and the tokens drawn, (B,).

    Returns:
        `responses` (B, R), filled with `pad_id` after their end, and `response_mask` (B, R), True up to and including
        the first end token.

    Raises:
        ValueError: P + R exceeds the model's context, or temperature, top_k or top_p is out of range.
        TrainingError: A logit is NaN or positive infinity.
    """
    B, P = queries.shape
    if P + max_new_tokens > model.config.context:
        raise ValueError(f"{P} + {max_new_tokens} tokens exceed the model's context of {model.config.context}")
    if P == 0:
        raise ValueError("every query is empty; generation needs at least one token to start from")
    if temperature < 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(f"need temperature >= 0, top_k >= 0, 0 < top_p <= 1, got {temperature=}, {top_k=}, {top_p=}")
    device = queries.device
    if uniforms is None:
        uniforms = torch.rand(max_new_tokens, B, generator=generator, dtype=torch.float64).T  # (B, R)
    uniforms = uniforms.to(device)
    ends = torch.tensor([eos_id, *stop_ids], device=device)
    responses = torch.full((B, max_new_tokens), pad_id, dtype=torch.long, device=device)  # (B, R)
    response_mask = torch.zeros(B, max_new_tokens, dtype=torch.bool, device=device)  # (B, R)

    rows = torch.arange(B, device=device)  # (A,) indices of the rows still in the batch; A shrinks as responses end
    alive = torch.ones(B, dtype=torch.bool, device=device)  # (A,) which of them have not ended
    mask = torch.cat([query_mask, query_mask.new_ones(B, max_new_tokens)], dim=1)  # (A, P + R)
    tokens, positions = queries, None  # the first step reads the whole prompt; its positions follow from the mask
    next_position = query_mask.sum(dim=1, keepdim=True)  # (A, 1); left padding does not count
    cache = KVCache(model.config, B, P + max_new_tokens, model.token_embedding.weight)
    # `inference_mode` is `no_grad` with less fixed cost per operation. A tensor made in here can never have gradients.
    with torch.inference_mode(), packed_linear(model):
        for step in range(max_new_tokens):
            hidden = model.hidden(tokens, mask[:, : P + step], positions, cache)  # (A, P or 1, C)
            logits = model.logits(hidden[:, -1]).float()  # (A, V), of the next token
            if step < min_new_tokens:
                logits[:, ends] = -torch.inf
            drawn = torch.where(alive, choose(logits, uniforms[rows, step], temperature, top_k, top_p), pad_id)  # (A,)
            responses[rows, step], response_mask[rows, step] = drawn, alive
            if on_token is not None:
                on_token(step, responses[:, step])
            alive = alive & ~torch.isin(drawn, ends)
            num_alive = int(alive.sum())
            if num_alive == 0:
                break
            tokens, positions = drawn.unsqueeze(1), next_position + step  # (A, 1) each; earlier tokens are cached
            # Finished rows waste compute, but dropping them copies the cache; that pays once a quarter has finished.
            if num_alive <= 0.75 * len(rows):
                kept = alive.nonzero().squeeze(1)
                rows, alive, mask, next_position = rows[kept], alive[kept], mask[kept], next_position[kept]
                tokens, positions = tokens[kept], positions[kept]
                cache.keep_rows(kept)
    return responses, response_mask


def choose(logits: Tensor, uniform: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """The token (A,) of each row's distribution that its number `uniform` (A,) in [0, 1) selects.

    This inverts the cumulative distribution: token v is chosen if the number falls into an interval of length p(v). One
    number per token makes a response a function of its own numbers, whatever else is in the batch, which
    `torch.multinomial` does not offer.

    Raises TrainingError if a logit is NaN or positive infinity.
    """
    highest = logits.amax(dim=-1, keepdim=True)  # (A, 1), NaN if any logit of the row is NaN
    if not torch.isfinite(highest).all():
        raise TrainingError("the model's logits are NaN or infinite, so no token can be sampled")
    if temperature == 0:
        return logits.argmax(dim=-1)
    if temperature != 1:
        # Subtract before dividing: dividing first could overflow, and a tiny temperature could round to 0.
        logits = (logits - highest) / max(temperature, torch.finfo(logits.dtype).tiny)  # (A, V)
    if top_k:
        smallest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]  # (A, 1)
        logits = logits.masked_fill(logits < smallest, -torch.inf)
    probabilities = torch.softmax(logits, dim=-1)  # (A, V)
    if top_p < 1:
        # Keep the most likely tokens, through the one at which their sum reaches top_p (Holtzman et al. 2020).
        descending, order = probabilities.sort(descending=True)
        dropped = descending.cumsum(dim=-1) - descending >= top_p
        probabilities = probabilities.masked_fill(dropped.scatter(1, order, dropped), 0)
    cumulative = probabilities.double().cumsum(dim=-1)  # (A, V); float32 sums would lose the rare tokens at the end
    total = cumulative[:, -1:]
    # Strictly below the total, so that the first cumulative sum above the target belongs to a token that is possible.
    target = torch.minimum(uniform.unsqueeze(1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)
