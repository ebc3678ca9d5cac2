"""Ways in which a file can be damaged."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path


def truncate(path: Path, draw: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: draw.randrange(len(content))])


def flip_bit(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(content))


def empty(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"")


def delete(path: Path, draw: random.Random) -> None:
    path.unlink()


def replace(path: Path, draw: random.Random) -> None:
    path.write_bytes(b"\x00\xffnot what was here\x1b[2J" + draw.randbytes(20))


def make_folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "truncated": truncate,
    "one bit flipped": flip_bit,
    "emptied": empty,
    "deleted": delete,
    "replaced": replace,
    "a folder": make_folder,
}


def files_of(path: Path) -> list[str]:
    """The files below a folder that belong to it, without its checkpoints; "" for a file itself."""
    if path.is_file():
        return [""]
    files = [file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file()]
    return [str(file) for file in files if not any(part.startswith("step-") for part in file.parts)]
