"""Optimizer steps and gradient clipping, next to `torch.optim.AdamW`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from bench.machine import Work
from bench.measuring import alternate, ratios, spread, timed
from bench.models import ModelSize
from bench.report import Row, Section, ratio_cell
from minippo.model import GPT
from minippo.optim import CPUAdamW, param_groups

MODELS = ("L",)
LR, LIMIT = 1e-6, 1e9
BYTES_OF_STEP, BYTES_OF_CLIPPING = 28, 12
"""Per parameter. A step reads the weight, gradient and two moments, and writes all but the gradient; clipping reads the
gradients twice and writes them once."""


def run(sizes: list[ModelSize], rounds: int) -> Section:
    """All optimizers update the same weights from the same gradients, each with moments of its own."""
    section = Section()
    for size in sizes:
        model = with_gradients(size)
        count = sum(parameter.numel() for parameter in model.parameters())
        ours = CPUAdamW(param_groups(model.parameters(), 0.01), LR)
        functions: dict[str, Callable[[], object]] = {
            "minippo": ours.step,
            "fused": torch.optim.AdamW(param_groups(model.parameters(), 0.01), LR, fused=True).step,
            "foreach": torch.optim.AdamW(param_groups(model.parameters(), 0.01), LR, foreach=True).step,
            # The limit is never exceeded, so every call does the same.
            "clipping": partial(ours.clip_gradients, LIMIT),
            "foreach clipping": partial(torch.nn.utils.clip_grad_norm_, list(model.parameters()), LIMIT, foreach=True),
        }
        seconds = alternate({name: timed(function) for name, function in functions.items()}, rounds)
        step, clip = f"optimizer step, {count / 1e6:.0f}M parameters", "gradient clipping, the same parameters"
        for work, minippo, peer, target, moved in (
            (step, "minippo", "fused", "at most 1.5 (1.2)", BYTES_OF_STEP),
            (step, "minippo", "foreach", "", BYTES_OF_STEP),
            (clip, "clipping", "foreach clipping", "", BYTES_OF_CLIPPING),
        ):
            milliseconds = [f"{1e3 * spread(seconds[name]).median:.0f}" for name in (minippo, peer)]
            section.rows.append(
                Row(
                    work,
                    f"{milliseconds[0]} ms",
                    f"`AdamW` {peer} {milliseconds[1]}" if work == step else f"`clip_grad_norm_` {milliseconds[1]}",
                    ratio_cell(ratios(seconds[minippo], seconds[peer])),
                    target,
                    Work(spread(seconds[minippo]).median, moved=count * moved),
                )
            )
        section.rounds[f"{size.name}, seconds"] = seconds
    return section


def with_gradients(size: ModelSize) -> GPT:
    """The model, with random gradients."""
    model = size.gpt()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def profiled(size: ModelSize) -> Callable[[], object]:
    """The work that `--profile` shows."""
    return CPUAdamW(param_groups(with_gradients(size).parameters(), 0.01), LR).step
