"""Save and load models with heads, and everything that a PPO run is.

Tensors go to safetensors, the rest to JSON: no file of a run can execute code when it is opened.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from minippo.data import RowSource
from minippo.heads import ActorCritic, RewardModel
from minippo.optim import CPUAdamW
from minippo.weights import load_pretrained, load_score_head, save_pretrained

KEPT_CHECKPOINTS = 2
PUBLIC = ("gpt.", "score_head.")
"""The parts of a model that the public files hold."""


@dataclass
class PPOState:
    """Whatever changes during PPO. The configuration never does; the reference and the reward model neither."""

    policy: ActorCritic
    optimizer: CPUAdamW
    seed: int
    """With `iteration` it determines the responses and the order of the minibatches: there is no generator to keep."""
    prompts: RowSource
    kl_coef: float
    iteration: int = 0
    """Iterations done."""
    demonstrations: RowSource | None = None
    """What the pretraining term is taken from, where there is one."""
    data: str = ""
    """Fingerprint of the corpus that both are drawn from."""


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


def save(state: PPOState, folder: Path) -> Path:
    """Write `folder`/step-N; it gets its name when it is whole, and only then the oldest of three goes."""
    place = folder / f"step-{state.iteration:06d}"
    partial = place.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    save_model(state.policy, partial / "policy")
    tensors, steps = {}, {}
    optimizer = state.optimizer.state_dict()
    for index, moments in optimizer["state"].items():
        steps[str(index)] = moments["step"]
        tensors |= {f"{index}.{name}": tensor for name, tensor in moments.items() if name != "step"}
    save_file(tensors, partial / "state.safetensors")
    rest = {
        "seed": state.seed,
        "iteration": state.iteration,
        "kl_coef": state.kl_coef,
        "data": state.data,
        "prompts_drawn": state.prompts.drawn,
        "demonstrations_drawn": state.demonstrations.drawn if state.demonstrations else 0,
        "optimizer_steps": steps,
        "param_groups": optimizer["param_groups"],
    }
    (partial / "state.json").write_text(json.dumps(rest, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    os.replace(partial, place)
    for old in checkpoints(folder)[:-KEPT_CHECKPOINTS]:
        shutil.rmtree(old)
    return place


def check_data(data: str, place: Path) -> None:
    """Raise ValueError unless the checkpoint was drawing from the data of this fingerprint: its place is a number."""
    rest = json.loads((place / "state.json").read_text(encoding="utf-8"))
    if "seed" not in rest:
        raise ValueError(
            f"{place} was written by an older version of minippo, whose random numbers cannot be continued; choose "
            "another --run-dir"
        )
    if rest["data"] != data:
        raise ValueError(
            f"{place} was made with other data; go on with its own, or choose another --run-dir "
            "(--init-from takes over the earlier stages)"
        )


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".partial")


def restore(state: PPOState, place: Path) -> None:
    """Bring `state` to where `save` found it: weights, moments, random draws, place in the data, coefficient."""
    tensors = load_file(place / "state.safetensors")
    rest = json.loads((place / "state.json").read_text(encoding="utf-8"))
    state.policy.gpt.load_state_dict(load_pretrained(place / "policy").state_dict())
    _with_heads(state.policy, place / "policy")
    moments: dict[int, dict[str, Any]] = {int(index): {"step": n} for index, n in rest["optimizer_steps"].items()}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        moments[int(index)][name] = tensor
    state.optimizer.load_state_dict({"state": moments, "param_groups": rest["param_groups"]})
    state.prompts.drawn = rest["prompts_drawn"]
    if state.demonstrations:
        state.demonstrations.drawn = rest["demonstrations_drawn"]
    state.seed, state.iteration, state.kl_coef = rest["seed"], rest["iteration"], rest["kl_coef"]
