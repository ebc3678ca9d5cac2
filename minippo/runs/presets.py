"""Presets and YAML files."""

from __future__ import annotations

import difflib
import functools
import hashlib
import re
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from minippo.config import Config
from minippo.errors import quoted

T = TypeVar("T")

CHECKSUM = "# SHA-256 of the lines above: "
PRESETS = Path(__file__).parents[1] / "configs"
LARGEST_FILE = 100_000
"""Bytes of a YAML file. All fields of `Config` take less than 4,000."""
YAML_TAG, SCALARS = "tag:yaml.org,2002:", ("str", "int", "float", "bool", "null")
DECIMAL = r"[-+]?(0|[1-9][0-9_]{0,29})"


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
            raise ValueError(f"no preset or file {quoted(name_or_path)}{hint} (--config; the presets are {known})")
    return _parse(_read(path), path)


def load_stored_config(path: Path) -> Config:
    """Load the `config.yaml` of a run, as `dump_config` wrote it. Raises ValueError if it has been changed since.

    Fields that later versions have added may be missing: their defaults do what the version did that wrote the file.
    """
    text, mark, digest = _read(path).rpartition(CHECKSUM)
    if not mark or digest != f"{_sha256(text)}\n":
        raise ValueError(
            f"{path} is damaged or has been edited: its last line is not the checksum of the others. To use other "
            "settings, give options, or use a copy of the file with --config"
        )
    return _parse(text, path)


def dump_config(config: Config) -> str:
    """All fields of `config` as YAML, and a comment with their checksum."""
    text = yaml.safe_dump(asdict(config), sort_keys=False)
    return f"{text}{CHECKSUM}{_sha256(text)}\n"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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


def _read(path: Path) -> str:
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"{path} has {size:,} bytes, too many for a configuration (at most {LARGEST_FILE:,})")
    content = path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: the file is not UTF-8 text ({error.reason})") from None


@functools.lru_cache(maxsize=4)  # a command reads the settings of a run several times
def _parse(text: str, path: Path) -> Config:
    # Nodes instead of Python values: they have line numbers and show duplicate keys, and a few aliases cannot become
    # millions of values.
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply for a configuration") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ValueError(
            f"{path}, line {mark.line + 1}, column {mark.column + 1}: not valid YAML, {error.problem or error.context}"
        ) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(
            f"{path}, line {line}: not valid YAML, {error.reason}: {quoted(chr(error.character))}"
        ) from None
    except (ValueError, OverflowError):  # PyYAML does not check the number in "\UFFFFFFFF"
        raise ValueError(f"{path} is not valid YAML: an escape sequence is not a character") from None
    return Config() if node is None else _merge(Config(), node, path.name, "")


def _merge(base: T, node: yaml.Node, file: str, prefix: str) -> T:
    if not isinstance(node, yaml.MappingNode):
        name = prefix.rstrip(".") or "the file"
        raise ValueError(f"{_place(file, node)}: {name} must contain fields, not {_shown(node)}")
    expected = typing.get_type_hints(type(base))
    changed: dict[str, Any] = {}
    for key_node, value in node.value:
        key, place = str(key_node.value), _place(file, key_node)
        name = f"{prefix}{key}"
        if key not in expected or not isinstance(key_node, yaml.ScalarNode):
            known = dict.fromkeys([*(prefix + field for field in expected), *field_names(Config())])
            shown = name if re.fullmatch(r"[\w.-]{1,60}", name) else quoted(name)
            raise ValueError(f"{place}: unknown field {shown}{did_you_mean(name, known)}")
        if key in changed:
            raise ValueError(f"{place}: {name} is set a second time")
        present = getattr(base, key)
        if is_dataclass(present):
            changed[key] = _merge(present, value, file, f"{name}.")
        else:
            changed[key] = _typed(value, expected[key], f"{_place(file, value)}: {name}")
    return replace(base, **changed)  # type: ignore[type-var]


def _typed(node: yaml.Node, expected: Any, name: str) -> Any:
    """Return the value of `node` if it has the type `expected`. Integers are accepted as floats, and so are strings
    that hold a number, because YAML reads 1e-3 as a string."""
    value = _value(node, name)
    if typing.get_origin(expected) is Literal:
        if value is False and "off" in typing.get_args(expected):  # YAML reads an unquoted off as False
            return "off"
        if value in typing.get_args(expected):
            return value
        raise ValueError(f"{name} must be one of {', '.join(typing.get_args(expected))}, not {_shown(node)}")
    allowed = typing.get_args(expected) if isinstance(expected, types.UnionType) else (expected,)
    if float in allowed and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    if type(value) in allowed:
        return value
    names = " or ".join("null" if kind is types.NoneType else kind.__name__ for kind in allowed)
    raise ValueError(f"{name} must be of type {names}, not {_shown(node)}")


def _value(node: yaml.Node, name: str) -> Any:
    """The string, number, bool or None of a scalar; the node itself if it is anything else, which no field accepts."""
    kind = node.tag.removeprefix(YAML_TAG)
    if not isinstance(node, yaml.ScalarNode) or kind not in SCALARS:
        return node
    # YAML 1.1 reads 010 as 8 and 1:30 as 90.
    if (kind == "int" and not re.fullmatch(DECIMAL, node.value)) or (kind == "float" and ":" in node.value):
        raise ValueError(f"{name} must be a decimal number of at most 30 digits, not {quoted(node.value)}")
    try:
        return yaml.constructor.SafeConstructor().construct_document(node)
    except (ValueError, KeyError):  # a tag that does not fit: `!!float fast`, `!!bool maybe`
        return node


def _place(file: str, node: yaml.Node) -> str:
    return f"{file}, line {node.start_mark.line + 1}"


def _shown(node: yaml.Node) -> str:
    """A node in an error message."""
    if not isinstance(node, yaml.ScalarNode):
        return "a list" if isinstance(node, yaml.SequenceNode) else "fields"
    kind = node.tag.removeprefix(YAML_TAG)
    if kind not in SCALARS:
        return f"{quoted(node.value)}, which YAML reads as {quoted(kind)}"
    return quoted(node.value) if kind == "str" else quoted(node.value)[1:-1] or "null"
