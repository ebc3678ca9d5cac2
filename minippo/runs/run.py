"""Run directories: which stages they contain, the settings they were trained with, and their results."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from minippo.config import Config
from minippo.errors import require_finite
from minippo.runs.presets import dump_config
from minippo.runs.system import peak_memory_mb, versions
from minippo.storage import (
    PARTIAL,
    atomic_folder,
    check_sealed,
    entry,
    publish_folder,
    read_object,
    seal,
    sealed_files,
    write_text,
)
from minippo.tokenizer import Tokenizer, load_tokenizer

STAGES = {
    "sft": (("data", "model", "sft", "seed"), "python -m minippo sft"),
    "rm": (("rm",), "python train_rm.py"),
    "ppo": (("ppo", "eval"), "python train_ppo.py"),
}
"""Stage, in order -> the sections of the configuration that determine it, and the command that runs it."""
NAMES = {"sft": "reference policy", "rm": "reward model", "ppo": "policy"}


def needed_stages(stage: str, config: Config) -> list[str]:
    """The earlier stages that `stage` needs. If a function scores the responses, no reward model is needed."""
    earlier = list(STAGES)[: list(STAGES).index(stage)]
    return [name for name in earlier if not (name == "rm" and config.ppo.scorer)]


Report = dict[str, dict[str, int]]
"""Kind of data -> what was counted -> rows: how much was read, and how much was left out and why."""


RECORD: dict[str, tuple[type, ...]] = {
    "data": (str,),
    "stage_seconds": (int, float),
    "peak_memory_mb": (int, float),
    "data_report": (dict,),
    "results": (dict,),
    "versions": (dict,),
}
"""What the summary.json of a stage contains, and the type of each entry."""


class Run:
    """A run directory, `runs/NAME/`. Each finished stage is a folder in it, which appears when it is complete."""

    def __init__(self, folder: Path, config: Config, device: str = "auto", source: Path | None = None) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: PyTorch finds no GPU")
        self.folder, self.config, self.source = folder, config, source
        self.continues = ""
        """A finished stage that is to be trained for longer: its checkpoints are copied, and its result stays until the
        new one replaces it."""
        self.seen = self._settings()
        """The settings in the folder when the run was opened."""
        self.position = ""
        """Where training is, for error messages."""
        self._intact: set[Path] = set()
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)

    def dtype(self, backbone: Literal["policy", "reward"]) -> torch.dtype:
        """Of the weights and activations of a transformer."""
        return getattr(torch, getattr(self.config.model, backbone).dtype)

    def stage(self, name: str) -> Path:
        """Folder of a finished stage."""
        return self.folder / name

    def earlier(self, name: str) -> Path:
        """Folder of an earlier stage: the source's (--init-from) until `begin` has copied it."""
        from_source = self.source is not None and not self.is_finished(name)
        return self.intact(self.source / name if from_source else self.stage(name))

    def intact(self, folder: Path) -> Path:
        """`folder`, a finished stage or the tokenizers. Raises ValueError if one of its files is damaged."""
        if folder not in self._intact:  # once: hashing takes about a second per gigabyte
            check_sealed(folder)
            self._intact.add(folder)
        return folder

    def is_finished(self, stage: str) -> bool:
        """Whether the stage has a result."""
        return self.stage(stage).is_dir()

    def in_training(self, stage: str) -> bool:
        """Whether the stage has begun, or is to train for longer, and is not complete."""
        return self.unfinished(stage).is_dir() or stage == self.continues

    def checkpoints_folder(self, stage: str) -> Path:
        """Where the checkpoints are that the stage continues from."""
        begun = self.unfinished(stage).is_dir()
        return self.stage(stage) if stage == self.continues and not begun else self.unfinished(stage)

    def command(self, stage: str) -> str:
        """The command that trains or resumes a stage of this run."""
        config, folder = (shlex.quote(str(path)) for path in (self.folder / "config.yaml", self.folder))
        # A function that only a file names is not called (docs/scorer.md).
        scorer = f" --ppo.scorer {shlex.quote(self.config.ppo.scorer)}" if self.config.ppo.scorer else ""
        return f"{STAGES[stage][1]} --config {config} --run-dir {folder}{scorer}"

    def require_finished(self, stage: str) -> None:
        """Raise ValueError, with the command that runs the stage, unless it is finished."""
        if not self.is_finished(stage):
            raise ValueError(
                f"{self.folder} has no finished {stage}/: train the {NAMES[stage]} first ({self.command(stage)})"
            )

    def begin(self, stage: str) -> Path:
        """Write the settings, copy the stages of the source, and return the folder that this stage writes to.

        Locks the run directory until the process ends. Raises ValueError if another process has locked it, or if it is
        not writable.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            # Asked before the lock, too, but the inputs may have taken minutes to load.
            if self.is_finished(stage) and not self.in_training(stage):
                raise ValueError(f"another process has finished {self.stage(stage)} in the meantime")
            if self._settings() != self.seen:
                raise ValueError(f"another process has trained in {self.folder} in the meantime; run the command again")
            _require_own_files(self)
            _remove_partial(self.folder)
            if stage == self.continues:  # before the settings say that it has trained for longer
                _copy_checkpoints(self.stage(stage), self.unfinished(stage))
            write_text(self.folder / "config.yaml", dump_config(self.config))
            self.seen = self._settings()
            if self.source is not None:
                _copy_stages(self.source, self, needed_stages(stage, self.config))
            self.unfinished(stage).mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be written: {error.strerror or error} (--run-dir)") from None
        return self.unfinished(stage)

    def _settings(self) -> bytes:
        path = self.folder / "config.yaml"
        return path.read_bytes() if path.is_file() else b""

    def unfinished(self, stage: str) -> Path:
        """The folder that a stage writes to until it is finished; an interrupted run may have left files in it."""
        return self.folder / f"{stage}.unfinished"

    def require_in_place(self) -> None:
        """Raise FileNotFoundError if the run directory has been moved or deleted since `begin`.

        Creating it again would leave a part of the run here and a part there.
        """
        if not self.folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "the run directory has been moved or deleted", str(self.folder))

    def results_folder(self, stage: str) -> Path:
        """The folder for the results of a stage that has begun. Raises FileNotFoundError if it is not there."""
        self.require_in_place()
        return self.unfinished(stage)

    def _lock(self) -> None:
        # Following a link, or truncating what it points to, would change a file that is not ours.
        self.lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released by the system when the process ends
        except BlockingIOError:
            raise ValueError(f"another process is training in {self.folder} (--run-dir)") from None

    def finish(self, stage: str, data: str, seconds: float, report: Report, results: dict[str, Any]) -> None:
        """Complete the stage: store its results, seal its folder, and rename it to its final name.

        `data` is the fingerprint of the corpus. Raises TrainingError if a result is NaN or infinite.
        """
        require_finite(dict(_numbers(results)), f"{stage}, results")
        measured = {"stage_seconds": round(seconds, 1), "peak_memory_mb": round(peak_memory_mb(), 1)}
        record = {"data": data, **measured, "data_report": report, "results": results, "versions": versions()}
        folder = self.results_folder(stage)
        write_text(folder / "summary.json", json.dumps(record, indent=2) + "\n")
        seal(folder)
        publish_folder(folder, self.stage(stage))
        self._intact.discard(self.stage(stage))
        self.continues = ""
        self.write_summary()

    def record(self, stage: str) -> dict[str, Any]:
        """What a finished stage stored about itself: its data, its results, and how long it took."""
        path = self.intact(self.stage(stage)) / "summary.json"
        record = read_object(path)
        for key, kinds in RECORD.items():
            entry(record, key, path, *kinds)
        return record

    def summary(self) -> dict[str, Any]:
        """The results of the finished stages, and for each its duration, peak memory and data report."""
        summary: dict[str, Any] = {}
        for stage in filter(self.is_finished, STAGES):
            record = self.record(stage)
            for key in ("stage_seconds", "peak_memory_mb", "data_report"):
                summary.setdefault(key, {})[stage] = record[key]
            summary |= record["results"] | {"versions": record["versions"]}
            if "copied_from" in record:
                summary["init_from"] = record["copied_from"]
        return summary

    def write_summary(self) -> None:
        """Write `summary.json` for people and other programs, unless it is there. Nothing is read from it: the stages
        have it all."""
        path, text = self.folder / "summary.json", json.dumps(self.summary(), indent=2) + "\n"
        if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
            write_text(path, text)

    def require_data(self, fingerprint: str, stages: list[str], advice: str) -> None:
        """Raise ValueError if one of these stages is finished and was trained on other data.

        Stages copied from another run (--init-from) may have been, on purpose; a note says so.
        """
        for name in filter(self.is_finished, stages):
            record = self.record(name)
            if record["data"] == fingerprint:
                continue
            if "copied_from" not in record:
                raise ValueError(
                    f"{self.stage(name)} was trained on other data than the present files and options give. To build "
                    f"on it with the present data, in another run directory:\n\n{advice}"
                )
            print(
                f"note: {self.stage(name)}, from {record['copied_from']}, was trained on other data; rows that are "
                "held out now may have been training rows",
                file=sys.stderr,
            )

    def save_tokenizers(self, policy: Tokenizer, reward: Tokenizer) -> None:
        """Write the policy's and the reward model's tokenizer to the run directory."""
        with atomic_folder(self.folder / "tokenizers") as folder:
            policy.save(folder / "policy.tiktoken")
            reward.save(folder / "reward.tiktoken")
            seal(folder)

    def tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        """The policy's and the reward model's tokenizer: the source's (--init-from) until `begin` has copied them."""
        folder = self.folder / "tokenizers"
        if self.source is not None and not folder.is_dir():
            folder = self.source / "tokenizers"
        self.intact(folder)
        return load_tokenizer(folder / "policy.tiktoken"), load_tokenizer(folder / "reward.tiktoken")


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested dictionaries and lists, with its position."""
    if isinstance(value, float):
        yield name, value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from _numbers(part, f"{name}.{key}" if name else str(key))


def _require_own_files(run: Run) -> None:
    """Raise ValueError if something that a run writes is a link or a device: it may belong to somebody else."""
    names = ("config.yaml", "summary.json", "metrics.jsonl", "timing.jsonl", "samples.md", "tensorboard", "tokenizers")
    paths = [run.folder / name for name in (*names, *STAGES)]
    for stage in STAGES:
        paths += [run.unfinished(stage), *run.unfinished(stage).rglob("*")]
    for path in paths:
        if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
            raise ValueError(f"{path} is not a file or folder of its own, but a link or a device")


def _remove_partial(folder: Path) -> None:
    """Delete what interrupted processes have left; other runs may be below this one."""
    for pattern in ("", "*.unfinished/", "*.unfinished/*/"):
        for path in list(folder.glob(f"{pattern}{PARTIAL}*")):
            shutil.rmtree(path, ignore_errors=True)


def _copy_checkpoints(stage: Path, unfinished: Path) -> None:
    with atomic_folder(unfinished) as folder:
        for path in stage.rglob("step-*"):
            shutil.copytree(path, folder / path.relative_to(stage))


def _copy_stages(source: Path, run: Run, stages: list[str]) -> None:
    """Copy the stages without their checkpoints, so that the run does not depend on the source any more."""
    for name in ("tokenizers", *stages):
        if (run.folder / name).is_dir():
            continue
        with atomic_folder(run.folder / name) as folder:
            for file in sealed_files(run.intact(source / name)):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name / file, folder / file)
            if name in STAGES:
                record = read_object(folder / "summary.json") | {"copied_from": str(source)}
                (folder / "summary.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            seal(folder)
    run.write_summary()
