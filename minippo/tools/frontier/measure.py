"""From finished rows to the contents of frontier.json."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from minippo.answers import Judge
from minippo.runs import Run, load_environment, load_run, load_run_scorer, read_answers, read_metrics
from minippo.tools.frontier.points import (
    Measured,
    Resamples,
    best_of_n_curves,
    best_of_n_points,
    equal_kl_rows,
    interval,
    law_row,
    point_rows,
)
from minippo.tools.frontier.pool import pool_scores, sample_pool
from minippo.tools.frontier.rows import Row


@dataclass(frozen=True)
class Frontier:
    """What is compared: planned and validated before anything is trained."""

    run: Run
    reward_models: dict[float, list[Row]]
    """Fraction of the comparisons, the run's own first -> the reward models trained on it."""
    policies: list[Row]
    queries: list[list[int]]
    """The first test prompts, in the policy's tokens."""
    judge: Judge | None
    samples: int
    """Responses to each prompt that best-of-n chooses from."""
    at: tuple[float, ...] = ()
    """KLs at which all methods are compared, in nats."""

    @property
    def rows(self) -> list[Row]:
        """All training runs, the reward models first."""
        return [*(row for rows in self.reward_models.values() for row in rows), *self.policies]


def best_of_n_measured(frontier: Frontier) -> list[Measured]:
    """Best-of-n with every reward model, all from one pool of the reference's samples."""
    run, points = frontier.run, []
    pool = sample_pool(run, load_environment(run), frontier.queries, frontier.judge, frontier.samples)
    for fraction, rows in frontier.reward_models.items():
        models = [load_run(row.folder, run.device.type) for row in rows]
        scores = torch.stack([pool_scores(pool, model, load_run_scorer(model)) for model in models])  # (S, P, N)
        points += best_of_n_points(scores, pool.gold, fraction)
    return points


def policies_measured(frontier: Frontier) -> list[Measured]:
    """The answers of the policies to the test prompts."""
    columns: dict[tuple[str, float, float], list[dict[str, Tensor]]] = defaultdict(list)
    for row in frontier.policies:
        columns[row.key].append(answers_of(row, frontier))
    return [
        Measured(*key, **{name: torch.stack([row[name] for row in rows]) for name in rows[0]})  # (S, P)
        for key, rows in columns.items()
    ]


def answers_of(row: Row, frontier: Frontier) -> dict[str, Tensor]:
    """KL, score and gold score (if there is a judge) of a policy's answers to the test prompts, (P,) each."""
    answers = read_answers(load_run(row.folder, "cpu"))
    if [answer["query"] for answer in answers] != frontier.queries:
        raise ValueError(f"{row.folder} was evaluated on other test prompts than those of {frontier.run.folder}")
    after = [answer["after"] for answer in answers]
    columns = {name: [answer[name] for answer in after] for name in ("kl", "score")}
    if frontier.judge:
        columns["gold"] = [frontier.judge.gold_score(answer["prompt"], answer["response"]) for answer in after]
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in columns.items()}


def training_curves(policies: Sequence[Row]) -> list[dict[str, Any]]:
    """The evaluations of each policy during its training, on the validation prompts."""
    curves = []
    for row in policies:
        method, coefficient, fraction = row.key
        lines = [line for line in read_metrics(row.folder, "ppo") if "eval/kl" in line]
        curve = {"method": method, "setting": coefficient, "fraction": fraction, "seed": row.config.seed}
        metrics = {"iteration": "step", "kl": "eval/kl", "score": "eval/score", "gold": "eval/gold_score"}
        columns = {name: [line[metric] for line in lines if metric in line] for name, metric in metrics.items()}
        curves.append(curve | columns)
    return curves


def checkpoint_rows(curves: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean curve of each method, a row per evaluation during training, with intervals over the reward models."""
    alike = defaultdict(list)
    for curve in curves:
        alike[curve["method"], curve["setting"], curve["fraction"]].append(curve)
    rows, resamples = [], Resamples(1)
    for key, group in alike.items():
        for index, iteration in enumerate(group[0]["iteration"]):
            row = dict(zip(("method", "setting", "fraction"), key, strict=True)) | {"iteration": iteration}
            for name in ("kl", "score", "gold"):
                means = torch.tensor([curve[name][index : index + 1] for curve in group], dtype=torch.float64)  # (S, 1)
                row[name] = interval(float(means.mean()), resamples.means(means)) if means.numel() else None
            row["kl"][1] = max(0.0, row["kl"][1])  # no KL is below it
            rows.append(row)
    return rows


def laws(best_of_n: Sequence[Measured], curves: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The laws of best-of-n, and of PPO without penalty along its training, for every fraction of the comparisons."""
    rows = []
    for fraction in dict.fromkeys(point.fraction for point in best_of_n):
        sampled = best_of_n_curves([point for point in best_of_n if point.fraction == fraction])
        mine = [c for c in curves if (c["method"], c["setting"], c["fraction"]) == ("PPO", 0.0, fraction)]
        trained = [(c["kl"][1:], [gold - c["gold"][0] for gold in c["gold"][1:]]) for c in mine]  # from iteration 0
        rows.append(law_row("best-of-n", fraction, sampled))
        if all(sum(kl > 0 for kl in kls) > 1 for kls, _ in trained):  # otherwise there were too few evaluations
            rows.append(law_row("rl", fraction, trained))
    return rows


def accuracy(row: Row) -> float:
    """Share of the held-out pairs that a reward model orders as the labels do."""
    return load_run(row.folder, "cpu").record("rm")["results"]["rm_accuracy"]


def contents(frontier: Frontier, best_of_n: Sequence[Measured]) -> dict[str, Any]:
    """Everything that has been measured, as frontier.json has it."""
    run, curves, resamples = frontier.run, training_curves(frontier.policies), Resamples(len(frontier.queries))
    points = [*best_of_n, *policies_measured(frontier)]
    coefficient, fraction, ppo = run.config.ppo.kl_coef, run.config.rm.fraction, run.config.ppo
    own = [row for row in frontier.policies if row.key == ("PPO", coefficient, fraction)]
    seconds = [load_run(row.folder, "cpu").record("ppo")["stage_seconds"] for row in own]
    return {
        "run": str(run.folder),
        "prompts": len(frontier.queries),
        "samples": frontier.samples,
        "kl_coef": coefficient,
        "fraction": fraction,
        "gold": frontier.judge is not None,
        "episodes": ppo.num_iterations * ppo.rollout_batch_size,
        "seconds": mean(seconds),
        "rm_accuracy": [[fraction, mean(map(accuracy, rows))] for fraction, rows in frontier.reward_models.items()],
        "points": point_rows(points, resamples),
        "equal_kl": equal_kl_rows(points, frontier.at, resamples),
        "checkpoints": checkpoint_rows(curves),
        "laws": laws(best_of_n, curves) if frontier.judge else [],
    }
