"""What the three stages have in common: options, input errors, the run folder, interruptions, the summary.

Every stage is two functions. `prepare(run)` loads and validates all inputs and writes nothing; `train(run, inputs)`
runs from wherever the last checkpoint left off and returns the stage's results for `summary.json`.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from minippo.data import load_corpus
from minippo.errors import GPUMemoryError, TrainingError
from minippo.exits import command_frame, print_error, stop, wrong_input_exits
from minippo.memory import phase
from minippo.runs.checkpoint import Checkpoints
from minippo.runs.opening import open_run
from minippo.runs.options import new_run_commands, parse_options
from minippo.runs.out_of_memory import remedies
from minippo.runs.plan import plan
from minippo.runs.run import NAMES, STAGES, Report, Run, needed_stages


class StageInputs(Protocol):
    """What `prepare` returns; every stage has fields of its own besides."""

    @property
    def report(self) -> Report: ...

    @property
    def data(self) -> str:
        """The fingerprint of the corpus."""
        ...


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
    invariant or a full disk ends it with one sentence and status 1, and the last checkpoint remains. After an
    interruption, the sentence has the command that resumes.
    """
    started = time.perf_counter()
    # TensorBoard writes in a thread. Its errors are reported by `Metrics`, and need no traceback of the thread.
    threading.excepthook = lambda error: (
        None if issubclass(error.exc_type, OSError) else threading.__excepthook__(error)
    )
    run = None
    with command_frame(lambda: interrupted(run, stage)):
        options = parse_options(description, stage=stage)
        with wrong_input_exits():
            if options.plan:
                print(plan(stage, options.settings, options.device))
                return
            run = open_run(options, stage)
            finished = run.is_finished(stage) and not run.in_training(stage)
            try:
                with phase("loading"):
                    inputs = None if finished else prepare(run)
            except GPUMemoryError as error:
                stop(TrainingError(failure(run, stage, error)), 1)
            data = load_corpus(run.config).fingerprint if inputs is None else inputs.data
            advice = new_run_commands(options, {stage: STAGES[stage][1]})
            run.require_data(data, [*needed_stages(stage, run.config), stage], advice)
            if inputs is not None:
                run.begin(stage)  # the first write
        if inputs is None:
            print(f"{NAMES[stage]} already trained: {run.stage(stage)} (if the code has changed: another --run-dir)\n")
        else:
            print_report(inputs.report)
            try:
                with phase("training"):
                    results = train(run, inputs)
                run.finish(stage, data, time.perf_counter() - started, inputs.report, results)
            except (TrainingError, OSError) as error:
                traceback.clear_frames(error.__traceback__)  # closes the progress bar, and with it its line
                print_error(failure(run, stage, error))
                raise SystemExit(1) from None
        with wrong_input_exits():  # a file that the report needs may be missing
            run.write_summary()  # a process that was killed may not have done so
            print(show(run))


def latest_checkpoint(run: Run, stage: str) -> str:
    """The newest checkpoint of an unfinished stage, "" if there is none."""
    folders = [run.unfinished(stage), *(run.unfinished(stage) / name for name in ("reward", "policy"))]
    paths = [path for folder in folders for path in Checkpoints(folder).paths()[-1:]]
    return str(max(paths, key=lambda path: path.stat().st_mtime)) if paths else ""


def failure(run: Run, stage: str, error: Exception) -> str:
    """The sentence that ends a failed run: where it was, what happened, and what is left."""
    last = latest_checkpoint(run, stage)
    what = str(error) + (remedies(stage, run.config, error.path) if isinstance(error, GPUMemoryError) else "")
    if isinstance(error, OSError):
        what = f"{error.filename or run.folder}: {error.strerror or error}"
    return ": ".join(filter(None, [run.position, what])) + (f". The last checkpoint is {last}" if last else "")


def interrupted(run: Run | None, stage: str) -> str:
    """The sentence that ends an interrupted run."""
    if run is None or not run.unfinished(stage).is_dir():
        return "interrupted before training began"
    last = latest_checkpoint(run, stage)
    place = f" ({run.position})" if run.position else ""
    return f"interrupted{place}; to {f'resume from {last}' if last else 'start the stage again'}: {run.command(stage)}"


def print_report(report: Report) -> None:
    """Print one line per kind of data."""
    for name, counts in report.items():
        print(f"data: {name}: {', '.join(f'{count:,} {what}' for what, count in counts.items())}")
