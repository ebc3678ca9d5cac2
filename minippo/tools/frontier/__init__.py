"""What PPO buys: score and gold score against KL for PPO, GRPO, RLOO and best-of-n, from one finished reward model.

python -m minippo frontier runs/reviews

Trains reward models and policies in RUN/frontier, each a run of its own, and samples a pool of the reference's
responses for best-of-n. Writes frontier.json (all points, with 95 % intervals), frontier.md (table and findings) and
frontier.svg there. The same command resumes an interrupted frontier and repeats nothing that is finished.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from minippo.config import Bounds, Count
from minippo.data import load_corpus, prompt_rows
from minippo.runs import Argument, Run, command_frame, command_line, load_run, wrong_input_exits
from minippo.storage import write_text
from minippo.tools.frontier.figure import plot
from minippo.tools.frontier.measure import Frontier, best_of_n_measured, contents
from minippo.tools.frontier.pool import check_pool
from minippo.tools.frontier.report import tables_and_findings
from minippo.tools.frontier.rows import (
    METHODS,
    check_settings,
    coefficients_of,
    minutes,
    policy_row,
    reward_row,
    threads_of,
    train,
)


@dataclass(frozen=True)
class FrontierOptions:
    """Options of `frontier`."""

    runs: Annotated[tuple[Path, ...], Argument(positional=True)] = ()
    """A run directory with a finished reward model."""
    seeds: Count = 5
    """Number of seeds, from the run's own on. Each trains a reward model (the run's is the first), and on it a policy
    for every method and coefficient."""
    coefficients: tuple[float, ...] = ()
    """KL coefficients of every method, besides the run's own, and 0 for PPO. Default: 4, 2, 1/2 and 1/4 times its own
    for PPO, 16 and 4 times its own for GRPO, no others for RLOO."""
    fractions: tuple[float, ...] = ()
    """Fractions of the comparisons to train further reward models on, for the laws of over-optimisation: three
    seeds each, with PPO without penalty. Default: 1/16 and 1/4 of the run's own. 0: none."""
    at: tuple[float, ...] = ()
    """KLs in nats at which all methods are compared, between their own points: a table of its own."""
    samples: Annotated[int, Bounds(4)] = 128
    """Responses of the reference to each prompt. Best-of-n has n = 1, 2, 4, ... up to this number."""
    prompts: Annotated[int, Bounds(2)] = 256
    """Number of test prompts."""
    jobs: Count = 2
    """Reward models or policies to train at the same time, each with its share of the cores."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on. "auto" uses a GPU if there is one."""


def prepare(options: FrontierOptions) -> Frontier:
    """Plan the frontier. Raises ValueError if the run or an option does not fit, or if matplotlib is missing."""
    if len(options.runs) != 1:
        raise ValueError("name one run directory with a finished reward model, such as runs/reviews")
    run = load_run(options.runs[0], options.device)
    if run.config.ppo.scorer:
        raise ValueError(f"{run.folder} has no reward model: {run.config.ppo.scorer} scores its responses (ppo.scorer)")
    run.require_finished("sft")
    run.require_finished("rm")
    whole = run.config.rm.fraction
    if wrong := [value for value in options.coefficients if not 0 <= value <= 1e6]:
        raise ValueError(f"KL coefficients must be at least 0, not {wrong[0]} (--coefficients)")
    further = [value for value in options.fractions or (whole / 16, whole / 4) if value != 0]
    if wrong := [value for value in further if not 0 < value < whole]:
        raise ValueError(f"fractions must be above 0 and below the run's own {whole:g}, not {wrong[0]} (--fractions)")
    if wrong := [value for value in options.at if not 0 < value <= 500]:
        raise ValueError(f"KLs to compare at must be above 0 and at most 500 nats, not {wrong[0]} (--at)")
    try:
        import matplotlib  # noqa: F401 - now, not after an hour of training
    except ImportError:
        raise ValueError("the figure needs matplotlib: run pip install matplotlib, or make install-plot") from None
    corpus = load_corpus(run.config)
    prompts, _ = prompt_rows(corpus.prompts, run.tokenizers()[0], run.config.data)
    queries = [*prompts["test"][: options.prompts]]

    fractions = [whole, *sorted(set(further), reverse=True)]
    seeds = {fraction: seeds_of(run, options.seeds if fraction == whole else 3) for fraction in fractions}
    reward_models = {fraction: [reward_row(run, fraction, seed) for seed in seeds[fraction]] for fraction in fractions}
    variants = [(method, c, whole) for method in METHODS for c in coefficients_of(run, method, options.coefficients)]
    variants += [("PPO", 0.0, fraction) for fraction in fractions[1:]]
    policies = [policy_row(run, *variant, seed, len(queries)) for variant in variants for seed in seeds[variant[2]]]
    frontier = Frontier(run, reward_models, policies, queries, corpus.judge, options.samples, options.at)
    check_settings(frontier.rows)
    check_pool(run, queries, options.samples)
    return frontier


def seeds_of(run: Run, count: int) -> range:
    """The run's own seed and those after it."""
    return range(run.config.seed, run.config.seed + count)


def announcement(frontier: Frontier, jobs: int) -> str:
    """What is about to be done, and how long it will take, judging by the stages of the run."""
    run, waiting = frontier.run, [row for row in frontier.rows if not row.finished]
    reward_models, policies = ([row for row in waiting if row.stage == stage] for stage in ("rm", "ppo"))
    seconds = run.summary()["stage_seconds"]
    total = sum(seconds["rm"] * row.config.rm.fraction / run.config.rm.fraction for row in reward_models)
    duration = minutes(total + len(policies) * seconds.get("ppo", seconds["rm"]))  # a guess if it has no policy yet
    return (
        f"{run.folder / 'frontier'}: {len(reward_models)} reward models and {len(policies)} policies to train, "
        f"{jobs} at a time on {threads_of(jobs)} threads each; {len(frontier.rows) - len(waiting)} are finished. "
        f"Best of up to {frontier.samples} samples for {len(frontier.queries)} test prompts. It takes {duration}."
    )


@command_frame(lambda: "interrupted; the same command continues")
def main() -> None:
    """`python -m minippo frontier RUN`."""
    options = command_line(FrontierOptions, __doc__)
    with wrong_input_exits():
        frontier = prepare(options)
    print(announcement(frontier, options.jobs), flush=True)
    folder = frontier.run.folder / "frontier"
    folder.mkdir(exist_ok=True)
    train([row for rows in frontier.reward_models.values() for row in rows], frontier.run, options.jobs)
    best_of_n = best_of_n_measured(frontier)
    train(frontier.policies, frontier.run, options.jobs)
    data = contents(frontier, best_of_n)
    text = tables_and_findings(data)
    write_text(folder / "frontier.json", json.dumps(data, indent=1) + "\n")
    write_text(folder / "frontier.md", text + "\n")
    plot(data, folder / "frontier.svg")
    print(f"\n{text}\n\n{folder}: frontier.json, frontier.md, frontier.svg")
