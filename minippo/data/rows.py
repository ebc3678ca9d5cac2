"""Rows of token ids in memory-mapped files, which may be larger than memory. They are written once and reused by later
stages and runs."""

from __future__ import annotations

import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from minippo.data.cache import atomic_cache_files, cache_folder, fingerprint_of
from minippo.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenRows(Sequence[list[int]]):
    """Rows of token ids. Only their bounds are in memory, 16 bytes per row."""

    ids: np.ndarray  # (N,) uint16 or uint32, all rows one after another
    starts: np.ndarray  # (rows,) index into `ids` of a row's first id
    ends: np.ndarray  # (rows,) index after its last id
    prompt_lengths: np.ndarray  # (rows,) ids of its prompt, which a language model reads but is not trained to predict

    @property
    def lengths(self) -> np.ndarray:
        """Number of ids of each row, (rows,)."""
        return self.ends - self.starts

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray) -> TokenRows: ...

    def __getitem__(self, index: int | slice | np.ndarray) -> list[int] | TokenRows:
        if isinstance(index, slice | np.ndarray):
            return TokenRows(self.ids, self.starts[index], self.ends[index], self.prompt_lengths[index])
        return self.ids[self.starts[index] : self.ends[index]].tolist()


@dataclass(frozen=True)
class TokenGroups(Sequence[list[list[int]]]):
    """Groups of rows: each group holds the completions of one comparison, best first."""

    rows: TokenRows
    firsts: np.ndarray  # (groups,) index of a group's first row
    sizes: np.ndarray  # (groups,) number of its rows
    longest: np.ndarray  # (groups,) number of ids of its longest row

    def __len__(self) -> int:
        return len(self.firsts)

    @overload
    def __getitem__(self, index: int) -> list[list[int]]: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray) -> TokenGroups: ...

    def __getitem__(self, index: int | slice | np.ndarray) -> list[list[int]] | TokenGroups:
        if isinstance(index, slice | np.ndarray):
            return TokenGroups(self.rows, self.firsts[index], self.sizes[index], self.longest[index])
        first = self.firsts[index]
        return [self.rows[row] for row in range(first, first + self.sizes[index])]


def windows(rows: TokenRows, length: int) -> TokenRows:
    """Cut every row into pieces of at most `length` ids. A piece with no token to predict is left out: it has only one
    id, or only ids of the prompt."""
    pieces = -(-rows.lengths // length)  # (rows,) number of pieces, rounded up
    position = np.arange(pieces.sum()) - np.repeat(pieces.cumsum() - pieces, pieces)  # (pieces,) 0, 1, ... in its row
    starts = np.repeat(rows.starts, pieces) + position * length  # (pieces,)
    ends = np.minimum(starts + length, np.repeat(rows.ends, pieces))  # (pieces,)
    prompt_lengths = (np.repeat(rows.prompt_lengths, pieces) - position * length).clip(0)  # (pieces,)
    kept = ends - starts > prompt_lengths.clip(1)
    return TokenRows(rows.ids, starts[kept], ends[kept], prompt_lengths[kept])


# ---------------------------------------------------------------------------------------------- the cache


def cached_rows(
    key: Sequence[object], tokenizer: Tokenizer, rows: Iterable[list[int]], prompt_lengths: array | None = None
) -> TokenRows:
    """Return `rows`, which `key` and the tokenizer must determine, from the cache; if they are not there, write them.

    `rows` is only iterated over in the second case. It may append the length of each row's prompt to `prompt_lengths`.
    """
    token_rows, _ = _cached(key, tokenizer, rows, {} if prompt_lengths is None else {"prompt_lengths": prompt_lengths})
    return token_rows


def cached_groups(
    key: Sequence[object], tokenizer: Tokenizer, groups: Iterable[Sequence[list[int]]], max_length: int
) -> tuple[TokenGroups, int]:
    """`cached_rows` for groups of rows, and the number of groups with a row of more than `max_length` ids.

    Such a row is cut before its last id, end-of-text, which it keeps.
    """
    written, cut = array("q"), array("q")  # of every group: its size, and whether it was cut; complete after the rows

    def all_rows() -> Iterator[list[int]]:
        for group in groups:
            written.append(len(group))
            cut.append(any(len(row) > max_length for row in group))
            yield from (row if len(row) <= max_length else [*row[: max_length - 1], row[-1]] for row in group)

    rows, bounds = _cached(key, tokenizer, all_rows(), {"sizes": written, "cut": cut})
    sizes = bounds["sizes"]
    firsts = sizes.cumsum() - sizes
    longest = np.maximum.reduceat(rows.lengths, firsts) if len(firsts) else firsts
    return TokenGroups(rows, firsts, sizes, longest), int(bounds["cut"].sum())


def _cached(
    key: Sequence[object], tokenizer: Tokenizer, rows: Iterable[list[int]], more: dict[str, array]
) -> tuple[TokenRows, dict[str, np.ndarray]]:
    """The rows, and the arrays that are stored with them: `lengths` of the rows, `checksum` of the ids and `more`."""
    path = cache_folder() / fingerprint_of("tokens", *key, tokenizer.fingerprint)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    ids_path, bounds_path = path.with_suffix(".ids"), path.with_suffix(".npz")
    bounds = _read_bounds(ids_path, bounds_path, ("lengths", "checksum", *more))
    if bounds is None:
        bounds = _write(ids_path, bounds_path, dtype, rows, more)
    ends = bounds["lengths"].cumsum()
    ids = np.memmap(ids_path, dtype, mode="r") if ends.any() else np.zeros(0, dtype)  # an empty file cannot be mapped
    prompt_lengths = bounds.get("prompt_lengths", np.zeros_like(ends))
    return TokenRows(ids, ends - bounds["lengths"], ends, prompt_lengths), bounds


def _read_bounds(ids_path: Path, bounds_path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """The arrays `names` in the bounds file, or None if one of the two files is missing or damaged."""
    try:
        with np.load(bounds_path) as file:
            bounds = {name: file[name] for name in names}
        return bounds if _checksum(ids_path) == bounds["checksum"] else None
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile):
        return None


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _write(
    ids_path: Path, bounds_path: Path, dtype: np.dtype, rows: Iterable[list[int]], more: dict[str, array]
) -> dict[str, np.ndarray]:
    # The bounds are renamed last: if they exist, so do the ids. Two processes at once write the same contents.
    lengths = array("q")
    with atomic_cache_files(ids_path, bounds_path) as (new_ids, new_bounds):
        with new_ids.open("wb") as file:
            for row in rows:
                lengths.append(len(row))
                file.write(np.array(row, dtype).tobytes())
        bounds = {"lengths": np.array(lengths), "checksum": np.array(_checksum(new_ids))}
        bounds |= {name: np.array(values) for name, values in more.items()}
        np.savez(new_bounds, **bounds)
    return bounds
