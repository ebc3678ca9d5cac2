"""Answers of a policy to held-out prompts, next to the reference's. No files and no printing: see `runs.results`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from minippo import masking
from minippo.answers import Answer, Judge, answer_stats, win_rate
from minippo.config import Config
from minippo.heads import ActorCritic
from minippo.memory import loaded, phase
from minippo.rollout import (
    Environment,
    Responses,
    head_chunks,
    next_token_logits,
    response_hidden,
    sample_responses,
)
from minippo.scoring import num_cut, score_texts
from minippo.splits import Split
from minippo.streams import response_uniforms


class Evaluator:
    """Answers the prompts of a held-out split with any policy, and compares the answers with the reference's."""

    def __init__(
        self, env: Environment, queries: Sequence[list[int]], split: Split, judge: Judge | None, config: Config
    ) -> None:
        self.env, self.queries, self.split, self.judge, self.config = env, queries, split, judge, config
        self.decoding = env.sampling
        """How the answers are drawn. Their log-probabilities are always those of the distribution that training samples
        from."""
        self.num_cut = 0
        """Answers so far that the scorer has read without their end (`scoring.num_cut`)."""

    def greedy(self) -> Evaluator:
        """An evaluator of the same prompts that takes the most likely token at every step."""
        evaluator = Evaluator(self.env, self.queries, self.split, self.judge, self.config)
        evaluator.decoding = replace(self.env.sampling, temperature=0.0)
        return evaluator

    @torch.no_grad()
    def answer(self, policy: ActorCritic) -> list[Answer]:
        """One answer per query, in batches of the size of a rollout, for which there is memory.

        The random numbers depend only on the seed, the split and the index of the query. So every policy gets the same
        ones, and differences between answers come from the policies.
        """
        policy.eval()  # dropout off
        env, batch_size, microbatch_size = self.env, self.config.ppo.rollout_batch_size, self.config.ppo.microbatch_size
        answers: list[Answer] = []
        for start in range(0, len(self.queries), batch_size):
            indices = range(start, min(start + batch_size, len(self.queries)))
            uniforms = response_uniforms(
                self.config.seed, f"{self.split} answers", 0, indices, env.sampling.max_new_tokens
            )
            queries = [self.queries[i] for i in indices]
            batch = sample_responses(policy, queries, env.tokenizer, self.decoding, uniforms)
            batch = replace(batch, sampling=env.sampling)
            logprobs, ref_logprobs, kl = compared_logprobs(policy, env.reference, batch, microbatch_size)  # (B, R)
            columns = (
                batch.prompt_texts,
                batch.response_texts,
                score_texts(env.scorer, batch.prompt_texts, batch.response_texts).tolist(),
                (logprobs - ref_logprobs).sum(dim=1).tolist(),  # nats per sequence: the log-ratio of the whole response
                batch.response_mask.sum(dim=1).tolist(),
                batch.has_eos.tolist(),
                kl.sum(dim=1).tolist(),
                ref_logprobs.sum(dim=1).tolist(),
            )
            self.num_cut += num_cut(env.scorer)
            answers += [Answer(*row) for row in zip(*columns, strict=True)]
        return answers

    @cached_property
    def reference_answers(self) -> list[Answer]:
        """The reference's answers, sampled when they are first needed."""
        with phase("reference's answers"):
            return self.answer(self.env.reference)

    def stats(self, answers: Sequence[Answer]) -> dict[str, float]:
        """Metrics of a policy's answers under their logged names, among them the win rate against the reference's."""
        stats = answer_stats(answers, self.judge)
        stats["win_rate"] = win_rate(answers, self.reference_answers, self.judge)
        return {f"eval/{name}": value for name, value in stats.items()}

    def summary(self, answers: Sequence[Answer]) -> dict[str, object]:
        """The entries of `summary.json`: metrics of the reference ("before") and of the policy ("after")."""
        before, after = answer_stats(self.reference_answers, self.judge), answer_stats(answers, self.judge)
        entries: dict[str, object] = {"before": before, "after": after, "prompts": len(self.queries)}
        for key in ("score", "gold", "gold_score"):
            if key in after:
                entries |= {f"{key}_before": before[key], f"{key}_after": after[key]}
        entries |= {key: after[key] for key in ("kl", "eos_rate", "response_length")}
        if self.num_cut:
            entries["answers_cut"] = self.num_cut  # of both policies
        return entries | {"win_rate": win_rate(answers, self.reference_answers, self.judge)}


@phase("policy's and reference's log-probabilities")
@torch.no_grad()
def compared_logprobs(
    policy: ActorCritic, reference: ActorCritic, batch: Responses, microbatch_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the responses under policy and reference, and the KL of the policy's next-token distribution
    to the reference's before each token; each (B, R) and 0 where masked.

    Given the tokens before, that KL is the expectation of the log-ratio of the next token. So the sums of both over a
    response have the same mean, the KL of the sequences, but the sum of KLs is never negative and varies less: it is
    the Rao-Blackwellised estimate.
    """
    parts = []
    with loaded(policy), loaded(reference):
        for start in range(0, len(batch.queries), microbatch_size):
            rows = batch.select(slice(start, start + microbatch_size))
            ours, theirs = response_hidden(policy, rows), response_hidden(reference, rows)  # (M, T, C)
            for chunk in head_chunks(rows):
                part = rows.select(chunk)
                logprobs, tokens = next_token_logprobs(policy, ours[chunk], part)  # (N, V), (N,)
                ref_logprobs, _ = next_token_logprobs(reference, theirs[chunk], part)  # (N, V)
                kl = (logprobs.exp() * (logprobs - ref_logprobs)).sum(dim=-1)  # (N,)
                chosen = [x.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) for x in (logprobs, ref_logprobs)]  # (N,)
                mask = part.response_mask  # (M, R)
                parts.append([masking.scatter(x, mask) for x in (*chosen, kl)])
    logprobs, ref_logprobs, kl = (torch.cat(column) for column in zip(*parts, strict=True))
    return logprobs, ref_logprobs, kl


def next_token_logprobs(policy: ActorCritic, hidden: Tensor, batch: Responses) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N, V) of every token at the places of the N response tokens, and these tokens (N,).

    From hidden states (M, T, C), under the distribution that sampling draws from.
    """
    logits, _, chosen = next_token_logits(policy, hidden, batch)
    return torch.log_softmax(logits.float() / batch.sampling.temperature, dim=-1), chosen
