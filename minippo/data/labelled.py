"""Texts with a label each, 1 for what is preferred and 0 for what is not -> comparisons."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from minippo.data.texts import CHUNK, Comparison, Texts, rows_of

if TYPE_CHECKING:
    import datasets


class LabelledTexts:
    """Pairs of a positive against a negative text, both cut to `crop_words` words at a random place: about as much as
    the reward model will be asked about. Raises ValueError where a label has no text at all."""

    def __init__(
        self,
        rows: datasets.Dataset,
        labels: np.ndarray,  # (rows,)
        text_of: Callable[[Mapping[str, Any]], str],
        crop_words: int,
    ) -> None:
        self.rows, self.labels, self.text_of, self.crop_words = rows, labels, text_of, crop_words
        for label in (0, 1):
            if not (labels == label).any():
                raise ValueError(f"none of the {len(labels)} labelled texts has the label {label}")

    @cached_property
    def num_words(self) -> list[int]:
        """Of each text."""
        return [self.text_of(row).count(" ") + 1 for batch in self.rows.iter(CHUNK) for row in rows_of(batch)]

    def pairs(self, chance_name: str) -> Texts[Comparison]:
        """Each text in one pair at most, by the chance of this name."""
        chance = random.Random(chance_name)
        starts = [chance.randrange(max(1, words - self.crop_words + 1)) for words in self.num_words]
        sides = []
        for label in (0, 1):
            order = np.flatnonzero(self.labels == label).tolist()
            chance.shuffle(order)
            sides.append(order)
        pairs = list(zip(sides[1], sides[0], strict=False))

        def read(first: int, last: int) -> list[Comparison]:
            chosen = [row for pair in pairs[first:last] for row in pair]
            texts = map(self.text_of, rows_of(self.rows.select(chosen)[:]))
            crops = [crop(text, starts[row], self.crop_words) for text, row in zip(texts, chosen, strict=True)]
            return [Comparison("", pair) for pair in zip(crops[::2], crops[1::2], strict=True)]

        fingerprint = f"{self.rows._fingerprint} in pairs of {self.crop_words} words, {chance_name}"
        return Texts(len(pairs), read, fingerprint, whole=False)


def crop(text: str, start: int, num_words: int) -> str:
    """`num_words` words of `text` from word `start` on; all of a shorter one."""
    return " ".join(text.split(" ")[start : start + num_words])
