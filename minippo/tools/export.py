"""Take a run's models to other tools: `python -m minippo export --run runs/reviews --out exported`

Writes a folder for each model that the run has, which `transformers` loads as it is, with its tokenizer:

- policy/ and reference/ are language models (AutoModelForCausalLM).
- reward_model/ is a classifier with one label (AutoModelForSequenceClassification) for rows that end in end-of-text.
  Its logit is the raw score; what PPO was given is gain * logit + bias.

Value head, gain and bias lie beside, in heads.safetensors. Nothing that is there already is overwritten.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from minippo.heads import ActorCritic, RewardModel
from minippo.model import GPT
from minippo.runs import Argument, Run, command_line, load_run, wrong_input_exits
from minippo.tokenizer import Tokenizer
from minippo.weights import load_actor_critic, load_pretrained, load_reward_model, save_model, save_pretrained

STAGES = {"policy": "ppo", "reference": "sft", "reward_model": "rm"}
"""What is exported -> the stage of a run that makes it."""


@dataclass(frozen=True)
class ExportOptions:
    """What to take where."""

    run: Annotated[Path, Argument(alias="--run-dir")]
    """Folder of the run."""
    out: Path
    """Folder to write; it must be empty or not there yet."""


def check_empty(folder: Path) -> None:
    """Raise ValueError where `folder` holds anything, or is a file or in one."""
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{place} is a file, not a folder to export to (--out)")
    if folder.is_dir() and (files := sorted(path.name for path in folder.iterdir())):
        raise ValueError(f"{folder} holds {len(files)} files already ({files[0]}, ...): choose another --out")


def make_folder(folder: Path) -> None:
    """Make `folder` where it is not there yet. Raises ValueError where nothing can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be made (--out): {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} cannot be written to (--out)")


def pad_id_of(name: str, tokenizer: Tokenizer) -> int:
    """What fills a batch. A classifier takes the last id that is no pad for the end, so there it must not be the
    end-of-text."""
    is_end = tokenizer.pad_id == tokenizer.eos_id
    return tokenizer.spare_id if name == "reward_model" and is_end else tokenizer.pad_id


def load_model(run: Run, name: str) -> GPT | ActorCritic | RewardModel:
    """One of the run's models; the reference has no critic."""
    if name == "policy":
        return load_actor_critic(run.stage("ppo") / "policy")
    if name == "reference":
        return load_pretrained(run.stage("sft") / "policy")
    return load_reward_model(run.stage("rm"))


def generation_config(gpt: GPT, end_ids: tuple[int, ...], min_new_tokens: int) -> str:
    """The generation_config.json with which others' responses end where ours may, at none of `end_ids` before
    `min_new_tokens`, and hold no id that ours cannot. How long they get and how they are drawn is for the asker."""
    contents = {
        "bos_token_id": gpt.config.eos_id,
        "eos_token_id": list(end_ids),
        "pad_token_id": gpt.config.pad_id,
        "suppress_tokens": list(gpt.config.never_sampled) or None,
        "min_new_tokens": min_new_tokens or None,
    }
    return json.dumps(contents, indent=2) + "\n"


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
        make_folder(options.out)
    ppo = run.config.ppo
    for name, tokenizer in tokenizers.items():
        model, folder = load_model(run, name), options.out / name
        gpt = model if isinstance(model, GPT) else model.gpt
        gpt.set_ids(eos_id=tokenizer.eos_id, pad_id=pad_id_of(name, tokenizer))
        if model is gpt:
            save_pretrained(gpt, folder)
        else:
            save_model(model, folder)
        if name != "reward_model":
            files[name]["generation_config.json"] = generation_config(
                gpt, tokenizer.end_ids(ppo.stop_token), ppo.min_new_tokens
            )
        for file, text in files[name].items():
            (folder / file).write_text(text, encoding="utf-8", newline="\n")
        print(folder)
