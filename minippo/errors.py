"""A run that must not go on."""

from __future__ import annotations

import math


class BrokenRun(RuntimeError):  # noqa: N818 - it is what has happened, in the words of the message
    """A promise of the code is broken, or a number is none: to go on would train on garbage."""


def stop_unless_finite(where: str, **quantities: float) -> None:
    """Raise BrokenRun, which names the quantity, where one of them is NaN or infinite."""
    for name, value in quantities.items():
        if not math.isfinite(value):
            raise BrokenRun(f"{where}: the {name.replace('_', ' ')} is {value}")
