"""Store the results of all finished experiments, and render README.md and docs/results.md from the stored results.

    python -m bench.documents                # as `make results`: from the runs that exist
    python -m bench.documents --train        # first run the commands of every experiment that is not complete: hours

An experiment (bench/experiments.py) whose runs exist and are finished is read, written to docs/results/NAME.json, and
its figures in docs/images are drawn again. The stored results of the others stay, and their commands are printed.
docs/templates/ contains both documents, with expressions in place of the results. Run it in the repository.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from bench.experiments import EXPERIMENTS, Experiment, results, updated
from minippo.runs import command_frame, command_line, wrong_input_exits
from minippo.storage import read_object, read_text, write_text
from minippo.tools.curves import plot_runs
from minippo.tools.frontier import tables_and_findings

DOCS = Path("docs")
PAGES = {"README.md": Path("README.md"), "results.md": DOCS / "results.md"}
"""Template in docs/templates -> the document that is rendered from it."""


@dataclass(frozen=True)
class Options:
    """What to do."""

    train: bool = False
    """First run the commands of every experiment that is not complete."""


# ---------------------------------------------------------------------------------------------- templates


@jinja2.pass_environment
def each(env: jinja2.Environment, runs: Sequence[dict[str, Any]], expression: str) -> list[Any]:
    """The value of an expression such as "after.gold - before.gold" for the results of each run."""
    value = env.compile_expression(expression, undefined_to_none=False)
    return [value(**run) for run in runs]


def paragraphs(lines: Sequence[str], start: int, stop: int) -> str:
    """Some of the paragraphs of a stored text, counted from 0."""
    return "\n\n".join("\n".join(lines).split("\n\n")[start:stop])


def starting(lines: Sequence[str], prefix: str, count: int) -> str:
    """The first line of a stored text that starts with `prefix`, and those after it: `count` in all."""
    first = next(index for index, line in enumerate(lines) if line.startswith(prefix))
    return "\n".join(lines[first : first + count])


def holds(condition: bool, caller: Callable[[], str]) -> str:
    """`{% call holds(condition) %}a sentence{% endcall %}`: ValueError if the results contradict the sentence."""
    if not condition:
        raise ValueError(f"the results contradict this sentence: {' '.join(caller().split())}")
    return caller()


FILTERS: dict[str, Callable[..., Any]] = {
    "fixed": lambda x, digits: f"{x:.{digits}f}",
    "signed": lambda x, digits: f"{x:+.{digits}f}",
    "significant": lambda x: f"{x:.4g}",
    "thousands": lambda x: f"{x:,}",
    "mean": statistics.mean,
    "each": each,
    "paragraphs": paragraphs,
    "starting": starting,
    "tables_and_findings": tables_and_findings,
}


def environment() -> jinja2.Environment:
    """How templates are read: a name or entry that does not exist is an error."""
    env = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    env.filters |= FILTERS
    env.globals["holds"] = holds
    return env


def stored_results() -> dict[str, Any]:
    """Name of the experiment, with "_" for "-" -> its stored results."""
    paths = sorted((DOCS / "results").glob("*.json"))
    return {path.stem.replace("-", "_"): read_object(path) for path in paths}


def rendered(template: str, stored: dict[str, Any]) -> str:
    """A document. Raises ValueError if a result is missing or contradicts a sentence."""
    path = DOCS / "templates" / template
    try:
        return environment().from_string(read_text(path)).render(stored)
    except (jinja2.TemplateError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


# ---------------------------------------------------------------------------------------------- experiments


def run_commands(name: str, experiment: Experiment) -> None:
    """Run the commands of an experiment. Raises ValueError if one of them fails."""
    print(f"{name}:\n{indented(experiment)}", flush=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python` is this one
    done = subprocess.run(["bash", "-ec", "\n".join(experiment.commands)], env=os.environ | {"PATH": path})
    if done.returncode:
        raise ValueError(f"the commands of {name} have failed with status {done.returncode}")


def indented(experiment: Experiment) -> str:
    """The commands, one per line."""
    return "\n".join(f"    {command}" for command in experiment.commands)


def draw(experiment: Experiment) -> None:
    """Draw or copy the figures of a complete experiment."""
    for image, folders in experiment.curves.items():
        plot_runs([Path(folder) for folder in folders], DOCS / "images" / image)
    for image, path in experiment.images.items():
        shutil.copyfile(path, DOCS / "images" / image)


def update(name: str, experiment: Experiment) -> None:
    """Store the results of an experiment and draw its figures, if it is complete."""
    if missing := experiment.missing():
        print(f"{name}: no {missing[0]}, the stored results stay. The commands are\n{indented(experiment)}")
        return
    path = DOCS / "results" / f"{name}.json"
    record = updated(read_object(path) if path.exists() else None, results(name))
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    draw(experiment)
    print(f"{name}: {path}")


@command_frame()
def main() -> None:
    """Update all stored results, then both documents."""
    options = command_line(Options, __doc__)
    with wrong_input_exits():
        if not (DOCS / "templates").is_dir():
            raise ValueError(f"no {DOCS / 'templates'} in {Path.cwd()}: run this command in the repository")
        for name, experiment in EXPERIMENTS.items():
            if options.train and experiment.missing():
                run_commands(name, experiment)
            update(name, experiment)
        texts = {page: rendered(template, stored_results()) for template, page in PAGES.items()}
        for page, text in texts.items():
            write_text(page, text)
    print(*PAGES.values(), sep="\n")


if __name__ == "__main__":
    main()
