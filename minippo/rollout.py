"""A rollout: prompts -> responses -> log-probabilities and values -> scores -> rewards -> advantages.

Legend: B responses, P longest query, R longest response, T longest query + response, M rows of a microbatch, N unmasked
tokens, V vocabulary, K responses to a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from minippo import equations, masking
from minippo.advantages import ESTIMATORS, adjusted_scores, token_rewards
from minippo.config import PPOConfig
from minippo.heads import ActorCritic
from minippo.language_model import LOGIT_TOKENS
from minippo.masking import pad, scatter
from minippo.memory import loaded, phase
from minippo.sampling import SamplingParams, generate
from minippo.scoring import Scorer, score_texts
from minippo.state import PPOState
from minippo.streams import response_uniforms
from minippo.tokenizer import Tokenizer

Batch = TypeVar("Batch", bound="Responses")


@dataclass(frozen=True)
class Environment:
    """Everything that is fixed during PPO and turns the policy's tokens into rewards; the rest is `PPOState`."""

    reference: ActorCritic
    """The policy the run started from, frozen. The KL is always measured against it, also after a resume."""
    scorer: Scorer
    tokenizer: Tokenizer
    """The policy's and the reference's. The scorer reads text, so it may have a tokenizer of its own."""
    sampling: SamplingParams


@dataclass(frozen=True)
class Responses:
    """B prompts and what a policy answered."""

    prompt_texts: list[str]
    response_texts: list[str]
    queries: Tensor  # (B, P), left-padded, as generation reads them
    query_mask: Tensor  # (B, P)
    responses: Tensor  # (B, R)
    response_mask: Tensor  # (B, R), True up to and including the first end token
    # Query and response without padding between them, then padding. With the padding on the right, causal attention
    # alone hides it, so the forward pass needs no attention mask.
    query_responses: Tensor  # (B, T)
    is_response: Tensor  # (B, T), True at the tokens that response_mask marks
    has_eos: Tensor  # (B,), whether the response ended by itself, by end-of-text or the stop token
    sampling: SamplingParams  # how the responses were drawn; log-probabilities are computed under the same parameters

    def select(self: Batch, rows: Tensor | slice) -> Batch:
        """The batch of these rows only, given as indices (M,) or a slice."""
        indices = range(len(self.queries))[rows] if isinstance(rows, slice) else rows.tolist()
        columns = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "sampling"}
        selected = {
            name: x[rows] if isinstance(x, Tensor) else [x[i] for i in indices]
            for name, x in columns.items()
            if x is not None  # what a critic would have computed
        }
        return replace(self, **selected)


@dataclass(frozen=True)
class Rollout(Responses):
    """Responses, and what each of their tokens was worth. Everything (B, R) is 0 where `response_mask` is False."""

    logprobs: Tensor  # (B, R), of the policy that drew the responses
    ref_logprobs: Tensor  # (B, R), of the reference
    values: Tensor | None  # (B, R), the critic's estimate before each token; None without a critic
    raw_scores: Tensor  # (B,), from the scorer
    scores: Tensor  # (B,), after clipping and the penalty for a missing end
    kl: Tensor  # (B, R), k1 estimate, nats
    rewards: Tensor  # (B, R)
    advantages: Tensor  # (B, R), not whitened
    returns: Tensor | None  # (B, R), the critic's targets

    def stats(self, kl_coef: float) -> dict[str, float]:
        """Metrics of the rollout, averaged over sequences unless stated otherwise; see docs/metrics.md.

        `kl_coef` is the coefficient that the rewards were computed with.
        """
        mask, kl = self.response_mask, self.kl.sum(dim=1)  # (B, R), (B,)
        k2, k3 = (
            torch.where(mask, equations.kl_estimate(self.logprobs, self.ref_logprobs, kind), 0).sum(dim=1).mean()
            for kind in ("k2", "k3")
        )
        stats = {
            "objective/scores": self.raw_scores.mean(),
            "objective/scores_std": self.raw_scores.std(correction=0),
            "objective/kl": kl.mean(),
            "objective/kl_k2": k2,
            "objective/kl_k3": k3,
            "objective/rlhf_reward": (self.scores - kl_coef * kl).mean(),
            "objective/non_score_reward": (-kl_coef * kl).mean(),
            "objective/kl_coef": kl_coef,
        }
        if self.values is not None:
            stats |= {
                "value/explained_variance": equations.explained_variance(self.values, self.returns, mask),
                "value/mean": masking.masked_mean(self.values, mask),
                "value/returns": masking.masked_mean(self.returns, mask),
            }
        stats |= {
            "response/length": mask.sum(dim=1).float().mean(),
            "response/eos_rate": self.has_eos.float().mean(),
        }
        return {name: float(value) for name, value in stats.items()}


@torch.no_grad()
def sample_responses(
    policy: ActorCritic,
    queries: Sequence[list[int]],
    tokenizer: Tokenizer,
    sampling: SamplingParams,
    uniforms: Tensor,
) -> Responses:
    """Sample one response to each of B queries from the policy's full distribution.

    `uniforms` (B, max_new_tokens) choose the tokens; see `streams.response_uniforms`.
    """
    with loaded(policy):  # the reference may be parked
        device = policy.gpt.token_embedding.weight.device
        query_tokens, query_mask = (x.to(device) for x in pad(queries, sampling.pad_id, "left"))  # (B, P)
        responses, response_mask = generate(
            policy.gpt, query_tokens, query_mask, **asdict(sampling), uniforms=uniforms
        )  # (B, max_new_tokens)
    R = int(response_mask.sum(dim=1).max())
    responses, response_mask = responses[:, :R], response_mask[:, :R]
    # A new right-padded batch for training: what generation padded on the left is not copied into the forward passes.
    sampled = [row[mask].tolist() for row, mask in zip(responses.cpu(), response_mask.cpu(), strict=True)]
    joined, is_real = pad([q + r for q, r in zip(queries, sampled, strict=True)], sampling.pad_id, "right")  # (B, T)
    query_lengths = torch.tensor([len(ids) for ids in queries])  # (B,)
    ends = torch.tensor(sampling.end_ids, device=device)
    return Responses(
        prompt_texts=[tokenizer.decode(ids) for ids in queries],
        response_texts=[tokenizer.decode(ids) for ids in sampled],
        queries=query_tokens,
        query_mask=query_mask,
        responses=responses,
        response_mask=response_mask,
        query_responses=joined.to(device),
        is_response=(is_real & (torch.arange(joined.shape[1]) >= query_lengths.unsqueeze(1))).to(device),
        has_eos=(torch.isin(responses, ends) & response_mask).any(dim=1),
        sampling=sampling,
    )


def response_logprobs(policy: ActorCritic, batch: Responses) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and values of the responses, both (M, R), 0 where masked. Values are None without a critic.

    Rollouts and updates use the same forward pass, `response_hidden` and then `apply_heads`: dropout off, sampling
    temperature applied, end tokens suppressed where sampling suppressed them. So with unchanged weights the ratio of
    two results is 1, up to rounding (2e-6) if the batches have different shapes.
    """
    hidden = response_hidden(policy, batch)  # (M, T, C)
    parts = [apply_heads(policy, hidden[rows], batch.select(rows))[:2] for rows in head_chunks(batch)]
    return tuple(map(_joined, zip(*parts, strict=True)))  # type: ignore[return-value]


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The rows of all parts; None if these are the values of a policy without a critic."""
    return None if parts[0] is None else torch.cat(parts)  # type: ignore[arg-type]


def head_chunks(batch: Responses) -> list[slice]:
    """The rows of a batch, divided into chunks of about `LOGIT_TOKENS` response tokens."""
    M, R = batch.response_mask.shape
    size = max(1, LOGIT_TOKENS // R)
    return [slice(start, start + size) for start in range(0, M, size)]


def response_hidden(policy: ActorCritic, batch: Responses) -> Tensor:
    """Hidden states of the queries and responses, (M, T, C); T is the longest of this batch."""
    T = int(masking.last_response_index(batch.is_response).max()) + 1  # may be shorter than the longest of the rollout
    return policy.gpt.hidden(batch.query_responses[:, :T])


def apply_heads(policy: ActorCritic, hidden: Tensor, batch: Responses) -> tuple[Tensor, Tensor | None, Tensor]:
    """From hidden states (M, T, C) to what `response_logprobs` returns, and the log-probabilities (N, V) of the whole
    vocabulary at the N response tokens."""
    mask = batch.response_mask  # (M, R)
    logits, before, chosen = next_token_logits(policy, hidden, batch)
    logprobs, log_softmax = equations.token_logprobs(logits, chosen, batch.sampling.temperature)  # (N,), (N, V)
    values = policy.values(before)  # (N,)
    # Both masks mark the same tokens, row by row in the same order, so the N results return to their places.
    return scatter(logprobs, mask), None if values is None else scatter(values, mask), log_softmax


def next_token_logits(policy: ActorCritic, hidden: Tensor, batch: Responses) -> tuple[Tensor, Tensor, Tensor]:
    """For the N response tokens of a batch: the logits (N, V) that they were drawn from, before the temperature, the
    hidden states (N, C) that predict them, and the tokens (N,). `hidden` is (M, T, C)."""
    sampling, mask, T = batch.sampling, batch.response_mask, hidden.shape[1]  # mask (M, R)
    # The hidden state before a token predicts it, and the value there is the state's value before the token is chosen.
    # Only the N response tokens continue to the heads, which for small models cost more than the trunk.
    before, chosen = masking.predicted_tokens(
        hidden, batch.query_responses[:, :T], batch.is_response[:, :T]
    )  # (N, C), (N,)
    logits = policy.gpt.logits(before)  # (N, V)
    if sampling.min_new_tokens > 0:
        too_early = torch.arange(mask.shape[1], device=mask.device) < sampling.min_new_tokens  # (R,)
        logits = masking.forbid_tokens(logits, sampling.end_ids, too_early.expand_as(mask)[mask])
    return logits, before, chosen


@torch.no_grad()
def logprobs_and_values(policy: ActorCritic, batch: Responses, microbatch_size: int) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities and values of all responses, (B, R), without gradients, in microbatches."""
    with loaded(policy):
        parts = [
            response_logprobs(policy, batch.select(slice(start, start + microbatch_size)))
            for start in range(0, len(batch.queries), microbatch_size)
        ]
    return tuple(map(_joined, zip(*parts, strict=True)))  # type: ignore[return-value]


def collect_rollout(state: PPOState, env: Environment, queries: Sequence[list[int]], config: PPOConfig) -> Rollout:
    """Sample B responses with the current policy, score them, and estimate each token's advantage.

    `queries` are B / K prompts. The K = `samples_per_prompt` responses to a prompt are in adjacent rows.
    """
    queries = [query for query in queries for _ in range(config.samples_per_prompt)]  # B, each with its own uniforms
    state.policy.eval()  # dropout off: the probabilities must be those that sampled the tokens
    uniforms = response_uniforms(
        state.seed, "rollout", state.iteration + 1, range(len(queries)), env.sampling.max_new_tokens
    )
    batch = sample_responses(state.policy, queries, env.tokenizer, env.sampling, uniforms)
    # Recomputed rather than kept from generation: the update computes them in the same way, so the first ratios are 1.
    with phase("log-probabilities"):
        logprobs, values = logprobs_and_values(state.policy, batch, config.microbatch_size)  # (B, R)
    with phase("reference's log-probabilities"):
        ref_logprobs, _ = logprobs_and_values(env.reference, batch, config.microbatch_size)  # (B, R)

    raw_scores = score_texts(env.scorer, batch.prompt_texts, batch.response_texts).to(logprobs.device)  # (B,)
    scores = adjusted_scores(raw_scores, batch.has_eos, config)  # (B,)

    mask = batch.response_mask
    rewards, kl = token_rewards(scores, logprobs, ref_logprobs, mask, state.kl_coef, config)  # (B, R)
    advantages, returns = ESTIMATORS[config.advantage].estimate(rewards, values, mask, config)  # (B, R)
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
