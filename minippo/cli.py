"""The command line of the three stages: a preset or file, overridden field by field. How wrong input is answered."""

from __future__ import annotations

import difflib
import io
import os
import re
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro
import yaml

from minippo.config import Config
from minippo.errors import BrokenRun
from minippo.validation import check

PRESETS = Path(__file__).parent / "configs"
T = TypeVar("T")


@dataclass(frozen=True)
class Options(Config):
    """Every field of the configuration is an option: `--ppo.kl-coef 0.1`."""

    config: str = "reviews"
    """Preset (reviews, smoke, imdb-small, imdb) or YAML file to start from. The defaults on this page are its own."""
    run_dir: Path | None = None
    """Folder of the run, which holds all three stages. By default runs/ and the preset's name."""
    init_from: Path | None = None
    """Take the earlier stages from this run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; "auto" takes a GPU where there is one."""

    @property
    def settings(self) -> Config:
        """The configuration alone, which a run stores."""
        return Config(**{field.name: getattr(self, field.name) for field in fields(Config)})

    @property
    def run_folder(self) -> Path:
        """`run_dir`, or its default."""
        return self.run_dir or Path("runs") / Path(self.config).stem


def parse_options(description: str, arguments: Sequence[str] | None = None) -> Options:
    """Options from the command line; a wrong one ends the program with a sentence and status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with wrong_input_exits():
        name = _config_argument(arguments)
        base = load_config(name)
    defaults = Options(**{field.name: getattr(base, field.name) for field in fields(Config)}, config=name)
    options = command_line(Options, description, arguments, defaults)
    with wrong_input_exits():
        check(options.settings)
    return options


def command_line(
    options: type[T], description: str | None = None, arguments: Sequence[str] | None = None, default: T | None = None
) -> T:
    """The options that the command line gives; a wrong one ends the program with a sentence and status 2."""
    drawn = io.StringIO()
    module = getattr(sys.modules["__main__"], "__spec__", None)  # there is one where Python was started with -m
    program = f"python -m {module.name}" if module else None
    try:
        with redirect_stderr(drawn):
            return tyro.cli(options, prog=program, args=arguments, default=default, description=description)
    except SystemExit as end:
        if end.code == 2:
            print(f"error: {sentence_in(drawn.getvalue())}", file=sys.stderr)
        raise


def sentence_in(box: str) -> str:
    """What stands in a box of tyro's, as one sentence: what is wrong, and the nearest right option if it knows one."""
    lines = [line.strip("│╭╰─╮╯ ") for line in box.splitlines()[1:]]  # the first holds the title
    wrong = lines[: lines.index("")] if "" in lines else lines
    nearest = re.findall(r"(?:Perhaps you meant|Arguments similar to \S+):\s+(--[\w.-]+)", " ".join(lines))
    said = re.sub(r"^Missing from .*?: ", "missing: ", " ".join(wrong).rstrip(".").removeprefix("Error parsing "))
    meant = f"; perhaps you meant {' and '.join(nearest)}" if nearest else ""
    return f"{said[:1].lower()}{said[1:]}{meant} (--help lists all)"


@contextmanager
def wrong_input_exits() -> Iterator[None]:
    """Turn a ValueError or a missing file into one sentence and exit status 2.

    Held around what happens before anything is trained or written; later such an error is ours and keeps its traceback.
    """
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def output_of_any_text() -> Iterator[None]:
    """For programs that print what models say: a letter that the terminal cannot spell becomes a question mark, and
    where nobody reads on (`| head`) the program ends without a word, with status 1."""
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as Python advises, for the last flush
        raise SystemExit(1) from None


@contextmanager
def broken_run_exits() -> Iterator[None]:
    """Turn a BrokenRun into its sentence and exit status 1."""
    try:
        yield
    except BrokenRun as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _config_argument(arguments: Sequence[str]) -> str:
    # Needed before the rest can be parsed: the other options' defaults come from it.
    name = "reviews"
    for index, argument in enumerate(arguments):
        if argument == "--config":
            if index + 1 == len(arguments):
                raise ValueError("--config needs the name of a preset or of a file")
            name = arguments[index + 1]
        elif argument.startswith("--config="):
            name = argument.removeprefix("--config=")
    return name


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
