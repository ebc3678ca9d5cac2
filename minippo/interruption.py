"""Ctrl-C, SIGTERM and SIGHUP: a stage that trains finishes its step and saves; other commands end at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_requested: list[int] = []
"""The signal after which training stops when the current step is finished."""
_seen: list[int] = []
"""The same, once `stop_requested` has told it: only then has the step been saved."""


class Interruption(KeyboardInterrupt):
    """The user or the system wants the program to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def stop_requested() -> bool:
    """Whether training stops after the current step, which must therefore be saved."""
    _seen[:] = _requested
    return bool(_seen)


@contextmanager
def signals_raise() -> Iterator[None]:
    """Let the signals raise Interruption in the block, at whatever line it is."""
    with _handlers(_raise):
        yield


@contextmanager
def finishing_steps() -> Iterator[Callable[[], None]]:
    """Delay interruptions: `stop_requested` becomes true, and the function that is yielded raises Interruption.

    A second signal ends the process at once. Files are replaced atomically, so that this does no harm.
    """
    _requested.clear()
    _seen.clear()

    def stop() -> None:
        if _seen:  # a signal that comes later waits for the next step
            raise Interruption(_seen[0])

    try:
        with _handlers(_request):
            yield stop
    finally:
        _requested.clear()


def _raise(number: int, frame: FrameType | None) -> None:
    raise Interruption(number)


def _request(number: int, frame: FrameType | None) -> None:
    if _requested:
        os._exit(128 + number)
    _requested.append(number)
    # Not print(): the signal may have interrupted another print.
    os.write(2, b"\nstopping after this step; once more stops at once, without a checkpoint\n")


@contextmanager
def _handlers(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous = {}
    if threading.current_thread() is threading.main_thread():  # Python allows no other thread to handle signals
        previous = {number: signal.getsignal(number) for number in SIGNALS}
    # A signal that is ignored, such as SIGHUP under nohup, stays ignored.
    previous = {number: before for number, before in previous.items() if before is not signal.SIG_IGN}
    for number in previous:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
