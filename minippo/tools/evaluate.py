"""Answer the held-out prompts of a finished run again, and print the result.

python -m minippo evaluate --run-dir runs/reviews
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from minippo.data import judge_of
from minippo.evaluation import Evaluator
from minippo.runs import (
    Argument,
    command_frame,
    command_line,
    load_environment,
    load_policy,
    load_run,
    read_answers,
    report,
    wrong_input_exits,
)


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate a finished run again and print the result."""

    run_dir: Annotated[Path, Argument(alias="--run")] = Path("runs/reviews")
    """Run directory."""
    scorer: str | None = None
    """The run's scorer, if it was trained on a function of yours (docs/scorer.md): a function that only the run
    directory names is not called."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on. "auto" uses a GPU if there is one."""


@command_frame()
def main() -> None:
    """`python -m minippo evaluate --run-dir RUN`."""
    options = command_line(EvaluateOptions, __doc__)
    with wrong_input_exits():
        run = load_run(options.run_dir, options.device)
        run.require_finished("ppo")
        run.require_finished("sft")
        if not run.config.ppo.scorer:
            run.require_finished("rm")
        env, policy = load_environment(run, options.scorer), load_policy(run, "ppo")
        queries = [row["query"] for row in read_answers(run)]  # so the data need not be there any more
    evaluator = Evaluator(env, queries, "test", judge_of(run.config), run.config)
    answers = evaluator.answer(policy)
    print(report(run, run.summary() | evaluator.summary(answers), evaluator.reference_answers, answers))
