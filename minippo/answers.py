"""What is measured of a policy's answers to held-out prompts. Every metric is a statistic with one row per prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from minippo.bootstrap import Statistic, exponential_ratio, mean, ratio

REPEATED = 4
"""Words of the n-grams whose repetitions are counted, as in Welleck et al. 2020."""


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
    exact_kl: float
    """KL of the next-token distributions to the reference's, over the whole vocabulary, summed over the tokens."""
    ref_logprob: float
    """Log-probability of the response under the reference, nats."""


def answer_metrics(answers: Sequence[Answer], judge: Judge | None) -> dict[str, Statistic]:
    """The metrics of docs/metrics.md under their names in `summary.json`; with a judge, its opinion as well."""
    texts, lengths = [a.response for a in answers], [a.length for a in answers]
    metrics = {
        "score": mean([a.score for a in answers]),
        "kl": mean([a.kl for a in answers]),
        "exact_kl": mean([a.exact_kl for a in answers]),
        "perplexity": exponential_ratio([-a.ref_logprob for a in answers], lengths),
        "eos_rate": mean([a.ended for a in answers]),
        "response_length": mean(lengths),
        **{f"distinct_{n}": mean(distinct_contributions(texts, n)) for n in (1, 2, 3)},
        "repetition": mean([repeated_share(text) for text in texts]),
    }
    if judge is not None:
        gold = [judge.gold_score(a.prompt, a.response) for a in answers]
        sentences = [judge.split_sentences(text) for text in texts]
        grammatical = [sum(map(judge.is_grammatical, of_answer)) for of_answer in sentences]
        metrics["gold"] = mean([score > 0 for score in gold])
        metrics["gold_score"] = mean(gold)
        metrics["grammatical"] = ratio(grammatical, list(map(len, sentences)))
    return metrics


def answer_stats(answers: Sequence[Answer], judge: Judge | None) -> dict[str, float]:
    """The values of `answer_metrics`, without their intervals."""
    return {name: metric.value for name, metric in answer_metrics(answers, judge).items()}


def wins(answers: Sequence[Answer], others: Sequence[Answer], judge: Judge | None) -> Statistic:
    """Share of prompts at which `answers` beat `others`, by gold score, or by score without a judge; ties count 1/2."""

    def value(a: Answer) -> float:
        return judge.gold_score(a.prompt, a.response) if judge else a.score

    pairs = [(value(ours), value(theirs)) for ours, theirs in zip(answers, others, strict=True)]
    return mean([(a > b) + 0.5 * (a == b) for a, b in pairs])  # two equal policies get 0.5


def win_rate(answers: Sequence[Answer], others: Sequence[Answer], judge: Judge | None) -> float:
    """The value of `wins`, without its interval."""
    return wins(answers, others, judge).value


# ---------------------------------------------------------------------------------------------- n-grams of words


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Number of different word n-grams divided by the number of n-grams, over all texts together (Li et al. 2016)."""
    # Over all texts together: a policy that gives every prompt the same fluent answer has few different n-grams.
    grams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(grams)) / max(1, len(grams))


def distinct_contributions(texts: Sequence[str], n: int) -> np.ndarray:
    """One value per text, (texts,), with `distinct_n` as their mean and its sampling error as that of their mean.

    These are the jackknife's pseudo-values (Tukey 1958), shifted to the mean. Resampling the texts themselves would not
    work: a text that is drawn twice adds n-grams to the total but none to the different ones, so nearly every resample
    has a lower `distinct_n`, and the interval usually does not even contain the figure.
    """
    grams = [_ngrams(text, n) for text in texts]
    owners = Counter(gram for of_text in grams for gram in set(of_text))  # n-gram -> texts that contain it
    total = sum(map(len, grams))
    only_here = [sum(owners[gram] == 1 for gram in set(of_text)) for of_text in grams]
    without = np.array(  # (texts,), distinct_n of all other texts
        [(len(owners) - only) / max(1, total - len(of_text)) for only, of_text in zip(only_here, grams, strict=True)]
    )
    return distinct_n(texts, n) + (len(texts) - 1) * (without.mean() - without)


def repeated_share(text: str, n: int = REPEATED) -> float:
    """Share of a text's word n-grams that repeat an earlier one: seq-rep-n of Welleck et al. 2020 (1908.04319)."""
    grams = _ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
