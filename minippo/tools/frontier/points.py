"""From answers to the points of a frontier: means with intervals, comparisons at equal KL, and the laws that fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

import torch
from torch import Tensor

from minippo.overoptimisation import Law, ahead_from, at_kl, best_of_n, best_of_n_kl, fit_law, is_far, samples_for_kl
from minippo.streams import generator

RESAMPLES = 2000
CURVE = "PPO"
"""The method whose points, one for each KL coefficient, are the curve that all others are compared with."""


@dataclass(frozen=True)
class Measured:
    """What one method with one setting achieves: S reward models, each with the same P prompts."""

    method: str
    setting: float
    """n of best-of-n, or the KL coefficient."""
    fraction: float
    """Of the comparisons that the reward models were trained on."""
    kl: Tensor  # (S, P), nats
    score: Tensor  # (S, P)
    gold: Tensor | None = None  # (S, P)

    @property
    def value(self) -> Tensor:
        """What methods are compared by, (S, P): the gold score, or the score if the corpus has none."""
        return self.score if self.gold is None else self.gold


class Resamples:
    """Means over other prompts and other reward models, which a claim is about, the same ones for all points.

    Prompts are drawn with replacement. A few reward models (each with the policies trained on it) are not enough for
    that: intervals from two to five resampled models are too narrow (Hesterberg 2015, 1411.5279). Their part is that of
    Student's t interval, which is exact for two or more whose means are normally distributed. With both parts, the
    interval is at most wider than 95 % needs. With a single reward model, only the prompts vary.
    """

    def __init__(self, num_prompts: int) -> None:
        self.prompts = _counts(num_prompts, generator(0, "frontier prompts"))

    def means(self, values: Tensor) -> Tensor:
        """The mean of `values` (S, P) in every resample, (RESAMPLES,)."""
        models = _student(len(values), generator(0, "frontier reward models"))
        return self.prompts @ values.mean(dim=0) / values.shape[1] + models @ values.mean(dim=1)


def _counts(size: int, generator: torch.Generator) -> Tensor:
    """How often each of `size` items is among `size` drawn with replacement, (RESAMPLES, size) float64."""
    drawn = torch.randint(size, (RESAMPLES, size), generator=generator)
    return torch.zeros(RESAMPLES, size, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())


def _student(size: int, generator: torch.Generator) -> Tensor:
    """Weights (RESAMPLES, size) that add up to 0. The sums of any `size` numbers with these weights are distributed as
    Student's t with size - 1 degrees of freedom, times the standard error of their mean. A single one has weight 0."""
    if size == 1:
        return torch.zeros(RESAMPLES, 1, dtype=torch.float64)
    normal = torch.randn(RESAMPLES, size, dtype=torch.float64, generator=generator)
    chi_squared = torch.randn(RESAMPLES, size - 1, dtype=torch.float64, generator=generator).square().sum(1, True)
    return (normal - normal.mean(dim=1, keepdim=True)) / (size * chi_squared).sqrt()


def best_of_n_points(scores: Tensor, gold: Tensor | None, fraction: float) -> list[Measured]:
    """Best of 1, 2, 4, ... up to N, from the scores (S, P, N) by S reward models of one pool, gold scores (P, N)."""
    num_models, num_prompts, num_samples = scores.shape
    points = []
    for n in (2**power for power in range(num_samples.bit_length())):
        points.append(
            Measured(
                "best-of-n",
                n,
                fraction,
                torch.full((num_models, num_prompts), best_of_n_kl(n), dtype=torch.float64),
                torch.stack([best_of_n(model, model, n) for model in scores]),
                None if gold is None else torch.stack([best_of_n(model, gold, n) for model in scores]),
            )
        )
    return points


def point_rows(points: Sequence[Measured], resamples: Resamples) -> list[dict[str, Any]]:
    """A row for each point: [value, low, high] of KL, score and gold score, with 95 % intervals.

    `ahead` is the value minus that of PPO at the same KL, interpolated between its KL coefficients; None for PPO
    itself, outside its range, and for other reward models. `far` says that the coefficients next to that KL are far
    apart (`is_far`).
    """
    curve = [p for p in points if p.fraction == max(q.fraction for q in points)]
    curve = [p for p in curve if p.method == CURVE or (p.method, p.setting) == ("best-of-n", 1)]  # the reference: KL 0
    rows = []
    for point in points:
        row: dict[str, Any] = {name: getattr(point, name) for name in ("method", "setting", "fraction")}
        row["reward_models"] = len(point.kl)
        for name in ("kl", "score", "gold"):
            values = getattr(point, name)
            row[name] = None if values is None else interval(float(values.mean()), resamples.means(values))
        row["kl"][1] = max(0.0, row["kl"][1])  # no KL is below it
        row["ahead"], row["far"] = None, False
        if point.fraction == curve[0].fraction and point not in curve:
            row["ahead"] = ahead(point, curve, resamples)
            row["far"] = row["ahead"] is not None and is_far(row["kl"][0], [float(p.kl.mean()) for p in curve])
        rows.append(row)
    return rows


def ahead(point: Measured, curve: Sequence[Measured], resamples: Resamples) -> list[float] | None:
    """The value of a point minus that of the curve at the same KL, with its interval; None outside its range.

    Every resample measures the point and the curve with the same reward models and prompts, as far as the curve has
    as many.
    """

    def difference(kl: float, value: float, kls: Sequence[float], values: Sequence[float]) -> float:
        return value - at_kl(kl, kls, values)

    measured = difference(
        float(point.kl.mean()),
        float(point.value.mean()),
        [float(p.kl.mean()) for p in curve],
        [float(p.value.mean()) for p in curve],
    )
    kls = torch.stack([resamples.means(p.kl) for p in curve], dim=1).tolist()  # RESAMPLES x curve
    values = torch.stack([resamples.means(p.value) for p in curve], dim=1).tolist()
    own = zip(resamples.means(point.kl).tolist(), resamples.means(point.value).tolist(), strict=True)
    drawn = [difference(*x, *y) for x, *y in zip(own, kls, values, strict=True)]
    comparable = torch.tensor([x for x in drawn if not math.isnan(x)], dtype=torch.float64)
    return None if math.isnan(measured) or len(comparable) < RESAMPLES / 2 else interval(measured, comparable)


def equal_kl_rows(points: Sequence[Measured], kls: Sequence[float], resamples: Resamples) -> list[dict[str, Any]]:
    """The value of every method at each of `kls`, with the reward models trained on all comparisons.

    Interpolated in d = sqrt(KL) between the method's own points and the reference, which has KL 0. [value, low, high];
    None if the method has no point beyond that KL. The interval is that of the resamples that reach it. `far` says that
    the points next to that KL are far apart (`is_far`). `samples` is the n that best-of-n needs for it.
    """
    whole = [p for p in points if p.fraction == max(q.fraction for q in points)]
    (reference,) = (p for p in whole if (p.method, p.setting) == ("best-of-n", 1))
    rows = []
    for method in dict.fromkeys(p.method for p in whole):
        curve = [reference, *(p for p in whole if p.method == method and p is not reference)]
        measured = [[float(getattr(p, name).mean()) for p in curve] for name in ("kl", "value")]
        drawn = [torch.stack([resamples.means(getattr(p, name)) for p in curve], dim=1) for name in ("kl", "value")]
        drawn_curves = list(zip(*(x.tolist() for x in drawn), strict=True))  # RESAMPLES x (KLs, values)
        for kl in kls:
            value = at_kl(kl, *measured)
            reached = [x for x in (at_kl(kl, *resampled) for resampled in drawn_curves) if not math.isnan(x)]
            row: dict[str, Any] = {"method": method, "kl": kl, "value": None, "far": False}
            if not math.isnan(value):
                row["value"] = interval(value, torch.tensor(reached, dtype=torch.float64))
                row["far"] = is_far(kl, measured[0])
            rows.append(row | ({"samples": samples_for_kl(kl)} if method == "best-of-n" else {}))
    return rows


def interval(value: float, resampled: Tensor) -> list[float]:
    """[value, low, high]: the value and the middle 95 % of its resamples."""
    low, high = torch.quantile(resampled, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return [value, low, high]


def passes_from(rows: Sequence[dict[str, Any]]) -> float | None:
    """The KL from which on PPO is ahead of the points of `point_rows`, None if it is not at the largest KL."""
    return ahead_from([row["kl"][0] for row in rows], [-row["ahead"][0] for row in rows])


# ---------------------------------------------------------------------------------------------- laws


def law_row(
    kind: Literal["best-of-n", "rl"], fraction: float, curves: Sequence[tuple[Sequence[float], Sequence[float]]]
) -> dict[str, Any]:
    """The law fitted to the curves (KLs and gains) of several reward models together, and to each of them alone.

    alpha, beta and peak_kl are [of all together, lowest, highest of each alone], and the first need not be between the
    others; a law that rises for ever has the peak None. The observed peak is that of the mean curve; it is the last
    point if the gain was still rising.
    """
    pooled = fit_law(kind, [x for kls, _ in curves for x in kls], [y for _, gains in curves for y in gains])
    each = [fit_law(kind, kls, gains) for kls, gains in curves]
    kls, gains = ([mean(column) for column in zip(*parts, strict=True)] for parts in zip(*curves, strict=True))
    best = max(range(len(gains)), key=gains.__getitem__)
    residuals = [y - pooled.gain(max(x, 0.0)) for xs, ys in curves for x, y in zip(xs, ys, strict=True)]
    row: dict[str, Any] = {"kind": kind, "fraction": fraction, "reward_models": len(curves)}
    for name in ("alpha", "beta"):
        values = [getattr(law, name) for law in each]
        row[name] = [getattr(pooled, name), min(values), max(values)]
    peaks = [law.peak_kl for law in each]
    row["peak_kl"] = [pooled.peak_kl, *((min(peaks), max(peaks)) if None not in peaks else (None, None))]
    row["peak_gain"] = None if pooled.peak_kl is None else pooled.gain(pooled.peak_kl)
    row["root_mean_square_error"] = math.sqrt(mean(x * x for x in residuals))
    row |= {"observed_peak_kl": kls[best], "observed_peak_gain": gains[best], "still_rising": best == len(gains) - 1}
    return row | {"points": [list(pair) for pair in zip(kls, gains, strict=True)]}


def best_of_n_curves(points: Sequence[Measured]) -> list[tuple[list[float], list[float]]]:
    """For each reward model, the KLs and the gains in gold score of best-of-n over the reference (best of 1)."""
    first, *others = sorted(points, key=lambda point: point.setting)
    kls = [float(point.kl[0, 0]) for point in others]
    gains = torch.stack([p.gold.mean(dim=1) - first.gold.mean(dim=1) for p in others], dim=1)  # (S, points)
    return [(kls, row) for row in gains.tolist()]


def law_of(row: dict[str, Any]) -> Law:
    """The law of a row of `law_row`."""
    return Law(row["kind"], row["alpha"][0], row["beta"][0])
