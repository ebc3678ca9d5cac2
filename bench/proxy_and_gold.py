"""Over-optimisation: PPO with and without the KL penalty, by the reward model's score and by the gold score.

    python bench/seeds.py            # the runs with the penalty, each with a reward model of its own
    python bench/proxy_and_gold.py   # the same without it, from the same reward models

Prints a table of the final figures (test prompts) and draws every evaluation during training (validation prompts)
against the KL. Runs that exist are reused.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import tyro

from minippo.runs import read_metrics

COLUMNS = {
    "kl": "KL, nats",
    "score": "score",
    "gold_score": "gold score",
    "gold": "judged positive",
    "grammatical": "grammatical",
    "response_length": "length",
}


@dataclass(frozen=True)
class Options:
    """Which runs, and where the figure goes."""

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Seeds of the runs with the penalty, `bench/seeds.py --seeds`."""
    folder: Path = Path("runs/seeds")
    """Folder of all these runs."""
    out: Path = Path("docs/images/proxy_and_gold.png")
    """PNG file to write."""


def cells(figures: dict[str, float]) -> str:
    """The columns of one row."""
    return " | ".join(f"{figures[key]:.2f}" for key in COLUMNS)


def main() -> None:
    """Run what is missing, print Markdown and draw the figure."""
    options = tyro.cli(Options)
    rows: dict[str, list[dict[str, float]]] = {"reference": [], "with the penalty": [], "without it": []}
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for seed in options.seeds:
        folders = {
            "with the penalty": options.folder / f"reviews-{seed}",
            "without it": options.folder / f"no-kl-{seed}",
        }
        if not (folders["without it"] / "ppo").is_dir():
            source, target = map(str, folders.values())
            command = [sys.executable, "train_ppo.py", "--init-from", source, "--run-dir", target, "--seed", str(seed)]
            subprocess.run([*command, "--ppo.kl-coef", "0"], check=True, stdout=sys.stderr)
        for (name, folder), colour in zip(folders.items(), ("#3b6ea5", "#b5482f"), strict=True):
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
            rows[name].append(summary["after"])
            lines = [line for line in read_metrics(folder, "ppo") if "eval/score" in line]
            for axis, key in zip(axes, ("score", "gold_score"), strict=True):
                label = name if seed == options.seeds[0] else None
                kl, values = ([line[f"eval/{column}"] for line in lines] for column in ("kl", key))
                axis.plot(kl, values, marker=".", color=colour, alpha=0.7, label=label)
        rows["reference"].append(summary["before"])
    print(f"| | seed | {' | '.join(COLUMNS.values())} |\n| --- | --- |{' --- |' * len(COLUMNS)}")
    for name, found in rows.items():
        for seed, figures in zip(options.seeds, found, strict=True):
            print(f"| {name} | {seed} | {cells(figures)} |")
        print(f"| {name} | mean | {cells({key: statistics.mean(row[key] for row in found) for key in COLUMNS})} |")
    for axis, title in zip(axes, ("reward model's score", "gold score"), strict=True):
        axis.set_title(title)
        axis.set_xlabel("KL to the reference, nats per sequence")
        axis.grid(alpha=0.3)
    axes[0].legend()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=80)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
