"""Presets and YAML files."""

from __future__ import annotations

import difflib
import types
import typing
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from minippo.config import Config

T = TypeVar("T")

PRESETS = Path(__file__).parents[1] / "configs"


def preset_names() -> list[str]:
    """The presets that `--config` knows."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(name_or_path: str) -> Config:
    """A preset by its name, or a YAML file. Raises ValueError for an unknown name, key or type of value."""
    path = PRESETS / f"{name_or_path}.yaml"
    if name_or_path not in preset_names():
        path = Path(name_or_path)
        if not path.is_file():
            near = difflib.get_close_matches(name_or_path, preset_names(), n=1, cutoff=0)[0]
            known = ", ".join(preset_names())
            raise ValueError(f"no preset or file {name_or_path!r}; did you mean {near!r}? (presets: {known})")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    return _merge(Config(), values, f"{path.name}: ")


def dump_config(config: Config) -> str:
    """`config` as YAML, every field of it."""
    return yaml.safe_dump(asdict(config), sort_keys=False)


def differences(ours: Any, theirs: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The fields in which two configurations differ: dotted name -> both values."""
    found: dict[str, tuple[Any, Any]] = {}
    for field in fields(ours):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        if is_dataclass(a):
            found |= differences(a, b, f"{prefix}{field.name}.")
        elif a != b:
            found[prefix + field.name] = (a, b)
    return found


def _merge(base: T, values: Any, where: str) -> T:
    if not isinstance(values, dict):
        raise ValueError(f"{where.rstrip('.: ')} must hold fields, not {values!r}")
    expected = typing.get_type_hints(type(base))
    changed = {}
    for key, value in values.items():
        if key not in expected:
            near = difflib.get_close_matches(str(key), expected, n=1, cutoff=0)[0]
            raise ValueError(f"{where}{key} is no field; did you mean {near!r}?")
        present = getattr(base, key)
        if is_dataclass(present):
            changed[key] = _merge(present, value, f"{where}{key}.")
        else:
            changed[key] = _typed(value, expected[key], where + key)
    return replace(base, **changed)  # type: ignore[type-var]


def _typed(value: Any, expected: Any, where: str) -> Any:
    """`value` if it is of the type `expected`; a whole number passes for a float. YAML reads 1e-3 as a string."""
    if typing.get_origin(expected) is Literal:
        if value is False and "off" in typing.get_args(expected):  # YAML reads a bare off as no
            return "off"
        if value in typing.get_args(expected):
            return value
        raise ValueError(f"{where} must be one of {', '.join(typing.get_args(expected))}, not {value!r}")
    allowed = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    if float in allowed and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) in allowed:
        return value
    names = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in allowed)
    raise ValueError(f"{where} must be of type {names}, not {value!r}")
