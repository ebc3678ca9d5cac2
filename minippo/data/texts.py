"""What a corpus consists of: demonstrations, comparisons and prompts, read from disk when they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

if TYPE_CHECKING:
    import datasets

T = TypeVar("T")

CHUNK = 1000
"""Number of rows read at a time."""


@dataclass(frozen=True)
class Demonstration:
    """A text to imitate. `prompt` may be empty."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Comparison:
    """Completions of the same prompt, ranked best first; a preference pair is a ranking of two.

    `prompt` may be empty: then whole texts are compared.
    """

    prompt: str
    ranked: tuple[str, ...]


@dataclass(frozen=True)
class Texts(Sequence[T], Generic[T]):
    """A sequence that reads its items on demand, so it may be larger than memory."""

    size: int
    read: Callable[[int, int], list[T]]
    """`read(start, stop)` returns the items with these indices."""
    fingerprint: str
    """Changes whenever an item changes. It is part of the cache key of everything made from these texts."""
    whole: bool = True
    """True: each item is complete, and unusable if it is too long. False: it is an excerpt of something longer, and may
    be cut further."""
    location: Callable[[int], str] = "number {}".format
    """Index of an item -> where it comes from, such as "prefs.jsonl, line 3", for messages."""

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Texts[T]: ...

    def __getitem__(self, index: int | slice) -> T | Texts[T]:
        if isinstance(index, int):
            index = range(self.size)[index]
            return self.read(index, index + 1)[0]
        start, stop, step = index.indices(self.size)
        if step != 1:
            raise ValueError(f"texts can only be sliced with step 1, not {step}")
        if (start, stop) == (0, self.size):
            return self
        return Texts(
            max(0, stop - start),
            lambda first, last: self.read(start + first, start + last),
            f"{self.fingerprint} {start}:{stop}",
            self.whole,
            lambda number: self.location(start + number),
        )

    def chunks(self, size: int = CHUNK) -> Iterator[list[T]]:
        """All items, `size` at a time."""
        for start in range(0, self.size, size):
            yield self.read(start, min(start + size, self.size))

    def __iter__(self) -> Iterator[T]:
        for chunk in self.chunks():
            yield from chunk


def rows_of(batch: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Rows of a batch in the column format of `datasets`: {"a": [1, 2]} -> [{"a": 1}, {"a": 2}]."""
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def text_hash(text: str) -> int:
    """A 64-bit hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


NO_TEXT = np.uint64(text_hash(""))


def text_hashes(rows: datasets.Dataset, text_of: Callable[[Mapping[str, Any]], str]) -> np.ndarray:
    """`text_hash` of every row's text, (rows,) uint64. They identify texts that may not fit into memory together."""
    hashes = (text_hash(text_of(row)) for batch in rows.iter(CHUNK) for row in rows_of(batch))
    return np.fromiter(hashes, np.uint64, len(rows))
