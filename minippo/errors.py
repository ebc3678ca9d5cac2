"""Training that must not continue, and how error messages quote what they found."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping

# Everything that a terminal acts on instead of showing it: the control characters (C0, DEL, C1) except line feed and
# tab, the marks and overrides of bidirectional text, the two Unicode line separators, and lone surrogates.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class TrainingError(RuntimeError):
    """An invariant failed or a value is not finite; continuing would corrupt the model."""


class GPUMemoryError(TrainingError):
    """The GPU had no memory left for a phase of the computation (`memory.phase`)."""

    def __init__(self, phase: str, figures: str) -> None:
        super().__init__(f"out of GPU memory ({phase}){figures}")
        self.path = phase
        """The phase after those around it: "training: normalisation: generation"."""


def require_finite(values: Mapping[str, float], where: str = "") -> None:
    """Raise TrainingError, naming the value, if one of them is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingError(f"{where}{': ' if where else ''}{name} is {value}")


def quoted(value: object, length: int = 60) -> str:
    """`value` as an error message quotes it: its repr, in which control characters are escaped, in at most about
    `length` characters."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = shortened.maxlong = length
    return shortened.repr(value)


def printable(text: str) -> str:
    """`text` for a terminal: characters that would control it are escaped ("\\x1b"). Line feeds and tabs remain."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)
