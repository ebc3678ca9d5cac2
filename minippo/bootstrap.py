"""Confidence intervals by the bootstrap: how far a figure would move if other prompts had been asked.

A figure of n prompts is computed again from n prompts drawn from them with replacement, 2,000 times; the middle 95 % of
the results are its interval (Efron 1979, the percentile method). What is drawn is the prompt with all that belongs to
it, because the tokens, sentences and pairs of one prompt are not independent of each other. Nothing here knows about
models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
"""Share of the resamples within the interval."""


class Estimate(NamedTuple):
    """A figure with its interval."""

    value: float
    low: float
    high: float
    standard_error: float
    """Standard deviation of the figure over the resamples."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the sign of the figure is known: for a difference, whether the data show one."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Statistic:
    """A figure of n rows, one per prompt, that depends only on the sums of k columns."""

    columns: np.ndarray  # (n, k) float64
    of_sums: Callable[[np.ndarray], np.ndarray]
    """Sums of the columns (..., k) -> figure (...)."""

    @property
    def value(self) -> float:
        """The figure of all rows."""
        return float(self.of_sums(self.columns.sum(axis=0)))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Statistic:
    """Sum of the numerators divided by the sum of the denominators, which are counts; 0 if nothing was counted."""
    return Statistic(_columns(numerators, denominators), _quotient)


def mean(values: Sequence[float]) -> Statistic:
    """The mean of one value per row."""
    return ratio(values, np.ones(len(values)))


def exponential_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Statistic:
    """exp of the ratio: a perplexity, if the numerators are sums of -log p and the denominators numbers of tokens."""
    # A low sampling temperature multiplies log-probabilities, and neither exp nor its square may be infinite.
    return Statistic(_columns(numerators, denominators), lambda sums: np.exp(np.minimum(_quotient(sums), 300)))


def correlation(x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> Statistic:
    """Pearson's correlation of x and y over all entries of all rows; 0 if one of them is constant.

    Of ranks it is Spearman's rank correlation. The ranks are those among all entries, also in a resample.
    """
    rows = [(np.asarray(a, float), np.asarray(b, float)) for a, b in zip(x, y, strict=True)]
    moments = [[len(a), a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum()] for a, b in rows]
    return Statistic(np.array(moments), _pearson)


def ranks(values: np.ndarray) -> np.ndarray:
    """Rank of each of the values (n,), centred on 0; equal values share the mean of their ranks."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts + 1) / 2)[index] - (len(values) - 1) / 2


def estimate(statistic: Statistic) -> Estimate:
    """The figure with its interval."""
    return _estimate(statistic.value, _resampled(statistic, 0))


def paired_difference(ours: Statistic, theirs: Statistic) -> Estimate:
    """`ours` - `theirs`, if row i of both belongs to the same prompt. Raises ValueError if the numbers of rows differ.

    Both are computed from the same resamples. What makes a prompt easy or hard for both cancels, so the interval is
    narrower than that of independent prompts, often by far.
    """
    if len(ours.columns) != len(theirs.columns):
        raise ValueError(f"{len(ours.columns)} and {len(theirs.columns)} rows cannot be paired")
    return _estimate(ours.value - theirs.value, _resampled(ours, 0) - _resampled(theirs, 0))


def unpaired_difference(ours: Statistic, theirs: Statistic) -> Estimate:
    """`ours` - `theirs`, each of prompts of its own."""
    return _estimate(ours.value - theirs.value, _resampled(ours, 0) - _resampled(theirs, 1))


def _estimate(value: float, resampled: np.ndarray) -> Estimate:
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), float(resampled.std(ddof=1)))


def _resampled(statistic: Statistic, stream: int) -> np.ndarray:
    """The figure of every resample, (RESAMPLES,)."""
    return statistic.of_sums(_counts(len(statistic.columns), stream) @ statistic.columns)


@lru_cache(maxsize=2)
def _counts(num_rows: int, stream: int) -> np.ndarray:
    """How often each resample contains each row, (RESAMPLES, num_rows).

    The same for all figures of the same number of rows: that is what pairs them.
    """
    generator = np.random.default_rng([num_rows, stream])
    counts = generator.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=RESAMPLES)
    return counts.astype(np.float32)  # small integers: exact, in half the memory


def _columns(*columns: Sequence[float]) -> np.ndarray:
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def _quotient(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def _pearson(sums: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    variances = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
    return np.divide(n * xy - x * y, np.sqrt(variances), out=np.zeros_like(variances), where=variances > 0)
