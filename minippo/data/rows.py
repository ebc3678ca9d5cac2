"""Rows of ids, more than memory holds: in a memory-mapped file, written once and read again by later runs."""

from __future__ import annotations

import tempfile
import zipfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np

from minippo.data.cache import cache_folder, file_fingerprint, fingerprint_of, written_whole
from minippo.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenRows(Sequence[list[int]]):
    """Rows of ids. In memory are only their bounds, 16 bytes a row."""

    ids: np.ndarray  # (N,) one row after the other
    starts: np.ndarray  # (rows,)
    ends: np.ndarray  # (rows,)

    @property
    def lengths(self) -> np.ndarray:
        """Ids of each row, (rows,)."""
        return self.ends - self.starts

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...

    @overload
    def __getitem__(self, index: slice | np.ndarray) -> TokenRows: ...

    def __getitem__(self, index: int | slice | np.ndarray) -> list[int] | TokenRows:
        if isinstance(index, slice | np.ndarray):
            return TokenRows(self.ids, self.starts[index], self.ends[index])
        return self.ids[self.starts[index] : self.ends[index]].tolist()


@dataclass(frozen=True)
class TokenGroups(Sequence[list[list[int]]]):
    """Rows that belong together: the completions of a comparison, best first."""

    rows: TokenRows
    firsts: np.ndarray  # (groups,) number of a group's first row
    sizes: np.ndarray  # (groups,) rows of each
    longest: np.ndarray  # (groups,) ids of its longest row

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


def tokenizer_fingerprint(tokenizer: Tokenizer) -> str:
    """Of all that a tokenizer is: of the files that it is saved in."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder) / "tokenizer")
        return " ".join(file_fingerprint(path) for path in sorted(Path(folder).rglob("*")) if path.is_file())


def kept_groups(parts: Sequence[object], tokenizer: Tokenizer, groups: Iterable[Sequence[list[int]]]) -> TokenGroups:
    """The groups of rows, in the tokenizer's ids, that `parts` determine. `groups` is not touched where they are kept
    from before."""
    path = cache_folder() / fingerprint_of("tokens", *parts, tokenizer_fingerprint(tokenizer))
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    ids_path, bounds_path = path.with_suffix(".ids"), path.with_suffix(".npz")
    lengths, sizes = _kept_bounds(ids_path, bounds_path, dtype) or _write(ids_path, bounds_path, dtype, groups)
    # An empty file cannot be mapped.
    ids = np.memmap(ids_path, dtype, mode="r") if lengths.any() else np.zeros(0, dtype)
    ends = lengths.cumsum()
    firsts = sizes.cumsum() - sizes
    longest = np.maximum.reduceat(lengths, firsts) if len(firsts) else firsts
    return TokenGroups(TokenRows(ids, ends - lengths, ends), firsts, sizes, longest)


def kept_rows(parts: Sequence[object], tokenizer: Tokenizer, rows: Iterable[list[int]]) -> TokenRows:
    """The same for rows that stand alone."""
    return kept_groups(parts, tokenizer, ([row] for row in rows)).rows


def _kept_bounds(ids_path: Path, bounds_path: Path, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray] | None:
    """Ids of each row and rows of each group; None where the two files are not there, or not whole."""
    try:
        with np.load(bounds_path) as bounds:
            lengths, sizes = bounds["lengths"], bounds["sizes"]
        return (lengths, sizes) if ids_path.stat().st_size == lengths.sum() * dtype.itemsize else None
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _write(
    ids_path: Path, bounds_path: Path, dtype: np.dtype, groups: Iterable[Sequence[list[int]]]
) -> tuple[np.ndarray, np.ndarray]:
    # The bounds come into place last, so whoever finds them finds all; two processes write the same.
    lengths, sizes = array("q"), array("q")
    with written_whole(ids_path, bounds_path) as (new_ids, new_bounds):
        with new_ids.open("wb") as file:
            for group in groups:
                sizes.append(len(group))
                for row in group:
                    lengths.append(len(row))
                    file.write(np.array(row, dtype).tobytes())
        bounds = np.array(lengths), np.array(sizes)
        np.savez(new_bounds, lengths=bounds[0], sizes=bounds[1])
    return bounds


def windows(rows: TokenRows, length: int) -> TokenRows:
    """Every row cut into pieces of at most `length` ids; pieces of a single id, which predict nothing, are left out."""
    pieces = -(-rows.lengths // length)  # (rows,)
    place = np.arange(pieces.sum()) - np.repeat(pieces.cumsum() - pieces, pieces)  # of each piece in its row
    starts = np.repeat(rows.starts, pieces) + place * length
    ends = np.minimum(starts + length, np.repeat(rows.ends, pieces))
    kept = ends - starts > 1
    return TokenRows(rows.ids, starts[kept], ends[kept])
