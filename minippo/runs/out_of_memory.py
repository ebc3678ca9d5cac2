"""What to do when the GPU's memory is not enough: the options that are not used yet and take less in that phase."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from minippo.runs.run import Run

SIZES = {
    "generation": "ppo.rollout_batch_size",
    "log-probabilities": "ppo.microbatch_size",
    "reference": "ppo.microbatch_size",
    "update": "ppo.microbatch_size",
    "language-model step": "sft.{backbone}.batch_tokens",
    "held-out loss": "sft.{backbone}.batch_tokens",
    "reward-model step": "rm.batch_size",
}
"""Phase -> the number of rows or tokens that it computes at a time."""
TRAINING = ("update", "language-model step", "reward-model step")
SAVES = {
    "checkpoint_activations": TRAINING,
    "offload_gradients": TRAINING,  # there are none in the other phases
    "park_models": ("loading", "generation", "log-probabilities", "reference", "scoring", "update"),
}
"""Option in `memory` -> the phases in which it takes less memory."""
REWARD_PHASES = ("scoring", "reward-model step")
"""Phases of the reward model; the others are those of the policy."""


def remedies(run: Run, phase: str) -> str:
    """The end of the sentence about a phase that has run out of memory, "" if nothing is left to try."""
    config = run.config
    of_reward_model = phase in REWARD_PHASES or run.position.startswith("sft-reward")
    backbone = "reward" if of_reward_model else "policy"
    # These may change at any time: the run goes on from its last checkpoint.
    now = [
        f"--memory.{field.name}".replace("_", "-")
        for field in fields(config.memory)
        if not getattr(config.memory, field.name) and phase in SAVES[field.name]
    ]
    later = []  # these belong to the stage
    if phase in SIZES:
        name = SIZES[phase].format(backbone=backbone)
        if (size := _value(config, name)) > 1:
            later.append(f"--{name.replace('_', '-')} below {size}")
    if getattr(config.model, backbone).dtype == "float32":
        later.append(f"--model.{backbone}.dtype bfloat16")
    parts = [
        f"this run can go on with {' '.join(now)}" if now else "",
        f"a new run with {' or '.join(later)} needs less" if later else "",
    ]
    sentence = "".join(f"; {part}" for part in parts if part)
    return sentence and f"{sentence} (--plan says how much)"


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config
