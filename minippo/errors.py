"""A run that must not go on."""

from __future__ import annotations

import math


class TrainingError(RuntimeError):
    """A promise of the code is broken, or a number is none: to go on would train on garbage."""


def require_finite(where: str, **quantities: float) -> None:
    """Raise TrainingError, which names the quantity, where one of them is NaN or infinite."""
    for name, value in quantities.items():
        if not math.isfinite(value):
            raise TrainingError(f"{where}: the {name.replace('_', ' ')} is {value}")
