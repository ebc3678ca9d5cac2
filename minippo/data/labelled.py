"""Comparisons made from texts with binary labels: 1 (preferred) or 0."""

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
    """Pairs a text of label 1 with a text of label 0, both cropped to `crop_words` words at a random position.

    The crops should be about as long as the texts that the reward model will score during PPO. Raises ValueError if
    all texts have the same label.
    """

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
        self.num_pairs = int(min((labels == label).sum() for label in (0, 1)))

    @cached_property
    def num_words(self) -> list[int]:
        """Number of words of each text."""
        return [self.text_of(row).count(" ") + 1 for batch in self.rows.iter(CHUNK) for row in rows_of(batch)]

    def pairs(self, stream: str) -> Texts[Comparison]:
        """Comparisons in which each text occurs at most once. The random stream of this name determines the pairs."""
        rng = random.Random(stream)
        starts = [rng.randrange(max(1, words - self.crop_words + 1)) for words in self.num_words]
        sides = []
        for label in (0, 1):
            order = np.flatnonzero(self.labels == label).tolist()
            rng.shuffle(order)
            sides.append(order)
        pairs = list(zip(sides[1], sides[0], strict=False))  # row of the preferred text, row of the other one

        def read(first: int, last: int) -> list[Comparison]:
            chosen = [row for pair in pairs[first:last] for row in pair]
            texts = map(self.text_of, rows_of(self.rows.select(chosen)[:]))
            crops = [crop(text, starts[row], self.crop_words) for text, row in zip(texts, chosen, strict=True)]
            return [Comparison("", pair) for pair in zip(crops[::2], crops[1::2], strict=True)]

        fingerprint = f"{self.rows._fingerprint} in pairs of {self.crop_words} words, {stream}"
        return Texts(len(pairs), read, fingerprint, whole=False)


def crop(text: str, start: int, num_words: int) -> str:
    """`num_words` words of `text`, from word `start` on; fewer if the text ends before."""
    return " ".join(text.split(" ")[start : start + num_words])
