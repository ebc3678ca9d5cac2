"""What the three stages have in common: options, input errors, the run folder, the summary.

Every stage is two functions. `prepare(run)` loads and validates all inputs and writes nothing; `train(run, inputs)`
runs from wherever the last checkpoint left off and returns the stage's entries of `summary.json`.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from minippo.errors import TrainingError
from minippo.exits import command_frame, print_error, wrong_input_exits
from minippo.runs.checkpoint import Checkpoints
from minippo.runs.options import parse_options
from minippo.runs.run import NAMES, Run, open_run

Report = dict[str, dict[str, int]]
"""Kind of data -> what was counted -> rows: how much was read, and how much was left out and why."""


class StageInputs(Protocol):
    """What `prepare` returns; every stage has fields of its own besides."""

    @property
    def report(self) -> Report: ...


Inputs = TypeVar("Inputs", bound=StageInputs)


def run_stage(
    stage: str,
    description: str,
    prepare: Callable[[Run], Inputs],
    train: Callable[[Run, Inputs], dict[str, Any]],
    show: Callable[[Run], str],
) -> None:
    """Run a stage from the command line, and print `show(run)` when it is finished.

    Invalid input ends the program with one sentence and status 2 before anything is trained or written; a failed
    invariant ends it with one sentence and status 1, and the last checkpoint remains.
    """
    started = time.perf_counter()
    with command_frame():
        options = parse_options(description, stage=stage)
        with wrong_input_exits():
            run = open_run(options, stage)
            finished = run.is_finished(stage)
            if not finished:
                inputs = prepare(run)
                run.begin(stage)  # the first write
        if finished:
            print(f"{NAMES[stage]} already trained: {run.stage(stage)} (if the code has changed: another --run-dir)\n")
        else:
            print_report(inputs.report)
            try:
                entries = train(run, inputs)
            except TrainingError as error:
                traceback.clear_frames(error.__traceback__)  # closes the progress bar, and with it its line
                print_error(failure(run, stage, error))
                raise SystemExit(1) from None
            run.add_to_summary(stage, time.perf_counter() - started, inputs.report, **entries)
            run.finish(stage)
        with wrong_input_exits():  # a file that the report needs may be missing
            print(show(run))


def failure(run: Run, stage: str, error: TrainingError) -> str:
    """The sentence that ends a failed run: where it was, what happened, and what is left."""
    latest = Checkpoints(run.unfinished(stage)).paths()[-1:]
    return ": ".join(filter(None, [run.position, str(error)])) + "".join(
        f". The last checkpoint is {p}" for p in latest
    )


def print_report(report: Report) -> None:
    """Print one line per kind of data."""
    for name, counts in report.items():
        print(f"data: {name}: {', '.join(f'{count:,} {what}' for what, count in counts.items())}")


def due(iteration: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` iterations, and after the last one, happens after this one."""
    return iteration % every == 0 or iteration == last
