"""Load and save models with heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from minippo.heads import ActorCritic, RewardModel
from minippo.model import GPT
from minippo.weights.format import save_tensors
from minippo.weights.pretrained import load_pretrained, load_score_head, save_pretrained

PUBLIC = ("gpt.", "score_head.")
"""The parts of a model that `save_pretrained` writes."""


def save_model(model: GPT | ActorCritic | RewardModel, folder: Path) -> None:
    """Write the files of `save_pretrained`, and what they do not store in `heads.safetensors`."""
    save_pretrained(model, folder)
    if isinstance(model, GPT):
        return
    heads = {key: value for key, value in model.state_dict().items() if not key.startswith(PUBLIC)}
    save_tensors({key: value.cpu().contiguous() for key, value in heads.items()}, folder / "heads.safetensors")


def load_actor_critic(folder: Path, value_head: str = "linear") -> ActorCritic:
    """A policy and its critic. If the folder has no heads, the critic is of the kind `value_head` and returns 0."""
    heads = folder / "heads.safetensors"
    if heads.is_file():
        value_head = "mlp" if "value_head.2.weight" in load_file(heads) else "linear"
    return _with_heads(ActorCritic(load_pretrained(folder), value_head), folder)


def load_weights(model: GPT | ActorCritic | RewardModel, folder: Path) -> None:
    """Load the weights of `folder` into `model` in place, so that an optimizer keeps its parameters."""
    getattr(model, "gpt", model).load_state_dict(load_pretrained(folder).state_dict())
    if isinstance(model, RewardModel):
        with torch.no_grad():
            model.score_head.weight.copy_(load_score_head(folder))
    if not isinstance(model, GPT):
        _with_heads(model, folder)


def load_reward_model(folder: Path) -> RewardModel:
    """A reward model with its gain and bias. If the folder has no heads, the gain is 1 and the bias 0."""
    model = RewardModel(load_pretrained(folder))
    with torch.no_grad():
        model.score_head.weight.copy_(load_score_head(folder))
    return _with_heads(model, folder)


def _with_heads(model: Any, folder: Path) -> Any:
    if (folder / "heads.safetensors").is_file():
        missing, unexpected = model.load_state_dict(load_file(folder / "heads.safetensors"), strict=False)
        missing = [key for key in missing if not key.startswith(PUBLIC)]
        if missing or unexpected:
            raise ValueError(f"{folder}/heads.safetensors lacks {missing} and has the unknown tensors {unexpected}")
    return model
