"""Invariants that the first rollout must satisfy before the first update. Known bugs of RLHF code violate them, and
training seems to work all the same.

They need the real models and the real data, so they run in every PPO run, not only in the tests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from minippo import equations, masking
from minippo.config import PPOConfig
from minippo.errors import TrainingError
from minippo.heads import ActorCritic
from minippo.memory import loaded, phase
from minippo.model import KVCache
from minippo.rollout import Environment, Responses, Rollout, response_logprobs
from minippo.scoring import RewardScorer
from minippo.state import PPOState
from minippo.tokenizer import Tokenizer, reward_tokens

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.1}
"""Largest difference, in nats, between two log-probabilities of the same token if no logit exceeds 10. Rounding errors
grow with the logits, and so does the tolerance. bfloat16 has 8 significant bits: 0.04 at a logit of 10."""
CACHE_FACTOR = 10
"""Factor on the tolerance for decoding with the key-value cache, where every layer sums in another order."""
SCORE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.25}
"""Largest difference between the scores of a text in two batches, times the reward model's gain if that is above 1. In
bfloat16, 0.03 has been measured with twelve blocks; the errors grow with the depth."""


@phase("log-probabilities")
def check_first_rollout(state: PPOState, env: Environment, rollout: Rollout, config: PPOConfig) -> None:
    """Raise TrainingError, naming the invariant, unless all rows of `rollout` satisfy what holds before any update:

    - every ratio is 1 (the update computes the same log-probabilities as the rollout), and every KL is 0;
    - decoding with the cache gives the same log-probabilities as reading the whole sequence;
    - the reward model reads the whole text and one end-of-text, and a score does not depend on the rest of its batch.
    """
    tolerance = TOLERANCE[state.policy.gpt.token_embedding.weight.dtype]
    tolerance *= max(1.0, largest_logit(state.policy, rollout.select(slice(1))) / 10)
    logprobs, cached = torch.empty_like(rollout.logprobs), torch.empty_like(rollout.logprobs)  # (B, R)
    with torch.no_grad():
        # In the update's batches, which are not the rollout's: rows of similar length together.
        by_length = masking.last_response_index(rollout.is_response).argsort()  # (B,)
        for rows in by_length.split(config.microbatch_size):
            batch = rollout.select(rows)
            logprobs[rows] = response_logprobs(state.policy, batch)[0]
            cached[rows] = cached_logprobs(state.policy, batch)
    difference = float((logprobs - rollout.logprobs).abs().max())
    if not difference <= tolerance:  # not ">", which is False for NaN
        raise TrainingError(f"before the first update every ratio must be 1, but a log-ratio is {difference:.2g}")
    kl = float(rollout.kl.abs().max())
    if not kl <= tolerance:
        raise TrainingError(f"before the first update the policy is the reference, but the KL of a token is {kl:.2g}")
    difference = float((cached - rollout.logprobs).abs().max())
    if not difference <= CACHE_FACTOR * tolerance:
        raise TrainingError(
            f"log-probabilities with and without the key-value cache must agree, but differ by {difference:.2g}"
        )
    if isinstance(env.scorer, RewardScorer):
        check_bridge(env.scorer, rollout, env.tokenizer)


@torch.no_grad()
def largest_logit(policy: ActorCritic, batch: Responses) -> float:
    """Largest absolute value of a logit in `batch`, not counting suppressed tokens."""
    logits, _ = policy(batch.query_responses)  # (M, T, V)
    return float(logits.abs()[logits > masking.FORBIDDEN_LOGIT / 2].max())


def cached_logprobs(policy: ActorCritic, batch: Responses) -> Tensor:
    """Log-probabilities of the responses, (M, R), 0 where masked, computed as generation computes them: one token at a
    time after left-padded prompts, with the key-value cache."""
    sampling, responses, mask = batch.sampling, batch.responses, batch.response_mask  # (M, R)
    M, P = batch.queries.shape
    R = int(masking.last_response_index(mask).max()) + 1
    cache = KVCache(policy.gpt.config, M, P + R, policy.gpt.token_embedding.weight)
    attention_mask = torch.cat([batch.query_mask, torch.ones_like(mask)], dim=1)  # (M, P + R)
    logprobs, tokens = torch.zeros(mask.shape, device=mask.device), batch.queries
    for t in range(R):
        hidden = policy.gpt.hidden(tokens, attention_mask[:, : P + t], None, cache)  # (M, P or 1, C)
        logits = policy.gpt.logits(hidden[:, -1])  # (M, V); the logits of all steps would need R times the memory
        if t < sampling.min_new_tokens:
            logits = masking.forbid_tokens(logits, sampling.end_ids, torch.ones_like(mask[:, t]))
        logprobs[:, t], _ = equations.token_logprobs(logits, responses[:, t], sampling.temperature)
        tokens = responses[:, t : t + 1]  # (M, 1)
    return torch.where(mask, logprobs, 0)


def check_bridge(scorer: RewardScorer, batch: Responses, tokenizer: Tokenizer) -> None:
    """Raise TrainingError unless each text reaches the reward model complete, followed by one end-of-text, and its
    score does not depend on the other texts of the batch."""
    reward_tokenizer, context = scorer.tokenizer, scorer.reward_model.gpt.config.context
    texts = list(zip(batch.prompt_texts, batch.response_texts, strict=True))
    with loaded(scorer.reward_model):  # once, not for each text
        scores = scorer(batch.prompt_texts, batch.response_texts)  # (B,)
        alone = torch.cat([scorer([prompt], [response]) for prompt, response in texts])  # (B,)
    lengths = batch.query_mask.sum(dim=1) + batch.response_mask.sum(dim=1)  # (B,)
    sequences = [row[:length] for row, length in zip(batch.query_responses.tolist(), lengths.tolist(), strict=True)]
    for (prompt, response), sequence in zip(texts, sequences, strict=True):
        if tokenizer.decode(sequence) != prompt + response:
            raise TrainingError(
                f"prompt and response must decode to the same text separately and together: {prompt!r}, {response!r}"
            )
        (ids,) = reward_tokens(reward_tokenizer, [prompt], [response], context)
        if ids[-1] != reward_tokenizer.eos_id or reward_tokenizer.eos_id in ids[:-1]:
            raise TrainingError(f"the reward model's input must end with its end-of-text and contain no other: {ids}")
        if len(ids) < context and reward_tokenizer.decode(ids) != prompt + response:
            raise TrainingError(
                f"the reward model must read {prompt + response!r}, but reads {reward_tokenizer.decode(ids)!r}"
            )
    difference = float((alone - scores).abs().max())
    tolerance = SCORE_TOLERANCE[scorer.reward_model.gpt.token_embedding.weight.dtype]
    if not difference <= tolerance * max(1.0, float(scorer.reward_model.gain)):  # rounding grows with the gain
        raise TrainingError(
            f"a score must not depend on the rest of its batch, but scored alone a text differs by {difference:.2g}"
        )
