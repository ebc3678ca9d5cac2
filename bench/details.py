"""What each detail is worth: PPO and the reward model on the bundled reviews with one option changed.

    python bench/details.py --init-from runs/reviews [--write]

Runs that exist are reused. With --write the table goes into docs/details.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from minippo.runs import command_line

PAGE = Path(__file__).resolve().parents[1] / "docs" / "details.md"
MARK = "<!-- measured -->"
VARIANTS: dict[str, list[str]] = {
    "as it is": [],
    "another seed": ["--seed", "2"],
    "epsilon as in TensorFlow 1": ["--ppo.tensorflow-eps"],
    "epsilon 1e-8": ["--ppo.adam-eps", "1e-8"],
    "advantages not whitened": ["--ppo.no-whiten-advantages"],
    "rewards whitened": ["--ppo.whiten-rewards"],
    "lambda 1": ["--ppo.lam", "1"],
    "value loss not clipped": ["--ppo.value-clip", "None"],
    "value head of two layers": ["--ppo.value-head", "mlp"],
    "one epoch": ["--ppo.num-epochs", "1"],
    "constant learning rate": ["--ppo.schedule", "constant"],
    "adaptive coefficient, target 6 nats": ["--ppo.kl-target", "6", "--ppo.kl-horizon", "1000"],
    "early stop at approximate KL 0.02": ["--ppo.max-approx-kl", "0.02"],
    "pretraining term 1": ["--ppo.ptx-coef", "1"],
}


REWARD_MODELS: dict[str, list[str]] = {
    "as it is": [],
    "another seed": ["--seed", "2"],
    "label smoothing 0.1": ["--rm.label-smoothing", "0.1"],
    "margin 0.5": ["--rm.margin", "0.5"],
    "normalised before training": ["--rm.normalise-before"],
    "cosine schedule": ["--rm.schedule", "cosine"],
}


@dataclass(frozen=True)
class Options:
    """Which run to start from."""

    init_from: Path = Path("runs/reviews")
    """A run with the first two stages."""
    folder: Path = Path("runs/details")
    """Where the runs go."""
    write: bool = False
    """Put the table into docs/details.md."""


def summary(script: str, init_from: Path, folder: Path, stage: str, changes: list[str]) -> dict:
    """What a run has found; it is trained where it is not there."""
    if not (folder / stage).is_dir():
        command = [sys.executable, script, "--init-from", str(init_from), "--run-dir", str(folder), *changes]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def place(folder: Path, kind: str, name: str) -> Path:
    """The folder of a variant."""
    return folder / f"{kind}-{name.replace(' ', '-').replace(',', '')}"


def main() -> None:
    """Run what is missing and print Markdown."""
    options = command_line(Options, __doc__)
    lines = [
        "## Measured",
        "",
        "One run each on the bundled reviews; what another seed changes is noise. `python bench/details.py --write`",
        "makes these tables. PPO, from one reward model:",
        "",
        "| changed | score | gold score | judged positive | win rate | KL, nats | grammatical | length |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, changes in VARIANTS.items():
        found = summary("train_ppo.py", options.init_from, place(options.folder, "ppo", name), "ppo", changes)
        after = found["after"]
        cells = (
            after["score"],
            after["gold_score"],
            after["gold"],
            found["win_rate"],
            after["kl"],
            after["grammatical"],
        )
        numbers = " | ".join(f"{value:.2f}" for value in cells)
        lines.append(f"| {name} | {numbers} | {after['response_length']:.0f} |")
    lines += [
        "",
        "Reward model, from one warm-started backbone:",
        "",
        "| changed | held-out accuracy | best possible | calibration error |",
        "| --- | --- | --- | --- |",
    ]
    for name, changes in REWARD_MODELS.items():
        found = summary("train_rm.py", options.init_from, place(options.folder, "rm", name), "rm", changes)
        cells = (found["rm_accuracy"], found["rm_accuracy_limit"], found["rm_calibration_error"])
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in cells) + " |")
    print("\n".join(lines))
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(page[: page.index(MARK)] + MARK + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
