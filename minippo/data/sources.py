"""Finds and reads your own files: JSON Lines, Parquet, folders of them, datasets of the Hugging Face hub.

Rows are read one at a time, with their location, so that an error message can name the file, the line and the column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minippo.data.cache import file_fingerprint
from minippo.data.texts import CHUNK
from minippo.splits import Split
from minippo.storage import JSON_LINES, read_json_lines

if TYPE_CHECKING:
    import datasets


SUFFIXES = (*JSON_LINES, ".parquet")


@dataclass(frozen=True)
class Source:
    """A table: a file, or one split of a dataset of the hub."""

    name: str
    fingerprint: str
    columns: Callable[[], list[str] | None]
    """Names of the columns; None if there are no rows."""
    rows: Callable[[Sequence[str]], Iterable[tuple[str, dict[str, Any]]]]
    """Names of columns -> (location, row) for every row, with at least these columns."""


# ---------------------------------------------------------------------------------------------- finding


def find_sources(path: str, option: str, splits: dict[Split, str]) -> dict[Split, list[Source]]:
    """The tables that `path` names, by split. `splits` maps each split to its name in the data.

    `path` is a file, which is for training; a folder of files that have their split in their names; or a dataset of
    the hub, "owner/name" or "owner/name:subset". Messages call it `option`.

    Raises FileNotFoundError if nothing has this name, and ValueError if the splits are ambiguous.
    """
    local = Path(path)
    if local.is_file():
        return {split: [_file(local, option)] if split == "train" else [] for split in splits}
    if local.is_dir():
        return _folder(local, option, splits)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?", path) or path.endswith(SUFFIXES):
        raise FileNotFoundError(f"{option}: {path} is not a file, a folder or the name of a hub dataset (owner/name)")
    tables = load_from_hub(path)
    if splits["train"] not in tables:
        raise ValueError(
            f"{option}: {path} has no split {splits['train']!r}, only {', '.join(tables)} (set data.train-split)"
        )
    return {split: [_table(f"{path} {name}", tables[name])] if name in tables else [] for split, name in splits.items()}


def load_from_hub(name: str) -> dict[str, datasets.Dataset]:
    """The splits of "owner/name" or "owner/name:subset". Raises FileNotFoundError if it cannot be downloaded."""
    import datasets  # here, because the import takes a second and most runs do not need it

    datasets.disable_progress_bars()
    name, _, subset = name.partition(":")
    try:
        return datasets.load_dataset(name, subset or None)
    except ConnectionError as error:
        raise FileNotFoundError(
            f"the dataset {name} cannot be downloaded from the hub ({error}); give a folder of its files instead"
        ) from None


def _folder(folder: Path, option: str, splits: dict[Split, str]) -> dict[Split, list[Source]]:
    paths = [path for path in sorted(folder.rglob("*")) if path.name.endswith(SUFFIXES) and path.is_file()]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not paths:
        raise FileNotFoundError(f"{option}: {folder} has no file that ends in {', '.join(SUFFIXES)}")
    sources: dict[Split, list[Source]] = {split: [] for split in splits}
    unassigned = []
    for path in paths:
        inside = str(path.relative_to(folder))
        # A split's name must be a whole word of the path: "test" matches "test-0.jsonl", but not "latest.jsonl".
        named = [
            split for split, name in splits.items() if re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", inside)
        ]
        if len(named) == 1:
            sources[named[0]].append(_file(path, option))
        else:
            unassigned.append(path)
    if len(unassigned) == len(paths):  # no name contains a split: everything is for training
        return sources | {"train": [_file(path, option) for path in unassigned]}
    if unassigned:
        names = " or ".join(map(repr, splits.values()))
        raise ValueError(
            f"{option}: the name of {unassigned[0]} must contain exactly one of {names}, because other files of "
            f"{folder} have a split in their names"
        )
    if not sources["train"]:
        raise ValueError(f"{option}: no file of {folder} has {splits['train']!r} in its name (set data.train-split)")
    return sources


def _file(path: Path, option: str) -> Source:
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"{option}: {path} does not end in {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        return Source(str(path), file_fingerprint(path), partial(_parquet_columns, path), partial(_parquet_rows, path))
    # All columns are read, whichever are asked for; the first row has their names.
    return Source(
        str(path),
        file_fingerprint(path),
        lambda: next((list(row) for _, row in read_json_lines(path)), None),
        lambda columns: read_json_lines(path),
    )


def _table(name: str, table: datasets.Dataset) -> Source:
    def rows(columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        return _arrow_rows(name, table.select_columns(list(columns)).with_format("arrow").iter(CHUNK))

    return Source(name, table._fingerprint, lambda: table.column_names, rows)


# ---------------------------------------------------------------------------------------------- Parquet and Arrow


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_schema(path).names)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from None


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet

    return _arrow_rows(str(path), pyarrow.parquet.ParquetFile(path).iter_batches(CHUNK, columns=list(columns)))


def _arrow_rows(name: str, batches: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa

    number = 0  # counted from 0, as pandas and datasets index rows
    try:
        for batch in batches:
            for position in range(batch.num_rows):
                yield (
                    f"{name}, row {number}",
                    {column: _value(batch.column(column)[position]) for column in batch.column_names},
                )
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{name} cannot be read from row {number} on: {error}") from None


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return "\ufffd"  # marks the example as unreadable
