"""What can be bought with KL: best-of-n sampling, and the laws of over-optimisation (Gao et al. 2022, 2210.10760).

Pure functions of numbers that have been measured; `python -m minippo frontier` measures them. The distance to the
reference is d = sqrt(KL): in it, gains begin as straight lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

FAR = 3.0
"""Two points of a curve are far apart if their KLs differ by more than this factor. The curve between them is a guess:
it may have its peak there."""


def best_of_n(scores: Tensor, values: Tensor, n: int) -> Tensor:
    """Expected value of the sample with the highest score among n, for every prompt, (P,) float64.

    Estimated from one pool of N samples per prompt: the mean over all subsets of size n (a U-statistic), which is
    unbiased and has less variance than dividing the pool into N/n groups. The sample of rank r (1 is the worst) is the
    best of C(r-1, n-1) of the C(N, n) subsets. Gao et al. 2022 appendix; the same idea as pass@k (Chen et al. 2021).

    Args:
        scores: What the samples are chosen by, (P, N). Samples with equal scores are ranked by their position.
        values: What is averaged, (P, N): the scores themselves, or a gold score.
        n: From 1 to N.
    """
    num_samples = scores.shape[1]
    if not 1 <= n <= num_samples:
        raise ValueError(f"the best of {n} samples cannot be estimated from a pool of {num_samples}")
    # Python's integers are exact, and so is their quotient, up to its last bit.
    subsets = math.comb(num_samples, n)
    weights = [math.comb(rank - 1, n - 1) / subsets for rank in range(1, num_samples + 1)]
    worst_first = scores.argsort(dim=1, stable=True)  # (P, N)
    return values.double().gather(1, worst_first) @ torch.tensor(weights, dtype=torch.float64)


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n to the reference, in nats: log n - (n-1)/n (Stiennon et al. 2020, appendix G).

    An upper bound (Beirami et al. 2024, 2401.01879), which is reached if no response is ever drawn twice and no two
    have the same score: a response that is drawn twice cannot be preferred to itself.
    """
    return math.log(n) - (n - 1) / n


def samples_for_kl(kl: float) -> float:
    """The n with which best-of-n reaches a KL, the inverse of `best_of_n_kl`; any number from 1 on."""
    low, high = 0.0, kl + 1  # of log n, because log n = kl + 1 - 1/n
    for _ in range(60):
        middle = (low + high) / 2
        if middle + math.exp(-middle) - 1 < kl:
            low = middle
        else:
            high = middle
    return math.exp(high)


@dataclass(frozen=True)
class Law:
    """How the gold score changes with the distance d = sqrt(KL) to the reference (Gao et al. 2022 eq. 1 and 2).

        best-of-n:               gain = d (alpha - beta d)
        reinforcement learning:  gain = d (alpha - beta log d)

    Optimisation against a reward model gains `alpha` per unit of distance as long as the model is right, and loses to
    its errors what `beta` says.
    """

    kind: Literal["best-of-n", "rl"]
    alpha: float
    beta: float

    def gain(self, kl: float) -> float:
        """Gold score minus the reference's, at this KL in nats."""
        d = math.sqrt(kl)
        return self.alpha * d - self.beta * _cost(self.kind, d)

    @property
    def peak_kl(self) -> float | None:
        """The KL with the largest gain, in nats; None if the law rises for ever (beta is not positive)."""
        if self.beta <= 0:
            return None
        if self.kind == "best-of-n":
            return (self.alpha / (2 * self.beta)) ** 2 if self.alpha > 0 else 0.0
        return math.exp(min(2 * (self.alpha / self.beta - 1), 700))  # the derivative is alpha - beta - beta log d


def _cost(kind: str, d: float) -> float:
    """What `beta` multiplies: d^2, or d log d with its limit 0 at d = 0."""
    return d * d if kind == "best-of-n" else d * math.log(d) if d > 0 else 0.0


def fit_law(kind: Literal["best-of-n", "rl"], kls: Sequence[float], gains: Sequence[float]) -> Law:
    """The law that fits measured points best: least squares, which is linear in alpha and beta.

    `gains` are gold scores minus the reference's. A KL below 0, which an estimate from samples may have, counts as 0.
    Raises ValueError unless at least two distances differ from each other and from 0.
    """
    distances = [math.sqrt(max(kl, 0.0)) for kl in kls]
    if len({d for d in distances if d > 0}) < 2:
        raise ValueError(f"a law needs at least two different distances above 0, not {sorted(set(distances))}")
    design = torch.tensor([[d, -_cost(kind, d)] for d in distances], dtype=torch.float64)  # (points, 2)
    solution = torch.linalg.lstsq(design, torch.tensor(gains, dtype=torch.float64).unsqueeze(1)).solution
    return Law(kind, *solution.squeeze(1).tolist())


def at_kl(kl: float, kls: Sequence[float], values: Sequence[float]) -> float:
    """The value of a measured curve at `kl`, interpolated linearly in d = sqrt(KL); NaN outside the measured range.

    The points may be in any order; a KL below 0 counts as 0.
    """
    points = sorted(zip((math.sqrt(max(x, 0.0)) for x in kls), values, strict=True))
    d = math.sqrt(max(kl, 0.0))
    for (left, low), (right, high) in pairwise(points):
        if left <= d <= right:
            return low + (high - low) * ((d - left) / (right - left) if right > left else 0.5)
    return math.nan


def is_far(kl: float, kls: Sequence[float]) -> bool:
    """Whether `at_kl` joins points that are far apart. `kl` is in the measured range.

    The reference, which has KL 0, is near if the next point has at most FAR times `kl`.
    """
    kl = max(kl, 0.0)
    below, above = max((x for x in kls if x <= kl), default=0.0), min(x for x in kls if x >= kl)
    return above > FAR * (below if below > 0 else kl)


def ahead_from(kls: Sequence[float], differences: Sequence[float]) -> float | None:
    """The KL from which on all differences, in the order of increasing `kls`, are positive; None if the last is not.

    NaN, for points that cannot be compared, are left out.
    """
    first = None
    for kl, difference in sorted(zip(kls, differences, strict=True)):
        if difference <= 0:
            first = None
        elif difference > 0 and first is None:
            first = kl
    return first
