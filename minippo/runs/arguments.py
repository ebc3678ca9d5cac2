"""Dataclasses as command lines: every field is an option, and the string below a field is its help text.

A section (a field that is a dataclass itself) becomes a group of options: `ppo.kl_coef` is `--ppo.kl-coef`.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import re
import shlex
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

from minippo.exits import wrong_input_exits
from minippo.runs.presets import did_you_mean
from minippo.runs.validation import check_bounds

T = TypeVar("T")
OPTION = re.compile(r"--[A-Za-z][\w.-]*(?![^=])")
"""An option, or the option at the start of `--name=value`. "-- a dash" is a text."""

LONGEST_QUOTE = 300


@dataclass(frozen=True)
class Argument:
    """Annotation of a field that needs more than its name: `run: Annotated[Path, Argument(alias="--run-dir")]`."""

    alias: str = ""
    """A second name for the option."""
    positional: bool = False
    """The field is not an option: it takes the arguments that belong to no option."""


def command_line(
    options: type[T],
    description: str | None = None,
    arguments: Sequence[str] | None = None,
    default: T | None = None,
    first: Sequence[str] = (),
) -> T:
    """Read the options of a command, by default from `sys.argv`.

    An invalid command line ends the program with one sentence and exit status 2.

    Args:
        options: Dataclass of the options. Fields without a default are required.
        description: Shown by `--help`.
        default: Values of the options that are not given. Required if `options` has sections.
        first: The sections that `--help` lists before the others.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _Parser(options, description, default, first)
    with wrong_input_exits():
        values = parser.read(arguments)
        parsed = options(**values) if default is None else override(default, values)
        check_bounds(parsed)
    return parsed


def options_text(values: dict[str, Any]) -> str:
    """The options that set these fields: {"ppo.whiten_rewards": True, "seed": 2} -> "--ppo.whiten-rewards --seed 2"."""
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            words.append(_option(name) if value else _switched_off(_option(name)))
        else:
            words += [_option(name), shlex.quote(str(value))]
    return " ".join(words)


class _Parser(argparse.ArgumentParser):
    """An argparse parser for a dataclass, whose errors are one sentence without the usage."""

    def __init__(self, options: type, description: str | None, default: Any, first: Sequence[str]) -> None:
        super().__init__(
            prog=_program(),
            usage="%(prog)s [options]",
            description=description,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=8),
            allow_abbrev=False,
        )
        self.names: list[str] = []
        """Every option, to suggest the nearest one for a misspelt one."""
        self.add_fields(options, default, "", self)
        sections = list(_sections(options, default))
        for name, section, text in sorted(sections, key=lambda section: _rank(section[0], first)):
            group = self.add_argument_group(f"{name} options", text)
            self.add_fields(type(section), section, f"{name}.", group)

    def add_fields(self, options: type, default: Any, prefix: str, group: argparse._ActionsContainer) -> None:
        """Add an option for each field of `options` that is not a section."""
        texts, hints = field_texts(options), typing.get_type_hints(options, include_extras=True)
        for field in fields(options):
            value = _default_of(field) if default is None else getattr(default, field.name)
            if not is_dataclass(value):
                self.add_field(group, prefix + field.name, hints[field.name], value, texts.get(field.name, ""))

    def add_field(self, group: argparse._ActionsContainer, name: str, hint: Any, value: Any, text: str) -> None:
        """Add one option. It is absent from the result unless it is given."""
        metadata = getattr(hint, "__metadata__", ())
        argument = next((item for item in metadata if isinstance(item, Argument)), Argument())
        hint = typing.get_args(hint)[0] if metadata else hint
        many = typing.get_origin(hint) is tuple
        settings: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": name}
        if value is MISSING:
            settings["help"] = f"{text} (required)"
        else:
            settings["help"] = text if many else f"{text} (default: {value if value != '' else repr(value)})"
        settings["help"] = settings["help"].replace("%", "%%")
        if hint is bool:
            flags = [_option(name), _switched_off(_option(name))]
            group.add_argument(*flags, nargs=0, action=_Switch, **settings)
            self.names += flags
            return
        settings |= _conversion(typing.get_args(hint)[0] if many else hint)
        if argument.positional:
            settings["help"] = text
            self.usage = f"{self.usage} [{name} ...]"
            group.add_argument(name, nargs="*", **{key: settings[key] for key in ("type", "help", "default")})
            return
        if many:
            settings |= {"nargs": "+", "action": "extend"}
        flags = [_option(name), *([argument.alias] if argument.alias else [])]
        group.add_argument(*flags, required=value is MISSING, **settings)
        self.names += flags

    def read(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The values that `arguments` give, by dotted name. Raises ValueError if they are invalid."""
        end = arguments.index("--") if "--" in arguments else len(arguments)
        words: list[str] = []
        for word in arguments[:end]:
            if words and OPTION.fullmatch(words[-1]) and re.fullmatch(r"-(\.?\d[\d.eE+-]*|inf|nan)", word):
                words[-1] += f"={word}"  # argparse takes -1 for a value, but -1e-3 for an option
            else:
                words.append(_hyphens(word))
        options = [word.partition("=")[0] for word in words if OPTION.match(word)]
        unknown = [option for option in options if option not in (*self.names, "--help")]
        if unknown:  # argparse would report the values of unknown options, too, and missing options first
            hints = [f"unknown option {option[:60]}{did_you_mean(option, self.names)}" for option in unknown]
            raise ValueError(f"{' '.join(hints)} (--help lists all)")
        values = vars(self.parse_args([*words, *arguments[end:]]))
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    def error(self, message: str) -> NoReturn:
        """Called by argparse, whose message quotes what was given."""
        message = " ".join(message.split())
        message = message if len(message) <= LONGEST_QUOTE else f"{message[:LONGEST_QUOTE]} ..."
        raise ValueError(f"{message} (--help lists all options)")


class _Switch(argparse.Action):
    """--ppo.whiten-rewards and --ppo.no-whiten-rewards."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, option_string == self.option_strings[0])


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _switched_off(option: str) -> str:
    section, dot, name = option.removeprefix("--").rpartition(".")
    return f"--{section}{dot}no-{name}"


def _hyphens(argument: str) -> str:
    """--ppo.kl_coef=0.1 -> --ppo.kl-coef=0.1"""
    name, equals, value = argument.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if argument.startswith("--") else argument


def _conversion(hint: Any) -> dict[str, Any]:
    """The settings with which argparse converts the text of an option to a value of type `hint`."""
    if typing.get_origin(hint) is Literal:
        return {"choices": typing.get_args(hint)}
    kinds = typing.get_args(hint) or (hint,)
    if types.NoneType not in kinds:
        return {"type": hint, "metavar": hint.__name__.upper()}

    def convert(text: str) -> Any:
        return None if text == "None" else kinds[0](text)

    convert.__name__ = f"{kinds[0].__name__} or None"  # for argparse's message: invalid float or None value: 'x'
    return {"type": convert, "metavar": f"{kinds[0].__name__.upper()}|None"}


def _default_of(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@functools.cache
def field_texts(options: type) -> dict[str, str]:
    """The strings below the fields of a dataclass. A field that overrides another inherits its text."""
    texts: dict[str, str] = {}
    for base in reversed([base for base in options.__mro__ if is_dataclass(base)]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body = definition.body  # type: ignore[attr-defined]
        for statement, following in pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                texts[statement.target.id] = " ".join(ast.literal_eval(following.value).split())  # type: ignore[union-attr]
    return texts


def _sections(options: type, default: Any, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    """Name, value and description of every section that has options of its own, and of those within them."""
    texts = field_texts(options)
    for field in fields(options) if default is not None else ():
        section, name = getattr(default, field.name), prefix + field.name
        if is_dataclass(section):
            if not all(is_dataclass(getattr(section, inner.name)) for inner in fields(section)):
                text = texts.get(field.name) or inspect.cleandoc(section.__doc__ or "")
                yield name, section, " ".join(text.split())
            yield from _sections(type(section), section, f"{name}.")


def _rank(name: str, first: Sequence[str]) -> int:
    section = name.partition(".")[0]
    return first.index(section) if section in first else len(first)


def override(base: T, values: dict[str, Any], prefix: str = "") -> T:
    """`base` with other values for the fields that `values` names."""
    changed = {}
    for field in fields(base):  # type: ignore[arg-type]
        name, value = prefix + field.name, getattr(base, field.name)
        changed[field.name] = override(value, values, f"{name}.") if is_dataclass(value) else values.get(name, value)
    return replace(base, **changed)  # type: ignore[type-var]


def _program() -> str:
    """How the program was started: "train_ppo.py", or "python -m minippo generate" (`minippo/__main__.py`)."""
    return Path(sys.argv[0]).name
