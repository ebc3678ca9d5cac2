"""What a stage writes while it trains: metrics, timings, samples, TensorBoard, and the progress bar."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from minippo.errors import require_finite
from minippo.interruption import Interruption, finishing_steps
from minippo.runs.run import Run
from minippo.runs.system import peak_memory_mb
from minippo.storage import append_lines, entry, read_json_lines, write_bytes, write_text

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

    If a file cannot be written, because the disk is full or the folder has gone, a warning is printed, the lines are
    kept in memory, and every later step tries again.
    """

    def __init__(self, run: Run, stage: str, start: int = 0) -> None:
        run.require_in_place()  # TensorBoard would create the folder again
        self.run, self.stage = run, stage
        first_step = start + 1 if start else 0
        self.paths = {name: run.folder / f"{name}.jsonl" for name in ("metrics", "timing")}
        for path in self.paths.values():
            _drop_lines(path, stage, first_step)
        self.samples_path = run.folder / "samples.md"
        if stage == "ppo":
            _drop_samples(self.samples_path, first_step)
        self.pending: dict[Path, list[str]] = {}
        """Lines that could not be written yet."""
        self.tensorboard_failed = False
        run.position = f"{stage}, {self.unit} {start}"
        self.writer = SummaryWriter(str(run.folder / "tensorboard" / stage), purge_step=first_step)
        self.seconds: dict[str, float] = {}
        self.bar: tqdm | None = None
        self.shown: dict[str, str] = {}

    def progress(self, first: int, last: int) -> Iterator[int]:
        """Yield the steps `first` to `last` behind a progress bar, which shows the newest values of `SHOWN`.

        Metrics are flushed at the end. If training fails, the error message names the step. After a signal such as
        Ctrl-C, the step is the last one (`Checkpoints.due` saves it), and Interruption is raised.
        """
        bar = tqdm(total=last, initial=first - 1, desc=self.stage, unit=self.unit)
        with finishing_steps() as stop_if_requested, bar as self.bar:
            for step in range(first, last + 1):
                self.run.position = f"{self.stage}, {self.unit} {step}"
                yield step
                self.bar.update()
                try:
                    stop_if_requested()
                except Interruption:
                    self.close()
                    raise
        self.run.position = f"{self.stage}, after {self.unit} {last}"
        self.bar = None
        self._try(self.writer.flush)

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to the timings of this step."""
        started = time.perf_counter()
        yield
        self.seconds[f"seconds/{name}"] = time.perf_counter() - started

    def log(self, step: int, stats: dict[str, float], num_tokens: int = 0) -> None:
        """Write the metrics of one step; `num_tokens` is what the timed work of this step processed, for the speed.

        Raises TrainingError if a value is NaN or infinite.
        """
        require_finite(stats)
        timing = {}
        if self.seconds:
            timing = self.seconds | {"peak_memory_mb": peak_memory_mb()}
            if num_tokens:
                timing["tokens_per_second"] = num_tokens / sum(self.seconds.values())
        self.seconds = {}
        for name, values in (("metrics", stats), ("timing", timing)):
            if values:
                line = {"stage": self.stage, "step": step} | {key: float(value) for key, value in values.items()}
                self._append(self.paths[name], json.dumps(line) + "\n")
            for key, value in values.items():
                self._try(self.writer.add_scalar, key, value, step)
        if self.bar is not None:
            self.shown |= {label: f"{stats[key]:.3f}" for key, label in SHOWN.items() if key in stats}
            self.bar.set_postfix(self.shown, refresh=False)

    def log_samples(self, step: int, markdown: str) -> None:
        """Append answers to `samples.md`, and show them in TensorBoard."""
        self._try(self.writer.add_text, "samples", markdown, step)
        self._append(self.samples_path, f"{SAMPLES_HEADING} {step}\n\n{markdown}\n\n")

    def close(self) -> None:
        """Close the TensorBoard file, and try once more to write the lines that could not be written."""
        self._try(self.writer.close)
        for path in list(self.pending):
            self._append(path, "")
        for path, lines in self.pending.items():
            _warn(f"{len(lines) - 1} lines of {path} could not be written and are lost")

    @property
    def unit(self) -> str:
        """What the stage counts."""
        return "iteration" if self.stage == "ppo" else "step"

    def _append(self, path: Path, text: str) -> None:
        lines = [*self.pending.pop(path, []), text]
        try:
            append_lines(path, lines)
        except OSError as error:
            if len(lines) == 1:  # once, not at every step
                _warn(f"{path} cannot be written: {error.strerror}; its lines are kept and written later")
            self.pending[path] = lines

    def _try(self, write: Callable[..., object], *arguments: object) -> None:
        """Call a method of TensorBoard's writer; if its file cannot be written, training goes on without it."""
        try:
            if not self.tensorboard_failed:
                write(*arguments)
        except (OSError, ValueError) as error:
            self.tensorboard_failed = True
            _warn(f"TensorBoard's file in {self.run.folder} cannot be written: {error}; it ends here")


def read_metrics(folder: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of a stage, oldest first."""
    return [
        line for where, line in read_json_lines(folder / "metrics.jsonl") if entry(line, "stage", where, str) == stage
    ]


def _drop_lines(path: Path, stage: str, first_step: int) -> None:
    if not path.is_file():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    rows = [_row(line) for line in lines]
    if damaged := sum(row is None for row in rows[:-1]):  # a kill may have truncated the last line
        _warn(f"{path}: {damaged} unreadable line{'s' if damaged > 1 else ''} removed")
    kept = [
        line for line, row in zip(lines, rows, strict=True) if row and not (row[0] == stage and row[1] >= first_step)
    ]
    if kept != lines:
        write_bytes(path, b"".join(kept))


def _row(line: bytes) -> tuple[str, int] | None:
    """Stage and step of a line, None if it is truncated or damaged."""
    try:
        row = json.loads(line)
        return (row["stage"], int(row["step"])) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _drop_samples(path: Path, first_step: int) -> None:
    if not path.is_file():
        return
    text = path.read_bytes().decode("utf-8", errors="replace")
    # A heading starts a line, which no answer does (`side_by_side` quotes or indents them).
    first, *sections = re.split(rf"^(?={SAMPLES_HEADING} \d+$)", text, flags=re.MULTILINE)
    kept = [section for section in sections if int(section.split()[3]) < first_step]
    if len(kept) < len(sections):
        write_text(path, first + "".join(kept))


def _warn(sentence: str) -> None:
    print(f"\nwarning: {sentence}", file=sys.stderr)
