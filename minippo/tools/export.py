"""Export a run's models for other tools: `python -m minippo export --run runs/reviews --out exported`

For each model of the run, writes a folder that `transformers` loads directly, tokenizer included:

- policy/ and reference/ are language models (AutoModelForCausalLM).
- reward_model/ is a classifier with one label (AutoModelForSequenceClassification) for texts that end in end-of-text.
  Its logit is the raw score; PPO uses gain * logit + bias, or sigmoid(logit) with `rm.objective` labels.

The value head, gain and bias are stored in the same folder as heads.safetensors. Existing files are never overwritten.
A model whose architecture was changed in model.py cannot be exported: other tools do not implement it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from minippo.heads import ActorCritic, RewardModel
from minippo.model import GPT
from minippo.runs import Argument, Run, command_frame, command_line, load_run, wrong_input_exits
from minippo.storage import atomic_folder
from minippo.tokenizer import Tokenizer
from minippo.weights import (
    check_exportable,
    file_format,
    load_actor_critic,
    load_pretrained,
    load_reward_model,
    save_model,
    save_pretrained,
    set_file_format,
)

STAGES = {"policy": "ppo", "reference": "sft", "reward_model": "rm"}
"""Exported model -> the stage that trains it."""


@dataclass(frozen=True)
class ExportOptions:
    """Source and destination."""

    run: Annotated[Path, Argument(alias="--run-dir")]
    """Run directory."""
    out: Path
    """Directory to write; it must not exist or be empty."""


def check_empty(folder: Path) -> None:
    """Raise ValueError if `folder` contains anything, or if it or a parent is a file."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file, not a directory to export to (--out)")
    if folder.is_dir() and (contents := sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())):
        more = f" and {len(contents) - 3} more" if len(contents) > 3 else ""
        raise ValueError(f"{folder} is not empty: it contains {', '.join(contents[:3])}{more}; choose another --out")


def make_folder(folder: Path) -> None:
    """Create `folder` if it does not exist. Raises ValueError if it is not writable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be created (--out): {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} cannot be written to (--out)")


def pad_id_of(name: str, tokenizer: Tokenizer) -> int:
    """The id that pads a batch.

    A classifier reads its score at the last id that is not padding, which must be end-of-text, so it needs another one.
    """
    is_end = tokenizer.pad_id == tokenizer.eos_id
    return tokenizer.spare_id if name == "reward_model" and is_end else tokenizer.pad_id


def model_folder(run: Run, name: str) -> Path:
    """The directory of one of the run's models."""
    folder = run.earlier(STAGES[name])
    return folder if name == "reward_model" else folder / "policy"


def load_model(run: Run, name: str) -> GPT | ActorCritic | RewardModel:
    """One of the run's models; the reference has no critic."""
    load = {"policy": load_actor_critic, "reference": load_pretrained, "reward_model": load_reward_model}[name]
    return load(model_folder(run, name), run.dtype("reward" if name == "reward_model" else "policy"))


def generation_config(gpt: GPT, end_ids: tuple[int, ...], min_new_tokens: int) -> str:
    """A generation_config.json with which other tools end responses as we do, at any of `end_ids` but not within
    `min_new_tokens`, and never sample the ids that we suppress. Length and sampling are left to the caller."""
    contents = {
        "bos_token_id": file_format(gpt).eos_id,
        "eos_token_id": list(end_ids),
        "pad_token_id": file_format(gpt).pad_id,
        "suppress_tokens": list(gpt.config.suppress_tokens) or None,
        "min_new_tokens": min_new_tokens or None,
    }
    return json.dumps(contents, indent=2) + "\n"


@command_frame()
def main() -> None:
    """`python -m minippo export --run RUN --out DIR`."""
    options = command_line(ExportOptions, __doc__)
    with wrong_input_exits():
        check_empty(options.out)
        run = load_run(options.run, "cpu")
        names = [name for name, stage in STAGES.items() if run.is_finished(stage)]
        if not names:
            raise ValueError(f"{run.folder} has no finished stage yet (python -m minippo sft)")
        policy, reward = run.tokenizers()
        tokenizers = {name: reward if name == "reward_model" else policy for name in names}
        files = {name: used.public_files(pad_id_of(name, used)) for name, used in tokenizers.items()}
        for name in names:
            check_exportable(model_folder(run, name))
        make_folder(options.out)
    ppo, out = run.config.ppo, options.out.resolve()
    with atomic_folder(out) as folder:  # all models or none, so that an interrupted export can be repeated
        for name, tokenizer in tokenizers.items():
            with wrong_input_exits():  # the run may have been trained with another model.py
                model = load_model(run, name)
            gpt = model if isinstance(model, GPT) else model.gpt
            set_file_format(gpt, eos_id=tokenizer.eos_id, pad_id=pad_id_of(name, tokenizer))
            if name != "reward_model":
                files[name]["generation_config.json"] = generation_config(
                    gpt, tokenizer.end_ids(ppo.stop_token), ppo.min_new_tokens
                )
            if model is gpt:
                save_pretrained(gpt, folder / name)
            else:
                save_model(model, folder / name)
            for file, text in files[name].items():
                (folder / name / file).write_text(text, encoding="utf-8", newline="\n")
    for name in names:
        print(options.out / name)
