"""What a PPO run promises itself before its first step. Each check is one that some implementation has failed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from minippo import equations, masking
from minippo.config import PPOConfig
from minippo.errors import TrainingError
from minippo.heads import ActorCritic
from minippo.model import KVCache
from minippo.rollout import Responses, Rollout, response_logprobs
from minippo.scoring import RewardScorer, Scorer
from minippo.state import PPOState
from minippo.tokenizer import Tokenizer, reward_tokens

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.1}
"""Nats by which two log-probabilities of one token may differ if no logit exceeds 10. Rounding grows with the logits,
and so does the tolerance. bfloat16 has 8 bits: 0.004 of a logit of 10 is 0.04."""

CACHE_FACTOR = 10
"""With the key-value cache they may differ by more: other shapes, so another order of summation in every layer."""

SCORE_TOLERANCE = 1e-4
"""A text's score may differ by this much from the score it gets in another batch, times the gain if that is above 1."""


def check_first_rollout(
    state: PPOState, rollout: Rollout, scorer: Scorer, tokenizer: Tokenizer, config: PPOConfig
) -> None:
    """Raise TrainingError, naming the promise, unless what holds before the first step holds for all of `rollout`.

    Ratios are 1 up to rounding and the KL to the reference is 0; a policy that decodes with its cache gives the
    log-probabilities of one that reads the whole; and the reward model is given what its training gave it.
    """
    end_ids = tokenizer.end_ids(config.stop_token)
    tolerance = TOLERANCE[state.policy.gpt.token_embedding.weight.dtype]
    tolerance *= max(1.0, largest_logit(state.policy, rollout.select(torch.arange(1))) / 10)
    logprobs, cached = torch.empty_like(rollout.logprobs), torch.empty_like(rollout.logprobs)
    with torch.no_grad():
        # In the batches of the update, which are not those of the rollout: rows of like length together.
        by_length = masking.last_response_index(rollout.is_response).argsort()
        for rows in by_length.split(config.microbatch_size):
            logprobs[rows] = response_logprobs(state.policy, rollout, rows, end_ids, config)[0]
            cached[rows] = cached_logprobs(state.policy, rollout, rows, end_ids, config)
    off = float((logprobs - rollout.logprobs).abs().max())
    if not off <= tolerance:
        raise TrainingError(f"before the first step every ratio should be 1, but a log-ratio is {off:.2g}")
    kl = float(rollout.kl.abs().max())
    if not kl <= tolerance:
        raise TrainingError(f"before the first step the policy is the reference, but a token's KL is {kl:.2g}")
    off = float((cached - rollout.logprobs).abs().max())
    if not off <= CACHE_FACTOR * tolerance:
        raise TrainingError(
            f"log-probabilities with and without the key-value cache should agree, but differ by {off:.2g}"
        )
    if isinstance(scorer, RewardScorer):
        check_bridge(scorer, rollout, tokenizer)


@torch.no_grad()
def largest_logit(policy: ActorCritic, batch: Responses) -> float:
    """Largest absolute value of a logit in `batch`; tokens that are never sampled do not count."""
    logits, _ = policy(batch.query_responses)
    return float(logits.abs()[logits > masking.FORBIDDEN_LOGIT / 2].max())


def cached_logprobs(
    policy: ActorCritic, batch: Responses, rows: Tensor, end_ids: Sequence[int], config: PPOConfig
) -> Tensor:
    """Log-probabilities of the responses, (M, R), read one token at a time behind left-padded prompts, as sampling
    reads them; 0 where masked."""
    queries, responses, mask = batch.queries[rows], batch.responses[rows], batch.response_mask[rows]
    M, P = queries.shape
    R = int(masking.last_response_index(mask).max()) + 1
    cache = KVCache(policy.gpt.config, M, P + R, policy.gpt.token_embedding.weight)
    attention_mask = torch.cat([batch.query_mask[rows], torch.ones_like(mask)], dim=1)
    logprobs, tokens = torch.zeros(mask.shape, device=mask.device), queries
    for t in range(R):
        hidden = policy.hidden(tokens, attention_mask[:, : P + t], None, cache)
        logits = policy.logits(hidden[:, -1])  # (M, V), of one step at a time: those of all would be R times as large
        if t < config.min_new_tokens:
            logits = masking.forbid_tokens(logits, end_ids, torch.ones_like(mask[:, t]))
        logprobs[:, t], _ = equations.token_logprobs(logits, responses[:, t], config.temperature)
        tokens = responses[:, t : t + 1]
    return torch.where(mask, logprobs, 0)


def check_bridge(scorer: RewardScorer, batch: Responses, tokenizer: Tokenizer) -> None:
    """Raise TrainingError unless each text reaches the reward model whole and ends in one end-of-text, and its score
    does not depend on the other texts of its batch."""
    theirs, context = scorer.tokenizer, scorer.reward_model.gpt.config.context
    scores = scorer(batch.prompt_texts, batch.response_texts)
    alone = torch.cat([scorer([p], [r]) for p, r in zip(batch.prompt_texts, batch.response_texts, strict=True)])
    sequences = [row[: int(n)] for row, n in zip(batch.query_responses.tolist(), sequence_lengths(batch), strict=True)]
    for prompt, response, sequence in zip(batch.prompt_texts, batch.response_texts, sequences, strict=True):
        if tokenizer.decode(sequence) != prompt + response:
            raise TrainingError(
                f"prompt and response should decode apart as they do together: {prompt!r}, {response!r}"
            )
        (ids,) = reward_tokens(theirs, [prompt], [response], context)
        if ids[-1] != theirs.eos_id or theirs.eos_id in ids[:-1]:
            raise TrainingError(f"what the reward model reads should end in its end-of-text, and only there: {ids}")
        if len(ids) < context and theirs.decode(ids) != prompt + response:
            raise TrainingError(f"the reward model should read {prompt + response!r}, but reads {theirs.decode(ids)!r}")
    off = float((alone - scores).abs().max())
    if not off <= SCORE_TOLERANCE * max(1.0, float(scorer.reward_model.gain)):  # rounding grows with the gain
        raise TrainingError(f"a text's score must not depend on its batch, but alone it differs by {off:.2g}")


def sequence_lengths(batch: Responses) -> Tensor:
    """Tokens of prompt and response together, (B,)."""
    return batch.query_mask.sum(dim=1) + batch.response_mask.sum(dim=1)
