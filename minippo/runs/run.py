"""The folder of a run: which stages it holds, with which settings, and what each has found."""

from __future__ import annotations

import fcntl
import json
import platform
import resource
import shutil
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from minippo.config import Config
from minippo.runs.options import Options, new_run_commands
from minippo.runs.presets import differences, dump_config, load_config
from minippo.storage import publish_folder, write_text
from minippo.tokenizer import Tokenizer, load_tokenizer

# The stages in their order, the sections of the configuration that shape each, and the command that runs it.
STAGES = {
    "sft": (("data", "model", "sft", "seed"), "python -m minippo sft"),
    "rm": (("rm",), "python train_rm.py"),
    "ppo": (("ppo", "eval"), "python train_ppo.py"),
}

# How the samples were drawn on which scores were normalised: drawn otherwise, they would have another scale.
SAMPLING = ("ppo.temperature", "ppo.min_new_tokens", "ppo.stop_token")

NAMES = {"sft": "reference policy", "rm": "reward model", "ppo": "policy"}

# Where files lie is not what they are: these may differ between two machines.
LOCATIONS = ("data.folder", "data.imdb_path", "data.demonstrations", "data.preferences", "data.prompts")


def needed_stages(stage: str, config: Config) -> list[str]:
    """The stages that `stage` builds on: those before it, but no reward model where a function scores instead."""
    earlier = list(STAGES)[: list(STAGES).index(stage)]
    return [name for name in earlier if not (name == "rm" and config.ppo.scorer)]


class Run:
    """`runs/NAME/`. A finished stage is a folder in it, put in place by one rename when it is whole."""

    def __init__(self, folder: Path, config: Config, device: str = "auto", source: Path | None = None) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda, but PyTorch sees no GPU here")
        self.folder, self.config, self.source = folder, config, source
        self.position = ""
        """Where training is, for error messages."""
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)

    def stage(self, name: str) -> Path:
        """Folder of a finished stage."""
        return self.folder / name

    def earlier(self, name: str) -> Path:
        """Folder of a stage that is built on; before the stages of the source are taken over, the source's."""
        return self.source / name if self.source is not None and not self.is_finished(name) else self.stage(name)

    def is_finished(self, stage: str) -> bool:
        """Whether the stage has been run to its end."""
        return self.stage(stage).is_dir()

    def require_finished(self, stage: str) -> None:
        """Raise ValueError, with the command that runs the stage, unless it is finished."""
        if not self.is_finished(stage):
            raise ValueError(
                f"{self.folder} has no finished {stage}/: train the {NAMES[stage]} first ({STAGES[stage][1]} "
                f"--config {self.folder / 'config.yaml'} --run-dir {self.folder})"
            )

    def begin(self, stage: str) -> Path:
        """Write the settings, take over the stages of the source, and return the folder for this stage to write into.

        From then on the run is this process's alone. Raises ValueError where it is another's, or cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            write_text(self.folder / "config.yaml", dump_config(self.config))
            if self.source is not None:
                _copy_stages(self.source, self, needed_stages(stage, self.config))
            self.unfinished(stage).mkdir(exist_ok=True)
        except OSError as error:
            raise ValueError(f"{self.folder} cannot be written: {error.strerror} (--run-dir)") from None
        return self.unfinished(stage)

    def unfinished(self, stage: str) -> Path:
        """What a stage writes into before it is finished; it may hold what a killed run left."""
        return self.folder / f"{stage}.unfinished"

    def _lock(self) -> None:
        self.lock = (self.folder / ".lock").open("w")  # held until this process ends, however it does
        try:
            fcntl.lockf(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training in {self.folder} (--run-dir)") from None

    def finish(self, stage: str) -> None:
        """Make what was written since `begin` the stage."""
        publish_folder(self.unfinished(stage), self.stage(stage))

    def summary(self) -> dict[str, Any]:
        """What the stages have found so far."""
        path = self.folder / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def add_to_summary(self, stage: str, seconds: float, data_report: dict[str, dict[str, int]], **found: Any) -> None:
        """Merge what a stage has found into `summary.json`, with its duration, its peak memory and how much data there
        was."""
        summary = self.summary()
        took = {"stage_seconds": round(seconds, 1), "peak_memory_mb": round(peak_memory_mb(), 1)}
        for key, value in (took | {"data_report": data_report}).items():
            summary[key] = summary.get(key, {}) | {stage: value}
        summary |= found
        summary["versions"] = versions()
        write_text(self.folder / "summary.json", json.dumps(summary, indent=2) + "\n")

    def save_tokenizers(self, policy: Tokenizer, reward: Tokenizer) -> None:
        """Store the policy's and the reward model's with the run."""
        folder = self.folder / "tokenizers"
        folder.mkdir(exist_ok=True)
        policy.save(folder / "policy.tiktoken")
        reward.save(folder / "reward.tiktoken")

    def tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        """The policy's and the reward model's; before the stages of the source are taken over, the source's."""
        folder = self.folder / "tokenizers"
        if self.source is not None and not folder.is_dir():
            folder = self.source / "tokenizers"
        return load_tokenizer(folder / "policy.tiktoken"), load_tokenizer(folder / "reward.tiktoken")


def open_run(options: Options, stage: str) -> Run:
    """The run that `options` name, fit for `stage`. Nothing is written yet.

    Raises ValueError where the folder holds another run, an earlier stage is missing, or `--init-from` is no such run.
    """
    folder, config = options.run_folder, options.settings
    earlier = needed_stages(stage, config)
    source = options.init_from
    if source is not None and source.resolve() == folder.resolve():
        raise ValueError(f"--init-from {source} is the run itself; give the new one a folder of its own (--run-dir)")
    if source is not None:
        config = _settings_of_source(config, source, earlier)
        if not earlier:
            raise ValueError(f"--init-from {source} takes over earlier stages, and the {NAMES[stage]} is the first")
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file, not a folder for a run (--run-dir)")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} has files but no config.yaml, so it is no run; choose another --run-dir")
    if (folder / "config.yaml").is_file():
        _same_run(options, config, stage)
    own = [name for name in earlier if (folder / name).is_dir()]
    run = Run(folder, config, options.device, source)
    if source is not None and own and own != earlier and run.summary().get("init_from") != str(source):
        raise ValueError(
            f"{folder} has a {NAMES[own[0]]} of its own, which --init-from {source} would mix with another's"
        )
    for name in earlier:
        if not (folder / name).is_dir() and source is None:
            command = f"{STAGES[name][1]} --config {options.config} --run-dir {folder}"
            raise ValueError(f"train the {NAMES[name]} first: {folder} has no {name}/ ({command}, or --init-from)")
    return run


def load_run(folder: Path, device: str = "auto") -> Run:
    """A run that exists. Raises ValueError where `folder` holds none."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is no run: it has no config.yaml")
    return Run(folder, load_config(str(folder / "config.yaml")), device)


def _same_run(options: Options, config: Config, stage: str) -> None:
    """Raise ValueError if a stage in the folder, finished or not, was trained with other settings."""
    folder, stages = options.run_folder, list(STAGES)
    stored = load_config(str(folder / "config.yaml"))
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
    """`config` with the settings that made the source's stages. Raises ValueError where they cannot be taken over."""
    theirs = load_run(source).config
    for name in stages:
        if not (source / name).is_dir():
            raise ValueError(f"--init-from {source}: that run has no finished {name}/")
    changed = [
        f"{name} is {b}, here {a}"
        for name, (a, b) in differences(config, theirs).items()
        if (name.split(".")[0] in ("data", "model") and name not in LOCATIONS) or ("rm" in stages and name in SAMPLING)
    ]
    if stages and changed:
        raise ValueError(
            f"--init-from {source}: that run's stages do not fit this one: {'; '.join(changed[:3])}; its settings "
            f"are a --config, too: {source / 'config.yaml'}"
        )
    return replace(config, **{name: getattr(theirs, name) for name in stages})


def _copy_stages(source: Path, run: Run, stages: list[str]) -> None:
    """Copied, not linked: a run stays whole when the folder is moved or the other run deleted."""
    if not run.summary():  # first, so that a copy cut short is known for one
        found = json.loads((source / "summary.json").read_text(encoding="utf-8"))
        taken = {key: value for key, value in found.items() if key.startswith("rm_")}
        taken["init_from"] = str(source)
        for key in ("stage_seconds", "peak_memory_mb", "data_report"):
            taken[key] = {name: found[key][name] for name in stages if name in found.get(key, {})}
        write_text(run.folder / "summary.json", json.dumps(taken, indent=2) + "\n")
    for name in ("tokenizers", *stages):
        if not (run.folder / name).is_dir():
            shutil.copytree(source / name, run.unfinished(name), dirs_exist_ok=True)
            publish_folder(run.unfinished(name), run.folder / name)


def peak_memory_mb() -> float:
    """The most memory this process has held, in MiB; on a GPU, the most held there."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # macOS counts bytes, Linux KiB


def versions() -> dict[str, str]:
    """What a result may depend on."""
    packages = {name: version(name) for name in ("torch", "tiktoken", "numpy")}
    return {"python": platform.python_version()} | packages
