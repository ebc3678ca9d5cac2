"""Rollouts of 10 + 128 tokens, next to transformers' `generate`.

Every response has the full length in both, so that neither gains by stopping early.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bench.machine import Work
from bench.measuring import alternate, ratios, spread, timed
from bench.models import ModelSize
from bench.report import Row, Section, ratio_cell
from minippo.sampling import generate

MODELS = ("S", "M", "L")
BATCHES = (16, 64)
P, R = 10, 128
FLOAT = 4
"""Bytes of a float32."""


def run(sizes: list[ModelSize], rounds: int) -> Section:
    """Measure every model with every batch size."""
    section, medians = Section(), []
    for size in sizes:
        for batch in BATCHES:
            functions = {"minippo": minippo(size, batch), "transformers": transformers(size, batch)}
            seconds = alternate({name: timed(function) for name, function in functions.items()}, rounds)
            ratio = ratios(seconds["transformers"], seconds["minippo"])
            rate = {name: batch * R / spread(values).median for name, values in seconds.items()}
            medians.append(ratio.median)
            # A step reads every weight and computes one token per row; the prompt adds P tokens without logits.
            section.rows.append(
                Row(
                    f"rollout, {P} + {R} tokens, {size.name}, batch {batch}",
                    f"{rate['minippo']:,.0f} tokens/s",
                    f"`generate` {rate['transformers']:,.0f}",
                    ratio_cell(ratio),
                    "at least 1.8",
                    Work(
                        spread(seconds["minippo"]).median,
                        flops=size.forward_flops(batch * (P + R), batch * R),
                        moved=R * size.weights * FLOAT,
                    ),
                )
            )
            section.rounds[f"{size.name}, batch {batch}, seconds"] = seconds
    mean = f"{statistics.geometric_mean(medians):.2f} ({min(medians):.2f} to {max(medians):.2f})"
    section.rows.append(Row(f"geometric mean of these {len(medians)}", "", "", mean, "2.2 (2.5)"))
    return section


def minippo(size: ModelSize, batch: int) -> Callable[[], None]:
    """One rollout with minippo."""
    model, (queries, mask) = size.gpt(), inputs(size, batch)
    eos_id = size.vocab - 1

    def rollout() -> None:
        generate(model, queries, mask, max_new_tokens=R, min_new_tokens=R, eos_id=eos_id, pad_id=eos_id)

    return rollout


def transformers(size: ModelSize, batch: int) -> Callable[[], None]:
    """One rollout with transformers, from the same weights."""
    from transformers import GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        model = GPT2LMHeadModel.from_pretrained(size.save(Path(folder))).eval()
    queries, mask = inputs(size, batch)
    eos_id = size.vocab - 1
    lengths = {"max_new_tokens": R, "min_new_tokens": R, "eos_token_id": eos_id, "pad_token_id": eos_id}

    def rollout() -> None:
        model.generate(queries, attention_mask=mask.long(), do_sample=True, top_k=0, **lengths)

    return rollout


def inputs(size: ModelSize, batch: int) -> tuple[Tensor, Tensor]:
    """Prompts (batch, P) and their mask: every second one is shorter by a third and padded on the left."""
    queries = torch.tensor(size.prompts(batch, P))
    mask = torch.ones_like(queries, dtype=torch.bool)
    mask[::2, : P // 3] = False
    return queries, mask


def profiled(size: ModelSize) -> Callable[[], object]:
    """The work that `--profile` shows."""
    return minippo(size, BATCHES[0])
