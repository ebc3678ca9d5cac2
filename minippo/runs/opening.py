"""Opening a run directory: whose it is, with which settings its stages were trained, and what is missing."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from minippo.config import Config
from minippo.data import split_seed
from minippo.runs.options import Options, new_run_commands, stage_options
from minippo.runs.presets import differences, load_stored_config
from minippo.runs.run import NAMES, STAGES, Run, needed_stages
from minippo.runs.validation import check
from minippo.storage import PARTIAL, sealed_files

FROM_STAGE_2 = (
    *("data.query_length", "data.response_length", "data.crop_words", "data.min_crop_words"),
    *("ppo.temperature", "ppo.min_new_tokens", "ppo.stop_token"),
)
"""Settings of other sections that stage 2 is the first to read: the texts of labelled comparisons, and the samples that
scores are normalised on, which determine the scale of the reward model's scores."""

LOCATIONS = ("data.folder", "data.imdb_path", "data.demonstrations", "data.preferences", "data.prompts")
"""Settings that say where files are, not what is in them; they may differ between two machines."""

SAVING = ("sft.policy.save_every", "sft.reward.save_every", "rm.save_every", "ppo.save_every")
"""Settings that do not affect the result."""

LENGTHS = {"sft.policy.tokens": "sft", "sft.reward.tokens": "sft", "rm.epochs": "rm", "ppo.num_iterations": "ppo"}
"""How long a stage trains. A stage can be continued with a larger value if no later stage builds on it."""


def open_run(options: Options, stage: str) -> Run:
    """The run of these options, checked for `stage`; nothing is written.

    Raises ValueError if the run directory belongs to a run with other settings, if an earlier stage is missing, or if
    `--init-from` does not fit.
    """
    folder, config = options.run_folder, options.settings
    earlier = needed_stages(stage, config)
    source = options.init_from
    if source is not None and os.path.realpath(source) == os.path.realpath(folder):
        raise ValueError(f"--init-from {source} is the run directory itself; choose another --run-dir")
    if source is not None:
        config = _settings_of_source(config, source, earlier)
        if not earlier:
            raise ValueError(f"--init-from {source} takes over earlier stages, but the {NAMES[stage]} is the first")
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file, not a directory (--run-dir)")
    # A process that was killed while it wrote the first file leaves its lock and the partial file.
    contents = folder.iterdir() if folder.is_dir() and not (folder / "config.yaml").is_file() else ()
    if any(not path.name.startswith((".lock", PARTIAL)) for path in contents):
        raise ValueError(f"{folder} is not a run directory (it has files but no config.yaml); choose another --run-dir")
    run = Run(folder, config, options.device, source)
    longer = _same_run(options, config, stage) if (folder / "config.yaml").is_file() else set()
    if stage in longer and run.is_finished(stage):
        if not any(run.stage(stage).rglob("step-*")):
            raise ValueError(f"{run.stage(stage)} has no checkpoints that could be trained for longer")
        run.continues = stage
    own = [name for name in earlier if (folder / name).is_dir()]
    if source is not None and own != earlier and not all(same_files(folder / x, source / x) for x in own):
        raise ValueError(
            f"{folder} already has its own {NAMES[own[0]]}; --init-from {source} would mix the stages of two runs"
        )
    for name in earlier:
        if not (folder / name).is_dir() and source is None:
            command = f"{STAGES[name][1]} {stage_options(options, folder)}"
            raise ValueError(f"train the {NAMES[name]} first: {folder} has no {name}/ ({command}, or --init-from)")
        if run.in_training(name):
            raise ValueError(f"the {NAMES[name]} in {folder} is being trained for longer; finish it first")
    return run


def same_files(ours: Path, theirs: Path) -> bool:
    """Whether a stage is a copy of another: all is the same but what it says about itself."""
    ours_files, theirs_files = sealed_files(ours), sealed_files(theirs)
    return all(ours_files.get(name) == entry for name, entry in theirs_files.items() if name != "summary.json")


def load_run(folder: Path, device: str = "auto") -> Run:
    """An existing run. Raises ValueError if `folder` is not a run directory."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"{folder} is not a run directory (no config.yaml)")
    config = load_stored_config(folder / "config.yaml")
    try:
        check(config)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.yaml'}: {error}") from None
    return Run(folder, config, device)


def _same_run(options: Options, config: Config, stage: str) -> set[str]:
    """Raise ValueError if a stage in the folder, finished or not, was trained with other settings.

    Returns the stages that are to train for longer than before, which no later stage builds on.
    """
    folder, stages = options.run_folder, list(STAGES)
    stored = load_stored_config(folder / "config.yaml")
    begun = [name for name in stages if (folder / name).is_dir() or (folder / f"{name}.unfinished").is_dir()]
    longer = {}
    for name, (ours, theirs) in differences(config, stored).items():
        own = LENGTHS.get(name, "")
        if own in begun and own == begun[-1] and ours > theirs and stages.index(stage) <= stages.index(own):
            longer[name] = own
    changed = {
        name: (first_reader(name, begun), f"{name} is {theirs}, now {ours}")
        for name, (ours, theirs) in differences(config, stored).items()
        if name not in (*LOCATIONS, *SAVING, *longer) and first_reader(name, begun)
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
            f"To continue with the old settings: {Run(folder, stored).command(stage)}"
        )
    return set(longer.values())


def first_reader(name: str, stages: Sequence[str]) -> str:
    """The first of `stages`, in their order, whose result depends on a setting; "" if none of them does."""
    if name in FROM_STAGE_2:
        return next((stage for stage in stages if stage != "sft"), "")
    return next((stage for stage in stages if name.partition(".")[0] in STAGES[stage][0]), "")


def _settings_of_source(config: Config, source: Path, stages: list[str]) -> Config:
    """`config` with the settings of the source's stages. Raises ValueError if its stages do not fit this run."""
    theirs = load_run(source).config
    for name in stages:
        if not (source / name).is_dir():
            raise ValueError(f"--init-from {source}: this run has no finished {name}/")
    changed = [
        f"{name} is {b}, here {a}"
        for name, (a, b) in differences(config, theirs).items()
        if name.split(".")[0] not in stages
        and name not in (*LOCATIONS, "data.seed", "seed")
        and first_reader(name, stages)
    ]
    if stages and changed:
        raise ValueError(
            f"--init-from {source}: its stages were trained with other settings: {'; '.join(changed[:3])}. Use its "
            f"settings (--config {shlex.quote(str(source / 'config.yaml'))}), or train the stages again"
        )
    if stages and config.data.source != "reviews" and split_seed(config) != split_seed(theirs):
        print(
            f"note: --init-from {source}: its data was split with seed {split_seed(theirs)}, here with "
            f"{split_seed(config)}; rows that are held out now may have been training rows of its stages. For the same "
            f"splits: --data.seed {split_seed(theirs)}",
            file=sys.stderr,
        )
    return replace(config, **{name: getattr(theirs, name) for name in stages})
