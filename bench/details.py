"""Effect of each implementation detail: PPO and the reward model on the bundled reviews with one option changed.

    python bench/details.py --init-from runs/reviews [--write]

Existing runs are reused. With --write, the tables replace those in docs/details.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from minippo.runs import command_line, load_run, wrong_input_exits

PAGE = Path(__file__).resolve().parents[1] / "docs" / "details.md"
MARK = "<!-- measured -->"
VARIANTS: dict[str, list[str]] = {
    "baseline": [],
    "another seed": ["--seed", "2"],
    "epsilon placed as in TensorFlow 1": ["--ppo.tensorflow-eps"],
    "epsilon 1e-8": ["--ppo.adam-eps", "1e-8"],
    "no advantage whitening": ["--ppo.no-whiten-advantages"],
    "reward whitening": ["--ppo.whiten-rewards"],
    "lambda 1": ["--ppo.lam", "1"],
    "no value clipping": ["--ppo.value-clip", "None"],
    "two-layer value head": ["--ppo.value-head", "mlp"],
    "one epoch": ["--ppo.num-epochs", "1"],
    "constant learning rate": ["--ppo.schedule", "constant"],
    "adaptive coefficient, target 6 nats": ["--ppo.kl-target", "6", "--ppo.kl-horizon", "1000"],
    "early stopping at approximate KL 0.02": ["--ppo.max-approx-kl", "0.02"],
    "pretraining term with weight 1": ["--ppo.ptx-coef", "1"],
}


REWARD_MODELS: dict[str, list[str]] = {
    "baseline": [],
    "another seed": ["--seed", "2"],
    "label smoothing 0.1": ["--rm.label-smoothing", "0.1"],
    "margin 0.5": ["--rm.margin", "0.5"],
    "normalised before training": ["--rm.normalise-before"],
    "cosine schedule": ["--rm.schedule", "cosine"],
}


@dataclass(frozen=True)
class Options:
    """Where to start from and what to write."""

    init_from: Path = Path("runs/reviews")
    """Run directory with the first two stages."""
    folder: Path = Path("runs/details")
    """Parent directory of the new runs."""
    write: bool = False
    """Replace the tables in docs/details.md."""


def summary(script: str, init_from: Path, folder: Path, stage: str, changes: list[str]) -> dict:
    """The summary of the run in `folder`, which is trained first if it does not exist."""
    if not (folder / stage).is_dir():
        command = [sys.executable, script, "--init-from", str(init_from), "--run-dir", str(folder), *changes]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def run_dir(folder: Path, kind: str, name: str) -> Path:
    """Run directory of a variant."""
    return folder / f"{kind}-{name.replace(' ', '-').replace(',', '')}"


def main() -> None:
    """Train the missing runs and print Markdown."""
    options = command_line(Options, __doc__)
    with wrong_input_exits():
        load_run(options.init_from, "cpu").require_finished("rm")
    lines = [
        "## Measured",
        "",
        'One run per row on the bundled reviews; compare with "another seed" to see the size of the noise. These',
        "commands make the tables and write them into this page:",
        "",
        "```bash",
        "make install-dev",
        "python bench/details.py --init-from runs/reviews --write",
        "```",
        "",
        "PPO, from one reward model:",
        "",
        "| changed | score | gold score | judged positive | win rate | KL, nats | grammatical | length |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, changes in VARIANTS.items():
        result = summary("train_ppo.py", options.init_from, run_dir(options.folder, "ppo", name), "ppo", changes)
        after = result["after"]
        cells = (
            after["score"],
            after["gold_score"],
            after["gold"],
            result["win_rate"],
            after["kl"],
            after["grammatical"],
        )
        numbers = " | ".join(f"{value:.2f}" for value in cells)
        lines.append(f"| {name} | {numbers} | {after['response_length']:.0f} |")
    lines += [
        "",
        "Reward model, from one pretrained backbone:",
        "",
        "| changed | held-out accuracy | best possible | calibration error |",
        "| --- | --- | --- | --- |",
    ]
    for name, changes in REWARD_MODELS.items():
        result = summary("train_rm.py", options.init_from, run_dir(options.folder, "rm", name), "rm", changes)
        cells = (result["rm_accuracy"], result["rm_accuracy_limit"], result["rm_calibration_error"])
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in cells) + " |")
    print("\n".join(lines))
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(page[: page.index(MARK)] + MARK + "\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
