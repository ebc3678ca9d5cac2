"""The simulated annotators: they prefer the review with the higher gold score more often than not, but not always.

Preferences follow the model of Bradley & Terry (1952), rankings that of Plackett (1975). The labels therefore contain a
known amount of noise, and there is a highest accuracy that any reward model can expect.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from random import Random
from statistics import fmean
from typing import NamedTuple

SHARPNESS = 0.8
"""Increase of a preference's log-odds, in nats, per point of difference between gold scores."""


def preference_probability(gold: float, other_gold: float) -> float:
    """Probability that an annotator prefers the first of two reviews with these gold scores (Bradley & Terry 1952)."""
    return 1 / (1 + math.exp(-SHARPNESS * (gold - other_gold)))


def rank(rng: Random, golds: Sequence[float]) -> list[int]:
    """An annotator's ranking of reviews with these gold scores: their indices, best first.

    The best review is drawn with probability proportional to exp(SHARPNESS * gold), then the best of the others, and so
    on (Plackett 1975). For two reviews this is the Bradley-Terry model, which also holds for any two of a ranking.
    """
    remaining, order = list(range(len(golds))), []
    while remaining:
        best = max(golds[index] for index in remaining)  # subtracted, so that exp cannot overflow
        weights = [math.exp(SHARPNESS * (golds[index] - best)) for index in remaining]
        point, chosen = rng.random() * sum(weights), len(remaining) - 1
        for position, weight in enumerate(weights):
            point -= weight
            if point < 0:
                chosen = position
                break
        order.append(remaining.pop(chosen))
    return order


class BayesAccuracy(NamedTuple):
    """Accuracy of the gold score at predicting the annotators' labels."""

    measured: float
    """On the labels themselves."""
    expected: float
    """In expectation over labels, the mean of max(p, 1 - p). No model that knows only the texts can expect more."""


def bayes_accuracy(golds: Iterable[Sequence[float]]) -> BayesAccuracy:
    """The highest accuracy that a reward model can expect on comparisons whose reviews have these gold scores, the
    preferred review first. A ranking of K reviews counts as K (K - 1) / 2 pairs; a tie counts as wrong."""
    pairs = [pair for scores in golds for pair in combinations(scores, 2)]
    return BayesAccuracy(
        measured=fmean(better > worse for better, worse in pairs),
        expected=fmean(preference_probability(abs(better - worse), 0.0) for better, worse in pairs),
    )
