"""Training a reward model on pairs of up to 256 tokens, next to TRL's `RewardTrainer`.

One round is an epoch over the same pairs, in batches of 8. TRL pads random batches; minippo puts pairs of similar
length into a batch, and is also measured with random ones. Both train in float32 without dropout and clip gradients.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.machine import Work
from bench.measuring import alternate, clock, ratios, spread
from bench.models import ModelSize
from bench.report import Row, Section, ratio_cell
from bench.workers import Turns, Worker
from minippo.batches import comparison_batches
from minippo.equations import ranking_loss
from minippo.heads import RewardModel
from minippo.optim import CPUAdamW, param_groups
from minippo.weights import load_pretrained
from train_rm import score_batch

MODELS = ("M",)
RANDOM, BY_LENGTH = "at random", "by length"
PAIRS, BATCH, SHORTEST, LONGEST, LR = 64, 8, 32, 256, 1e-5

Pairs = list[list[list[int]]]
"""For each pair, the ids of the chosen and of the rejected text."""


def run(sizes: list[ModelSize], rounds: int) -> Section:
    """Two processes per model; they take turns."""
    section = Section()
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            arguments = size.save(Path(name)), size
            with (
                Worker("bench.reward:work", *arguments, False) as random,
                Worker("bench.reward:work", *arguments, True) as by_length,
                Worker("bench.reward_trl:work", *arguments) as trl,
            ):
                measured = alternate({RANDOM: random.turn, BY_LENGTH: by_length.turn, "TRL": trl.turn}, rounds)
        section.rounds[f"{size.name}, {PAIRS} pairs"] = measured
        seconds = {name: [turn["seconds"] for turn in turns] for name, turns in measured.items()}
        median = {name: spread(values).median for name, values in seconds.items()}
        num_tokens = sum(len(ids) for pair in make_pairs(size) for ids in pair)  # padding is not counted
        for batches in (RANDOM, BY_LENGTH):
            section.rows.append(
                Row(
                    f"reward-model training, {size.name}, {SHORTEST} to {LONGEST} tokens, batches {batches}",
                    f"{PAIRS / median[batches]:.1f} pairs/s",
                    f"TRL {PAIRS / median['TRL']:.1f}",
                    ratio_cell(ratios(seconds["TRL"], seconds[batches])),
                    "1.4 (1.6)" if batches == RANDOM else "",
                    Work(median[batches], flops=3 * size.forward_flops(num_tokens, 0)),
                )
            )
    return section


def make_pairs(size: ModelSize) -> Pairs:
    """Random texts of random lengths, always the same. Each ends with the last id, end-of-text; the id before that is
    left for padding."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (PAIRS, 2), generator=generator)
    return [
        [[*torch.randint(size.vocab - 2, (n - 1,), generator=generator).tolist(), size.vocab - 1] for n in pair]
        for pair in lengths.tolist()
    ]


def work(turns: Turns, folder: Path, size: ModelSize, by_length: bool) -> None:
    """The worker of minippo."""
    train = epoch(folder, size, by_length)
    while True:
        turns.wait()
        started = clock()
        train()
        turns.done({"seconds": clock() - started})


def epoch(folder: Path, size: ModelSize, by_length: bool) -> Callable[[], None]:
    """A function that trains on all pairs once, in the steps of train_rm.py."""
    pairs, generator = make_pairs(size), torch.Generator().manual_seed(3)
    model = RewardModel(load_pretrained(folder)).train()
    optimizer = CPUAdamW(param_groups(model.parameters(), 0.01), LR)
    sizes = np.full(PAIRS, 2)  # completions of each comparison
    # With equal lengths, the batches are random.
    longest = np.array([max(map(len, pair)) if by_length else LONGEST for pair in pairs])

    def train() -> None:
        for indices in comparison_batches(sizes, longest, BATCH, generator):
            optimizer.zero_grad()
            scores = score_batch(model, [pairs[index] for index in indices], size.vocab - 1, 0.0, generator)
            loss = ranking_loss(scores, 0.0, 0.0)
            loss.backward()
            optimizer.clip_gradients(1.0)
            optimizer.step()

    return train


def profiled(size: ModelSize) -> Callable[[], object]:
    """The work that `--profile` shows."""
    with tempfile.TemporaryDirectory() as folder:
        return epoch(size.save(Path(folder)), size, by_length=True)
