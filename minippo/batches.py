"""Which rows go into which batch: endless streams, and epochs in which rows of similar length share a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

import numpy as np
import torch

from minippo.streams import generator

Batch = TypeVar("Batch")
Rows = TypeVar("Rows")


class BatchStream(Generic[Rows]):
    """Endless batches of rows of token ids (prompts, demonstrations), reshuffled in every epoch.

    The order of an epoch depends only on the seed, the name of the stream and the epoch, so its position is one number,
    `rows_drawn`: assigning to it is all that resuming takes.
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int, name: str) -> None:
        if not len(rows):
            raise ValueError("there are no rows to draw from")
        self.rows, self.batch_size, self.seed, self.name, self.rows_drawn = rows, batch_size, seed, name, 0
        self._epoch, self._order = -1, [0]

    def __next__(self) -> list[list[int]]:
        return [self.rows[index] for index in self.next_indices()]

    def next_indices(self) -> list[int]:
        """The next batch, as indices of `rows`."""
        batch = []
        for _ in range(self.batch_size):
            # A batch may span two epochs, so that every row is drawn equally often.
            epoch, position = divmod(self.rows_drawn, len(self.rows))
            if epoch != self._epoch:
                order = torch.randperm(len(self.rows), generator=generator(self.seed, self.name, epoch))
                self._epoch, self._order = epoch, order.tolist()
            batch.append(self._order[position])
            self.rows_drawn += 1
        return batch


class EpochStream(Generic[Batch]):
    """Endless batches from a function that returns the batches of an epoch, given its number (from 0).

    An epoch's batches depend only on its number, so the position is two numbers, `epoch` and `batches_drawn` in it:
    assigning to them before the first batch is all that resuming takes.
    """

    def __init__(self, batches_of: Callable[[int], Iterable[Batch]]) -> None:
        self.batches_of, self.epoch, self.batches_drawn = batches_of, 0, 0
        self._batches: Iterator[Batch] | None = None

    def __next__(self) -> Batch:
        if self._batches is None:
            self._batches = islice(self.batches_of(self.epoch), self.batches_drawn, None)
        batch = next(self._batches, None)
        if batch is None:
            self.epoch, self.batches_drawn = self.epoch + 1, 0
            self._batches = iter(self.batches_of(self.epoch))
            batch = next(self._batches)
        self.batches_drawn += 1
        return batch


def length_batches(lengths: np.ndarray, batch_tokens: int, generator: torch.Generator) -> Iterator[list[int]]:
    """One epoch of batches of row indices, in random order, given each row's length (rows,).

    Rows of similar length share a batch, because every row is padded to the longest; a batch has about `batch_tokens`
    tokens, padding included.
    """
    order = torch.randperm(len(lengths), generator=generator).numpy()
    order = order[np.argsort(lengths[order], kind="stable")]  # stable: rows of equal length stay shuffled
    starts = [0]  # of each batch in `order`; a batch ends where its padded size would exceed the budget
    for position, length in enumerate(lengths[order].tolist()):
        if position > starts[-1] and (position + 1 - starts[-1]) * length > batch_tokens:
            starts.append(position)
    ends = [*starts[1:], len(order)]
    for batch in torch.randperm(len(starts), generator=generator).tolist():
        yield order[starts[batch] : ends[batch]].tolist()


def comparison_batches(
    sizes: np.ndarray, longest: np.ndarray, batch_size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """One epoch of batches of comparison indices, in random order.

    `sizes` (comparisons,) are the numbers of completions, `longest` (comparisons,) the tokens of the longest one. A
    batch holds comparisons of one size, so that their scores form a rectangle (B, K), and of similar length.
    """
    order = torch.randperm(len(sizes), generator=generator).numpy()  # (comparisons,)
    batches = []
    for size in np.unique(sizes):
        same = order[sizes[order] == size]
        same = same[np.argsort(longest[same], kind="stable")]
        batches += [same[start : start + batch_size] for start in range(0, len(same), batch_size)]
    # In random order: sorted by length, training would see short texts first and long ones last.
    for index in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[index].tolist()
