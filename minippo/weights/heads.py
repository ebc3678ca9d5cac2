"""Load and save models with heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minippo.heads import ActorCritic, RewardModel
from minippo.model import GPT
from minippo.weights.format import save_tensors
from minippo.weights.pretrained import load_pretrained, load_score_head, save_pretrained
from minippo.weights.shards import some_of
from minippo.weights.tensor_file import read_tensors

PUBLIC = ("gpt.", "score_head.")
"""The parts of a model that `save_pretrained` writes."""

HEADS = "heads.safetensors"


def save_model(model: GPT | ActorCritic | RewardModel, folder: Path) -> None:
    """Write the files of `save_pretrained`, and what they do not store in `heads.safetensors`."""
    save_pretrained(model, folder)
    if isinstance(model, GPT):
        return
    heads = {key: value for key, value in model.state_dict().items() if not key.startswith(PUBLIC)}
    save_tensors({key: value.cpu().contiguous() for key, value in heads.items()}, folder / HEADS)


def load_actor_critic(folder: Path, dtype: torch.dtype = torch.float32) -> ActorCritic:
    """A policy and its critic, if it has one, as `save_model` has written them; `dtype` is the transformer's."""
    heads = _read_heads(folder)
    value_head = ("mlp" if "value_head.2.weight" in heads else "linear") if heads else None
    return _with_heads(ActorCritic(load_pretrained(folder, dtype), value_head), folder)


def load_weights(model: GPT | ActorCritic | RewardModel, folder: Path) -> None:
    """Load the weights of `folder` into `model` in place, so that an optimizer keeps its parameters."""
    gpt = getattr(model, "gpt", model)
    try:
        gpt.load_state_dict(load_pretrained(folder, gpt.token_embedding.weight.dtype).state_dict())
    except RuntimeError as error:  # PyTorch's sentence has a line for every tensor
        raise ValueError(f"{folder} has weights of another model: {str(error).split(chr(10))[-1].strip()}") from None
    if isinstance(model, RewardModel):
        with torch.no_grad():
            model.score_head.weight.copy_(load_score_head(folder))
    if not isinstance(model, GPT):
        _with_heads(model, folder)


def load_reward_model(folder: Path, dtype: torch.dtype = torch.float32) -> RewardModel:
    """A reward model with the buffers of its score, as `save_model` has written them; `dtype` is the transformer's."""
    model = RewardModel(load_pretrained(folder, dtype))
    with torch.no_grad():
        model.score_head.weight.copy_(load_score_head(folder))
    return _with_heads(model, folder)


def _with_heads(model: Any, folder: Path) -> Any:
    heads = _read_heads(folder)
    if isinstance(model, RewardModel):
        heads.setdefault("is_probability", torch.zeros(()))  # earlier versions had no other reward models
    expected = {key: value.shape for key, value in model.state_dict().items() if not key.startswith(PUBLIC)}
    found = {key: value.shape for key, value in heads.items()}
    if found != expected:
        others = sorted(key for key in {*expected, *found} if found.get(key) != expected.get(key))
        raise ValueError(
            f"{folder / HEADS} lacks tensors, has unknown ones or has others of another shape: {some_of(others)}"
        )
    model.load_state_dict(heads, strict=False)
    return model


def _read_heads(folder: Path) -> dict[str, Tensor]:
    if not (folder / HEADS).exists():  # without them, a critic would return 0, and scores would lose gain and bias
        raise FileNotFoundError(f"{folder} has no {HEADS}, which a trained model has")
    return read_tensors(folder / HEADS)
