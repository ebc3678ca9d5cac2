"""The cache of texts and tokens. Every file's name is a key that changes with everything the file was made from."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from minippo.storage import atomic_files

PACKAGE = Path(__file__).resolve().parents[1]

UNUSED_DAYS = 7
"""Caches of other versions of the code are kept this long after their last use; they may still run or come back."""


def cache_folder() -> Path:
    """The cache folder of the present version of the code, in `~/.cache/minippo` or `$XDG_CACHE_HOME/minippo`.

    It may be deleted at any time. Folders of other versions are deleted after a week without use. Raises ValueError if
    the folder cannot be written to.
    """
    all_versions = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "minippo"
    folder = all_versions / code_fingerprint()
    with _cache_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:  # an existing folder may still be read-only, or the disk full
            probe.write(b"probe")
            probe.flush()
        os.utime(folder)  # its modification time is the time of its last use
    for other in all_versions.iterdir():
        with suppress(FileNotFoundError):  # another process is deleting it, too
            unused = time.time() - other.stat().st_mtime > UNUSED_DAYS * 24 * 3600
            if unused and other != folder and other.is_dir() and re.fullmatch("[0-9a-f]{16}", other.name):
                shutil.rmtree(other, ignore_errors=True)
    return folder


@contextmanager
def atomic_cache_files(*paths: Path) -> Iterator[list[Path]]:
    """`storage.atomic_files` for files in the cache folder. Raises ValueError if they cannot be written."""
    with _cache_errors(paths[0].parent), atomic_files(*paths) as parts:
        yield parts


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"the cache of texts and tokens, {folder}, cannot be written ({error.strerror or error}); set "
            "XDG_CACHE_HOME to use another folder"
        ) from None


def fingerprint_of(*parts: object) -> str:
    """A file name for what is made from `parts`, which must be JSON values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def file_fingerprint(path: Path) -> str:
    """A hash of the contents of a file, whatever its name and date."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------- version of the code


@cache
def code_fingerprint(package: Path = PACKAGE) -> str:
    """A hash of the code that reads texts and turns them into tokens, and of no other code.

    Tokens cached by another version of that code must not be used, but an edit of the method must not cost another
    tokenisation of all data.
    """
    digest = hashlib.sha256()
    for path in code_files(package):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def code_files(package: Path = PACKAGE) -> list[Path]:
    """The files of `data/` and `tokenizer/` and all files of `package` that they import, directly or indirectly.

    Not followed are imports for annotations (`if TYPE_CHECKING:`), and `reviews/`, of which `data/` uses the judge
    only: it scores texts after they have been read.
    """
    files: set[Path] = set()
    pending = [*package.glob("data/*.py"), *package.glob("tokenizer/*.py")]
    while pending:
        path = pending.pop()
        if path in files:
            continue
        files.add(path)
        for name in _imported_modules(ast.parse(path.read_bytes())):
            root, *parts = name.split(".")
            if root != package.name or parts[:1] == ["reviews"]:
                continue
            for end in range(1, len(parts) + 1):  # importing a.b.c also runs a/b/__init__.py
                module = package.joinpath(*parts[:end])
                pending += [file for file in (module.with_suffix(".py"), module / "__init__.py") if file.is_file()]
    return sorted(files)


def _imported_modules(tree: ast.AST) -> Iterator[str]:
    """Names of the modules that a piece of code imports at run time. `from a import b` yields `a.b`, module or not."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):  # no expression contains an import
            yield from _imported_modules(node)
