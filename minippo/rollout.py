"""The `Rollout` batch, and how one is collected: prompts -> responses -> log-probabilities -> scores -> advantages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from minippo import equations, masking
from minippo.config import PPOConfig
from minippo.errors import require_finite
from minippo.heads import ActorCritic
from minippo.masking import pad
from minippo.sampling import generate
from minippo.scoring import Scorer
from minippo.state import PPOState
from minippo.streams import response_uniforms
from minippo.tokenizer import Tokenizer


@dataclass(frozen=True)
class Responses:
    """What B prompts were answered, before anyone has judged it.

    P and R are the lengths of the longest query and of the longest response, T of the longest of both together.
    """

    prompt_texts: list[str]
    response_texts: list[str]
    queries: Tensor  # (B, P), left-padded
    query_mask: Tensor  # (B, P)
    responses: Tensor  # (B, R)
    response_mask: Tensor  # (B, R), True through the first end-of-text
    query_responses: Tensor  # (B, T), both without their pads, then pads: causal order alone keeps those out of sight
    is_response: Tensor  # (B, T), True at the response's real tokens, as many as in response_mask
    has_eos: Tensor  # (B,), whether it ended by itself: by end-of-text or the stop token


@dataclass(frozen=True)
class Rollout(Responses):
    """Responses and what each token of them was worth; 0 wherever the mask is False."""

    logprobs: Tensor  # (B, R), of the policy that drew the responses
    ref_logprobs: Tensor  # (B, R)
    values: Tensor  # (B, R)
    raw_scores: Tensor  # (B,), as the scorer gave them
    scores: Tensor  # (B,), after clipping and the treatment of a missing end-of-text
    kl: Tensor  # (B, R), k1, nats
    rewards: Tensor  # (B, R)
    advantages: Tensor  # (B, R), not whitened
    returns: Tensor  # (B, R)

    def select(self, rows: Tensor) -> Rollout:
        """The rollout of these rows (M,) alone."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {name: x[rows] if isinstance(x, Tensor) else [x[i] for i in rows] for name, x in columns.items()}
        return Rollout(**chosen)


@torch.no_grad()
def sample_responses(
    policy: ActorCritic,
    query_ids: Sequence[list[int]],
    tokenizer: Tokenizer,
    *,
    uniforms: Tensor,
    config: PPOConfig,
) -> Responses:
    """Sample a response to each query from the policy's full distribution; R is the longest response's length.

    `uniforms` (B, most new tokens) choose the tokens (`streams.response_uniforms`).
    """
    device = policy.gpt.token_embedding.weight.device
    eos_id, *stop_ids = tokenizer.end_ids(config.stop_token)
    queries, query_mask = (tensor.to(device) for tensor in pad(query_ids, tokenizer.pad_id, "left"))
    responses, response_mask = generate(
        policy,
        queries,
        query_mask,
        max_new_tokens=uniforms.shape[1],
        eos_id=eos_id,
        stop_ids=stop_ids,
        pad_id=tokenizer.pad_id,
        temperature=config.temperature,
        min_new_tokens=config.min_new_tokens,
        uniforms=uniforms,
    )
    longest = int(response_mask.sum(dim=1).max())
    responses, response_mask = responses[:, :longest], response_mask[:, :longest]
    drawn = [row[mask].tolist() for row, mask in zip(responses.cpu(), response_mask.cpu(), strict=True)]
    joined, real = pad([q + r for q, r in zip(query_ids, drawn, strict=True)], tokenizer.pad_id, "right")
    query_lengths = torch.tensor([len(ids) for ids in query_ids])
    return Responses(
        prompt_texts=[tokenizer.decode(ids) for ids in query_ids],
        response_texts=[tokenizer.decode(ids) for ids in drawn],
        queries=queries,
        query_mask=query_mask,
        responses=responses,
        response_mask=response_mask,
        query_responses=joined.to(device),
        is_response=(real & (torch.arange(real.shape[1]) >= query_lengths.unsqueeze(1))).to(device),
        has_eos=(torch.isin(responses, torch.tensor([eos_id, *stop_ids], device=device)) & response_mask).any(dim=1),
    )


def response_logprobs(
    policy: ActorCritic, batch: Responses, rows: slice | Tensor, end_ids: Sequence[int], config: PPOConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, values and entropies of the responses in `rows`, each (M, R) and 0 where masked.

    The one forward pass of rollouts and updates alike: dropout off, the sampling temperature applied, an end forbidden
    where sampling forbade it. So with unchanged weights the ratio of two of them is 1, up to rounding (2e-6) where one
    is computed in a batch of another shape.
    """
    mask, is_response = batch.response_mask[rows], batch.is_response[rows]
    longest = int(masking.last_response_index(is_response).max()) + 1
    tokens = batch.query_responses[rows][:, :longest]
    # The state before a token chose it, and the value precedes it. Only the N real tokens of responses go on to the
    # heads: a head on pads is work for nothing.
    before, drawn = masking.predicted_tokens(policy.gpt.hidden(tokens), tokens, is_response[:, :longest])
    logits = policy.gpt.logits(before)  # (N, V)
    if config.min_new_tokens > 0:
        too_early = torch.arange(mask.shape[1], device=mask.device) < config.min_new_tokens
        logits = masking.forbid_tokens(logits, end_ids, too_early.expand_as(mask)[mask])
    logprobs, entropies = equations.token_logprobs(logits, drawn, config.temperature)
    results = logprobs, policy.values(before), entropies
    return tuple(result.new_zeros(mask.shape).masked_scatter(mask, result) for result in results)  # type: ignore


@torch.no_grad()
def logprobs_and_values(
    policy: ActorCritic, batch: Responses, end_ids: Sequence[int], config: PPOConfig
) -> tuple[Tensor, Tensor]:
    """`response_logprobs` of the whole batch, in microbatches: log-probabilities and values, (B, R)."""
    parts = [
        response_logprobs(policy, batch, slice(start, start + config.microbatch_size), end_ids, config)[:2]
        for start in range(0, len(batch.queries), config.microbatch_size)
    ]
    logprobs, values = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(values)


def collect_rollout(
    state: PPOState,
    reference: ActorCritic,
    scorer: Scorer,
    query_ids: Sequence[list[int]],
    tokenizer: Tokenizer,
    response_length: int,
    config: PPOConfig,
) -> Rollout:
    """Answer the queries with the policy as it is, have the answers scored, and work out what each token was worth."""
    state.policy.eval()
    uniforms = response_uniforms(state.seed, "rollout", state.iteration + 1, range(len(query_ids)), response_length)
    batch = sample_responses(state.policy, query_ids, tokenizer, uniforms=uniforms, config=config)
    end_ids = tokenizer.end_ids(config.stop_token)
    logprobs, values = logprobs_and_values(state.policy, batch, end_ids, config)
    ref_logprobs, _ = logprobs_and_values(reference, batch, end_ids, config)
    raw_scores = scorer(batch.prompt_texts, batch.response_texts).to(logprobs.device)
    for prompt, response, score in zip(batch.prompt_texts, batch.response_texts, raw_scores.tolist(), strict=True):
        require_finite(f"the answer {response!r} to {prompt!r}", score=score)
    scores = raw_scores
    if config.score_clip is not None:  # the scorer's own; the score of a missing end stays as it is set
        scores = scores.clamp(-config.score_clip, config.score_clip)
    scores = equations.penalise_missing_eos(
        scores, batch.has_eos, mode=config.missing_eos, missing_eos_score=config.missing_eos_score
    )
    mask = batch.response_mask
    rewards, kl = equations.kl_penalised_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=state.kl_coef)
    if config.whiten_rewards:
        rewards = equations.rescale(rewards, mask)
    advantages, returns = equations.gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)
    return Rollout(
        **vars(batch),
        logprobs=logprobs,
        ref_logprobs=ref_logprobs,
        values=values,
        raw_scores=raw_scores,
        scores=scores,
        kl=kl,
        rewards=rewards,
        advantages=advantages,
        returns=returns,
    )


def rollout_stats(rollout: Rollout, kl_coef: float) -> dict[str, float]:
    """The curves of a rollout; means over sequences unless said otherwise. See docs/metrics.md."""
    mask, kl = rollout.response_mask, rollout.kl.sum(dim=1)
    k2, k3 = (
        torch.where(mask, equations.kl_estimate(rollout.logprobs, rollout.ref_logprobs, kind), 0).sum(dim=1).mean()
        for kind in ("k2", "k3")
    )
    figures = {
        "objective/scores": rollout.raw_scores.mean(),
        "objective/scores_std": rollout.raw_scores.std(correction=0),
        "objective/kl": kl.mean(),
        "objective/kl_k2": k2,
        "objective/kl_k3": k3,
        "objective/rlhf_reward": (rollout.scores - kl_coef * kl).mean(),
        "objective/non_score_reward": (-kl_coef * kl).mean(),
        "objective/kl_coef": kl_coef,
        "value/explained_variance": equations.explained_variance(rollout.values, rollout.returns, mask),
        "value/mean": masking.masked_mean(rollout.values, mask),
        "value/returns": masking.masked_mean(rollout.returns, mask),
        "response/length": mask.sum(dim=1).float().mean(),
        "response/eos_rate": rollout.has_eos.float().mean(),
    }
    return {name: float(value) for name, value in figures.items()}
