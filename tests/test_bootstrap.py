"""Bootstrap intervals against closed forms, brute force and data whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from minippo.answers import distinct_contributions, distinct_n
from minippo.bootstrap import (
    RESAMPLES,
    Estimate,
    correlation,
    estimate,
    exponential_ratio,
    mean,
    paired_difference,
    ranks,
    ratio,
    unpaired_difference,
)


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(7)


def test_values_are_the_mean_and_the_ratios_of_sums(draw):
    x, counts = draw.normal(size=50), draw.integers(1, 9, size=50)
    assert mean(x).value == pytest.approx(x.mean(), rel=1e-12)
    assert ratio(x, counts).value == pytest.approx(x.sum() / counts.sum(), rel=1e-12)
    assert ratio(x, counts).value != pytest.approx((x / counts).mean(), rel=0.1)
    assert exponential_ratio(x, counts).value == pytest.approx(np.exp(x.sum() / counts.sum()), rel=1e-12)


def test_perplexity_is_never_infinite():
    assert 1e129 < estimate(exponential_ratio([1e6, 1.0], [1, 1])).standard_error < np.inf


def test_ratio_of_nothing_is_0():
    assert estimate(ratio([0, 0, 0], [0, 0, 0])) == Estimate(0, 0, 0, 0)
    assert ratio([0, 3], [0, 4]).value == 0.75


def test_standard_error_of_a_mean_is_the_deviation_divided_by_the_root_of_n(draw):
    for n in (30, 400):
        x = draw.exponential(size=n)
        found = estimate(mean(x))
        assert found.value == pytest.approx(x.mean(), rel=1e-12)
        assert found.standard_error == pytest.approx(x.std() / n**0.5, rel=0.06)


@pytest.mark.parametrize("kind", ["ratio", "exponential", "correlation"])
def test_interval_is_that_of_resampled_rows(draw, kind):
    """Rows are drawn here by index, and the figure is computed from the chosen rows alone."""
    n = 80
    x, counts = draw.normal(size=n), draw.integers(1, 5, size=n)
    if kind == "correlation":
        a = [draw.normal(size=size) for size in counts]
        b = [row + draw.normal(size=len(row)) for row in a]
        statistic = correlation(a, b)

        def figure(rows: np.ndarray) -> float:
            return np.corrcoef(np.concatenate([a[i] for i in rows]), np.concatenate([b[i] for i in rows]))[0, 1]
    else:
        statistic = (ratio if kind == "ratio" else exponential_ratio)(x, counts)

        def figure(rows: np.ndarray) -> float:
            quotient = x[rows].sum() / counts[rows].sum()
            return quotient if kind == "ratio" else np.exp(quotient)

    assert statistic.value == pytest.approx(figure(np.arange(n)), rel=1e-9)
    resampled = np.array([figure(draw.integers(0, n, size=n)) for _ in range(RESAMPLES)])
    found, noise = estimate(statistic), 0.25 * resampled.std()  # of a quantile of so many resamples: about 0.07
    assert found.standard_error == pytest.approx(resampled.std(), rel=0.1)
    assert found.low == pytest.approx(np.quantile(resampled, 0.025), abs=noise)
    assert found.high == pytest.approx(np.quantile(resampled, 0.975), abs=noise)


def test_interval_contains_the_truth_19_times_out_of_20(draw):
    """Of means of skewed values, and of ratios in which both parts vary; 600 samples have a standard error of 0.9 %."""
    hits = {"mean": 0, "ratio": 0, "difference": 0}
    for _ in range(600):
        x, counts = draw.exponential(size=100), draw.integers(1, 6, size=100)
        successes = draw.binomial(counts, 0.3)
        found = estimate(mean(x)), estimate(ratio(successes, counts)), paired_difference(mean(x), mean(x + counts))
        for name, each, truth in zip(hits, found, (1.0, 0.3, -3.0), strict=True):
            hits[name] += each.low <= truth <= each.high
    assert all(0.92 <= count / 600 <= 0.975 for count in hits.values()), hits


def test_paired_difference_of_means_is_the_mean_of_the_differences(draw):
    easy = draw.normal(size=200)  # how easy a prompt is for both
    ours, theirs = easy + 0.1 * draw.normal(size=200) + 0.08, easy + 0.1 * draw.normal(size=200)
    paired, unpaired = (f(mean(ours), mean(theirs)) for f in (paired_difference, unpaired_difference))
    assert paired == pytest.approx(estimate(mean(ours - theirs)), abs=1e-12)
    assert paired.value == unpaired.value == pytest.approx((ours - theirs).mean())
    errors = [estimate(mean(x)).standard_error for x in (ours, theirs)]
    assert unpaired.standard_error == pytest.approx(np.hypot(*errors), rel=0.06)
    assert paired.excludes_zero
    assert not unpaired.excludes_zero
    assert paired_difference(mean(theirs), mean(ours)).value == -paired.value


def test_different_numbers_of_rows_are_not_paired(draw):
    with pytest.raises(ValueError, match="3 and 4 rows cannot be paired"):
        paired_difference(mean(draw.normal(size=3)), mean(draw.normal(size=4)))
    assert unpaired_difference(mean([1, 1, 1]), mean([0, 0, 0, 0])) == Estimate(1, 1, 1, 0)


def test_a_difference_is_shown_unless_the_interval_contains_0():
    shown = [(0.1, 0.3, True), (-0.3, -0.1, True), (-0.1, 0.3, False), (0.0, 0.0, False), (0.0, 0.2, False)]
    for low, high, expected in shown:
        assert Estimate((low + high) / 2, low, high, 0.1).excludes_zero == expected


def test_estimates_do_not_change_from_call_to_call_nor_touch_other_draws(draw):
    statistic = mean(draw.normal(size=40))
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()
    first = estimate(statistic)
    estimate(mean(draw.normal(size=41)))
    assert estimate(statistic) == first
    assert np.random.get_state()[1].tolist() == before


def test_equal_values_share_the_mean_of_their_ranks(draw):
    values = draw.integers(0, 12, size=60).astype(float)
    expected = [(values < v).sum() + ((values == v).sum() - 1) / 2 - 59 / 2 for v in values]
    assert ranks(values).tolist() == expected
    assert ranks(np.array([5.0, -1.0, 9.0])).tolist() == [0, -1, 1]


def test_correlation_with_a_constant_is_0():
    assert estimate(correlation([[1, 2], [3]], [[4, 4], [4]])) == Estimate(0, 0, 0, 0)
    assert correlation([[1, 2], [3]], [[2, 4], [6]]).value == pytest.approx(1)
    assert correlation([[1, 2], [3]], [[6, 4], [2]]).value == pytest.approx(-1)


# ---------------------------------------------------------------------------------------------- distinct n-grams


@pytest.mark.parametrize("n", [1, 2])
def test_contributions_to_distinct_n_are_its_jackknife(draw, n):
    texts = [" ".join(draw.choice(list("abcdefgh"), size=size)) for size in draw.integers(0, 9, size=30)]
    whole = distinct_n(texts, n)
    without = [distinct_n(texts[:i] + texts[i + 1 :], n) for i in range(30)]
    pseudo = np.array([30 * whole - 29 * other for other in without])
    found = distinct_contributions(texts, n)
    assert found.mean() == pytest.approx(whole, rel=1e-12)
    np.testing.assert_allclose(found - found.mean(), pseudo - pseudo.mean(), atol=1e-12)
    assert found.std() > 0.01
    assert distinct_contributions(["a b a"], n).tolist() == [distinct_n(["a b a"], n)]


def test_interval_of_distinct_n_contains_the_truth_where_resampled_texts_do_not(draw):
    """Truth: the mean over all corpora. With a bootstrap of the texts, the interval never contains it."""
    probabilities = 1 / np.arange(1, 501)
    probabilities /= probabilities.sum()

    def corpus() -> list[str]:
        bounds = np.cumsum(draw.integers(5, 35, size=40))
        words = draw.choice(500, size=bounds[-1], p=probabilities).astype(str)
        return [" ".join(part) for part in np.split(words, bounds[:-1])]

    corpora = [corpus() for _ in range(200)]
    truth = np.mean([distinct_n(texts, 1) for texts in corpora])
    found = [estimate(mean(distinct_contributions(texts, 1))) for texts in corpora]
    assert 0.9 <= np.mean([e.low <= truth <= e.high for e in found]) <= 0.99
    texts = corpora[0]
    resampled = [distinct_n([texts[i] for i in draw.integers(0, len(texts), len(texts))], 1) for _ in range(200)]
    assert np.quantile(resampled, 0.975) < truth
