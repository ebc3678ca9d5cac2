"""Evaluate a finished run again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from minippo.data import judge_of
from minippo.evaluation import final_evaluation
from minippo.runs import (
    Argument,
    answered,
    broken_run_exits,
    command_line,
    load_run,
    report,
    scorer_of,
    wrong_input_exits,
)
from minippo.storage import write_text
from minippo.weights import load_actor_critic


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate a finished run again and print the result."""

    run_dir: Annotated[Path, Argument(alias="--run")] = Path("runs/reviews")
    """Folder of the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def main() -> None:
    """`python -m minippo evaluate --run-dir RUN`."""
    options = command_line(EvaluateOptions, __doc__)
    with wrong_input_exits():
        run = load_run(options.run_dir, options.device)
        if not run.is_finished("ppo"):
            raise ValueError(f"{run.folder} has no finished ppo/: train the policy first (python train_ppo.py)")
        tokenizer, _ = run.tokenizers()
        scorer = scorer_of(run)
        queries = [row["query"] for row in answered(run)]  # so it needs no data, wherever it has been moved
    policy = load_actor_critic(run.stage("ppo") / "policy").to(run.device)
    reference = load_actor_critic(run.stage("sft") / "policy").to(run.device)
    with broken_run_exits():
        found = final_evaluation(run, policy, reference, scorer, tokenizer, queries, judge_of(run.config))
    write_text(run.folder / "summary.json", json.dumps(run.summary() | found, indent=2) + "\n")
    print(report(run))
