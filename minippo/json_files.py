"""JSON files that others wrote: what they hold is checked as it is read, so that a broken one is refused in a sentence.

A sentence names the file, what was expected and what was found.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import NoneType
from typing import Any

_KINDS = {
    str: "a string",
    int: "a whole number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    NoneType: "null",
}


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError where it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    return checked(found, path, dict)


def checked(value: Any, what: object, *kinds: type) -> Any:
    """`value`, which is `what` and should be of one of `kinds`. Raises ValueError where it is not."""
    if type(value) not in kinds:  # a bool is an int to isinstance, not in JSON
        expected = " or ".join(_KINDS[kind] for kind in kinds)
        raise ValueError(f"{what} should be {expected}, and is {json.dumps(value, ensure_ascii=False)[:60]}")
    return value


def entry(holder: Any, key: str, where: object, *kinds: type) -> Any:
    """What the object `holder`, which is `where`, has at `key`, of one of `kinds`. A missing one counts as null.

    Raises ValueError where `holder` is no object, and for an entry of another kind.
    """
    found = checked(holder, where, dict)
    if key not in found and NoneType not in kinds:
        raise ValueError(f"{where} has no {key!r}")
    return checked(found.get(key), f"{where}: {key}", *kinds)
