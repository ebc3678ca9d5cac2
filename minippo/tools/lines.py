"""Lines of the standard input, which `score` and `generate` read like files of data."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

from minippo.data import unreadable


def lines(question: str = "") -> Iterator[tuple[int, str]]:
    """Number, counted from 1, and text of every line that is not empty.

    A byte order mark and carriage returns at the ends of lines are skipped. Lines that no model can read, such as those
    that are not valid UTF-8, are reported on the standard error stream and skipped. At a terminal, `question` is
    printed before every line, and an empty line ends the input.
    """
    interactive = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper) and not interactive:  # it may have been replaced, as in a notebook
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="replace")
    number = 0
    while True:
        if interactive:
            print(question, end="", flush=True)
        line = sys.stdin.readline()
        text, number = line.rstrip("\r\n"), number + 1
        if not line or (interactive and not text):
            return
        if problem := unreadable(text):
            print(f"error: line {number} is skipped: {problem}", file=sys.stderr)
        elif text:
            yield number, text
