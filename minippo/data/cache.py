"""What is made once and kept between runs, each thing under a key that changes with whatever it was made from."""

from __future__ import annotations

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

UNUSED_DAYS = 7
"""So long what other code has made is kept, which may still run or come back."""


def cache_folder() -> Path:
    """The folder of the code as it is now, within `minippo` in the user's folder for such files. It may be deleted at
    any time; those of other code are, when nobody has used them for a week.

    Raises ValueError where it cannot be written.
    """
    everything = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "minippo"
    folder = everything / code_fingerprint()
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:  # that it is there does not say that it can be written
            probe.write(b"probe")
            probe.flush()
        os.utime(folder)
    for other in everything.iterdir():
        with suppress(FileNotFoundError):  # another process has deleted it
            unused = time.time() - other.stat().st_mtime > UNUSED_DAYS * 24 * 3600
            if unused and other.is_dir() and re.fullmatch("[0-9a-f]{16}", other.name):
                shutil.rmtree(other, ignore_errors=True)
    return folder


@contextmanager
def written_whole(*paths: Path) -> Iterator[list[Path]]:
    """`storage.atomic_files` in the cache folder. Raises ValueError if the folder cannot be written."""
    with _writing(paths[0].parent), atomic_files(*paths) as parts:
        yield parts


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"texts and tokens are kept in {folder}, which cannot be written ({error.strerror or error}); the variable "
            "XDG_CACHE_HOME names another place"
        ) from None


def fingerprint_of(*parts: object) -> str:
    """A name for what is made from `parts`, which JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


@cache
def code_fingerprint() -> str:
    """Of the whole package: whoever changes how texts are read must not be given what the old code made of them."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def file_fingerprint(path: Path) -> str:
    """Of what is in a file, whatever its name and its date say."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
