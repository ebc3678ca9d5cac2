"""What files from strangers, and damaged ones, must lead to; and how a file can be damaged."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HOW = ("deleted", "empty", "a folder", "a pipe", "a link to nothing", "a link to itself", "text", "zeros", "unreadable")


def refusal(load: Callable[..., Any], *arguments: Any) -> str:
    """The sentence with which `load` refuses its input, in less than a second and 200 MB."""
    start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ValueError, OSError)) as error:
        load(*arguments)
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # KiB
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(sentence) < 700
    return sentence


def in_place(path: Path, how: str) -> None:
    """Replace a file by something else."""
    content = path.read_bytes()
    path.unlink()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "a folder":
        path.mkdir()
    elif how == "a pipe":
        os.mkfifo(path)
    elif how == "a link to nothing":
        path.symlink_to(path.with_name("nothing"))
    elif how == "a link to itself":
        path.symlink_to(path)
    elif how == "text":
        path.write_text("<!DOCTYPE html>\n")
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    elif how == "unreadable":
        path.write_bytes(content)
        path.chmod(0)
