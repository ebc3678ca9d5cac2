"""Somebody's files, or a dataset of the hub -> examples in an Arrow file, which is read from the disk as it is needed.

Rows are read one by one and here, because an error has to name the file, the line and the column.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minippo.data.cache import cache_folder, file_fingerprint, fingerprint_of, written_whole
from minippo.data.formats import FORMATS, NO_LABEL, USABLE, Example, Kind, recognise, shown
from minippo.data.texts import CHUNK
from minippo.splits import Split

if TYPE_CHECKING:
    import datasets


OPEN: dict[str, Callable[..., Any]] = {".jsonl": open, ".jsonl.gz": gzip.open, ".jsonl.bz2": bz2.open}

SUFFIXES = (*OPEN, ".parquet")

END_OF_ARROW = b"\xff\xff\xff\xff\0\0\0\0"
"""Last bytes of a whole stream; one that is cut between two batches can be read without a complaint."""


@dataclass(frozen=True)
class Source:
    """A table: a file, or a split of a dataset of the hub."""

    name: str
    fingerprint: str
    columns: Callable[[], list[str] | None]
    """None where there are no rows to have any."""
    rows: Callable[[Sequence[str]], Iterable[tuple[str, dict[str, Any]]]]
    """The rows, of these columns at least, each with its place for people."""


# ---------------------------------------------------------------------------------------------- finding


def find_sources(path: str, option: str, splits: dict[Split, str]) -> dict[Split, list[Source]]:
    """What `path` names, by split: a file, which is all for training; a folder of files with their splits in their
    names; or a dataset of the hub, "owner/name" or "owner/name:subset". `splits` has the names of the splits there.

    Raises FileNotFoundError where it names nothing, ValueError where the splits are not clear.
    """
    place = Path(path)
    if place.is_file():
        return {split: [_file(place, option)] if split == "train" else [] for split in splits}
    if place.is_dir():
        return _folder(place, option, splits)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+(:[\w.-]+)?", path) or path.endswith(SUFFIXES):
        raise FileNotFoundError(f"no file or folder {path} ({option}), and it is no name of a dataset (owner/name)")
    tables = load_from_hub(path)
    if splits["train"] not in tables:
        raise ValueError(
            f"{path} has no split {splits['train']!r}, found {', '.join(tables)} ({option}, data.train-split)"
        )
    return {split: [_table(f"{path} {name}", tables[name])] if name in tables else [] for split, name in splits.items()}


def load_from_hub(name: str) -> dict[str, datasets.Dataset]:
    """The splits of "owner/name" or "owner/name:subset". Raises FileNotFoundError where it cannot be had."""
    import datasets  # slow to import, and not needed by everybody

    datasets.disable_progress_bars()
    name, _, subset = name.partition(":")
    try:
        return datasets.load_dataset(name, subset or None)
    except ConnectionError as error:
        raise FileNotFoundError(
            f"the dataset {name} cannot be had from the hub ({error}); a folder of its files can be given instead"
        ) from None


def _folder(folder: Path, option: str, splits: dict[Split, str]) -> dict[Split, list[Source]]:
    paths = [path for path in sorted(folder.rglob("*")) if path.name.endswith(SUFFIXES) and path.is_file()]
    paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not paths:
        raise FileNotFoundError(f"{folder} has no file that ends in {', '.join(SUFFIXES)} ({option})")
    found: dict[Split, list[Source]] = {split: [] for split in splits}
    nowhere = []
    for path in paths:
        inside = str(path.relative_to(folder))
        named = [
            split for split, name in splits.items() if re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", inside)
        ]
        if len(named) == 1:
            found[named[0]].append(_file(path, option))
        else:
            nowhere.append(path)
    if len(nowhere) == len(paths):  # the names speak of no splits: all is for training
        return found | {"train": [_file(path, option) for path in nowhere]}
    if nowhere or not found["train"]:
        which = " or ".join(map(repr, splits.values()))
        raise ValueError(
            f"{nowhere[0]} does not say in its name whether it is {which}, as other files of {folder} do ({option})"
            if nowhere
            else f"no file of {folder} has {splits['train']!r} in its name ({option}, data.train-split)"
        )
    return found


def _file(path: Path, option: str) -> Source:
    suffix = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"{path} does not end in {', '.join(SUFFIXES)} ({option})")
    if suffix == ".parquet":
        return Source(str(path), file_fingerprint(path), partial(_parquet_columns, path), partial(_parquet_rows, path))
    return Source(str(path), file_fingerprint(path), partial(_json_columns, path), partial(json_rows, path))


def _table(name: str, table: datasets.Dataset) -> Source:
    def rows(columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        return _arrow_rows(name, table.select_columns(list(columns)).with_format("arrow").iter(CHUNK))

    return Source(name, table._fingerprint, lambda: table.column_names, rows)


# ---------------------------------------------------------------------------------------------- reading


def _json_columns(path: Path) -> list[str] | None:
    return next((list(row) for _, row in json_rows(path)), None)


def json_rows(path: Path, columns: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a JSONL file, all columns of them whichever are asked for, each with its place.

    Raises ValueError where the file is broken or a line is not an object.
    """
    suffix = next(suffix for suffix in OPEN if path.name.endswith(suffix))
    try:
        with io.BufferedReader(OPEN[suffix](path, "rb")) as file:  # bz2's own lines come slowly
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}, line {number}", _json_row(line.rstrip(), f"{path}, line {number}")
    except (EOFError, OSError, zlib.error) as error:  # of the compression; that the file is there is known
        raise ValueError(f"{path} cannot be read: {error}") from None


def _json_row(line: bytes, place: str) -> dict[str, Any]:
    try:
        # What is no UTF-8 makes the example unusable; with "-sig", a file may begin with the mark of some editors.
        row = json.loads(line.decode("utf-8-sig", errors="replace"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: no JSON, {error.msg} (character {error.pos + 1})") from None
    except RecursionError:
        raise ValueError(f"{place}: cannot be read: too many lists or objects within each other") from None
    except ValueError as error:  # a number of too many digits
        raise ValueError(f"{place}: cannot be read: {error}") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place}: found {shown(row)}, expected an object with a value for each column")
    return row


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_schema(path).names)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is no parquet file: {error}") from None


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet

    return _arrow_rows(str(path), pyarrow.parquet.ParquetFile(path).iter_batches(CHUNK, columns=list(columns)))


def _arrow_rows(name: str, batches: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa

    number = 0  # as people index such tables
    try:
        for batch in batches:
            for place in range(batch.num_rows):
                yield (
                    f"{name}, row {number}",
                    {column: _value(batch.column(column)[place]) for column in batch.column_names},
                )
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{name}: rows from {number} on cannot be read: {error}") from None


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return "\ufffd"  # makes the example unusable


# ---------------------------------------------------------------------------------------------- examples


def read_examples(kind: Kind, sources: Sequence[Source]) -> datasets.Dataset:
    """All rows of the sources as examples, with what is the matter with each: columns prompt, completions, label,
    problem, place. Kept for the next time under a key that changes with any of the files.

    Raises ValueError, which names the place, where something in a row is not what it has to be.
    """
    import datasets

    path = cache_folder() / f"{fingerprint_of(kind, [(source.name, source.fingerprint) for source in sources])}.arrow"
    if not _is_whole(path):
        _write(path, (row for source in sources for row in _examples(kind, source)))
    examples = datasets.Dataset.from_file(str(path))
    if not len(examples):
        raise ValueError(f"{sources[0].name} holds no rows")
    return examples


def _is_whole(path: Path) -> bool:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            pa.ipc.open_stream(file).read_all()  # mapped, not copied
            file.seek(-len(END_OF_ARROW), os.SEEK_END)
            return file.read() == END_OF_ARROW
    except (pa.ArrowException, OSError):
        return False


def _examples(kind: Kind, source: Source) -> Iterator[tuple[str, Example]]:
    columns = source.columns()
    if columns is None:
        return
    try:
        wanted = recognise(kind, columns)
    except ValueError as error:
        raise ValueError(f"{source.name} {error}") from None
    read = FORMATS[kind][wanted]
    for place, row in source.rows(wanted):
        try:
            yield place, read(row)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def _write(path: Path, rows: Iterator[tuple[str, Example]]) -> None:
    import pyarrow as pa

    schema = pa.schema(
        {
            "prompt": pa.string(),
            "completions": pa.list_(pa.string()),
            "label": pa.int8(),
            "problem": pa.int8(),
            "place": pa.string(),
        }
    )
    with written_whole(path) as (new,), pa.ipc.new_stream(str(new), schema) as writer:
        while chunk := list(islice(rows, CHUNK)):
            writer.write_batch(pa.RecordBatch.from_pylist([_stored(*row) for row in chunk], schema))


def _stored(place: str, example: Example) -> dict[str, Any]:
    problem = example.problem()
    if problem == USABLE:
        return {**example._asdict(), "problem": USABLE, "place": place}
    return {"prompt": "", "completions": [], "label": NO_LABEL, "problem": problem, "place": place}
