"""Holds out a share of the rows of a file that has no held-out split of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from minippo.data.formats import NO_LABEL
from minippo.data.texts import text_hashes
from minippo.streams import generator

if TYPE_CHECKING:
    import datasets


def hold_out(
    rows: datasets.Dataset, share: float, seed: int, stream: str, missing: Sequence[str]
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Divide rows into those to train on and those to hold out: at least one row of each label and at most `share`.

    Rows with the same prompt (or, without a prompt, the same texts) stay together; a prompt with more rows than may be
    held out stays in training. The random stream of this name determines the choice. `missing` names the splits that
    are still to be held out, of which this is the first.

    Raises ValueError if this is impossible.
    """
    keys = text_hashes(rows, prompt_or_texts)  # (rows,)
    labels, held_out = column(rows, "label"), np.zeros(len(rows), bool)
    for label in np.unique(labels):
        these = np.flatnonzero(labels == label)
        _, which, counts = np.unique(keys[these], return_inverse=True, return_counts=True)
        if len(counts) <= len(missing):
            raise ValueError(
                f"{len(these)} usable rows{'' if label == NO_LABEL else f' of label {label}'} with {len(counts)} "
                f"different prompts or texts are too few to hold out some for {' and '.join(missing)}: at least "
                f"{len(missing) + 1} different ones are needed, one of them for training"
            )
        most = max(1, int(share * len(these)))
        chosen, num_rows = [], 0
        for prompt in random_order(len(counts), seed, stream, label).tolist():
            if num_rows + counts[prompt] <= most:
                chosen.append(prompt)
                num_rows += counts[prompt]
        if not chosen:
            raise ValueError(
                f"no rows can be held out for {missing[0]}: at most {most} of {len(these)} may be (data.hold-out is "
                f"{share}), but every prompt has {counts.min()} rows or more, and rows of one prompt stay together"
            )
        held_out[these[np.isin(which, chosen)]] = True
    return rows.select(np.flatnonzero(~held_out)), rows.select(np.flatnonzero(held_out))


def prompt_or_texts(row: Mapping[str, Any]) -> str:
    """What identifies a row: its prompt, or without a prompt its texts."""
    return row["prompt"] or "\n".join(row["completions"])


def column(rows: datasets.Dataset, name: str) -> np.ndarray:
    """The values of a column, (rows,)."""
    return np.asarray(rows.with_format("numpy")[name][:])


def random_order(count: int, seed: int, name: str, *position: int) -> np.ndarray:
    """The indices below `count` in the order that this random stream determines, (count,)."""
    return torch.randperm(count, generator=generator(seed, name, *position)).numpy()
