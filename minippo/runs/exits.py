"""How commands end: errors that are the user's to correct become one sentence and an exit status, without traceback."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from minippo.errors import TrainingError


@contextmanager
def wrong_input_exits() -> Iterator[None]:
    """Print a ValueError or a missing file as one sentence and exit with status 2.

    Meant for the part of a command that reads and validates its inputs. A ValueError raised later is a bug, whose
    traceback is needed.
    """
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def broken_run_exits() -> Iterator[None]:
    """Print a TrainingError as one sentence and exit with status 1."""
    try:
        yield
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


@contextmanager
def output_of_any_text() -> Iterator[None]:
    """For commands that print texts or long results.

    Characters that the terminal's encoding lacks are printed as question marks. If the reader of a pipe closes it
    (`| head`), the program exits with status 1 and without a traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # it may have been replaced, as in a notebook
        sys.stdout.reconfigure(errors="replace")
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which must not fail again (docs.python.org/3/library/signal.html).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
