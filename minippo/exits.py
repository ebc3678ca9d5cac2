"""How commands end and what they print: one sentence for whatever is the user's to correct, and no control characters.

Every `main` runs in a `command_frame`; the part of it that reads and checks its inputs, in `wrong_input_exits`.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, NoReturn, TextIO

from minippo.errors import GPUMemoryError, TrainingError, printable, quoted
from minippo.interruption import Interruption, signals_raise

LONGEST_MESSAGE = 4000
"""Characters of an error message. It quotes values that may come from anywhere, some of them from other libraries."""


@contextmanager
def wrong_input_exits() -> Iterator[None]:
    """Print a ValueError, or the OSError of a path that cannot be used, as one sentence and exit with status 2.

    Meant for the part of a command that reads and validates its inputs. A ValueError raised later is a bug, whose
    traceback is needed.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        stop(error, 2)


@contextmanager
def command_frame(interrupted: Callable[[], str] = lambda: "interrupted") -> Iterator[None]:
    """What every command has around it (`@command_frame()`), whatever its standard streams are.

    A TrainingError, and an OSError such as that of a full disk, end it with one sentence and status 1. Both outputs
    contain no control characters, and question marks for what the terminal's encoding lacks. A standard output that
    cannot be written ends the command with status 1, with a sentence unless the reader of a pipe has closed it
    (`| head`). A standard error output that cannot be written is ignored. Ctrl-C, SIGTERM and SIGHUP end it with the
    sentence that `interrupted` returns, and with status 130, 143 or 129.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:  # closed (`>&-`): otherwise the next file to be opened would get its number, and its output
            os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stdout, io.TextIOWrapper):  # it may have been replaced, as in a notebook
        sys.stdout.reconfigure(errors="replace")
    sys.stdin = sys.stdin or os.fdopen(0)
    output, errors = _Output(sys.stdout or os.fdopen(1, "w")), _Errors(sys.stderr or os.fdopen(2, "w"))
    with redirect_stdout(output), redirect_stderr(errors):  # type: ignore[type-var]
        try:
            with signals_raise():
                yield
        except GPUMemoryError as error:
            stop(TrainingError(f"{error}; --device cpu needs none"), 1)
        except (TrainingError, OSError) as error:
            stop(error, 1)
        except KeyboardInterrupt as error:
            print(f"\n{printable(interrupted())}", file=sys.stderr)
            raise SystemExit(128 + (error.number if isinstance(error, Interruption) else signal.SIGINT)) from None
        finally:
            output.flush()
            if output.lost:
                raise SystemExit(1)


def stop(error: Exception, status: int) -> NoReturn:
    """Print the sentence of `error` and exit."""
    print_error(error)
    raise SystemExit(status) from None


def print_error(error: object) -> None:
    """Print one sentence to the standard error output."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror if error.filename is None else f"{quoted(str(error.filename), 255)}: {error.strerror}"
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[:LONGEST_MESSAGE]} ... ({len(text) - LONGEST_MESSAGE:,} more characters)"
    print(f"error: {printable(text)}", file=sys.stderr, flush=True)


class _Output:
    """The standard output: text that a terminal can show.

    After a failed `flush`, which the progress bar calls, too, only the next `write` ends the command: training goes on
    without readers until it has a result to print.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.lost = stream, False

    def write(self, text: str) -> int:
        """Write `text`, with its control characters escaped."""
        self._attempt(lambda: self.stream.write(printable(text)))
        if self.lost:
            raise SystemExit(1)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        self._attempt(self.stream.flush)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.lost = True
            # Python flushes stdout once more at exit, which must not fail again (docs.python.org/3/library/signal.html)
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            self._report(error)

    def _report(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):  # somebody has read enough
            print_error(f"the standard output cannot be written: {error.strerror}")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Errors(_Output):
    """The standard error output: progress bars and errors. If they cannot be written, nobody misses them."""

    def write(self, text: str) -> int:
        """Write `text` if possible. A progress bar begins with a carriage return."""
        self._attempt(lambda: self.stream.write("\r".join(map(printable, text.split("\r")))))
        return len(text)

    def _report(self, error: OSError) -> None:
        pass
