"""The rows of a frontier: reward models and policies, each a run of its own in RUN/frontier that resumes by itself."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from minippo.config import Config
from minippo.data import split_seed
from minippo.errors import TrainingError
from minippo.runs import Run, check, differences, load_config, options_text, override
from minippo.storage import REPOSITORY

PPO: dict[str, Any] = {
    "ppo.advantage": "gae",
    "ppo.samples_per_prompt": 1,
    "ppo.kl_placement": "reward",
    "ppo.kl_estimate": "k1",
    "ppo.loss_normalisation": "token",
    "ppo.whiten_advantages": True,
}
METHODS: dict[str, dict[str, Any]] = {
    "PPO": {},
    "GRPO": {
        "ppo.advantage": "group",
        "ppo.samples_per_prompt": 8,
        "ppo.kl_placement": "loss",
        "ppo.kl_estimate": "k3",
        "ppo.loss_normalisation": "sequence",
        "ppo.whiten_advantages": False,
    },
    "RLOO": {"ppo.advantage": "leave-one-out", "ppo.samples_per_prompt": 4, "ppo.whiten_advantages": False},
}
"""Method -> its settings, where they are not those of `PPO`: those of docs/variants.md, but RLOO takes as many steps
per rollout as the others. A rollout has `ppo.rollout_batch_size` responses with each, so all see as many episodes."""
MULTIPLES: dict[str, tuple[float, ...]] = {"PPO": (4.0, 2.0, 0.5, 0.25), "GRPO": (16.0, 4.0), "RLOO": ()}
"""Method -> its KL coefficients, unless others are given, as multiples of the run's own, which all methods have too.
GRPO's are larger because the same coefficient is a weaker penalty in its loss (docs/variants.md)."""
SCRIPTS = {"rm": "train_rm.py", "ppo": "train_ppo.py"}


@dataclass(frozen=True)
class Row:
    """One training run."""

    folder: Path
    stage: Literal["rm", "ppo"]
    source: Path
    """Run directory that the earlier stages come from."""
    config: Config
    """All its settings."""
    method: str = ""

    @property
    def finished(self) -> bool:
        """Whether it has a result."""
        return (self.folder / self.stage).is_dir()

    @property
    def key(self) -> tuple[str, float, float]:
        """Method, KL coefficient and fraction of the comparisons: rows that differ only in their seed share it."""
        return self.method, self.config.ppo.kl_coef, self.config.rm.fraction

    def command(self, base: Run) -> list[str]:
        """The command that trains it, or resumes it."""
        changes = {name: ours for name, (ours, _) in differences(self.config, base.config).items()}
        return [
            *(sys.executable, str(REPOSITORY / SCRIPTS[self.stage]), "--config", str(base.folder / "config.yaml")),
            *("--run-dir", str(self.folder), "--init-from", str(self.source), "--device", base.device.type),
            *shlex.split(options_text(changes)),
        ]


def coefficients_of(run: Run, method: str, given: Sequence[float]) -> list[float]:
    """The KL coefficients of a method, largest first: those given or of `MULTIPLES`, the run's own, and 0 for PPO.

    Raises ValueError if PPO has none but 0.
    """
    own = run.config.ppo.kl_coef
    chosen = {*(given or (own * factor for factor in MULTIPLES[method])), own, *([0.0] if method == "PPO" else [])}
    if method == "PPO" and chosen == {0.0}:
        raise ValueError(f"{run.folder} has ppo.kl_coef 0; name the coefficients to compare (--coefficients)")
    return sorted(chosen, reverse=True)


def reward_row(run: Run, fraction: float, seed: int) -> Row:
    """The reward model trained with this seed on a fraction of the comparisons; it may be that of the run itself."""
    changes: dict[str, Any] = {"seed": seed, "rm.fraction": fraction}
    if seed != run.config.seed:  # the splits of the run
        changes["data.seed"] = split_seed(run.config)
    config = override(run.config, changes)
    folder = run.folder / "frontier" / f"rm-{fraction:g}-seed-{seed}"
    return Row(run.folder if config == run.config else folder, "rm", run.folder, config)


def policy_row(run: Run, method: str, coefficient: float, fraction: float, seed: int, prompts: int) -> Row:
    """The policy trained with this seed and method on the reward model of this seed."""
    source = reward_row(run, fraction, seed)
    changes = {"ppo.kl_coef": coefficient, "ppo.kl_target": None, "eval.final_prompts": prompts} | PPO | METHODS[method]
    name = f"{method.lower()}-{coefficient:g}-rm-{fraction:g}-seed-{seed}"
    return Row(run.folder / "frontier" / name, "ppo", source.folder, override(source.config, changes), method)


def check_settings(rows: Sequence[Row]) -> None:
    """Raise ValueError if a row's settings contradict each other, or if it was trained with others before."""
    for row in rows:
        check(row.config)
        if (path := row.folder / "config.yaml").is_file():
            sections = ("seed", "rm", "ppo", "eval") if row.stage == "ppo" else ("seed", "rm")
            for name, (theirs, ours) in differences(load_config(str(path)), row.config).items():
                if name.partition(".")[0] in sections:
                    raise ValueError(
                        f"{row.folder} was trained with other settings: {name} is {theirs}, now {ours}. Give the same "
                        f"options, or rename {row.folder.parent} to begin again"
                    )


def train(rows: Sequence[Row], run: Run, jobs: int) -> None:
    """Train the rows that are not finished, `jobs` at a time, each with its share of the cores.

    After an interruption or a failure, the rows in training save a checkpoint and end. Raises TrainingError, with the
    last line of its log, if a row fails.
    """
    waiting = [row for row in rows if not row.finished]
    running: list[tuple[Row, subprocess.Popen[bytes], float]] = []
    done, total, started = 0, len(waiting), time.perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads_of(jobs))}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                row = waiting.pop(0)
                with log_of(row).open("ab") as log:
                    # A session of its own: Ctrl-C reaches this process alone, which passes on one signal, not two.
                    process = subprocess.Popen(
                        row.command(run), env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                        start_new_session=True,
                    )  # fmt: skip
                running.append((row, process, time.perf_counter()))
            time.sleep(0.1)
            for job in [job for job in running if job[1].poll() is not None]:
                running.remove(job)
                row, process, begun = job
                if process.returncode or not row.finished:
                    raise TrainingError(f"{row.folder.name}: {last_line(log_of(row))} ({log_of(row)})")
                done += 1
                now = time.perf_counter()
                left = (now - started) / done * (total - done)
                print(f"{done} of {total}: {row.folder.name}, {now - begun:.0f} s; {minutes(left)} left", flush=True)
    finally:
        for _, process, _ in running:
            process.terminate()
        for _, process, _ in running:
            process.wait()


def threads_of(jobs: int) -> int:
    """Threads of each of `jobs` processes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


def minutes(seconds: float) -> str:
    """A duration in words, rounded up."""
    return f"about {int(seconds // 60) + 1} min"


def log_of(row: Row) -> Path:
    """The file that has what a row's training prints."""
    return row.folder.with_name(f"{row.folder.name}.log")


def last_line(log: Path) -> str:
    """The last line that a process has printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
