"""Files: one atomic writer for everything that is written whole, manifests, and one validated reader for JSON.

The reader's error messages name the file (and the line or key) and state what was expected and what was found.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import IO, Any, AnyStr

REPOSITORY = Path(__file__).resolve().parents[1]


def bundled(path: str | Path) -> Path:
    """Return `path` if it exists or is absolute; otherwise the same path relative to the repository.

    Presets name bundled files such as `data/policy.tiktoken`, which must also be found from another working directory.
    """
    path = Path(path)
    return path if path.exists() or path.is_absolute() else REPOSITORY / path


# ---------------------------------------------------------------------------------------------- writing

PARTIAL = ".partial-"
"""Beginning of the names of files and folders that are being written."""


@contextmanager
def atomic_files(*paths: Path) -> Iterator[list[Path]]:
    """Yield temporary paths to write to; on success, rename them to `paths` (all in one folder), in that order.

    Another process, or the same one after a power failure, finds each file either as it was before or complete: the
    temporary files are flushed to disk before the renames, and the folder after them. If the block raises, the
    existing files remain.
    """
    folder = paths[0].parent
    with tempfile.TemporaryDirectory(dir=folder, prefix=PARTIAL) as unfinished:
        parts = [Path(unfinished, path.name) for path in paths]
        yield parts
        for part in parts:
            _sync(part)
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path)
    _sync(folder)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder to fill; on success, it becomes `path` and replaces an existing folder.

    If an interrupted process left a temporary folder for `path` behind, it is deleted.
    The parent folder must exist: recreating one that somebody has moved away would split its contents.
    """
    partial = path.with_name(f"{PARTIAL}{path.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        publish_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # if the disk is full, for example; otherwise it is gone already


def publish_folder(folder: Path, path: Path) -> None:
    """Rename the complete `folder` to `path` after flushing its contents to disk."""
    for file in folder.rglob("*"):
        _sync(file)
    _sync(folder)
    shutil.rmtree(path, ignore_errors=True)  # os.replace cannot replace a folder that is not empty
    os.replace(folder, path)
    _sync(path.parent)


MANIFEST = "manifest.json"


def seal(folder: Path) -> None:
    """Write `manifest.json`, the size and SHA-256 of every file in `folder`; written last, it says that all are there.

    Subfolders with a manifest of their own, such as the checkpoints in a stage, are left out.
    """
    files = {str(path.relative_to(folder)): _size_and_hash(path) for path in _files(folder) if path.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps(files, indent=2) + "\n", encoding="utf-8")


def check_sealed(folder: Path) -> None:
    """Raise ValueError, naming the file, if a file of a sealed folder is missing, truncated or altered."""
    files, manifest = sealed_files(folder), folder / MANIFEST
    for name in files:
        path, size = folder / name, entry(entry(files, name, manifest, dict), "bytes", f"{manifest}: {name}", int)
        if not path.is_file():
            raise ValueError(f"{path} is missing, although {MANIFEST} lists it")
        if path.stat().st_size != size:
            raise ValueError(
                f"{path} is damaged: it has {path.stat().st_size:,} bytes instead of the {size:,} in {MANIFEST}"
            )
        if _size_and_hash(path) != files[name]:
            raise ValueError(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}")


def sealed_files(folder: Path) -> dict[str, Any]:
    """What `manifest.json` says about each file. Raises ValueError if it is missing or names files elsewhere."""
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise ValueError(f"{folder} is incomplete, or was written by an older version: it has no {MANIFEST}")
    files = read_object(manifest)
    if not files or any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise ValueError(f"{manifest} is damaged: it lists no files, or files of another folder")
    return files


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_file():
            yield path
        elif path.is_dir() and not (path / MANIFEST).is_file():
            yield from _files(path)


def _size_and_hash(path: Path) -> dict[str, int | str]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
        return {"bytes": file.tell(), "sha256": digest.hexdigest()}


def append_lines(path: Path, lines: list[str]) -> None:
    """Append lines to a log. If they cannot be written in full, the file is as before, and OSError is raised."""
    with path.open("ab", buffering=0) as file:  # a buffer would be written again when the file is closed
        size, rest = file.tell(), "".join(lines).encode("utf-8")
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_files(path) as (part,):
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically. Line ends are written as they are in `text`, on every platform."""
    write_bytes(path, text.encode("utf-8"))


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------------------------------- JSON

_KINDS = {
    str: "a string",
    int: "an integer",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    NoneType: "null",
}

MAX_TEXT = 2**26
"""Bytes of a file that is read as a whole: four times the largest public tokenizer.json."""

COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
"""Suffix of a compressed file -> the function that opens it."""


def read_text(path: Path) -> str:
    """The text of a file. Raises ValueError if it is not a regular file, too large (`MAX_TEXT`) or not UTF-8."""
    if not path.is_file() and path.exists():  # opening a named pipe would wait for ever
        raise ValueError(f"{path} is not a regular file")
    if (size := path.stat().st_size) > MAX_TEXT:
        raise ValueError(f"{path} has {size:,} bytes, but must not have more than {MAX_TEXT:,}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not valid UTF-8 (byte {error.start})") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains one object. Raises ValueError if it contains anything else, or a key twice."""
    return _parse_object(read_text(path), path, _without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:40]!r} occurs twice")
    return entries


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every row of a JSON Lines file (one object per line) with its location, "FILE, line N". Empty lines are
    skipped.

    Bytes that are not valid UTF-8 become U+FFFD, so that the caller can count such rows instead of failing. Raises
    ValueError if a line is not a JSON object or the file cannot be decompressed.
    """
    try:
        with open_compressed(path) as file:
            for number, line in enumerate(lines_of(file, path), start=1):
                if line.strip():
                    # "-sig" skips the byte order mark that some editors write at the start of a file.
                    text = line.rstrip().decode("utf-8-sig", errors="replace")
                    yield f"{path}, line {number}", _parse_object(text, f"{path}, line {number}")
    except (EOFError, OSError, zlib.error) as error:  # damaged compressed data
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def lines_of(file: IO[AnyStr], path: Path) -> Iterator[AnyStr]:
    """The lines of an open file. Raises ValueError if one is too long (`MAX_TEXT`): a few compressed megabytes may be a
    line that does not fit into memory."""
    number = 1
    while line := file.readline(MAX_TEXT + 1):
        if len(line) > MAX_TEXT:
            raise ValueError(f"{path}, line {number} is longer than {MAX_TEXT:,} bytes, the most that is read")
        yield line
        number += 1


def open_compressed(path: Path) -> io.BufferedReader:
    """Open a file for reading bytes; its suffix tells whether it is compressed."""
    # Splitting into lines in a large buffer is much faster than iterating over a bz2 file itself.
    return io.BufferedReader(COMPRESSED.get(path.suffix.lower(), open)(path, "rb"))


def _parse_object(text: str, where: object, hook: Callable[..., Any] | None = None) -> dict[str, Any]:
    try:
        value = json.loads(text, object_pairs_hook=hook)
    except json.JSONDecodeError as error:
        position = f"column {error.colno}" if "\n" not in text else f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{where} is not valid JSON: {error.msg} ({position})") from None
    except (ValueError, RecursionError) as error:  # an integer with thousands of digits; deeply nested lists
        raise ValueError(f"{where} is not valid JSON: {error}") from None
    return checked(value, where, dict)


def checked(value: Any, what: object, *kinds: type) -> Any:
    """Return `value` if its type is one of `kinds`. Raises ValueError otherwise, calling the value `what`."""
    if type(value) not in kinds:  # not isinstance: True is an int in Python, but not in JSON
        expected = " or ".join(_KINDS[kind] for kind in kinds)
        raise ValueError(f"{what} should be {expected}, but is {json.dumps(value, ensure_ascii=False)[:60]}")
    return value


def entry(holder: Any, key: str, where: object, *kinds: type) -> Any:
    """Return `holder[key]` if its type is one of `kinds`; a missing key counts as null.

    Raises ValueError if `holder`, which messages call `where`, is not an object, or the entry has another type.
    """
    checked(holder, where, dict)
    if key not in holder and NoneType not in kinds:
        raise ValueError(f"{where} has no {key!r}")
    return checked(holder.get(key), f"{where}: {key}", *kinds)
