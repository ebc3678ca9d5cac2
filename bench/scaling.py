"""How the time and the memory of minippo's PPO iterations grow with batch size, response length and model size.

An exponent of 1 means proportional. It is fitted to the medians of the rounds, its range to the single rounds. Memory
is what a process needs beyond the imported libraries and, for batch size and response length, beyond the models,
gradients and moments, which depend on neither.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import ppo
from bench.measuring import Spread, exponent, spread
from bench.models import ModelSize
from bench.report import Row, Section, ratio_cell
from bench.workers import Measured, repeat

MODELS = ("M",)
BATCH, RESPONSE_LENGTH = 8, 64
BATCHES, RESPONSE_LENGTHS, WIDTHS = (4, 8, 16, 32, 64), (16, 32, 64, 128, 256, 512), (1, 2, 3, 4, 6)
"""Widths and depths of the models are these multiples of a third of the model's."""


def run(sizes: list[ModelSize], rounds: int) -> Section:
    """Measure a series of processes for each exponent."""
    section = Section()
    for size in sizes:
        models = [scaled(size, width) for width in WIDTHS]
        series: dict[str, tuple[list[int], list[tuple[ModelSize, int, int]], Callable[[Measured], float]]] = {
            "batch size": (list(BATCHES), [(size, batch, RESPONSE_LENGTH) for batch in BATCHES], activations),
            "response length": (
                list(RESPONSE_LENGTHS),
                [(size, BATCH, length) for length in RESPONSE_LENGTHS],
                activations,
            ),
            "model size": ([m.weights for m in models], [(m, BATCH, RESPONSE_LENGTH) for m in models], all_tensors),
        }
        for axis, (values, shapes, memory) in series.items():
            measured = [iterations(*shape, rounds) for shape in shapes]
            section.rounds[f"{size.name}, {axis}"] = [
                {"value": value, "rounds": turns} for value, turns in zip(values, measured, strict=True)
            ]
            target = "below 1.15" if axis == "response length" else ""
            for what, of in (("time", lambda turn: turn["seconds"]), ("memory", memory)):
                fitted = exponent_over(values, [[of(turn) for turn in turns] for turns in measured])
                work = f"{what} against {axis}, {values[0]:,} to {values[-1]:,}, {size.name}"
                section.rows.append(Row(work, f"exponent {ratio_cell(fitted)}", target=target))
    return section


def exponent_over(values: list[int], measured: list[list[float]]) -> Spread:
    """The exponent of the medians, and its range over the rounds; `measured[i][round]` belongs to `values[i]`."""
    single = [exponent(values, column) for column in zip(*measured, strict=True)]
    return Spread(exponent(values, [spread(row).median for row in measured]), min(single), max(single))


def scaled(size: ModelSize, thirds: int) -> ModelSize:
    """The model with `thirds` thirds of its layers and channels."""
    return replace(size, layers=max(1, size.layers * thirds // 3), channels=size.channels * thirds // 3)


def iterations(size: ModelSize, batch: int, response_length: int, rounds: int) -> list[Measured]:
    """PPO iterations of one shape, in a process of their own."""
    with tempfile.TemporaryDirectory() as name:
        return repeat(rounds, "bench.ppo:work", size.save(Path(name)), size, batch, response_length)


def all_tensors(turn: Measured) -> float:
    """Peak memory beyond the imported libraries, in bytes."""
    return turn["peak memory"] - turn["imported memory"]


def activations(turn: Measured) -> float:
    """Peak memory beyond policy, reference and reward model and the policy's gradients and moments, in bytes."""
    models = turn["loaded memory"] - turn["imported memory"]  # three, and three times as much for one of them
    return turn["peak memory"] - turn["loaded memory"] - models


def profiled(size: ModelSize) -> Callable[[], Any]:
    """The work that `--profile` shows."""
    return ppo.profiled(size)
