"""How well a reward model orders pairs, against counting, closed forms and simulation."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from minippo.bootstrap import estimate
from minippo.reward_evaluation import (
    Pairs,
    accuracy_by,
    calibration,
    calibration_error,
    calibration_floor,
    label_comparisons,
    pairs_of,
    pairwise_accuracy,
    rank_correlation,
    score_differences,
)

# Three comparisons with 3, 2 and 4 completions, best first.
SCORES = [[2.0, 1.0, 1.5], [0.5, 0.5], [3.0, -1.0, 0.0, 4.0]]
LENGTHS = [[5, 9, 7], [4, 4], [3, 8, 2, 6]]
GOLD = [[1.0, 2.0, -1.0], [0.5, 0.25], [2.0, 2.0, 1.0, 0.0]]


@pytest.fixture
def pairs() -> Pairs:
    return pairs_of(SCORES, LENGTHS, GOLD)


def test_pairs_are_better_minus_worse_and_know_their_comparison(pairs):
    assert pairs.comparison.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2, 2]
    assert pairs.score.tolist() == [1, 0.5, -0.5, 0, 4, 3, -1, -1, -5, -4]
    assert pairs.length.tolist() == [-4, -2, 2, 0, -5, 1, -3, 6, 2, -4]
    assert pairs.gold is not None
    assert pairs.gold.tolist() == [-1, 2, 3, 0.25, 0, 1, 2, 1, 2, 1]
    assert pairs_of(SCORES, LENGTHS, None).gold is None


def test_accuracy_counts_pairs_and_resamples_comparisons(pairs):
    accuracy = pairs.accuracy()
    assert accuracy.value == pairwise_accuracy(SCORES) == 4 / 10
    assert accuracy.columns.tolist() == [[2, 3], [0, 1], [2, 6]]
    assert pairs.accuracy(pairs.length > 0).value == 1 / 4
    assert pairs.accuracy(np.zeros(10, bool)).value == 0


def test_interval_of_the_accuracy_is_wider_than_that_of_independent_pairs():
    """Within a ranking of a completion that stands in the wrong place, many pairs are wrong at once."""
    draw = np.random.default_rng(0)
    scores = [[0.0, 0.0, 0.0, 0.0, 9.0] if draw.random() < 0.3 else [5.0, 4, 3, 2, 1] for _ in range(300)]
    accuracy = pairs_of(scores, scores, None).accuracy()
    independent = (accuracy.value * (1 - accuracy.value) / 3000) ** 0.5
    assert estimate(accuracy).standard_error > 2.5 * independent
    per_ranking = np.std([pairwise_accuracy([row]) for row in scores]) / 300**0.5
    assert estimate(accuracy).standard_error == pytest.approx(per_ranking, rel=0.06)


def test_agreement_is_the_share_of_the_pairs_without_a_gold_tie_in_the_same_order(pairs):
    expected = [
        (a > b) == (g > h) and a != b
        for scores, gold in zip(SCORES, GOLD, strict=True)
        for (a, b), (g, h) in zip(combinations(scores, 2), combinations(gold, 2), strict=True)
        if g != h
    ]
    assert len(expected) == 9
    assert pairs.agreement().value == pytest.approx(sum(expected) / 9)
    assert pairs.agreement().value != pairs.accuracy().value


def test_rank_correlation_is_pearsons_of_the_ranks_of_all_completions():
    draw = np.random.default_rng(1)
    scores = [draw.normal(size=size).tolist() for size in draw.integers(2, 5, size=40)]
    gold = [[round(3 * math.atan(x) + float(draw.normal()), 1) for x in row] for row in scores]

    def ranked(rows: list[list[float]]) -> list[float]:
        values = [x for row in rows for x in row]
        return [sum(y < x for y in values) + (sum(y == x for y in values) - 1) / 2 for x in values]

    expected = np.corrcoef(ranked(scores), ranked(gold))[0, 1]
    found = rank_correlation(scores, gold)
    assert found.value == pytest.approx(expected, abs=1e-9)
    assert 0.5 < expected < 0.95
    assert len(found.columns) == 40
    assert rank_correlation(scores, [[math.exp(x) for x in row] for row in scores]).value == pytest.approx(1)
    assert rank_correlation(scores, [[-x for x in row] for row in scores]).value == pytest.approx(-1)


def test_a_labelled_text_is_right_on_the_side_of_its_label_and_as_sure_as_its_probability():
    probabilities = [[0.92, 0.25], [0.27, 0.96], [0.93, 0.88]]  # of label 1, of texts with label 1 and with label 0
    log_odds = [[math.log(p / (1 - p)) for p in row] for row in probabilities]
    differences = score_differences(label_comparisons(log_odds))
    assert (differences > 0).tolist() == [True, True, False, False, True, False]
    bins = [(0.74, 1 / 2, 2), (0.88, 0, 1), ((0.92 + 0.96 + 0.93) / 3, 2 / 3, 3)]
    assert [tuple(b) for b in calibration(differences)] == [pytest.approx(expected) for expected in bins]
    certain = score_differences(label_comparisons([[math.inf, -math.inf]]))  # probabilities rounded to 1 and 0
    assert calibration(certain) == [(1, 1, 2)]


def test_groups_divide_the_pairs_at_the_quartiles_and_keep_equal_values_together():
    draw = np.random.default_rng(2)
    scores = draw.normal(loc=0.5, size=400)
    pairs = Pairs(400, np.arange(400), scores, draw.integers(-9, 9, size=400), None)
    groups = accuracy_by(pairs, np.abs(scores))
    assert [group.count for group in groups] == [100] * 4
    assert all(a.high < b.low for a, b in pairwise(groups))
    for group in groups:
        chosen = (np.abs(scores) >= group.low) & (np.abs(scores) <= group.high)
        assert (chosen.sum(), (scores[chosen] > 0).mean()) == (group.count, pytest.approx(group.accuracy.value))
    assert groups[0].accuracy.value < groups[-1].accuracy.value
    by_length = accuracy_by(pairs, pairs.length)
    assert sum(group.count for group in by_length) == 400
    assert all(a.high < b.low for a, b in pairwise(by_length))
    (only,) = accuracy_by(pairs, np.ones(400))
    assert (only.low, only.high, only.count) == (1, 1, 400)


def test_chance_error_of_equal_confidences_is_the_mean_deviation_of_a_binomial():
    """All pairs are in one bin, so the error is |share of right ones - confidence|, whose mean is a finite sum."""
    count, confidence = 50, 0.7
    difference = math.log(confidence / (1 - confidence))
    floor = calibration_floor([[difference, 0.0]] * count)
    chances = [math.comb(count, k) * confidence**k * (1 - confidence) ** (count - k) for k in range(count + 1)]
    errors = [abs(k / count - confidence) for k in range(count + 1)]
    expected = sum(p * error for p, error in zip(chances, errors, strict=True))
    assert floor.mean == pytest.approx(expected, rel=0.08)
    below, at_most = (
        sum(p for p, error in zip(chances, errors, strict=True) if error < floor.high + slack)
        for slack in (-1e-9, 1e-9)
    )
    assert below - 0.01 < 0.95 < at_most + 0.01  # no error occurs between two shares
    assert at_most < 0.99


def test_chance_error_depends_on_the_scores_not_on_what_is_right():
    scores = (2 * np.random.default_rng(3).normal(size=(500, 2))).tolist()
    floor = calibration_floor(scores)
    assert tuple(calibration_floor([sorted(row) for row in scores])) == pytest.approx(tuple(floor), rel=0.1)
    assert floor.mean < calibration_floor(scores[:50]).mean


@pytest.mark.parametrize("size", [2, 4, 9])
def test_one_in_twenty_calibrated_models_has_an_error_above_the_high_end_whatever_the_size_of_the_rankings(size):
    """The rankings are drawn one place after the other: the next is each of those left with its softmax probability."""
    draw, models = np.random.default_rng(5), 1000
    scores = 1.5 * draw.normal(size=(60, size))
    left = np.tile(np.exp(scores), (models, 1, 1))  # (models, comparisons, size)
    places = []
    for _ in range(size):
        shares = (left / left.sum(axis=2, keepdims=True)).cumsum(axis=2)
        places.append((draw.random((models, 60, 1)) > shares).sum(axis=2).clip(max=size - 1))
        np.put_along_axis(left, places[-1][..., None], 0.0, axis=2)
    ranked = np.take_along_axis(scores[None], np.stack(places, axis=2), axis=2)  # (models, comparisons, size)
    best, worst = np.triu_indices(size, 1)
    differences = torch.from_numpy(ranked[..., best] - ranked[..., worst]).flatten(1)  # (models, pairs)
    high = calibration_floor(scores.tolist()).high
    assert np.mean([calibration_error(calibration(row)) > high for row in differences]) == pytest.approx(
        0.05, abs=0.015
    )


def test_calibrated_models_are_below_the_high_end_in_19_of_20_cases_and_overconfident_ones_above():
    draw = np.random.default_rng(4)
    below, overconfident = [], []
    for _ in range(40):
        margin = 1.5 * draw.normal(size=400)
        better = np.where(draw.random(400) < 1 / (1 + np.exp(-margin)), margin, -margin)
        if not below:
            floors = [calibration_floor([[scale * x, 0.0] for x in better]).high for scale in (1, 3)]
        for scale, found, floor in zip((1, 3), (below, overconfident), floors, strict=True):
            found.append(calibration_error(calibration(torch.from_numpy(scale * better))) <= floor)
    assert sum(below) >= 34
    assert sum(overconfident) == 0
