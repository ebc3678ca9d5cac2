"""Models with heads, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from minippo.heads import ActorCritic, RewardModel
from minippo.weights.pretrained import load_pretrained, load_score_head, save_pretrained

PUBLIC = ("gpt.", "score_head.")
"""The parts of a model that the public files hold."""


def save_model(model: ActorCritic | RewardModel, folder: Path) -> None:
    """What the public format can say in its files, what `model` has besides in `heads.safetensors`."""
    save_pretrained(model, folder)
    heads = {key: value for key, value in model.state_dict().items() if not key.startswith(PUBLIC)}
    save_file({key: value.cpu().contiguous() for key, value in heads.items()}, folder / "heads.safetensors")


def load_actor_critic(folder: Path, value_head: str = "linear") -> ActorCritic:
    """A policy and its critic; from a folder without heads, a critic of the kind `value_head` that starts at 0."""
    heads = folder / "heads.safetensors"
    if heads.is_file():
        value_head = "mlp" if "value_head.2.weight" in load_file(heads) else "linear"
    return _with_heads(ActorCritic(load_pretrained(folder), value_head), folder)


def load_weights(model: ActorCritic, folder: Path) -> None:
    """Load the weights of `folder` into `model` in place, so that an optimizer keeps its parameters."""
    model.gpt.load_state_dict(load_pretrained(folder).state_dict())
    _with_heads(model, folder)


def load_reward_model(folder: Path) -> RewardModel:
    """A reward model with its gain and bias; from a folder without heads, with a gain of 1 and a bias of 0."""
    model = RewardModel(load_pretrained(folder))
    with torch.no_grad():
        model.score_head.weight.copy_(load_score_head(folder))
    return _with_heads(model, folder)


def _with_heads(model: Any, folder: Path) -> Any:
    if (folder / "heads.safetensors").is_file():
        missing, unexpected = model.load_state_dict(load_file(folder / "heads.safetensors"), strict=False)
        missing = [key for key in missing if not key.startswith(PUBLIC)]
        if missing or unexpected:
            raise ValueError(f"{folder}/heads.safetensors lacks {missing} and has {unexpected} too many")
    return model
