"""How OpenMP's threads should wait: steps per second of a small model, on an idle machine and next to busy processes.

    python bench/thread_waiting.py

Each figure is the median of several rounds, in which the settings alternate; every run is a process of its own, since
OpenMP reads its settings when PyTorch is loaded. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

from minippo.runs import command_line

SETTINGS = {
    "one thread": {"OMP_NUM_THREADS": "1"},
    "two threads that spin (OpenMP's default)": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "active"},
    "two threads that sleep": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
    "two threads that spin, then sleep (minippo's default)": {"OMP_NUM_THREADS": "2"},
}
BUSY = "while True: pass"
CHILD = """
import sys, time
import minippo
import torch
from minippo.language_model import backward_in_chunks
from minippo.model import GPT, GPTConfig
from minippo.optim import CPUAdamW

torch.manual_seed(0)
gpt = GPT(GPTConfig(vocab_size=1280, context=128, layers=2, heads=4, channels=96, activation="relu"))
optimizer = CPUAdamW(gpt.parameters(), 1e-3)
tokens = torch.randint(1280, (32, 48))
mask = torch.ones_like(tokens, dtype=torch.bool)
steps, start = 0, time.perf_counter()
while time.perf_counter() - start < float(sys.argv[1]):
    optimizer.zero_grad(set_to_none=True)
    backward_in_chunks(gpt, tokens, mask)
    optimizer.step()
    steps += 1
print(steps / (time.perf_counter() - start))
"""


@dataclass(frozen=True)
class Options:
    """How long to measure."""

    seconds: float = 6.0
    """Of each run."""
    rounds: int = 3
    """Runs of each setting."""
    busy: tuple[int, ...] = (0, 1, 2)
    """Numbers of busy processes next to it."""


def steps_per_second(settings: dict[str, str], seconds: float) -> float:
    """Of one process that trains with these environment variables."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")} | settings
    command = [sys.executable, "-c", CHILD, str(seconds)]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Print Markdown."""
    options = command_line(Options, __doc__)
    found: dict[tuple[str, int], list[float]] = {}
    for busy in options.busy:
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        try:
            for _ in range(options.rounds):
                for name, settings in SETTINGS.items():
                    found.setdefault((name, busy), []).append(steps_per_second(settings, options.seconds))
        finally:
            for other in others:
                other.kill()
    print(f"Steps per second on {os.cpu_count()} cores, median of {options.rounds}:\n")
    print(f"| | {' | '.join(f'{busy} busy processes' for busy in options.busy)} |")
    print("| --- |" + " --- |" * len(options.busy))
    for name in SETTINGS:
        medians = [statistics.median(found[name, busy]) for busy in options.busy]
        print(f"| {name} | {' | '.join(f'{median:.1f}' for median in medians)} |")


if __name__ == "__main__":
    main()
