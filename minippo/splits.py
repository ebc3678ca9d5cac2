"""Training, validation and test splits: which rows are held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

T = TypeVar("T")

Split = Literal["train", "validation", "test"]
"""Models train on `train`, settings may be chosen on `validation`, and reported results come from `test`."""

HELD_OUT: tuple[Split, ...] = ("validation", "test")

SPLITS: tuple[Split, ...] = ("train", *HELD_OUT)

TEST_FIRST: tuple[Split, ...] = ("test", "validation")
"""Order in which rows are held out. A row that could belong to both held-out splits belongs to the test split."""


def split_texts(texts: Sequence[T], split: Split) -> Sequence[T]:
    """The part of `texts` that belongs to `split`.

    The first 1 % is the test split, the second 1 % the validation split (at least one text each), the rest is for
    training.
    """
    held_out = min(len(texts), max(1, len(texts) // 100))
    if split == "test":
        return texts[:held_out]
    return texts[held_out : 2 * held_out] if split == "validation" else texts[2 * held_out :]


def split_rows(order: np.ndarray, keys: np.ndarray, split: Split) -> np.ndarray:
    """Like `split_texts`, for row indices in `order`, (rows,), if several rows may have the same text.

    `keys[row]` identifies the text of a row. A held-out text belongs to one held-out split, where it occurs once; all
    its repetitions are left out of training.
    """
    firsts = np.sort(np.unique(keys[order], return_index=True)[1])  # position of each text's first occurrence
    if split != "train":
        return split_texts(order[firsts], split)
    held_out = np.concatenate([split_texts(order[firsts], held_out) for held_out in HELD_OUT])
    return order[~np.isin(keys[order], keys[held_out])]
