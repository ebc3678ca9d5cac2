"""What a corpus gives: demonstrations, comparisons and prompts, which stay where they lie until they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")

CHUNK = 1000
"""Rows that are read at a time."""


@dataclass(frozen=True)
class Demonstration:
    """A text to imitate; `prompt` may be empty."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Comparison:
    """Completions of the same kind, the preferred one first; a preference pair is a ranking of two. `prompt` may be
    empty: then whole texts are compared."""

    prompt: str
    ranked: tuple[str, ...]


@dataclass(frozen=True)
class Texts(Sequence[T], Generic[T]):
    """A sequence that reads its items when they are asked for, so that there may be more than memory holds."""

    size: int
    read: Callable[[int, int], list[T]]
    """The items from one number up to another."""
    fingerprint: str
    """Another one as soon as any item is another: what is made of the texts is kept under it."""
    whole: bool = True
    """An item that does not fit is unusable; otherwise it is a piece of something longer, and may be cut again."""
    place: Callable[[int], str] = "number {}".format
    """Where an item comes from, for people."""

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
            raise ValueError(f"texts are read in their order, not in steps of {step}")
        if (start, stop) == (0, self.size):
            return self
        return Texts(
            max(0, stop - start),
            lambda first, last: self.read(start + first, start + last),
            f"{self.fingerprint} {start}:{stop}",
            self.whole,
            lambda number: self.place(start + number),
        )

    def chunks(self, size: int = CHUNK) -> Iterator[list[T]]:
        """All items, some at a time."""
        for start in range(0, self.size, size):
            yield self.read(start, min(start + size, self.size))

    def __iter__(self) -> Iterator[T]:
        for chunk in self.chunks():
            yield from chunk


def texts_of(items: Sequence[T], fingerprint: str, whole: bool = True) -> Texts[T]:
    """Texts that are in memory."""
    return Texts(len(items), lambda first, last: list(items[first:last]), fingerprint, whole)


def rows_of(batch: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """The rows of a batch that has a list for each column, as `datasets` gives it."""
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
