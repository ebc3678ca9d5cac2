"""Training, validation and test rows: which rows are held out, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

T = TypeVar("T")

Split = Literal["train", "validation", "test"]
"""What is trained on; what settings may be chosen on; what figures are reported on."""

HELD_OUT: tuple[Split, ...] = ("validation", "test")

SPLITS: tuple[Split, ...] = ("train", *HELD_OUT)

TEST_FIRST: tuple[Split, ...] = ("test", "validation")
"""The order in which rows are held out: what is in the test split is in no other."""


def split_texts(texts: Sequence[T], split: Split) -> Sequence[T]:
    """The part of `texts` that belongs to `split`: the first hundredth is for testing, the second for validation (one
    text at least each), the rest for training."""
    held_out = min(len(texts), max(1, len(texts) // 100))
    if split == "test":
        return texts[:held_out]
    return texts[held_out : 2 * held_out] if split == "validation" else texts[2 * held_out :]


def split_rows(order: np.ndarray, keys: np.ndarray, split: Split) -> np.ndarray:
    """`split_texts` of row numbers in `order`, (rows,), of which some may have the same text: `keys[number]` identifies
    it. A held-out text is in one held-out split, once, and all its repetitions are left out of training."""
    firsts = np.sort(np.unique(keys[order], return_index=True)[1])
    if split != "train":
        return split_texts(order[firsts], split)
    held_out = np.concatenate([split_texts(order[firsts], held_out) for held_out in HELD_OUT])
    return order[~np.isin(keys[order], keys[held_out])]
