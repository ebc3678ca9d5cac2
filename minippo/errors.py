"""Training that must not continue."""

from __future__ import annotations

import math
from collections.abc import Mapping


class TrainingError(RuntimeError):
    """An invariant failed or a value is not finite; continuing would corrupt the model."""


def require_finite(values: Mapping[str, float], where: str = "") -> None:
    """Raise TrainingError, naming the value, if one of them is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingError(f"{where}{': ' if where else ''}{name} is {value}")
