"""Checkpoints of a PPO run. Tensors go to safetensors, everything else to JSON: opening a file never executes code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from minippo.state import PPOState
from minippo.storage import atomic_folder, read_object
from minippo.weights import load_weights, save_model, save_tensors


class Checkpoints:
    """The folders step-N in `folder`, of which the newest `keep` are kept.

    `data` is the fingerprint of the corpus. A checkpoint stores its position in the data as a number of rows, which
    means something else in another corpus, so it is only restored with the data that it was made with.
    """

    def __init__(self, folder: Path, data: str = "", keep: int = 2) -> None:
        self.folder, self.data, self.keep = folder, data, keep

    def paths(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(path for path in self.folder.glob("step-*") if path.suffix != ".partial")

    def save(self, state: PPOState) -> Path:
        """Write a checkpoint; older ones are deleted after it is complete."""
        path = self.folder / f"step-{state.iteration:06d}"
        tensors, steps = {}, {}
        optimizer = state.optimizer.state_dict()
        for index, moments in optimizer["state"].items():
            steps[str(index)] = moments["step"]
            tensors |= {f"{index}.{name}": tensor for name, tensor in moments.items() if name != "step"}
        rest = {
            "seed": state.seed,
            "iteration": state.iteration,
            "kl_coef": state.kl_coef,
            "data": self.data,
            "prompts_drawn": state.prompts.rows_drawn,
            "demonstrations_drawn": state.demonstrations.rows_drawn if state.demonstrations else 0,
            "optimizer_steps": steps,
            "param_groups": optimizer["param_groups"],
        }
        with atomic_folder(path) as partial:
            save_model(state.policy, partial / "policy")
            save_tensors(tensors, partial / "state.safetensors")
            (partial / "state.json").write_text(json.dumps(rest, indent=2) + "\n", encoding="utf-8")
        for old in self.paths()[: -self.keep]:
            shutil.rmtree(old)
        return path

    def check_latest(self) -> None:
        """Raise ValueError if the newest checkpoint cannot be continued with this data and this version."""
        for path in self.paths()[-1:]:
            rest = read_object(path / "state.json")
            if "seed" not in rest:
                raise ValueError(
                    f"{path} was written by an older version of minippo, whose random numbers cannot be continued; "
                    "choose another --run-dir"
                )
            if rest["data"] != self.data:
                raise ValueError(
                    f"{path} was made with other data; continue with that data, or choose another --run-dir "
                    "(--init-from takes over the earlier stages)"
                )

    def restore_latest(self, state: PPOState) -> bool:
        """Restore `state` from the newest checkpoint: weights, optimizer, positions in the data, KL coefficient.

        Returns False if there is none.
        """
        for path in self.paths()[-1:]:
            restore(state, path)
            return True
        return False


def restore(state: PPOState, path: Path) -> None:
    """Restore `state` as it was when the checkpoint `path` was saved."""
    tensors = load_file(path / "state.safetensors")
    rest = read_object(path / "state.json")
    load_weights(state.policy, path / "policy")  # in place: the optimizer holds these parameters
    moments: dict[int, dict[str, Any]] = {int(index): {"step": n} for index, n in rest["optimizer_steps"].items()}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        moments[int(index)][name] = tensor
    state.optimizer.load_state_dict({"state": moments, "param_groups": rest["param_groups"]})
    state.prompts.rows_drawn = rest["prompts_drawn"]
    if state.demonstrations:
        state.demonstrations.rows_drawn = rest["demonstrations_drawn"]
    state.seed, state.iteration, state.kl_coef = rest["seed"], rest["iteration"], rest["kl_coef"]
