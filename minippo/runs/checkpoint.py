"""Checkpoints of a stage. Tensors go to safetensors, everything else to JSON: opening a file never executes code."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from minippo.config import OptimizerConfig
from minippo.errors import TrainingError
from minippo.interruption import stop_requested
from minippo.optim import lr_schedule
from minippo.state import PPOState, State
from minippo.storage import atomic_folder, check_sealed, read_object, seal
from minippo.weights import load_weights, read_tensors, save_model, save_tensors


def due(step: int, every: int, last: int) -> bool:
    """Whether something that happens every `every` steps, and after the last one, happens after `step`."""
    return step % every == 0 or step == last


class Checkpoints:
    """The folders step-N in `folder`, of which the newest `keep` are kept.

    `data` is the fingerprint of the corpus. A checkpoint stores its position in the data as a number of rows, which
    means something else in another corpus, so it is only restored with the data that it was made with.
    """

    def __init__(self, folder: Path, data: str = "", keep: int = 2) -> None:
        self.folder, self.data, self.keep = folder, data, keep

    def paths(self) -> list[Path]:
        """The checkpoints, oldest first, damaged ones included."""
        return sorted(path for path in self.folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name))

    def latest(self) -> tuple[Path | None, list[str]]:
        """The newest undamaged checkpoint, None if there is none, and what is wrong with the newer ones."""
        damage = []
        for path in reversed(self.paths()):
            try:
                check_sealed(path)
            except ValueError as error:
                damage.append(str(error))
            else:
                return path, damage
        return None, damage

    def due(self, step: int, every: int, last: int) -> bool:
        """Whether to save after `step`: every `every` steps, after the last one, and before an interruption."""
        return due(step, every, last) or stop_requested()

    def save(self, state: State) -> Path | None:
        """Write a checkpoint and return its path; older ones are deleted after it is complete.

        If the disk is full or the folder has gone, the earlier checkpoints stay as they are, a warning is printed, and
        training goes on until the next one, and None is returned. Raises TrainingError if nothing has been trained yet,
        or if a weight is NaN or infinite.
        """
        path = self.folder / f"step-{state.step:06d}"
        try:
            self._write(state, path)
        except OSError as error:
            if not self.folder.parent.is_dir():
                error.strerror = "its folder has been moved or deleted; move it back"
            sentence = f"{path} could not be written: {error.strerror}"
            if state.step == 0:  # fail now, not an hour in
                raise TrainingError(sentence) from None
            left = "".join(f"{last} remains, and " for last in self.paths()[-1:])
            print(f"\nwarning: {sentence}; {left}the next save will try again", file=sys.stderr)
            return None
        complete = [other for other in self.paths() if other.name <= path.name]
        for other in self.paths():  # those after this one are damaged: training continued from before them
            if other not in complete[-self.keep :]:
                shutil.rmtree(other, ignore_errors=True)
        return path

    def _write(self, state: State, path: Path) -> None:
        tensors, steps = {}, {}
        optimizer = state.optimizer.state_dict()
        for index, moments in optimizer["state"].items():
            steps[str(index)] = moments["step"]
            tensors |= {f"{index}.{name}": tensor for name, tensor in moments.items() if name != "step"}
        rest = {
            "position": state.position(),
            "data": self.data,
            "optimizer_steps": steps,
            "param_groups": optimizer["param_groups"],
        }
        self.folder.mkdir(exist_ok=True)
        with atomic_folder(path) as partial:
            save_model(state.model, partial / "model")
            save_tensors(tensors, partial / "optimizer.safetensors")
            (partial / "state.json").write_text(json.dumps(rest, indent=2) + "\n", encoding="utf-8")
            seal(partial)

    def check_latest(self) -> None:
        """Raise ValueError if there are checkpoints, but none that can be continued with this data and this version."""
        path, damage = self.latest()
        if path is None and damage:
            raise ValueError(
                f"no checkpoint in {self.folder} can be used: {damage[0]}; choose another --run-dir, or delete its "
                "step-* folders to start the stage again"
            )
        if path is not None and read_object(path / "state.json").get("data") != self.data:
            raise ValueError(
                f"{path} was made with other data or another tokenizer; use those, or choose another --run-dir "
                "(--init-from takes over the earlier stages)"
            )

    def restore_latest(self, state: State) -> bool:
        """Restore `state` from the newest undamaged checkpoint: weights, optimizer, and position. False if there is
        none."""
        path, damage = self.latest()
        for sentence in damage:
            print(f"warning: {sentence}; using {path or 'the initial weights'} instead", file=sys.stderr)
        if path is not None:
            restore(state, path)
        return path is not None


def restore(state: State, path: Path) -> None:
    """Restore `state` as it was when the checkpoint `path` was saved.

    Raises TrainingError if the checkpoint is undamaged, but of something else than `state`.
    """
    tensors = read_tensors(path / "optimizer.safetensors")
    rest = read_object(path / "state.json")
    try:
        load_weights(state.model, path / "model")  # in place: the optimizer holds these parameters
        moments: dict[int, dict[str, Any]] = {int(index): {"step": n} for index, n in rest["optimizer_steps"].items()}
        for key, tensor in tensors.items():
            index, _, name = key.partition(".")
            moments[int(index)][name] = tensor
        state.optimizer.load_state_dict({"state": moments, "param_groups": rest["param_groups"]})
        state.set_position(rest["position"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TrainingError(f"{path} is not a checkpoint of this training: {type(error).__name__}: {error}") from None


def resumed_line(state: State, config: OptimizerConfig, num_steps: int) -> str:
    """What a resumed stage prints: where it is, and what the schedule of the learning rate does."""
    line = f"resuming after {'iteration' if isinstance(state, PPOState) else 'step'} {state.step} of {num_steps}"
    if state.step in (0, num_steps):
        return line
    # A schedule runs over the number of steps: if that has grown, the learning rate rises again.
    before = state.optimizer.param_groups[0]["lr"]
    after = config.lr * lr_schedule(config.schedule, state.step, num_steps, warmup=config.warmup)
    return f"{line}; learning rate {before:.3g}, then {after:.3g} (schedule: {config.schedule})"
