"""Thousands of tiny PPO iterations: memory, open files, seconds and file sizes must not grow with their number.

    python -m tests.faults.soak        `make soak`: 2,000 iterations, about five minutes

Exit status 1 if something grows.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.faults.stages import Laboratory


class Sample(NamedTuple):
    """The process and its run directory after some iterations."""

    iterations: int
    seconds: float
    memory_mb: float
    open_files: int
    stage_kb: float
    """Weights and checkpoints."""
    log_kb: float
    """metrics.jsonl, timing.jsonl, samples.md and TensorBoard's files, which have a line for every iteration."""


def size_kb(*paths: Path) -> float:
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1024


def sample(process: int, folder: Path, started: float) -> Sample:
    status = Path(f"/proc/{process}/status").read_text()
    memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    logs = [folder / name for name in ("metrics.jsonl", "timing.jsonl", "samples.md", "tensorboard")]
    return Sample(
        sum('"stage": "ppo"' in line for line in lines),
        time.perf_counter() - started,
        memory / 1024,
        len(os.listdir(f"/proc/{process}/fd")),
        size_kb(folder / "ppo.unfinished"),
        size_kb(*logs),
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--iterations", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        laboratory = Laboratory(Path(root), random.Random(1))
        folder = laboratory.begin("ppo")
        laboratory.time_limit = 3600
        more = {"ppo.num_iterations": options.iterations, "ppo.save_every": 20, "eval.every": 20}
        more |= {"ppo.schedule": "constant", "ppo.lr": 1e-4, "ppo.max_approx_kl": "None"}
        started, samples = time.perf_counter(), []
        wait, child = laboratory.start("ppo", folder, more=more), laboratory.child
        print(" ".join(f"{name:>12}" for name in Sample._fields))
        while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.2)
            done = samples[-1].iterations if samples else 0
            if (folder / "metrics.jsonl").read_text().count('"stage": "ppo"') >= done + options.iterations // 10:
                try:
                    samples.append(sample(child, folder, started))
                except (FileNotFoundError, StopIteration):  # it has just ended
                    break
                print(" ".join(f"{value:12.1f}" for value in samples[-1]), flush=True)
        ended = wait()
    if ended.status != 0:
        sys.exit(f"status {ended.status}: {ended.stderr[-2000:]}")
    problems = growth(samples)
    print("\n".join(problems) or "nothing grows")
    if problems:
        sys.exit(1)


def growth(samples: list[Sample]) -> list[str]:
    """What grows: each quantity in the last third of the run, compared with the second."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[-third:]

    def mean(part: list[Sample], name: str) -> float:
        return sum(getattr(row, name) for row in part) / len(part)

    def rate(part: list[Sample], name: str) -> float:
        return (getattr(part[-1], name) - getattr(part[0], name)) / (part[-1].iterations - part[0].iterations)

    problems = []
    for name, allowed in (("memory_mb", 1.02), ("open_files", 1.0), ("stage_kb", 1.05)):
        if mean(last, name) > allowed * mean(middle, name):
            problems.append(f"{name} grows from {mean(middle, name):.1f} to {mean(last, name):.1f}")
    for name, allowed in (("seconds", 1.5), ("log_kb", 1.1)):
        if rate(last, name) > allowed * rate(middle, name):
            problems.append(f"{name} per iteration grow from {rate(middle, name):.4f} to {rate(last, name):.4f}")
    return problems


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
