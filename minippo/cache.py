"""What is made once and kept between runs, each thing under a key that changes with whatever it was made from."""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path


def cache_folder() -> Path:
    """`minippo` in the user's folder for such files. It may be deleted at any time.

    Raises ValueError where it cannot be written.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "minippo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"texts and tokens are kept in {folder}, which cannot be made ({error.strerror}); the variable "
            "XDG_CACHE_HOME names another place"
        ) from None
    return folder


def cache_key(*parts: object) -> str:
    """A name for what is made from `parts`, which JSON can hold, by the code as it is now."""
    return hashlib.sha256(json.dumps([code_fingerprint(), *parts]).encode()).hexdigest()[:32]


@cache
def code_fingerprint() -> str:
    """Of the whole package: whoever changes how texts are read must not be given what the old code made of them."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def file_fingerprint(path: Path) -> str:
    """Of what is in a file, whatever its name and its date say."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
