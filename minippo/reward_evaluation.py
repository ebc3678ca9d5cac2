"""How well a reward model orders held-out comparisons. No files and no printing: see `minippo.runs.results`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minippo.bootstrap import Statistic, correlation, ranks, ratio
from minippo.heads import RewardModel
from minippo.scoring import score_tokens

SIMULATIONS = 1000


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


def label_comparisons(log_odds: Sequence[Sequence[float]]) -> list[list[float]]:
    """Each labelled text as a comparison of its own, from pairs with label 1 first: with a text of score 0, which is
    worse than a text with label 1 and better than one with label 0.

    As in `equations.label_loss`. So accuracy and calibration of comparisons are those of the labels: a text is
    classified by the sign of its log-odds, and the confidence is the probability of the more likely label.
    """
    return [row for positive, negative in log_odds for row in ([positive, 0.0], [0.0, negative])]


# ---------------------------------------------------------------------------------------------- calibration


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


class NoiseFloor(NamedTuple):
    """The calibration error of a model whose confidences are exactly right, which is not 0 on finitely many pairs."""

    mean: float
    high: float
    """19 out of 20 such models have a smaller error."""


def calibration_floor(scores: Sequence[Sequence[float]], num_bins: int = 5) -> NoiseFloor:
    """The calibration error that chance alone gives, from a list of scores per comparison, in any order.

    Simulated: the model's own scores, plus independent Gumbel noise, rank the completions of every comparison. Of each
    pair, either is then the better one with just the probability that the model states (Plackett-Luce; Yellott 1977).
    The pairs of a ranking share its noise: if they were drawn independently, too many calibrated models would have an
    error above `high`, about 1 in 7 at nine completions. Only an error above it says something about the model.
    """
    values = torch.tensor([score for row in scores for score in row], dtype=torch.float64)  # (completions,)
    indices = iter(range(len(values)))
    pairs = [pair for row in scores for pair in combinations([next(indices) for _ in row], 2)]
    one, other = torch.tensor(pairs).T  # (pairs,) each, indices of `values`
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(SIMULATIONS):
        noise = -torch.log(-torch.log(torch.rand(len(values), generator=generator, dtype=torch.float64)))
        ranked = values + noise  # (completions,)
        simulated = (values[one] - values[other]) * torch.where(ranked[one] > ranked[other], 1, -1)  # (pairs,)
        errors.append(calibration_error(calibration(simulated, num_bins)))
    return NoiseFloor(float(np.mean(errors)), float(np.quantile(errors, 0.95)))


# ---------------------------------------------------------------------------------------------- which pairs are right


@dataclass(frozen=True)
class Pairs:
    """All pairs of n comparisons, better minus worse completion. A comparison with K completions has K(K-1)/2."""

    num_comparisons: int
    comparison: np.ndarray  # (pairs,) index of the comparison, whose pairs are resampled together
    score: np.ndarray  # (pairs,)
    length: np.ndarray  # (pairs,) in tokens of the reward model
    gold: np.ndarray | None  # (pairs,), if the corpus has a judge

    def share(self, of: np.ndarray, among: np.ndarray) -> Statistic:
        """Share of pairs with `of` (pairs,) among those with `among` (pairs,)."""
        numerators, denominators = (
            np.bincount(self.comparison, weights=mask, minlength=self.num_comparisons) for mask in (of & among, among)
        )
        return ratio(numerators, denominators)

    def accuracy(self, among: np.ndarray | None = None) -> Statistic:
        """Accuracy on the pairs with `among` (pairs,), by default on all."""
        return self.share(self.score > 0, np.ones(len(self.score), bool) if among is None else among)

    def agreement(self) -> Statistic:
        """Share of pairs that the model orders as the gold score does, without those to which it gives a tie."""
        return self.share(np.sign(self.score) == np.sign(self.gold), self.gold != 0)


def pairs_of(
    scores: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]], gold: Sequence[Sequence[float]] | None
) -> Pairs:
    """The pairs of comparisons; each argument has a list per comparison with an entry per completion, best first."""

    def differences(rows: Sequence[Sequence[float]]) -> np.ndarray:
        return np.array([better - worse for row in rows for better, worse in combinations(row, 2)])

    sizes = [len(row) * (len(row) - 1) // 2 for row in scores]
    index = np.repeat(np.arange(len(scores)), sizes)  # (pairs,)
    return Pairs(
        len(scores), index, differences(scores), differences(lengths), None if gold is None else differences(gold)
    )


class Group(NamedTuple):
    """The pairs whose value is between `low` and `high`, both included."""

    low: float
    high: float
    count: int
    accuracy: Statistic


def accuracy_by(pairs: Pairs, values: np.ndarray, num_groups: int = 4) -> list[Group]:
    """Accuracy on quarters of the pairs, divided at the quartiles of `values` (pairs,). Equal values stay together."""
    edges = np.quantile(values, np.linspace(0, 1, num_groups + 1)[1:-1])
    index = np.searchsorted(edges, values, side="left")  # (pairs,)
    members = [index == i for i in range(num_groups)]
    return [
        Group(float(values[rows].min()), float(values[rows].max()), int(rows.sum()), pairs.accuracy(rows))
        for rows in members
        if rows.any()
    ]


def rank_correlation(scores: Sequence[Sequence[float]], gold: Sequence[Sequence[float]]) -> Statistic:
    """Spearman's correlation of score and gold score over all completions of all comparisons."""
    bounds = np.cumsum([len(row) for row in scores])[:-1]
    x, y = (np.split(ranks(np.concatenate([np.asarray(row) for row in rows])), bounds) for rows in (scores, gold))
    return correlation(x, y)
