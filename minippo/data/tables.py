"""Reads tables: JSON Lines, JSON arrays, CSV and TSV files (also compressed), Parquet files, datasets of the hub.

Rows are read one at a time, with their location, so that an error message can name the file, the line and the column.
"""

from __future__ import annotations

import ast
import codecs
import csv
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minippo.data.cache import file_fingerprint
from minippo.data.texts import CHUNK
from minippo.storage import checked, lines_of, open_compressed, read_json_lines

if TYPE_CHECKING:
    import datasets

Rows = Iterable[tuple[str, dict[str, Any]]]
"""(location, row) for every row of a table."""

FILE_NAME = re.compile(r".*\.(?:(jsonl|ndjson|json|csv|tsv)(?:\.gz|\.bz2)?|(parquet))", re.IGNORECASE | re.DOTALL)

FILE_TYPES = ".jsonl, .json, .csv or .tsv (also with .gz or .bz2), or .parquet"


@dataclass(frozen=True)
class Source:
    """A table: a file, or one split of a dataset of the hub."""

    name: str
    fingerprint: str
    columns: Callable[[], list[str] | None]
    """Names of the columns; None if there are no rows."""
    rows: Callable[[], Rows]


def file_source(path: Path, option: str) -> Source:
    """A file as a source. Raises ValueError if it cannot be read or its type is unknown."""
    match = FILE_NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{option}: {path} does not end in {FILE_TYPES}")
    try:
        fingerprint = file_fingerprint(path)
    except OSError as error:
        raise ValueError(f"{option}: {path} cannot be read: {error.strerror}") from None
    kind = (match[1] or match[2]).lower()
    if kind == "parquet":
        return Source(str(path), fingerprint, partial(_parquet_columns, path), partial(_parquet_rows, path))
    if kind in ("csv", "tsv"):
        delimiter = {"csv": ",", "tsv": "\t"}[kind]
        return Source(
            str(path),
            fingerprint,
            lambda: next(_csv_lines(path, delimiter), ("", None))[1],
            partial(_csv_rows, path, delimiter),
        )
    rows = partial(_json_rows, path)
    return Source(str(path), fingerprint, lambda: next((list(row) for _, row in rows()), None), rows)


def table_source(name: str, table: datasets.Dataset) -> Source:
    """A dataset as a source."""
    return Source(
        name,
        table._fingerprint,
        lambda: table.column_names,
        lambda: _arrow_rows(name, table.with_format("arrow").iter(CHUNK)),
    )


# ---------------------------------------------------------------------------------------------- text files


@contextmanager
def _damage_is_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def _json_rows(path: Path) -> Rows:
    """The rows of a file with one object per line, or of one array of objects, which must fit into memory."""
    with _damage_is_named(path), open_compressed(path) as file:
        start = file.read(100)
        array = start + file.read() if start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[") else b""
    if not array:
        yield from read_json_lines(path)
        return
    try:
        rows = json.loads(array.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    for number, row in enumerate(rows, start=1):
        location = f"{path}, element {number}"
        yield location, checked(row, location, dict)


def _csv_lines(path: Path, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    csv.field_size_limit(2**31 - 1)
    with _damage_is_named(path), open_compressed(path) as file:
        # The csv module finds the ends of lines itself: a quoted text may contain some.
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
        lines = csv.reader(lines_of(text, path), delimiter=delimiter, strict=True)
        while True:
            first = lines.line_num + 1
            try:
                fields = next(lines, None)
            except csv.Error as error:
                raise ValueError(f"{path}, line {first}: {error}") from None
            if fields is None:
                return
            if fields:
                yield f"{path}, line {first}", fields


def _csv_rows(path: Path, delimiter: str) -> Rows:
    lines = _csv_lines(path, delimiter)
    _, columns = next(lines)
    for location, fields in lines:
        if len(fields) != len(columns):
            raise ValueError(f"{location}: {len(fields)} fields, expected {len(columns)} ({', '.join(columns)})")
        yield (
            location,
            {name: _cell(text, f"{location}: column {name!r}") for name, text in zip(columns, fields, strict=True)},
        )


def _cell(text: str, where: str) -> Any:
    """A cell of a CSV file: a text, or a list of turns as JSON or as Python (and pandas) prints it."""
    if not re.match(r"\s*\[\s*\{\s*['\"](role|content|from|value)['\"]", text):
        return text
    for parse in (json.loads, ast.literal_eval):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return parse(text)
    raise ValueError(f"{where} holds {text[:60]!r}, which begins like a list of turns but is not one")


# ---------------------------------------------------------------------------------------------- Parquet and Arrow


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_schema(path).names)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from None


def _parquet_rows(path: Path) -> Rows:
    import pyarrow.parquet

    return _arrow_rows(str(path), pyarrow.parquet.ParquetFile(path).iter_batches(CHUNK))


def _arrow_rows(name: str, batches: Iterable[Any]) -> Rows:
    import pyarrow as pa

    number = 0  # counted from 0, as pandas and datasets index rows
    try:
        for batch in batches:
            columns = list(zip(batch.schema.names, batch.columns, strict=True))
            for position in range(batch.num_rows):
                yield f"{name}, row {number}", {column: _value(values[position]) for column, values in columns}
                number += 1
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{name} cannot be read from row {number} on: {error}") from None


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return "\ufffd"  # marks the example as unreadable
    except (OverflowError, ValueError):
        return None  # a date that Python cannot represent; no layout reads dates
