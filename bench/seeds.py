"""The whole mission on several seeds, none chosen by looking: all three stages, then a table of what came out.

    python bench/seeds.py --seeds 1 2 3 4 5

Runs that exist are reused, so a table can be printed again without training again.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

STAGES = (["-m", "minippo.sft"], ["train_rm.py"], ["train_ppo.py"])


@dataclass(frozen=True)
class Options:
    """Which runs."""

    config: str = "reviews"
    """Preset of every run."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """One run each."""
    folder: Path = Path("runs/seeds")
    """Where the runs go."""
    extra: tuple[str, ...] = ()
    """Further options for every stage."""


def figures(summary: dict) -> dict[str, float]:
    """The rows of the table."""
    before, after = summary["before"], summary["after"]
    return {
        "peak memory, MB": max(summary["peak_memory_mb"].values()),
        "reward model: accuracy": summary["rm_accuracy"],
        "reward model: points below the best possible": 100 * (summary["rm_accuracy_limit"] - summary["rm_accuracy"]),
        "judged positive, before": summary["gold_before"],
        "judged positive, after": summary["gold_after"],
        "win rate": summary["win_rate"],
        "sequence KL, nats": summary["kl"],
        "grammatical sentences, share of before": after["grammatical"] / before["grammatical"],
        "distinct-2, share of before": after["distinct_2"] / before["distinct_2"],
        "length, share of before": after["response_length"] / before["response_length"],
        "score, after": summary["score_after"],
        "ends by itself": summary["eos_rate"],
    }


def main() -> None:
    """Run what is missing and print Markdown."""
    options = tyro.cli(Options)
    rows = []
    for seed in options.seeds:
        folder = options.folder / f"{options.config}-{seed}"
        arguments = ["--config", options.config, "--run-dir", str(folder), "--seed", str(seed), *options.extra]
        if not (folder / "ppo").is_dir():
            for stage in STAGES:
                subprocess.run([sys.executable, *stage, *arguments], check=True, stdout=sys.stderr)
        rows.append(figures(json.loads((folder / "summary.json").read_text(encoding="utf-8"))))
    print(f"| | {' | '.join(f'seed {seed}' for seed in options.seeds)} | mean | range |")
    print("| --- |" + " --- |" * (len(rows) + 2))
    for name in rows[0]:
        values = [row[name] for row in rows]
        cells = " | ".join(f"{value:.4g}" for value in values)
        print(f"| {name} | {cells} | {statistics.mean(values):.4g} | {min(values):.4g} to {max(values):.4g} |")


if __name__ == "__main__":
    main()
