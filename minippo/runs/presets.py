"""Presets and YAML files."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from minippo.config import Config

T = TypeVar("T")

PRESETS = Path(__file__).parents[1] / "configs"


def preset_names() -> list[str]:
    """The names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(name_or_path: str) -> Config:
    """Load a preset by its name, or a YAML file.

    Raises ValueError if there is no such preset or file, or if it contains an unknown field or a wrong type.
    """
    path = PRESETS / f"{name_or_path}.yaml"
    if name_or_path not in preset_names():
        path = Path(name_or_path)
        if path.is_dir():
            raise ValueError(f"{path} is a folder, not a YAML file (--config)")
        if not path.is_file():
            known = ", ".join(preset_names())
            hint = did_you_mean(name_or_path, preset_names())
            raise ValueError(f"no preset or file {name_or_path!r}{hint} (--config; the presets are {known})")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return _merge(Config(), values, path.name, "")


def dump_config(config: Config) -> str:
    """All fields of `config` as YAML."""
    return yaml.safe_dump(asdict(config), sort_keys=False)


def differences(ours: Any, theirs: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The fields in which two configurations differ: dotted name -> (value in `ours`, value in `theirs`)."""
    pairs: dict[str, tuple[Any, Any]] = {}
    for field in fields(ours):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        if is_dataclass(a):
            pairs |= differences(a, b, f"{prefix}{field.name}.")
        elif a != b:
            pairs[prefix + field.name] = (a, b)
    return pairs


def field_names(config: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of all fields of a configuration, including those of its sections."""
    for field in fields(config):
        value = getattr(config, field.name)
        yield from field_names(value, f"{prefix}{field.name}.") if is_dataclass(value) else [prefix + field.name]


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A clause with the names that a misspelt `name` may stand for, or "" if none of `names` is similar.

    A name without its section (kl_coef, --lr) stands for all that end with it (ppo.kl_coef; --sft.policy.lr, --rm.lr).
    """
    names = list(names)
    last = name.removeprefix("--").rpartition(".")[2]
    matches = [known for known in names if known.rpartition(".")[2] == last]
    matches = matches or difflib.get_close_matches(name, names, n=1)
    if not matches:
        return ""
    *others, match = matches
    return f"; did you mean {', '.join(others)}{' or ' * bool(others)}{match}?"


def _merge(base: T, values: Any, file: str, prefix: str) -> T:
    if not isinstance(values, dict):
        raise ValueError(f"{file}: {prefix.rstrip('.') or 'the file'} must contain fields, not {values!r}")
    expected = typing.get_type_hints(type(base))
    changed = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in expected:
            known = dict.fromkeys([*(prefix + field for field in expected), *field_names(Config())])
            raise ValueError(f"{file}: unknown field {name}{did_you_mean(name, known)}")
        present = getattr(base, key)
        if is_dataclass(present):
            changed[key] = _merge(present, value, file, f"{name}.")
        else:
            changed[key] = _typed(value, expected[key], f"{file}: {name}")
    return replace(base, **changed)  # type: ignore[type-var]


def _typed(value: Any, expected: Any, name: str) -> Any:
    """Return `value` if it has the type `expected`. Integers are accepted as floats, and so are strings that hold a
    number, because YAML reads 1e-3 as a string."""
    if typing.get_origin(expected) is Literal:
        if value is False and "off" in typing.get_args(expected):  # YAML reads an unquoted off as False
            return "off"
        if value in typing.get_args(expected):
            return value
        raise ValueError(f"{name} must be one of {', '.join(typing.get_args(expected))}, not {value!r}")
    allowed = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    if float in allowed and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) in allowed:
        return value
    names = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in allowed)
    raise ValueError(f"{name} must be of type {names}, not {value!r}")
