"""Batches of comparisons: of one size, of similar length, in another order in every epoch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from minippo.batches import comparison_batches

SIZES = np.array([2] * 30 + [3] * 11)
LONGEST = np.array([5 + (7 * index) % 23 for index in range(41)])


def batches(seed: int = 0, longest=LONGEST) -> list[list[int]]:
    return list(comparison_batches(SIZES, longest, 4, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("size", [2, 3])
def test_comparisons_of_a_batch_are_of_one_size_and_of_similar_length(size):
    of_size = [batch for batch in batches() if SIZES[batch[0]] == size]
    assert all((SIZES[batch] == size).all() for batch in of_size)
    ranges = sorted((LONGEST[batch].min(), LONGEST[batch].max()) for batch in of_size)
    assert all(shorter[1] <= longer[0] for shorter, longer in itertools.pairwise(ranges))
    assert sorted(len(batch) for batch in of_size)[1:] == [4] * (len(of_size) - 1)


def test_every_comparison_is_in_one_batch():
    assert sorted(index for batch in batches() for index in batch) == list(range(41))


def test_neither_short_nor_small_comparisons_come_first():
    firsts = [batches(seed)[0] for seed in range(20)]
    assert {int(SIZES[batch[0]]) for batch in firsts} == {2, 3}
    assert len({int(LONGEST[batch].max()) for batch in firsts}) > 4


def test_comparisons_of_equal_length_meet_others_in_every_epoch():
    equal = np.full(41, 9)
    assert {frozenset(batch) for batch in batches(1, equal)} != {frozenset(batch) for batch in batches(2, equal)}
    assert batches(1) == batches(1)
