"""The experiments behind README.md and docs/results.md: the commands that make their runs, and what is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench.machine import machine, versions
from minippo.runs import Run, differences, load_config, load_run, override, run_report
from minippo.storage import read_text

SEEDS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Experiment:
    """Runs with fixed settings, and what the documents show of them. All paths are relative to the repository."""

    commands: tuple[str, ...]
    """Lines of shell, run in the repository, that make everything below."""
    runs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Run directory -> its settings that differ from the preset."""
    preset: str = "reviews"
    files: Mapping[str, str] = field(default_factory=dict)
    """Entry of the stored results -> the file that it comes from: the contents of a JSON file, the lines of another."""
    curves: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """File in docs/images -> the run directories whose learning curves it shows."""
    images: Mapping[str, str] = field(default_factory=dict)
    """File in docs/images -> the file that it is a copy of."""

    def missing(self) -> list[str]:
        """What the commands have yet to make."""
        paths = [f"{folder}/ppo" for folder in self.runs] + [*self.files.values(), *self.images.values()]
        return [path for path in paths if not Path(path).exists()]


EXPERIMENTS = {
    "reviews": Experiment(
        ("make train", "python -m minippo curves runs/reviews"),
        {"runs/reviews": {}},
        curves={"reviews.png": ("runs/reviews",)},
    ),
    "seeds": Experiment(
        (
            "export OMP_NUM_THREADS=1",
            'for seed in 1 2 3 4 5; do make train RUN_DIR=runs/seed-$seed ARGS="--seed $seed"; done',
            "for seed in 1 2 3 4 5; do make train-ppo INIT_FROM=runs/seed-$seed RUN_DIR=runs/no-kl-$seed "
            'ARGS="--seed $seed --ppo.kl-coef 0"; done',
            "python -m minippo compare runs/seed-1 runs/seed-2 runs/seed-3 runs/seed-4 runs/seed-5 --mean",
            "python -m minippo compare runs/no-kl-1 runs/no-kl-2 runs/no-kl-3 runs/no-kl-4 runs/no-kl-5 --mean",
            "python -m minippo curves runs/seed-1 runs/seed-2 runs/no-kl-1 runs/no-kl-2 --out curves.png",
        ),
        {f"runs/seed-{seed}": {"seed": seed} for seed in SEEDS}
        | {f"runs/no-kl-{seed}": {"seed": seed, "ppo.kl_coef": 0.0} for seed in SEEDS},
        curves={"proxy_and_gold.png": ("runs/seed-1", "runs/seed-2", "runs/no-kl-1", "runs/no-kl-2")},
    ),
    "frontier": Experiment(
        ("SECONDS=0", "make frontier", "echo $SECONDS >> runs/frontier-seconds.txt"),
        {"runs/reviews": {}},
        files={
            "data": "runs/reviews/frontier/frontier.json",
            "seconds": "runs/frontier-seconds.txt",
        },
        images={"frontier.svg": "runs/reviews/frontier/frontier.svg"},
    ),
    "imdb-small": Experiment(
        (
            "python -m minippo sft --config imdb-small",
            "python train_rm.py --config imdb-small",
            "python train_ppo.py --config imdb-small",
            "python bench/imdb_judge.py --run-dir runs/imdb-small",
            "python -m minippo curves runs/imdb-small",
        ),
        {"runs/imdb-small": {}},
        preset="imdb-small",
        files={"judge": "runs/imdb-small/judge.json"},
        curves={"imdb-small.png": ("runs/imdb-small",)},
    ),
    "imdb-rl4lms-small": Experiment(
        (
            "python train_rm.py --config imdb-rl4lms-small --init-from runs/imdb-small",
            "python train_ppo.py --config imdb-rl4lms-small",
            "python -m minippo evaluate --run runs/imdb-rl4lms-small --out runs/imdb-rl4lms-small/evaluation.json",
            "python -m minippo frontier runs/imdb-rl4lms-small --seeds 1 --fractions 0 --coefficients 0.12 0.06 0.01 "
            "--at 3 6 9 12",
        ),
        {"runs/imdb-rl4lms-small": {}},
        preset="imdb-rl4lms-small",
        files={
            "evaluation": "runs/imdb-rl4lms-small/evaluation.json",
            "frontier": "runs/imdb-rl4lms-small/frontier/frontier.json",
        },
        images={"imdb-frontier.svg": "runs/imdb-rl4lms-small/frontier/frontier.svg"},
    ),
    "imdb-stop": Experiment(
        (
            "python train_rm.py --config imdb-small --run-dir runs/imdb-stop --init-from runs/imdb-small "
            "--data.min-crop-words 20 --ppo.min-new-tokens 0",
            "python train_ppo.py --config imdb-small --run-dir runs/imdb-stop --data.min-crop-words 20 "
            "--ppo.min-new-tokens 0",
            "python bench/imdb_judge.py --run-dir runs/imdb-stop",
            "python -m minippo curves runs/imdb-stop",
        ),
        {"runs/imdb-stop": {"data.min_crop_words": 20, "ppo.min_new_tokens": 0}},
        preset="imdb-small",
        files={"judge": "runs/imdb-stop/judge.json"},
        curves={"imdb-stop.png": ("runs/imdb-stop",)},
    ),
    "trace": Experiment(("mkdir -p runs", "make --silent trace > runs/trace.txt"), files={"output": "runs/trace.txt"}),
}
"""Name of the stored results -> experiment, in an order in which the commands work."""


def opened(folder: str, experiment: Experiment) -> Run:
    """A run of an experiment. Raises ValueError if it was trained with other settings."""
    run = load_run(Path(folder), "cpu")
    expected = override(load_config(experiment.preset), dict(experiment.runs[folder]))
    changed = {name: pair for name, pair in differences(run.config, expected).items() if name != "data.imdb_path"}
    for name, (ours, theirs) in changed.items():
        raise ValueError(f"{folder} is not a run of its experiment: {name} is {ours} instead of {theirs}; move it away")
    return run


def results(name: str) -> dict[str, Any]:
    """The contents of docs/results/NAME.json, from the finished runs of an experiment.

    `settings` and `report`, the text that the last stage prints, are those of its first run. `machine` and `date` are
    where and when the runs are read for the first time: a run does not record its machine.
    """
    experiment = EXPERIMENTS[name]
    runs = [opened(folder, experiment) for folder in experiment.runs]
    summaries = [{"run": str(run.folder), "seed": run.config.seed} | run.summary() for run in runs]
    record: dict[str, Any] = {
        "experiment": name,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commands": list(experiment.commands),
        "machine": {key: value for key, value in machine().items() if key != "threads"},  # those of this process
        "versions": summaries[0]["versions"] if summaries else versions(),
    }
    if runs:
        settings = asdict(runs[0].config)
        del settings["data"]["imdb_path"]  # a place on this machine
        record |= {"settings": settings, "report": run_report(runs[0]).splitlines(), "runs": summaries}
    for key, path in experiment.files.items():
        text = read_text(Path(path))
        record[key] = json.loads(text) if path.endswith(".json") else text.splitlines()
    return record


def updated(stored: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """`new`; but `stored` if only date and machine differ, because the same runs were read again."""
    if stored is not None and stored | {key: new[key] for key in ("date", "machine")} == new:
        return stored
    return new
