"""Reward-model training of TRL: the worker of bench/reward.py that runs `RewardTrainer`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import GPT2ForSequenceClassification, PrinterCallback, TrainerCallback
from trl import RewardConfig, RewardTrainer

from bench.measuring import clock
from bench.models import ModelSize
from bench.ppo_trl import COMMON, quiet, tokenizer_of_ids
from bench.reward import BATCH, LR, make_pairs
from bench.workers import Turns


class InTurns(TrainerCallback):
    """Makes the trainer wait between two epochs."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.started = turns, 0.0

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the next turn."""
        self.turns.wait()
        self.started = clock()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        """Report the epoch."""
        self.turns.done({"seconds": clock() - self.started})


def work(turns: Turns, folder: Path, size: ModelSize) -> None:
    """Train until the last turn is over."""
    pairs = make_pairs(size)
    with tempfile.TemporaryDirectory() as output, quiet():
        trainer = RewardTrainer(
            GPT2ForSequenceClassification.from_pretrained(folder, num_labels=1),
            RewardConfig(
                output_dir=output,
                per_device_train_batch_size=BATCH,
                num_train_epochs=10**6,
                learning_rate=LR,
                **COMMON,
            ),
            train_dataset=Dataset.from_dict(
                {"chosen_ids": [chosen for chosen, _ in pairs], "rejected_ids": [rejected for _, rejected in pairs]}
            ),
            processing_class=tokenizer_of_ids(size.vocab, eos_id=size.vocab - 1, pad_id=size.vocab - 2),
            callbacks=[InTurns(turns)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
