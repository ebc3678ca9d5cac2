"""Comparisons made from texts with binary labels: 1 (preferred) or 0."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from minippo.data.texts import CHUNK, Comparison, Texts, rows_of, text_hashes

if TYPE_CHECKING:
    import datasets

    from minippo.config import DataConfig
    from minippo.splits import Split


class LabelledTexts:
    """Pairs a text of label 1 with a text of label 0, both cropped to some number of words at a random position.

    The crops should be about as long as the texts that the reward model will score during PPO. `crop_words` are their
    smallest and largest number of words, between which it is random. With `prompt_of`, the texts are answers to
    prompts, which are not cropped: two answers to the same prompt are paired if possible, and other answers are
    compared together with their prompts. Raises ValueError if all texts have the same label.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        labels: np.ndarray,  # (rows,)
        text_of: Callable[[Mapping[str, Any]], str],
        crop_words: tuple[int, int],
        prompt_of: Callable[[Mapping[str, Any]], str] | None = None,
    ) -> None:
        self.rows, self.labels, self.text_of, self.crop_words = rows, labels, text_of, crop_words
        for label in (0, 1):
            if not (labels == label).any():
                raise ValueError(f"none of the {len(labels)} labelled texts has the label {label}")
        self.prompt_of = prompt_of
        self.num_pairs = int(min((labels == label).sum() for label in (0, 1)))

    @cached_property
    def num_words(self) -> list[int]:
        """Number of words of each text."""
        return [self.text_of(row).count(" ") + 1 for batch in self.rows.iter(CHUNK) for row in rows_of(batch)]

    def pairs(self, stream: str) -> Texts[Comparison]:
        """Comparisons in which each text occurs at most once. The random stream of this name determines the pairs."""
        rng = random.Random(stream)
        shortest, longest = self.crop_words
        sizes = [rng.randint(shortest, longest) if shortest < longest else longest for _ in self.num_words]
        starts = [rng.randrange(max(1, words - size + 1)) for words, size in zip(self.num_words, sizes, strict=True)]
        sides = []
        for label in (0, 1):
            order = np.flatnonzero(self.labels == label).tolist()
            rng.shuffle(order)
            sides.append(order)
        if self.prompt_of:
            _same_prompt_first(sides, text_hashes(self.rows, self.prompt_of))
        pairs = list(zip(sides[1], sides[0], strict=False))  # row of the preferred text, row of the other one

        def read(first: int, last: int) -> list[Comparison]:
            chosen = [row for pair in pairs[first:last] for row in pair]
            rows = rows_of(self.rows.select(chosen)[:])
            texts = map(self.text_of, rows)
            if self.prompt_of:
                answers = list(zip(map(self.prompt_of, rows), texts, strict=True))
                return [_comparison(*pair) for pair in zip(answers[::2], answers[1::2], strict=True)]
            crops = [crop(text, starts[row], sizes[row]) for text, row in zip(texts, chosen, strict=True)]
            return [Comparison("", pair) for pair in zip(crops[::2], crops[1::2], strict=True)]

        fingerprint = f"{self.rows._fingerprint} in pairs of {self.crop_words} words, {stream}"
        return Texts(len(pairs), read, fingerprint, whole=self.prompt_of is not None)


def _same_prompt_first(sides: list[list[int]], prompts: np.ndarray) -> None:
    """Reorder the rows of the two labels: those that can be paired with one of the same prompt come first."""
    partners = defaultdict(list)
    for row in sides[1]:
        partners[prompts[row]].append(row)
    pairs = [(row, partners[prompts[row]].pop()) for row in sides[0] if partners[prompts[row]]]
    for side, first in zip(sides, zip(*pairs, strict=True), strict=False):
        side[:] = dict.fromkeys([*first, *side])


def _comparison(preferred: tuple[str, str], other: tuple[str, str]) -> Comparison:
    """A comparison of two answers, each with its prompt. Without a common prompt, the whole texts are compared."""
    if preferred[0] == other[0]:
        return Comparison(preferred[0], (preferred[1], other[1]))
    return Comparison("", ("".join(preferred), "".join(other)))


def crop_words_of(config: DataConfig, split: Split) -> tuple[int, int]:
    """The smallest and the largest number of words of the crops of a split."""
    shortest = config.min_crop_words if split == "train" else 0
    return shortest or config.crop_words, config.crop_words


def crop(text: str, start: int, num_words: int) -> str:
    """`num_words` words of `text`, from word `start` on; fewer if the text ends before."""
    return " ".join(text.split(" ")[start : start + num_words])
