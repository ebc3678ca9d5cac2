"""Rows of token ids in batches: endless ones, and one epoch of rows of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from minippo.streams import generator


class BatchStream:
    """Endless batches of rows of ids (prompts, demonstrations), each epoch shuffled anew by the stream `name`. Its
    position is one number, `drawn`."""

    def __init__(self, rows: Sequence[list[int]], batch_size: int, seed: int, name: str) -> None:
        if not rows:
            raise ValueError("there are no rows to draw from")
        self.rows, self.batch_size, self.seed, self.name, self.rows_drawn = rows, batch_size, seed, name, 0
        self._epoch, self._order = -1, [0]

    def __next__(self) -> list[list[int]]:
        batch = []
        for _ in range(self.batch_size):
            epoch, place = divmod(self.rows_drawn, len(self.rows))
            if epoch != self._epoch:
                order = torch.randperm(len(self.rows), generator=generator(self.seed, self.name, epoch))
                self._epoch, self._order = epoch, order.tolist()
            batch.append(self.rows[self._order[place]])
            self.rows_drawn += 1
        return batch


def length_batches(lengths: np.ndarray, batch_tokens: int, generator: torch.Generator) -> Iterator[list[int]]:
    """One epoch of batches of indices, in random order: rows of like length, about `batch_tokens` with the padding."""
    order = torch.randperm(len(lengths), generator=generator).numpy()
    order = order[np.argsort(lengths[order], kind="stable")]  # so rows of one length stay shuffled
    starts = [0]
    for place, length in enumerate(lengths[order].tolist()):
        if place > starts[-1] and (place + 1 - starts[-1]) * length > batch_tokens:
            starts.append(place)
    ends = [*starts[1:], len(order)]
    for batch in torch.randperm(len(starts), generator=generator).tolist():
        yield order[starts[batch] : ends[batch]].tolist()
