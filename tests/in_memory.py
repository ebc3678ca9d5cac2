"""Texts in memory, as a corpus would give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from minippo.data import Texts

T = TypeVar("T")


def texts_of(items: Sequence[T], fingerprint: str, whole: bool = True) -> Texts[T]:
    return Texts(len(items), lambda first, last: list(items[first:last]), fingerprint, whole)
