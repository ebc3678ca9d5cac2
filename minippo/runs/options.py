"""The command line of the three stages: a preset or file, overridden field by field. How wrong input is answered."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeVar

import tyro

from minippo.config import Config
from minippo.errors import TrainingError
from minippo.runs.presets import load_config
from minippo.runs.validation import check

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
    """Turn a TrainingError into its sentence and exit status 1."""
    try:
        yield
    except TrainingError as error:
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
