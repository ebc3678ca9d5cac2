"""What a run has achieved: answers to held-out prompts, beside the reference's answers to the same prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from minippo.config import Config
from minippo.heads import ActorCritic
from minippo.rollout import logprobs_and_values, sample_responses
from minippo.scoring import Scorer
from minippo.splits import Split
from minippo.storage import write_text
from minippo.streams import response_uniforms
from minippo.tokenizer import Tokenizer

if TYPE_CHECKING:
    from minippo.runs import Run


@dataclass(frozen=True)
class Judge:
    """What plays the human, where a corpus has it: never used in training."""

    gold_score: Callable[[str, str], float]
    """Of a prompt and a response; above 0 is positive."""
    split_sentences: Callable[[str], list[str]]
    is_grammatical: Callable[[str], bool]
    """Of a sentence."""


@dataclass(frozen=True)
class Answer:
    """One response to a held-out prompt."""

    prompt: str
    response: str
    score: float
    """By the scorer that trained the policy."""
    kl: float
    """Of the sequence, to the reference, nats (k1)."""
    length: int
    """Tokens, the end-of-text among them."""
    ended: bool
    """Whether it ends by itself."""


@torch.no_grad()
def answer(
    policy: ActorCritic,
    reference: ActorCritic,
    scorer: Scorer,
    queries: Sequence[list[int]],
    tokenizer: Tokenizer,
    config: Config,
    split: Split,
    batch_size: int = 128,
) -> list[Answer]:
    """Answer every query of a held-out split once.

    The random numbers depend on the seed, the split and a query's index alone. So all models are given the same ones,
    and what differs between their answers is due to the models.
    """
    policy.eval()
    end_ids = tokenizer.end_ids(config.ppo.stop_token)
    answers: list[Answer] = []
    for start in range(0, len(queries), batch_size):
        indices = range(start, min(start + batch_size, len(queries)))
        uniforms = response_uniforms(config.seed, f"{split} answers", 0, indices, config.data.response_length)
        batch = sample_responses(policy, [queries[i] for i in indices], tokenizer, uniforms=uniforms, config=config.ppo)
        logprobs, _ = logprobs_and_values(policy, batch, end_ids, config.ppo)
        ref_logprobs, _ = logprobs_and_values(reference, batch, end_ids, config.ppo)
        columns = (
            batch.prompt_texts,
            batch.response_texts,
            scorer(batch.prompt_texts, batch.response_texts).tolist(),
            (logprobs - ref_logprobs).sum(dim=1).tolist(),
            batch.response_mask.sum(dim=1).tolist(),
            batch.has_eos.tolist(),
        )
        answers += [Answer(*row) for row in zip(*columns, strict=True)]
    return answers


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words as a share of all n-grams, over all texts together (Li et al. 2016)."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / max(1, len(grams))


def figures(answers: Sequence[Answer], judge: Judge | None) -> dict[str, float]:
    """Means over the answers; with a judge, what it thinks of them too."""
    found = {
        "score": _mean([a.score for a in answers]),
        "kl": _mean([a.kl for a in answers]),
        "eos_rate": _mean([a.ended for a in answers]),
        "response_length": _mean([a.length for a in answers]),
        "distinct_2": distinct_n([a.response for a in answers], 2),
    }
    if judge is not None:
        gold = [judge.gold_score(a.prompt, a.response) for a in answers]
        sentences = [sentence for a in answers for sentence in judge.split_sentences(a.response)]
        found["gold"] = _mean([score > 0 for score in gold])
        found["gold_score"] = _mean(gold)
        found["grammatical"] = _mean([judge.is_grammatical(sentence) for sentence in sentences])
    return found


def win_rate(answers: Sequence[Answer], others: Sequence[Answer], judge: Judge | None) -> float:
    """Share of prompts whose answer beats the other one; a tie counts half. By the gold score, or else by the score."""

    def value(a: Answer) -> float:
        return judge.gold_score(a.prompt, a.response) if judge else a.score

    pairs = [(value(ours), value(theirs)) for ours, theirs in zip(answers, others, strict=True)]
    return _mean([(a > b) + 0.5 * (a == b) for a, b in pairs])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def final_evaluation(
    run: Run,
    policy: ActorCritic,
    reference: ActorCritic,
    scorer: Scorer,
    tokenizer: Tokenizer,
    queries: Sequence[list[int]],
    judge: Judge | None,
) -> dict[str, object]:
    """Answer the queries with both, write all answers to `answers.jsonl`, and return the summary's entries."""
    before, after = (
        answer(model, reference, scorer, queries, tokenizer, run.config, "test") for model in (reference, policy)
    )
    rows = [
        {"prompt": b.prompt, "query": query, "before": asdict(b), "after": asdict(a)}
        for query, b, a in zip(queries, before, after, strict=True)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_text(run.folder / "answers.jsonl", "".join(lines))
    old, new = figures(before, judge), figures(after, judge)
    found: dict[str, object] = {"before": old, "after": new, "prompts": len(queries)}
    for key in ("score", "gold", "gold_score"):
        if key in new:
            found |= {f"{key}_before": old[key], f"{key}_after": new[key]}
    found |= {key: new[key] for key in ("kl", "eos_rate", "response_length")}
    return found | {"win_rate": win_rate(after, before, judge)}


class ConfidenceBin(NamedTuple):
    """Pairs of which a reward model is about equally sure."""

    confidence: float
    """Mean probability that it gives to the completion it prefers."""
    accuracy: float
    """How often that one is the better one."""
    count: int


def calibration(differences: Tensor, num_bins: int = 5) -> list[ConfidenceBin]:
    """Accuracy by confidence, of the score differences (N,) better minus worse; bins of equal width from 0.5 to 1.

    By Bradley-Terry the model's confidence in a pair is sigmoid(|difference|), of scores as they were trained, before
    any normalisation. Where confidence and accuracy agree, a difference of scores means what the labels meant. Empty
    bins are left out. Guo et al. 2017 (1706.04599) section 2.
    """
    confidence = torch.sigmoid(differences.abs())
    right = (differences > 0).double() + 0.5 * (differences == 0)  # of a tie it says that either is as good
    place = ((confidence - 0.5) * 2 * num_bins).long().clamp(max=num_bins - 1)
    chosen = [place == index for index in range(num_bins)]
    return [
        ConfidenceBin(float(confidence[rows].mean()), float(right[rows].mean()), int(rows.sum()))
        for rows in chosen
        if rows.any()
    ]


def calibration_error(bins: Sequence[ConfidenceBin]) -> float:
    """Mean distance of accuracy from confidence, weighted by the pairs (expected calibration error, Guo et al. 2017
    eq. 3)."""
    total = sum(b.count for b in bins)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / max(1, total)
