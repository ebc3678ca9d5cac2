"""The options of the three training stages: a preset or YAML file, and every field of the configuration."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from minippo.config import Config
from minippo.exits import wrong_input_exits
from minippo.runs.arguments import command_line, options_text
from minippo.runs.presets import differences, load_config
from minippo.runs.scorers import require_named_scorer
from minippo.runs.validation import check, check_settings

FIRST_SECTIONS = {"sft": ("sft", "model", "data"), "rm": ("rm",), "ppo": ("ppo", "eval")}
"""The sections that `--help` of a stage lists first."""

MAKE_TARGETS = {"sft": "sft", "rm": "train-rm", "ppo": "train-ppo"}


@dataclass(frozen=True)
class Options(Config):
    """Options of the training stages."""

    config: str = "reviews"
    """Preset (reviews, smoke, imdb-small, imdb, imdb-12gb, imdb-rl4lms-small, imdb-rl4lms) or YAML file to start from.
    The defaults shown here are those of the chosen preset."""
    run_dir: Path | None = None
    """Run directory, shared by the three stages. None: runs/ followed by the name of the preset or file."""
    init_from: Path | None = None
    """Copy the earlier stages from this run directory instead of training them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on. "auto" uses a GPU if there is one."""
    plan: bool = False
    """Train nothing: print how much memory each phase of the stage will need, and which options would lower it. With
    --device cuda also for a GPU that this machine does not have."""

    @property
    def settings(self) -> Config:
        """The configuration without the other options. This is what a run stores."""
        return Config(**{field.name: getattr(self, field.name) for field in fields(Config)})

    @property
    def run_folder(self) -> Path:
        """`run_dir` or its default."""
        return self.run_dir or Path("runs") / Path(self.config).stem


def parse_options(description: str, arguments: Sequence[str] | None = None, stage: str = "sft") -> Options:
    """Read the options of a stage ("sft", "rm" or "ppo"), by default from `sys.argv`.

    Invalid options end the program with one sentence and exit status 2.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with wrong_input_exits():
        name, scorer = _config_and_scorer(arguments)
        base = load_config(name)
    defaults = Options(**{field.name: getattr(base, field.name) for field in fields(Config)}, config=name)
    options = command_line(Options, description, arguments, defaults, first=FIRST_SECTIONS[stage])
    with wrong_input_exits():
        require_named_scorer(base.ppo.scorer, scorer, name, "--ppo.scorer")
        (check_settings if options.plan else check)(options.settings)  # a plan may be for another machine
    return options


def new_run_commands(options: Options, stages: dict[str, str]) -> str:
    """The commands that train `stages` with these options in a new run directory, for Python and for make.

    The earlier stages are taken from the present run directory.

    Args:
        stages: Consecutive stages and the commands that run them, such as {"ppo": "python train_ppo.py"}.
    """
    folder, number = options.run_folder, 2
    if not folder.name:  # "."
        folder = folder.resolve()
    while (new := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    first, last = next(iter(stages)), next(reversed(stages))
    settings = _changed_settings(options)
    commands = [f"{command} {stage_options(options, new)}" for command in stages.values()]
    common = f"RUN_DIR={shlex.quote(str(new))}" + (f" ARGS={shlex.quote(settings)}" if settings else "")
    if options.config != "reviews":
        common = f"CONFIG={shlex.quote(options.config)} {common}"
    make = [f"make {MAKE_TARGETS[last]} {common}"]  # also runs the stages before the last
    if first != "sft":
        commands[0] += f" --init-from {shlex.quote(str(folder))}"
        make = [
            f"make {MAKE_TARGETS[first]} INIT_FROM={shlex.quote(str(folder))} {common}",
            *(make if last != first else []),
        ]
    return "\n".join(f"  {command}" for command in (*commands, "or", *make))


def stage_options(options: Options, folder: Path) -> str:
    """The options with which a stage is trained with these settings in `folder`."""
    common = f"--config {shlex.quote(options.config)} --run-dir {shlex.quote(str(folder))} {_changed_settings(options)}"
    return common.rstrip()


def _changed_settings(options: Options) -> str:
    preset = load_config(options.config)
    changed = {name: ours for name, (ours, _) in differences(options.settings, preset).items()}
    if options.ppo.scorer:
        changed["ppo.scorer"] = options.ppo.scorer  # also if the file contains it: see require_named_scorer
    return options_text(changed)


def _config_and_scorer(arguments: Sequence[str]) -> tuple[str, str | None]:
    """The values of --config, which determines the defaults of the other options and so has to be read before them, and
    of --ppo.scorer, None if it is not given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", default="reviews")
    parser.add_argument("--ppo.scorer", nargs="?", dest="scorer")
    known = parser.parse_known_args(arguments)[0]
    if known.config is None:
        raise ValueError("--config needs the name of a preset or the path of a YAML file")
    return known.config, known.scorer
