"""What a run writes while it goes: metrics, timing, TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

SAMPLES_HEADING = "## After iteration"


class Metrics:
    """One line a step in `metrics.jsonl`, the same figures in TensorBoard.

    `metrics.jsonl` holds what the seed determines and is the same, bit for bit, in a second run; seconds, speeds and
    memory go to `timing.jsonl`. A stage that starts again at `first_step` takes the lines from there on back.
    """

    def __init__(self, folder: Path, stage: str, first_step: int = 0) -> None:
        self.stage = stage
        self.paths = {name: folder / f"{name}.jsonl" for name in ("metrics", "timing")}
        for path in self.paths.values():
            _drop_lines(path, stage, first_step)
        self.samples_path = folder / "samples.md"
        _drop_samples(self.samples_path, first_step)
        self.writer = SummaryWriter(str(folder / "tensorboard" / stage), purge_step=first_step)

    def log(self, step: int, figures: dict[str, float], timing: dict[str, float] | None = None) -> None:
        """Write the figures of one step."""
        for name, values in (("metrics", figures), ("timing", timing or {})):
            if values:
                line = {"stage": self.stage, "step": step} | {key: float(value) for key, value in values.items()}
                with self.paths[name].open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            for key, value in values.items():
                self.writer.add_scalar(key, value, step)

    def samples(self, step: int, markdown: str) -> None:
        """Show answers in TensorBoard and append them to `samples.md`."""
        self.writer.add_text("samples", markdown, step)
        with self.samples_path.open("a", encoding="utf-8") as file:
            file.write(f"{SAMPLES_HEADING} {step}\n\n{markdown}\n\n")

    def close(self) -> None:
        """Flush what TensorBoard has not written yet."""
        self.writer.close()


def read_metrics(folder: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of a stage, oldest first."""
    with (folder / "metrics.jsonl").open(encoding="utf-8") as file:
        return [line for line in map(json.loads, file) if line["stage"] == stage]


def _drop_lines(path: Path, stage: str, first_step: int) -> None:
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not _is_later(line, stage, first_step)]
    if kept != lines:
        path.write_text("".join(kept), encoding="utf-8")


def _is_later(line: str, stage: str, first_step: int) -> bool:
    if not line.endswith("\n"):  # cut short when the run was killed
        return True
    row = json.loads(line)
    return row["stage"] == stage and row["step"] >= first_step


def _drop_samples(path: Path, first_step: int) -> None:
    if not path.is_file():
        return
    first, *sections = path.read_text(encoding="utf-8").split(SAMPLES_HEADING)
    kept = [section for section in sections if int(section.split(maxsplit=1)[0]) < first_step]
    path.write_text(SAMPLES_HEADING.join([first, *kept]), encoding="utf-8")
