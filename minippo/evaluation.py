"""What a policy or a reward model achieves on held-out data. No files and no printing: see `minippo.runs.results`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from minippo.config import Config
from minippo.heads import ActorCritic, RewardModel
from minippo.memory import phase
from minippo.rollout import Environment, logprobs_and_values, sample_responses
from minippo.scoring import num_cut, score_texts, score_tokens
from minippo.splits import Split
from minippo.streams import response_uniforms

# ---------------------------------------------------------------------------------------------- policies


class Judge(Protocol):
    """A simulated human, if the corpus has one. Used for evaluation only, never in training."""

    def gold_score(self, prompt: str, response: str) -> float:
        """How good the response is; positive above 0."""
        ...

    def split_sentences(self, text: str) -> list[str]:
        """The sentences of a text."""
        ...

    def is_grammatical(self, sentence: str) -> bool:
        """Whether a sentence is grammatical."""
        ...


@dataclass(frozen=True)
class Answer:
    """One response to a held-out prompt."""

    prompt: str
    response: str
    score: float
    """From the scorer that the policy is trained with."""
    kl: float
    """KL of the sequence to the reference, k1 estimate, nats."""
    length: int
    """Tokens, including the end token."""
    ended: bool
    """Whether it ended by itself."""


class Evaluator:
    """Answers the prompts of a held-out split with any policy, and compares the answers with the reference's."""

    def __init__(
        self, env: Environment, queries: Sequence[list[int]], split: Split, judge: Judge | None, config: Config
    ) -> None:
        self.env, self.queries, self.split, self.judge, self.config = env, queries, split, judge, config
        self.num_cut = 0
        """Answers so far that the scorer has read without their end (`scoring.num_cut`)."""

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
            batch = sample_responses(policy, queries, env.tokenizer, env.sampling, uniforms)
            with phase("log-probabilities"):
                logprobs, _ = logprobs_and_values(policy, batch, microbatch_size)  # (B, R)
            with phase("reference"):
                ref_logprobs, _ = logprobs_and_values(env.reference, batch, microbatch_size)  # (B, R)
            columns = (
                batch.prompt_texts,
                batch.response_texts,
                score_texts(env.scorer, batch.prompt_texts, batch.response_texts).tolist(),
                (logprobs - ref_logprobs).sum(dim=1).tolist(),  # nats per sequence: the log-ratio of the whole response
                batch.response_mask.sum(dim=1).tolist(),
                batch.has_eos.tolist(),
            )
            self.num_cut += num_cut(env.scorer)
            answers += [Answer(*row) for row in zip(*columns, strict=True)]
        return answers

    @cached_property
    def reference_answers(self) -> list[Answer]:
        """The reference's answers, sampled when they are first needed."""
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


def answer_stats(answers: Sequence[Answer], judge: Judge | None) -> dict[str, float]:
    """Means over the answers; with a judge, its opinion as well."""
    stats = {
        "score": _mean([a.score for a in answers]),
        "kl": _mean([a.kl for a in answers]),
        "eos_rate": _mean([a.ended for a in answers]),
        "response_length": _mean([a.length for a in answers]),
        "distinct_2": distinct_n([a.response for a in answers], 2),
    }
    if judge is not None:
        gold = [judge.gold_score(a.prompt, a.response) for a in answers]
        sentences = [sentence for a in answers for sentence in judge.split_sentences(a.response)]
        stats["gold"] = _mean([score > 0 for score in gold])
        stats["gold_score"] = _mean(gold)
        stats["grammatical"] = _mean([judge.is_grammatical(sentence) for sentence in sentences])
    return stats


def win_rate(answers: Sequence[Answer], others: Sequence[Answer], judge: Judge | None) -> float:
    """Share of prompts at which `answers` beat `others`, by gold score, or by score without a judge; ties count 1/2."""

    def value(a: Answer) -> float:
        return judge.gold_score(a.prompt, a.response) if judge else a.score

    pairs = [(value(ours), value(theirs)) for ours, theirs in zip(answers, others, strict=True)]
    return _mean([(a > b) + 0.5 * (a == b) for a, b in pairs])  # two equal policies get 0.5


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Number of different word n-grams divided by the number of n-grams, over all texts together (Li et al. 2016)."""
    # Over all texts together: a policy that gives every prompt the same fluent answer has few different n-grams.
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / max(1, len(grams))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


# ---------------------------------------------------------------------------------------------- reward models


def comparison_scores(model: RewardModel, rows: Sequence[list[list[int]]], pad_id: int) -> list[list[float]]:
    """Scores of held-out comparisons, one list per comparison, in the order of its completions (best first)."""
    model.eval()
    scores = iter(score_tokens(model, [ids for row in rows for ids in row], pad_id).tolist())
    return [[next(scores) for _ in row] for row in rows]


def pairwise_accuracy(scores: Sequence[Sequence[float]]) -> float:
    """Share of pairs in which the preferred completion has the higher score; a tie is an error. Scores best first."""
    correct = [row[i] > row[j] for row in scores for i in range(len(row)) for j in range(i + 1, len(row))]
    return sum(correct) / len(correct)


def score_differences(scores: Sequence[Sequence[float]]) -> Tensor:
    """Score of the better minus score of the worse completion, for every pair, (pairs,)."""
    return torch.tensor([row[i] - row[j] for row in scores for i in range(len(row)) for j in range(i + 1, len(row))])


class ConfidenceBin(NamedTuple):
    """Pairs at which a reward model is about equally confident."""

    confidence: float
    """Mean probability that it gives to the completion it prefers."""
    accuracy: float
    """Share of pairs in which that completion is the better one."""
    count: int


def calibration(differences: Tensor, num_bins: int = 5) -> list[ConfidenceBin]:
    """Accuracy by confidence, from score differences (pairs,) better minus worse; num_bins equal bins from 0.5 to 1.

    In the Bradley-Terry model the confidence in a pair is sigmoid(|difference|), of scores as they were trained, before
    normalisation. If confidence and accuracy agree, a score difference has the meaning that the labels gave it. Empty
    bins are omitted. Guo et al. 2017 (1706.04599) section 2.
    """
    confidence = torch.sigmoid(differences.abs())  # (pairs,), 0.5 to 1
    correct = (differences > 0).double() + 0.5 * (differences == 0)  # at a tie, either completion is preferred
    index = ((confidence - 0.5) * 2 * num_bins).long().clamp(max=num_bins - 1)
    members = [index == i for i in range(num_bins)]
    return [
        ConfidenceBin(float(confidence[rows].mean()), float(correct[rows].mean()), int(rows.sum()))
        for rows in members
        if rows.any()
    ]


def calibration_error(bins: Sequence[ConfidenceBin]) -> float:
    """Expected calibration error (Guo et al. 2017 eq. 3): mean |accuracy - confidence|, weighted by the pairs."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / max(1, total)
