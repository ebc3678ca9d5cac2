"""Run directories: which stages they contain, the settings they were trained with, and their results."""

from __future__ import annotations

import fcntl
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from minippo.config import Config
from minippo.runs.options import Options, new_run_commands
from minippo.runs.presets import differences, dump_config, load_stored_config
from minippo.runs.system import peak_memory_mb, versions
from minippo.storage import publish_folder, read_object, write_text
from minippo.tokenizer import Tokenizer, load_tokenizer

STAGES = {
    "sft": (("data", "model", "sft", "seed"), "python -m minippo sft"),
    "rm": (("rm",), "python train_rm.py"),
    "ppo": (("ppo", "eval"), "python train_ppo.py"),
}
"""Stage, in order -> the sections of the configuration that determine it, and the command that runs it."""
SAMPLING = ("ppo.temperature", "ppo.min_new_tokens", "ppo.stop_token")
"""Settings of the samples that scores are normalised on; they determine the scale of the reward model's scores."""

NAMES = {"sft": "reference policy", "rm": "reward model", "ppo": "policy"}

LOCATIONS = ("data.folder", "data.imdb_path", "data.demonstrations", "data.preferences", "data.prompts")
"""Settings that say where files are, not what is in them; they may differ between two machines."""


def needed_stages(stage: str, config: Config) -> list[str]:
    """The earlier stages that `stage` needs. If a function scores the responses, no reward model is needed."""
    earlier = list(STAGES)[: list(STAGES).index(stage)]
    return [name for name in earlier if not (name == "rm" and config.ppo.scorer)]


class Run:
    """A run directory, `runs/NAME/`. Each finished stage is a folder in it, which appears when it is complete."""

    def __init__(self, folder: Path, config: Config, device: str = "auto", source: Path | None = None) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: PyTorch finds no GPU")
        self.folder, self.config, self.source = folder, config, source
        self.position = ""
        """Where training is, for error messages."""
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)

    def stage(self, name: str) -> Path:
        """Folder of a finished stage."""
        return self.folder / name

    def earlier(self, name: str) -> Path:
        """Folder of an earlier stage: the source's (--init-from) until `begin` has copied it."""
        return self.source / name if self.source is not None and not self.is_finished(name) else self.stage(name)

    def is_finished(self, stage: str) -> bool:
        """Whether the stage has been completed."""
        return self.stage(stage).is_dir()

    def require_finished(self, stage: str) -> None:
        """Raise ValueError, with the command that runs the stage, unless it is finished."""
        if not self.is_finished(stage):
            raise ValueError(
                f"{self.folder} has no finished {stage}/: train the {NAMES[stage]} first ({STAGES[stage][1]} "
                f"--config {self.folder / 'config.yaml'} --run-dir {self.folder})"
            )

    def require_files(self, *names: str) -> None:
        """Raise ValueError if one of these files is missing from the run directory."""
        for name in names:
            if not (self.folder / name).is_file():
                raise ValueError(f"{self.folder} is not a complete run directory: {name} is missing")

    def begin(self, stage: str) -> Path:
        """Write the settings, copy the stages of the source, and return the folder that this stage writes to.

        Locks the run directory until the process ends. Raises ValueError if another process has locked it, or if it is
        not writable.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            if self.is_finished(stage):  # asked before the lock, too; the inputs may have taken minutes to load
                raise ValueError(f"another process has finished {self.stage(stage)} in the meantime")
            write_text(self.folder / "config.yaml", dump_config(self.config))
            if self.source is not None:
                _copy_stages(self.source, self, needed_stages(stage, self.config))
            self.unfinished(stage).mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be written: {error.strerror} (--run-dir)") from None
        return self.unfinished(stage)

    def unfinished(self, stage: str) -> Path:
        """The folder that a stage writes to until it is finished; an interrupted run may have left files in it."""
        return self.folder / f"{stage}.unfinished"

    def _lock(self) -> None:
        self.lock = (self.folder / ".lock").open("w")  # released by the system when the process ends
        try:
            fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training in {self.folder} (--run-dir)") from None

    def finish(self, stage: str) -> None:
        """Rename the stage's folder, now complete, to its final name."""
        publish_folder(self.unfinished(stage), self.stage(stage))

    def summary(self) -> dict[str, Any]:
        """The results of the stages so far."""
        path = self.folder / "summary.json"
        return read_object(path) if path.is_file() else {}

    def add_to_summary(self, stage: str, seconds: float, report: dict[str, dict[str, int]], **entries: Any) -> None:
        """Merge a stage's results into `summary.json`, with its duration, peak memory and data report."""
        summary = self.summary()
        by_stage = {"stage_seconds": round(seconds, 1), "peak_memory_mb": round(peak_memory_mb(), 1)}
        for key, value in (by_stage | {"data_report": report}).items():
            summary[key] = summary.get(key, {}) | {stage: value}
        summary |= entries
        summary["versions"] = versions()
        write_text(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")

    def save_tokenizers(self, policy: Tokenizer, reward: Tokenizer) -> None:
        """Write the policy's and the reward model's tokenizer to the run directory."""
        folder = self.folder / "tokenizers"
        folder.mkdir(exist_ok=True)
        policy.save(folder / "policy.tiktoken")
        reward.save(folder / "reward.tiktoken")

    def tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        """The policy's and the reward model's tokenizer: the source's (--init-from) until `begin` has copied them."""
        folder = self.folder / "tokenizers"
        if self.source is not None and not folder.is_dir():
            folder = self.source / "tokenizers"
        return load_tokenizer(folder / "policy.tiktoken"), load_tokenizer(folder / "reward.tiktoken")


def open_run(options: Options, stage: str) -> Run:
    """The run of these options, checked for `stage`; nothing is written.

    Raises ValueError if the run directory belongs to a run with other settings, if an earlier stage is missing, or if
    `--init-from` does not fit.
    """
    folder, config = options.run_folder, options.settings
    earlier = needed_stages(stage, config)
    source = options.init_from
    if source is not None and source.resolve() == folder.resolve():
        raise ValueError(f"--init-from {source} is the run directory itself; choose another --run-dir")
    if source is not None:
        config = _settings_of_source(config, source, earlier)
        if not earlier:
            raise ValueError(f"--init-from {source} takes over earlier stages, but the {NAMES[stage]} is the first")
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file, not a directory (--run-dir)")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not a run directory (it has files but no config.yaml); choose another --run-dir")
    if (folder / "config.yaml").is_file():
        _same_run(options, config, stage)
    own = [name for name in earlier if (folder / name).is_dir()]
    run = Run(folder, config, options.device, source)
    if source is not None and own and own != earlier and run.summary().get("init_from") != str(source):
        raise ValueError(
            f"{folder} already has its own {NAMES[own[0]]}; --init-from {source} would mix the stages of two runs"
        )
    for name in earlier:
        if not (folder / name).is_dir() and source is None:
            command = f"{STAGES[name][1]} --config {options.config} --run-dir {folder}"
            raise ValueError(f"train the {NAMES[name]} first: {folder} has no {name}/ ({command}, or --init-from)")
    return run


def load_run(folder: Path, device: str = "auto") -> Run:
    """An existing run. Raises ValueError if `folder` is not a run directory."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not a run directory (no config.yaml)")
    return Run(folder, load_stored_config(folder / "config.yaml"), device)


def _same_run(options: Options, config: Config, stage: str) -> None:
    """Raise ValueError if a stage in the folder, finished or not, was trained with other settings."""
    folder, stages = options.run_folder, list(STAGES)
    stored = load_stored_config(folder / "config.yaml")
    begun = [name for name in stages if (folder / name).is_dir() or (folder / f"{name}.unfinished").is_dir()]
    stage_of = {section: name for name in begun for section in STAGES[name][0]}
    if "rm" in begun:
        stage_of |= dict.fromkeys(SAMPLING, "rm")
    changed = {
        name: (stage_of.get(name) or stage_of[name.partition(".")[0]], f"{name} is {theirs}, now {ours}")
        for name, (ours, theirs) in differences(config, stored).items()
        if name not in LOCATIONS and (name in stage_of or name.partition(".")[0] in stage_of)
    }
    if changed:
        first = min(stages.index(name) for name, _ in changed.values())
        last = max(stages.index(name) for name in (*begun, stage))
        commands = new_run_commands(options, {name: STAGES[name][1] for name in stages[first : last + 1]})
        sentences = [sentence for _, sentence in changed.values()]
        listed = "; ".join([*sentences[:3], *(["and more"] if sentences[3:] else [])])
        raise ValueError(
            f"{folder} was trained with other settings: {listed}. To train with the new settings elsewhere:\n\n"
            f"{commands}\n\n"
            f"To continue with the old settings, use --config {folder / 'config.yaml'} --run-dir {folder}."
        )


def _settings_of_source(config: Config, source: Path, stages: list[str]) -> Config:
    """`config` with the settings of the source's stages. Raises ValueError if its stages do not fit this run."""
    theirs = load_run(source).config
    for name in stages:
        if not (source / name).is_dir():
            raise ValueError(f"--init-from {source}: this run has no finished {name}/")
    changed = [
        f"{name} is {b}, here {a}"
        for name, (a, b) in differences(config, theirs).items()
        if (name.split(".")[0] in ("data", "model") and name not in LOCATIONS) or ("rm" in stages and name in SAMPLING)
    ]
    if stages and changed:
        raise ValueError(
            f"--init-from {source}: its stages were trained with other settings: {'; '.join(changed[:3])}. Use its "
            f"settings (--config {source / 'config.yaml'}), or train the stages again"
        )
    return replace(config, **{name: getattr(theirs, name) for name in stages})


def _copy_stages(source: Path, run: Run, stages: list[str]) -> None:
    """Copy the stages, so that the run does not depend on the source any more."""
    if not run.summary():  # before the stages, so that an interrupted copy is recognised by its summary
        theirs = read_object(source / "summary.json")
        taken = {key: value for key, value in theirs.items() if key.startswith(("sft_", "rm_"))}
        taken["init_from"] = str(source)
        for key in ("stage_seconds", "peak_memory_mb", "data_report"):
            taken[key] = {name: theirs[key][name] for name in stages if name in theirs.get(key, {})}
        write_text(run.folder / "summary.json", json.dumps(taken, indent=2) + "\n")
    for name in ("tokenizers", *stages):
        if not (run.folder / name).is_dir():
            shutil.copytree(source / name, run.unfinished(name), dirs_exist_ok=True)
            publish_folder(run.unfinished(name), run.folder / name)
