"""Repeated measurements of two programs in turn, and what is computed from them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")


class Spread(NamedTuple):
    """Median, minimum and maximum of the rounds."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median, minimum and maximum of `values`."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Of the ratios within each round: what slows a whole round down, such as another process, cancels out."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent e of y = c * x^e: the slope of the least-squares line through the logarithms."""
    return statistics.linear_regression(list(map(math.log, x)), list(map(math.log, y))).slope


def alternate(functions: dict[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Results of each function in `rounds` rounds, after one call of each to warm up.

    A round calls every function once. The order is reversed from round to round, so that none always follows the same.
    """
    names = list(functions)
    for name in names:
        functions[name]()
    results: dict[str, list[T]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            results[name].append(functions[name]())
        names.reverse()
    return results


def clock() -> float:
    """Seconds, after all work given to the GPU so far is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """A function that calls `function` and returns the seconds that it took."""

    def seconds() -> float:
        started = clock()
        function()
        return clock() - started

    return seconds


class Phases(dict[str, float]):
    """Seconds spent in each phase of a program, measured at the functions that a phase consists of."""

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time of what is done inside to `phase`."""
        started = clock()
        yield
        self[phase] = self.get(phase, 0.0) + clock() - started

    def watch(self, owner: Any, name: str, phase: str | Callable[..., str]) -> None:
        """From now on, add the time of every call of `owner.name` to `phase`, which may depend on its arguments."""
        function = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.measure(phase if isinstance(phase, str) else phase(*args)):
                return function(*args, **kwargs)

        setattr(owner, name, watched)
