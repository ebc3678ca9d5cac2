"""What files from strangers, and damaged ones, must lead to; and how a file can be damaged."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([10**12, 1.0, "gpt2"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
"""Any JSON value."""

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


def with_junk(whole: Any, data: st.DataObject) -> Any:
    """A JSON value with something else somewhere in it."""
    holder = whole
    while True:
        key = data.draw(st.sampled_from(range(len(holder)) if isinstance(holder, list) else list(holder)))
        inner = holder[key]
        if isinstance(inner, list | dict) and inner and data.draw(st.booleans()):
            holder = inner
        else:
            holder[key] = data.draw(JUNK)
            return whole


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
