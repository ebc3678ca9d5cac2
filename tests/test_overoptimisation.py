"""Best-of-n against all subsets, and laws against numbers that were made from them."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch

from minippo.overoptimisation import Law, ahead_from, at_kl, best_of_n, best_of_n_kl, fit_law, is_far, samples_for_kl

# ---------------------------------------------------------------------------------------------- best-of-n


@pytest.mark.parametrize("n", range(1, 8))
def test_best_of_n_is_the_mean_over_all_subsets(n):
    generator = torch.Generator().manual_seed(n)
    scores, values = (torch.randn(3, 7, generator=generator) for _ in range(2))
    expected = [
        sum(row_values[max(subset, key=lambda i: row[i])] for subset in combinations(range(7), n)) / math.comb(7, n)
        for row, row_values in zip(scores.tolist(), values.tolist(), strict=True)
    ]
    assert best_of_n(scores, values, n).tolist() == pytest.approx(expected, abs=1e-12)


def test_best_of_one_is_the_mean_and_best_of_all_the_maximum():
    scores = torch.randn(5, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(best_of_n(scores, scores, 1), scores.mean(dim=1))
    torch.testing.assert_close(best_of_n(scores, scores, 128), scores.amax(dim=1))


@pytest.mark.parametrize("n", [1, 2, 4, 64])
def test_best_of_n_uniform_numbers_is_n_over_n_plus_1(n):
    uniforms = torch.rand(4000, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    best = best_of_n(uniforms, uniforms, n)
    standard_error = float(best.std()) / math.sqrt(4000)
    assert float(best.mean()) == pytest.approx(n / (n + 1), abs=4 * standard_error)


@pytest.mark.parametrize("n", [0, 5])
def test_n_must_be_within_the_pool(n):
    with pytest.raises(ValueError, match=f"the best of {n} samples cannot be estimated from a pool of 4"):
        best_of_n(torch.zeros(1, 4), torch.zeros(1, 4), n)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_kl_of_best_of_n_is_that_of_its_distribution(n):
    """Of 20,000 equally likely responses, the one of rank r is the best of n with probability (r^n - (r-1)^n) / K^n."""
    ranks = torch.arange(20001, dtype=torch.float64) / 20000
    p = (ranks[1:] ** n - ranks[:-1] ** n).clamp(min=1e-300)
    assert best_of_n_kl(n) == pytest.approx(float((p * (p * 20000).log()).sum()), abs=2e-3)


def test_samples_for_a_kl_are_those_that_reach_it():
    assert [samples_for_kl(best_of_n_kl(n)) for n in (1, 2, 3, 128, 10**6)] == pytest.approx([1, 2, 3, 128, 10**6])
    assert samples_for_kl(6.0) == pytest.approx(1095.6, abs=0.1)  # log 1095.6 + 1 / 1095.6 = 7
    assert samples_for_kl(500.0) == pytest.approx(math.exp(501))


# ---------------------------------------------------------------------------------------------- laws

KLS = [0.2, 0.6, 1.2, 1.9, 2.5, 3.2, 3.9, 8.0, 20.0, 60.0]


@pytest.mark.parametrize(("kind", "alpha", "beta"), [("best-of-n", 1.3, 0.2), ("rl", 0.9, 0.4), ("rl", -0.5, 0.1)])
def test_fit_recovers_the_law_that_made_the_points(kind, alpha, beta):
    d = torch.tensor(KLS, dtype=torch.float64).sqrt()
    gains = d * (alpha - beta * (d if kind == "best-of-n" else d.log()))
    law = fit_law(kind, [0.0, *KLS], [0.0, *gains.tolist()])
    assert (law.alpha, law.beta) == pytest.approx((alpha, beta), abs=1e-9)
    assert [law.gain(kl) for kl in KLS] == pytest.approx(gains.tolist(), abs=1e-9)
    noise = 0.05 * torch.randn(len(KLS), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    noisy = fit_law(kind, KLS, (gains + noise).tolist())
    assert (noisy.alpha, noisy.beta) == pytest.approx((alpha, beta), abs=0.15)
    assert (noisy.alpha, noisy.beta) != (law.alpha, law.beta)


@pytest.mark.parametrize("law", [Law("best-of-n", 1.3, 0.2), Law("rl", 0.9, 0.4), Law("rl", -0.5, 0.3)])
def test_peak_is_where_the_gain_is_largest(law):
    assert law.gain(0.0) == 0
    around = [law.gain(law.peak_kl * factor) for factor in (0.8, 0.99, 1.0, 1.01, 1.25)]
    assert max(around) == around[2]
    grid = [law.gain((step / 100) ** 2) for step in range(1, 3000)]
    assert max(grid) == pytest.approx(around[2], rel=1e-3)


@pytest.mark.parametrize("kind", ["best-of-n", "rl"])
def test_law_without_cost_has_no_peak(kind):
    assert Law(kind, 1.0, 0.0).peak_kl is None
    assert Law(kind, 1.0, -0.1).peak_kl is None


def test_best_of_n_that_only_loses_has_its_peak_at_the_reference():
    assert Law("best-of-n", -1.0, 0.1).peak_kl == 0


def test_kl_below_0_counts_as_0():
    assert fit_law("rl", [-0.1, 1.0, 2.0], [0.3, 1.0, 1.2]) == fit_law("rl", [0.0, 1.0, 2.0], [0.3, 1.0, 1.2])


@pytest.mark.parametrize("kls", [[], [0.0, -1.0], [0.0, 2.0, 2.0]])
def test_law_needs_two_distances(kls):
    with pytest.raises(ValueError, match="a law needs at least two different distances above 0"):
        fit_law("rl", kls, [0.0] * len(kls))


# ---------------------------------------------------------------------------------------------- curves


def test_curve_is_interpolated_in_the_root_of_the_kl():
    kls, values = [4.0, 0.0, 1.0], [7.0, 1.0, 3.0]  # d = 2, 0, 1
    assert [at_kl(kl, kls, values) for kl in (0.0, 0.25, 1.0, 2.25, 4.0)] == pytest.approx([1, 2, 3, 5, 7])
    assert math.isnan(at_kl(4.1, kls, values))
    assert math.isnan(at_kl(0.9, [1.0, 4.0], [3.0, 7.0]))
    assert at_kl(-0.1, kls, values) == 1.0


def test_points_are_far_apart_if_their_kls_differ_by_more_than_a_factor_of_3():
    kls = [3.1, 0.0, 1.0, 9.0]
    assert [is_far(kl, kls) for kl in (0.3, 0.34, 1.0, 1.1, 3.0, 3.1, 5.0, 9.0)] == [
        *(True, False),  # between the reference and 1.0
        *(False, True, True, False),  # 3.1 is far from 1.0, but a point is not far from itself
        *(False, False),
    ]
    assert not is_far(-0.1, kls)  # counts as 0, where the reference is
    assert not is_far(1.0, [-0.2, 2.9])
    assert is_far(1.0, [-0.2, 3.1])


def test_ahead_from_is_the_start_of_the_last_positive_stretch():
    assert ahead_from([1, 2, 3, 4], [1.0, -1.0, 0.5, 0.1]) == 3
    assert ahead_from([4, 3, 2, 1], [0.1, 0.5, -1.0, 1.0]) == 3  # in any order
    assert ahead_from([1, 2], [1.0, 2.0]) == 1
    assert ahead_from([1, 2], [1.0, -2.0]) is None
    assert ahead_from([1, 2, 3], [-1.0, 1.0, math.nan]) == 2
    assert ahead_from([1, 2], [1.0, 0.0]) is None
