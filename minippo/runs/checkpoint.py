"""Save and load models with heads, and everything that a PPO run is.

Tensors go to safetensors, the rest to JSON: no file of a run can execute code when it is opened.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from minippo.state import PPOState
from minippo.storage import atomic_folder
from minippo.weights import load_pretrained, save_model
from minippo.weights.heads import _with_heads

KEPT_CHECKPOINTS = 2


def save(state: PPOState, folder: Path) -> Path:
    """Write `folder`/step-N; it gets its name when it is whole, and only then the oldest of three goes."""
    place = folder / f"step-{state.iteration:06d}"
    tensors, steps = {}, {}
    optimizer = state.optimizer.state_dict()
    for index, moments in optimizer["state"].items():
        steps[str(index)] = moments["step"]
        tensors |= {f"{index}.{name}": tensor for name, tensor in moments.items() if name != "step"}
    rest = {
        "seed": state.seed,
        "iteration": state.iteration,
        "kl_coef": state.kl_coef,
        "data": state.data,
        "prompts_drawn": state.prompts.rows_drawn,
        "demonstrations_drawn": state.demonstrations.rows_drawn if state.demonstrations else 0,
        "optimizer_steps": steps,
        "param_groups": optimizer["param_groups"],
    }
    with atomic_folder(place) as partial:
        save_model(state.policy, partial / "policy")
        save_file(tensors, partial / "state.safetensors")
        (partial / "state.json").write_text(json.dumps(rest, indent=2) + "\n", encoding="utf-8")
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
    state.prompts.rows_drawn = rest["prompts_drawn"]
    if state.demonstrations:
        state.demonstrations.rows_drawn = rest["demonstrations_drawn"]
    state.seed, state.iteration, state.kl_coef = rest["seed"], rest["iteration"], rest["kl_coef"]
