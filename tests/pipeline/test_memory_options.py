"""Every stage with all options that save memory: each is used, and every weight and metric is the same, bit for bit.

`test_every_field.py` shows the same of each option alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import nn

from minippo import model
from minippo.config import MemoryConfig
from minippo.memory import OffloadedGradients, park
from tests.pipeline.test_every_field import CHECKS, differences
from tests.pipeline.tiny_run import STAGES, outcome

USED = {
    "checkpoint_activations": (model, "checkpoint"),
    "offload_gradients": (OffloadedGradients, "_move"),
}
"""Option -> what is called only if it is on."""
UNUSED = {
    "sft": {"park_models"},  # no model is frozen
    "rm": {"checkpoint_activations"},  # the reward model has one block, of which `hidden_at` keeps the few activations
    "ppo": set(),
}


@pytest.fixture
def calls(monkeypatch) -> Counter[str]:
    """How often each option was used."""
    found: Counter[str] = Counter()

    def counted(option: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            found[option] += 1
            return function(*args, **kwargs)

        return call

    for option, (place, name) in USED.items():
        monkeypatch.setattr(place, name, counted(option, getattr(place, name)))

    def watched(parked: nn.Module, device: torch.device) -> nn.Module:
        def used(*_: object) -> None:
            found["park_models"] += 1
            assert "parked_for" not in vars(parked), "a parked model is used outside `loaded`"

        parked.gpt.final_norm.register_forward_pre_hook(used)
        return park(parked, device)

    monkeypatch.setattr("minippo.runs.loading.park", watched)
    return found


@pytest.mark.parametrize("stage", list(STAGES))
def test_all_options_are_used_and_change_nothing(tiny_runs, calls, stage):
    base = tiny_runs.base()
    assert not calls  # the base run has none of them
    run = tiny_runs.run("reviews", {f"memory.{field.name}": True for field in fields(MemoryConfig)}, [stage])
    assert differences(outcome(run, [stage]), outcome(base, [stage])) == set()
    CHECKS[stage](run)
    assert {field.name for field in fields(MemoryConfig)} - calls.keys() == UNUSED[stage]
