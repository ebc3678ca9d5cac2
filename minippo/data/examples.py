"""Rows of your own files -> examples in an Arrow file in the cache, which is memory-mapped and read on demand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minippo.data.cache import atomic_cache_files, cache_folder, fingerprint_of
from minippo.data.formats import USABLE, Example, Kind, UnusableError
from minippo.data.layouts import recognise
from minippo.data.tables import Source
from minippo.data.texts import CHUNK
from minippo.data.unread import UnreadColumns

if TYPE_CHECKING:
    import datasets

END_OF_ARROW = b"\xff\xff\xff\xff\0\0\0\0"
"""The last bytes of a complete Arrow stream. A stream that was cut between two batches can be read without an error."""

UNUSABLE = Example("", ())


def read_examples(kind: Kind, sources: Sequence[Source], ignore: frozenset[str] = frozenset()) -> datasets.Dataset:
    """All rows of the sources as examples, in the columns of `_write`.

    They are kept in the cache under a key that changes with the contents of any source. Raises ValueError, naming the
    location, if a row does not have the required form, or if a column that is neither read nor in `ignore` holds text.
    """
    import datasets

    key = fingerprint_of(kind, [(source.name, source.fingerprint) for source in sources], sorted(ignore))
    path = cache_folder() / f"{key}.arrow"
    if not _is_complete(path):
        _write(path, (row for source in sources for row in _examples(kind, source, ignore)))
    examples = datasets.Dataset.from_file(str(path))
    if not len(examples):
        raise ValueError(f"{sources[0].name} has no rows")
    return examples


def _is_complete(path: Path) -> bool:
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as file:
            pa.ipc.open_stream(file).read_all()  # mapped, not copied
            file.seek(-len(END_OF_ARROW), os.SEEK_END)
            return file.read() == END_OF_ARROW
    except (pa.ArrowException, OSError):
        return False


def _examples(kind: Kind, source: Source, ignore: frozenset[str]) -> Iterator[dict[str, Any]]:
    columns = source.columns()
    if columns is None:
        return
    try:
        layout = recognise(kind, [column for column in columns if column not in ignore])
    except ValueError as error:
        raise ValueError(f"{source.name} {error}") from None
    unread = UnreadColumns(kind, layout.read)
    for location, row in source.rows():
        kept = {column: value for column, value in row.items() if column not in ignore}
        try:
            example = layout.example(kept)
            problem = example.problem()
        except UnusableError as error:
            problem = error.args[0]
        except ValueError as error:
            raise ValueError(f"{location}: {error}") from None
        if problem == USABLE:
            names = [*unread.add(location, kept, example), *(name for name in row if name in ignore)]
        else:  # Arrow cannot store unpaired surrogates, and nobody reads the texts of an unusable example
            example, names = UNUSABLE, []
        names = [_storable(name) for name in names]
        stored = {**example._asdict(), "without_space": example.without_space}
        yield {**stored, "problem": problem, "location": _storable(location), "unread": names}
    unread.check(layout.columns)


def _storable(text: str) -> str:
    """Arrow cannot store unpaired surrogates, which names of files and columns may have, too."""
    return text.encode("utf-8", "backslashreplace").decode()


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    import pyarrow as pa

    schema = pa.schema(
        {
            "prompt": pa.string(),
            "completions": pa.list_(pa.string()),
            "label": pa.int8(),
            "tied": pa.int32(),
            "without_space": pa.bool_(),
            "problem": pa.int8(),
            "location": pa.string(),
            "unread": pa.list_(pa.string()),
        }
    )
    with atomic_cache_files(path) as (new,), pa.ipc.new_stream(str(new), schema) as writer:
        for chunk in _chunks(rows):
            writer.write_batch(pa.RecordBatch.from_pylist(chunk, schema))


def _chunks(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """At most CHUNK rows at a time, fewer if they are long: Arrow stores at most 2 GB of text in a batch."""
    chunk: list[dict[str, Any]] = []
    length = 0
    for row in rows:
        chunk.append(row)
        length += len(row["prompt"]) + sum(map(len, row["completions"]))
        if len(chunk) == CHUNK or length > 1 << 26:
            yield chunk
            chunk, length = [], 0
    if chunk:
        yield chunk
