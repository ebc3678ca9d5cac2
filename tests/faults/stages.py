"""Tiny runs in forked processes, to which something can be done while they train."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from minippo.tools import evaluate
from tests.faults.damage import files_of
from tests.pipeline.tiny_run import STAGES, TinyRuns, command

torch.set_num_threads(1)
CHANGES = {"sft.policy.save_every": 4, "sft.reward.save_every": 2, "rm.save_every": 3, "ppo.save_every": 1}
"""Changes to the tiny run: several checkpoints in each stage."""

Prepare = Callable[[], None]


class Ended(NamedTuple):
    """How a process ended: exit status, or minus the signal that killed it."""

    status: int
    stdout: str
    stderr: str


def stage_names() -> list[str]:
    return list(STAGES)


class Laboratory:
    """The undisturbed run of the three stages, and copies of it in every state that faults begin from."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder, self.random, self.count = folder, draw, 0
        self.time_limit = 120
        """Seconds; a stage that hangs has not survived."""
        self.states = 10**9
        """The copies up to this one are states that faults begin from, and are kept."""
        self.runs = TinyRuns(folder)
        self.runs.settings("reviews")
        run = folder / "undisturbed"
        self.before: dict[str, Path] = {}
        """Stage -> the run when the stage has not begun."""
        self.interrupted: dict[str, Path] = {}
        """Stage -> the run killed during the stage, with two checkpoints of what it trains last."""
        self.seconds: dict[str, float] = {}
        self.changes: dict[str, int] = {}
        """Stage -> how often it changes the run directory."""
        self.outcomes: dict[str, dict[str, Any]] = {}
        for stage in STAGES:
            self.before[stage] = self.copy(run)
            log = folder / "changes"
            log.write_text("")
            started = time.perf_counter()
            ended = self.run(stage, run, prepare=count_changes(run, log))
            assert ended.status == 0, ended.stderr
            self.seconds[stage] = time.perf_counter() - started
            self.changes[stage] = len(log.read_text())
            self.outcomes[stage] = outcome(run)
            again = self.begin(stage)
            self.run(
                stage, again, prepare=die_before_change(again, len(log.read_text()) - 1, self.two_checkpoints(stage))
            )
            self.interrupted[stage] = again
        self.finished, self.states = run, self.count

    def two_checkpoints(self, stage: str) -> Callable[[Path], bool]:
        """Whether a run directory has two checkpoints of what the stage trains last."""
        return lambda folder: len(list(self.unfinished(stage, folder).glob("step-*"))) == 2

    def unfinished(self, stage: str, folder: Path) -> Path:
        return folder / f"{stage}.unfinished" / ("reward" if stage == "sft" else "")

    def newest_checkpoint(self, stage: str, folder: Path) -> Path:
        return max(self.unfinished(stage, folder).glob("step-*"))

    def copy(self, run: Path) -> Path:
        """A copy of a run directory, in a folder of its own."""
        self.count += 1
        path = self.folder / "cases" / str(self.count) / "run"
        path.parent.mkdir(parents=True)
        if self.count - 20 > self.states:
            shutil.rmtree(self.folder / "cases" / str(self.count - 20), ignore_errors=True)
        if run.exists():
            shutil.copytree(run, path)
        return path

    def begin(self, stage: str) -> Path:
        return self.copy(self.before[stage])

    def contents(self, folder: Path) -> dict[str, bytes | None]:
        names = [path for path in folder.rglob("*") if path.name != ".lock"]
        return {str(path): path.read_bytes() if path.is_file() else None for path in names}

    def difference(self, stage: str, folder: Path, logs: bool = True) -> str:
        """In which file the run differs from the undisturbed one; "" if in none."""
        ours, theirs = outcome(folder), self.outcomes[stage]
        names = [name for name in {**ours, **theirs} if logs or name not in ("metrics.jsonl", "samples.md")]
        different = [name for name in names if ours.get(name) != theirs.get(name)]
        return f"differs from the undisturbed run: {', '.join(different)}" if different else ""

    def run(
        self,
        stage: str,
        folder: Path,
        *,
        prepare: Prepare | None = None,
        after: tuple[float, signal.Signals] | None = None,
        meanwhile: tuple[float, Callable[[], None]] | None = None,
    ) -> Ended:
        """Run a stage, or `evaluate`, in a process of its own and wait for its end.

        Args:
            prepare: Called in the process before it begins.
            after: Seconds to wait, and the signal to send then.
            meanwhile: Seconds to wait, and the function to call then.
        """
        wait = self.start(stage, folder, prepare)
        if after is not None:
            meanwhile = after[0], lambda: os.kill(self.child, after[1])
        if meanwhile is not None:
            time.sleep(meanwhile[0])
            if os.waitid(os.P_PID, self.child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                meanwhile[1]()
        return wait()

    def start(
        self, stage: str, folder: Path, prepare: Prepare | None = None, more: Mapping[str, Any] | None = None
    ) -> Callable[[], Ended]:
        """Start a process, with `more` changes to the settings; the function that is returned waits for its end."""
        self.count += 1
        logs = [self.folder / f"{name}-{self.count}" for name in ("stdout", "stderr")]
        for log in logs:
            log.touch()
        sys.stdout.flush()
        child = self.child = os.fork()
        if child == 0:
            self.work(stage, folder, prepare, logs, CHANGES | dict(more or {}))

        def wait() -> Ended:
            _, status = os.waitpid(child, 0)
            texts = [log.read_text(encoding="utf-8", errors="replace") for log in logs]
            for log in logs:
                log.unlink()
            return Ended(os.waitstatus_to_exitcode(status), *texts)

        return wait

    def work(
        self, stage: str, folder: Path, prepare: Prepare | None, logs: list[Path], settings: Mapping[str, Any]
    ) -> None:
        """What the process does."""
        for descriptor, log in enumerate(logs, start=1):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.alarm(self.time_limit)
        status = 1
        try:
            if prepare is not None:
                prepare()
            if stage == "evaluate":
                command(evaluate.main, "--run", folder, "--device", "cpu")
            else:
                words = [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]
                command(STAGES[stage], "--config", self.runs.folder / "reviews.yaml", "--run-dir", folder, *words)
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)


def outcome(run: Path) -> dict[str, Any]:
    """What a run leaves that its seed determines: weights, tokenizers, answers, metrics, and results."""
    parts = [part for part in ("tokenizers", "sft", "rm", "ppo") if (run / part).is_dir()]
    files = [f"{part}/{file}" for part in parts for file in files_of(run / part)]
    files += [name for name in ("metrics.jsonl", "samples.md") if (run / name).is_file()]
    contents: dict[str, Any] = {
        name: (run / name).read_bytes() for name in files if Path(name).name not in ("manifest.json", "summary.json")
    }
    for part in parts[1:]:
        contents[f"{part} results"] = json.loads((run / part / "summary.json").read_text())["results"]
    return contents


# ---------------------------------------------------------------------------------------------- faults


def on_change(folder: Path, act: Callable[[], None]) -> None:
    """Call `act` before every change below `folder` that Python makes: files opened to be written, renamed, removed."""
    prefix = str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            changes = bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        else:
            changes = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.link")
        if changes and isinstance(arguments[0], (str, os.PathLike)) and str(arguments[0]).startswith(prefix):
            act()

    sys.addaudithook(hook)


def count_changes(folder: Path, log: Path) -> Prepare:
    """Write one byte to `log` before every change."""

    def prepare() -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
        on_change(folder, lambda: os.write(descriptor, b".") and None)

    return prepare


def die_before_change(folder: Path, number: int, when: Callable[[Path], bool] = lambda folder: False) -> Prepare:
    """SIGKILL before change `number`, counted from 0, or as soon as `when` is true of the folder."""
    count = iter(range(10**9))

    def act() -> None:
        if next(count) == number or when(folder):
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: on_change(folder, act)


def limit_file_size(folder: Path, first: int, until: int, size: int = 300) -> Prepare:
    """No file may grow beyond `size` bytes from change `first` to change `until`: writing fails with EFBIG."""
    count = iter(range(10**9))

    def act() -> None:
        number = next(count)
        if number in (first, until):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size if number == first else -1, resource.RLIM_INFINITY))

    return lambda: on_change(folder, act)


def shift_clock(days: int) -> Prepare:
    """The system's clock goes wrong."""
    real = time.time
    return lambda: setattr(time, "time", lambda: real() + 86400 * days)
