"""The learning curves of a run as one picture, from its `metrics.jsonl`.

python bench/curves.py --run-dir runs/reviews --out docs/images/reviews.png
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import tyro

from minippo.runs import read_metrics

# Title, stage, name of the figure.
PANELS = (
    ("reward model: loss", "rm", "loss/rm"),
    ("reward model: held-out accuracy", "rm", "eval/accuracy"),
    ("PPO: policy loss", "ppo", "loss/policy"),
    ("PPO: value (TD) error", "ppo", "value/td_error"),
    ("PPO: average score of rollouts", "ppo", "objective/scores"),
    ("PPO: average score in evaluation", "ppo", "eval/score"),
    ("PPO: KL to the reference, nats per sequence", "ppo", "objective/kl"),
    ("PPO: response length, tokens", "ppo", "response/length"),
)


@dataclass(frozen=True)
class Options:
    """Which run, and where the picture goes."""

    run_dir: Path = Path("runs/reviews")
    """Folder of the run."""
    out: Path = Path("docs/images/reviews.png")
    """PNG file to write."""


def main() -> None:
    """Draw the panels."""
    options = tyro.cli(Options)
    stages = {stage: read_metrics(options.run_dir, stage) for stage in ("rm", "ppo")}
    figure, axes = plt.subplots(2, 4, figsize=(15, 6), constrained_layout=True)
    for axis, (title, stage, name) in zip(axes.T.flat, PANELS, strict=True):
        points = [(line["step"], line[name]) for line in stages[stage] if name in line]
        steps, values = zip(*points, strict=True)
        dense = len(points) > 100
        axis.plot(steps, values, color="#3b6ea5", alpha=0.25 if dense else 1, marker=None if dense else ".")
        if dense:
            axis.plot(steps, smooth(values, len(values) // 30), color="#3b6ea5")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step" if stage == "rm" else "iteration", fontsize=8)
        axis.grid(alpha=0.3)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=80)
    print(f"\nwritten: {options.out}")


def smooth(values: tuple[float, ...], width: int) -> list[float]:
    """Means over the last `width` values."""
    return [sum(values[max(0, i - width + 1) : i + 1]) / min(i + 1, width) for i in range(len(values))]


if __name__ == "__main__":
    main()
