"""Does the proxy climb on while the truth falls? The model's score and the gold score against KL, per evaluation.

python train_ppo.py --init-from runs/reviews --run-dir runs/no-kl --ppo.kl-coef 0
python bench/proxy_and_gold.py --run-dirs runs/reviews runs/no-kl --out docs/images/proxy_and_gold.png
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import tyro

from minippo.metrics import read_metrics


@dataclass(frozen=True)
class Options:
    """Which runs, and where the picture goes."""

    run_dirs: tuple[Path, ...] = (Path("runs/reviews"), Path("runs/no-kl"))
    """Folders of the runs."""
    out: Path = Path("docs/images/proxy_and_gold.png")
    """PNG file to write."""


def main() -> None:
    """Print Markdown and draw the picture."""
    options = tyro.cli(Options)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    print("| run | iteration | KL, nats | score | gold score | judged positive | grammatical | length |")
    print("| --- |" + " --- |" * 7)
    for folder in options.run_dirs:
        lines = [line for line in read_metrics(folder, "ppo") if "eval/score" in line]
        for line in lines:
            keys = ("kl", "score", "gold_score", "gold", "grammatical", "response_length")
            cells = " | ".join(f"{line[f'eval/{key}']:.2f}" for key in keys)
            print(f"| {folder.name} | {line['step']} | {cells} |")
        kl = [line["eval/kl"] for line in lines]
        for axis, key, title in zip(axes, ("score", "gold_score"), ("reward model's score", "gold score"), strict=True):
            axis.plot(kl, [line[f"eval/{key}"] for line in lines], marker=".", label=folder.name)
            axis.set_title(title)
            axis.set_xlabel("KL to the reference, nats per sequence")
            axis.grid(alpha=0.3)
    axes[0].legend()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=80)
    print(f"\nwritten: {options.out}")


if __name__ == "__main__":
    main()
