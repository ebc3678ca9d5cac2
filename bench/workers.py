"""Processes that repeat a piece of work when asked to, so that two programs alternate and each has its own memory."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import minippo  # noqa: F401 - before PyTorch, because it configures how OpenMP threads wait

# isort: split
from bench.load_memory import resident

Measured = dict[str, float]


class Turns:
    """The worker's side: it waits for its turn, works, and reports what it measured."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def wait(self) -> None:
        """Wait for the next turn. Raises EOFError after the last one, which ends the process."""
        self.connection.recv()

    def done(self, measured: Measured) -> None:
        """End the turn. The peak of the process's memory is added."""
        self.connection.send(measured | {"peak memory": resident("VmHWM")})


class Worker:
    """A new process that runs `target` ("module:function"), with a `Turns` and `arguments`."""

    def __init__(self, target: str, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process would share, and count, this one's memory
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(target, other, arguments), daemon=True)
        self.process.start()
        other.close()  # so that `turn` raises EOFError if the process has failed

    def turn(self) -> Measured:
        """Let the process do its work once. Returns what it measured."""
        self.connection.send(None)
        return self.connection.recv()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.connection.close()
        self.process.join()


def repeat(rounds: int, target: str, *arguments: Any) -> list[Measured]:
    """What a new process measures in `rounds` turns, after one that warms up."""
    with Worker(target, *arguments) as worker:
        return [worker.turn() for _ in range(rounds + 1)][1:]


def _work(target: str, connection: Connection, arguments: tuple[Any, ...]) -> None:
    module, _, name = target.partition(":")
    with contextlib.suppress(EOFError, BrokenPipeError):
        getattr(importlib.import_module(module), name)(Turns(connection), *arguments)
