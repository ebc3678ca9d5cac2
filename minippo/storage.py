"""Files: one atomic writer for everything that is written whole, and one validating reader for JSON.

Error messages name the file, what was expected and what was found.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


def bundled(path: str | Path) -> Path:
    """`path`, or where there is no such thing, the same path in the repository."""
    path = Path(path)
    return path if path.exists() or path.is_absolute() else REPOSITORY / path


@contextmanager
def atomic_files(*paths: Path) -> Iterator[list[Path]]:
    """Yield temporary paths to write to; on success, move them to `paths` (all in one folder), in that order.

    A reader, or a machine that loses power, finds each file either as it was or complete, never in between: the
    temporary files are flushed to the disk before they are renamed, and the folder afterwards. If the block raises, the
    files that were there before remain.
    """
    folder = paths[0].parent
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as unfinished:
        parts = [Path(unfinished, path.name) for path in paths]
        yield parts
        for part in parts:
            _sync(part)
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path)
    _sync(folder)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success, it becomes `path`, replacing a folder that is there.

    The temporary folder is `path` with the suffix `.partial`; one that an interrupted process left is deleted.
    """
    partial = path.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    publish_folder(partial, path)


def publish_folder(folder: Path, path: Path) -> None:
    """Rename a complete `folder` to `path`, after everything in it has been flushed to the disk."""
    for file in folder.rglob("*"):
        _sync(file)
    _sync(folder)
    shutil.rmtree(path, ignore_errors=True)  # a folder cannot be renamed onto one that is not empty
    os.replace(folder, path)
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_files(path) as (part,):
        part.write_text(text, encoding="utf-8", newline="\n")


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_KINDS = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    NoneType: "null",
}


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError where it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    return checked(found, path, dict)


def checked(value: Any, what: object, *kinds: type) -> Any:
    """`value`, which is `what` and should be of one of `kinds`. Raises ValueError where it is not."""
    if type(value) not in kinds:  # a bool is an int to isinstance, not in JSON
        expected = " or ".join(_KINDS[kind] for kind in kinds)
        raise ValueError(f"{what} should be {expected}, and is {json.dumps(value, ensure_ascii=False)[:60]}")
    return value


def entry(holder: Any, key: str, where: object, *kinds: type) -> Any:
    """What the object `holder`, which is `where`, has at `key`, of one of `kinds`. A missing one counts as null.

    Raises ValueError where `holder` is no object, and for an entry of another kind.
    """
    found = checked(holder, where, dict)
    if key not in found and NoneType not in kinds:
        raise ValueError(f"{where} has no {key!r}")
    return checked(found.get(key), f"{where}: {key}", *kinds)
