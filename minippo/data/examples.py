"""Rows of your own files -> examples in an Arrow file in the cache, which is memory-mapped and read on demand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minippo.data.cache import atomic_cache_files, cache_folder, fingerprint_of
from minippo.data.formats import FORMATS, NO_LABEL, USABLE, Example, Kind, recognise
from minippo.data.sources import Source
from minippo.data.texts import CHUNK

if TYPE_CHECKING:
    import datasets

END_OF_ARROW = b"\xff\xff\xff\xff\0\0\0\0"
"""The last bytes of a complete Arrow stream. A stream that was cut between two batches can be read without an error."""


def read_examples(kind: Kind, sources: Sequence[Source]) -> datasets.Dataset:
    """All rows of the sources as examples: columns prompt, completions, label, problem, location.

    They are kept in the cache under a key that changes with the contents of any source. Raises ValueError, naming the
    location, if a row does not have the required form.
    """
    import datasets

    path = cache_folder() / f"{fingerprint_of(kind, [(source.name, source.fingerprint) for source in sources])}.arrow"
    if not _is_complete(path):
        _write(path, (row for source in sources for row in _examples(kind, source)))
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


def _examples(kind: Kind, source: Source) -> Iterator[tuple[str, Example]]:
    columns = source.columns()
    if columns is None:
        return
    try:
        wanted = recognise(kind, columns)
    except ValueError as error:
        raise ValueError(f"{source.name} {error}") from None
    read = FORMATS[kind][wanted]
    for location, row in source.rows(wanted):
        try:
            yield location, read(row)
        except ValueError as error:
            raise ValueError(f"{location}: {error}") from None


def _write(path: Path, rows: Iterator[tuple[str, Example]]) -> None:
    import pyarrow as pa

    schema = pa.schema(
        {
            "prompt": pa.string(),
            "completions": pa.list_(pa.string()),
            "label": pa.int8(),
            "problem": pa.int8(),
            "location": pa.string(),
        }
    )
    with atomic_cache_files(path) as (new,), pa.ipc.new_stream(str(new), schema) as writer:
        while chunk := list(islice(rows, CHUNK)):
            writer.write_batch(pa.RecordBatch.from_pylist([_stored(*row) for row in chunk], schema))


def _stored(location: str, example: Example) -> dict[str, Any]:
    problem = example.problem()
    if problem == USABLE:
        return {**example._asdict(), "problem": USABLE, "location": location}
    # Arrow cannot store unpaired surrogates, and nobody reads the texts of an unusable example.
    return {"prompt": "", "completions": [], "label": NO_LABEL, "problem": problem, "location": location}
