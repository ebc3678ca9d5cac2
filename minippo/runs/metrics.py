"""What a stage writes while it trains: metrics, timings, samples, TensorBoard, and the progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from minippo.runs.run import Run
from minippo.runs.system import peak_memory_mb
from minippo.storage import read_json_lines, write_text

SAMPLES_HEADING = "## After iteration"
SHOWN = {
    "loss/lm": "loss",
    "loss/rm": "loss",
    "eval/accuracy": "validation accuracy",
    "objective/scores": "score",
    "objective/kl": "KL",
}
"""Metric -> its label in the progress bar."""


class Metrics:
    """Writes one line per step to `metrics.jsonl`, and the same numbers to TensorBoard.

    `metrics.jsonl` contains only what the seed determines, so a repeated run writes the same file, bit for bit;
    seconds, speed and memory go to `timing.jsonl`. `start` is the step that training continues from: later lines, which
    an interrupted run wrote after its last checkpoint, are removed.
    """

    def __init__(self, run: Run, stage: str, start: int = 0) -> None:
        self.run, self.stage = run, stage
        first_step = start + 1 if start else 0
        self.paths = {name: run.folder / f"{name}.jsonl" for name in ("metrics", "timing")}
        for path in self.paths.values():
            _drop_lines(path, stage, first_step)
        self.samples_path = run.folder / "samples.md"
        _drop_samples(self.samples_path, first_step)
        self.writer = SummaryWriter(str(run.folder / "tensorboard" / stage), purge_step=first_step)
        self.seconds: dict[str, float] = {}
        self.bar: tqdm | None = None
        self.shown: dict[str, str] = {}

    def progress(self, first: int, last: int) -> Iterator[int]:
        """Yield the steps `first` to `last` behind a progress bar, which shows the newest values of `SHOWN`.

        Metrics are flushed at the end. If training fails, the error message names the step.
        """
        unit = "iteration" if self.stage == "ppo" else "step"
        with tqdm(total=last, initial=first - 1, desc=self.stage, unit=unit) as self.bar:
            for step in range(first, last + 1):
                self.run.position = f"{self.stage}, {unit} {step}"
                yield step
                self.bar.update()
        self.run.position = ""
        self.bar = None
        self.writer.flush()

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to the timings of this step."""
        started = time.perf_counter()
        yield
        self.seconds[f"seconds/{name}"] = time.perf_counter() - started

    def log(self, step: int, stats: dict[str, float], num_tokens: int = 0) -> None:
        """Write the metrics of one step; `num_tokens` is what the timed work of this step processed, for the speed."""
        timing = {}
        if self.seconds:
            timing = self.seconds | {"peak_memory_mb": peak_memory_mb()}
            if num_tokens:
                timing["tokens_per_second"] = num_tokens / sum(self.seconds.values())
        self.seconds = {}
        for name, values in (("metrics", stats), ("timing", timing)):
            if values:
                line = {"stage": self.stage, "step": step} | {key: float(value) for key, value in values.items()}
                with self.paths[name].open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            for key, value in values.items():
                self.writer.add_scalar(key, value, step)
        if self.bar is not None:
            self.shown |= {label: f"{stats[key]:.3f}" for key, label in SHOWN.items() if key in stats}
            self.bar.set_postfix(self.shown, refresh=False)

    def log_samples(self, step: int, markdown: str) -> None:
        """Append answers to `samples.md`, and show them in TensorBoard."""
        self.writer.add_text("samples", markdown, step)
        with self.samples_path.open("a", encoding="utf-8") as file:
            file.write(f"{SAMPLES_HEADING} {step}\n\n{markdown}\n\n")

    def close(self) -> None:
        """Close the TensorBoard file."""
        self.writer.close()


def read_metrics(folder: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of a stage, oldest first."""
    return [line for _, line in read_json_lines(folder / "metrics.jsonl") if line["stage"] == stage]


def _drop_lines(path: Path, stage: str, first_step: int) -> None:
    if not path.is_file():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not _is_later(line, stage, first_step)]
    if kept != lines:
        write_text(path, "".join(kept))


def _is_later(line: str, stage: str, first_step: int) -> bool:
    if not line.endswith("\n"):  # truncated when the run was killed
        return True
    row = json.loads(line)
    return row["stage"] == stage and row["step"] >= first_step


def _drop_samples(path: Path, first_step: int) -> None:
    if not path.is_file():
        return
    first, *sections = path.read_text(encoding="utf-8").split(SAMPLES_HEADING)
    kept = [section for section in sections if int(section.split(maxsplit=1)[0]) < first_step]
    if len(kept) < len(sections):
        write_text(path, SAMPLES_HEADING.join([first, *kept]))
