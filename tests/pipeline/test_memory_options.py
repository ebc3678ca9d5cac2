"""Every stage with all options that save memory: each is used, and every weight and metric is the same, bit for bit.

`test_every_field.py` shows the same of each option alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from minippo import model
from minippo.config import MemoryConfig
from minippo.memory import OffloadedGradients
from tests.pipeline.test_every_field import CHECKS, differences
from tests.pipeline.tiny_run import STAGES, outcome

USED = {
    "checkpoint_activations": (model, "checkpoint"),
    "offload_gradients": (OffloadedGradients, "_move"),
}
"""Option -> what is called only if it is on."""


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
    return found


@pytest.mark.parametrize("stage", list(STAGES))
def test_all_options_are_used_and_change_nothing(tiny_runs, calls, stage):
    base = tiny_runs.base()
    assert not calls  # the base run has none of them
    run = tiny_runs.run("reviews", {f"memory.{field.name}": True for field in fields(MemoryConfig)}, [stage])
    assert differences(outcome(run, [stage]), outcome(base, [stage])) == set()
    CHECKS[stage](run)
    # The reward model has one block, of which `hidden_at` keeps the few activations.
    assert {field.name for field in fields(MemoryConfig)} - calls.keys() == (
        {"checkpoint_activations"} if stage == "rm" else set()
    )
