"""The PPO iteration of TRL: the worker of bench/ppo.py that runs `PPOTrainer`."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import datasets
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from transformers.utils import logging
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from bench.measuring import Phases, clock
from bench.models import ModelSize
from bench.ppo import EPOCHS, KL_COEF, LR, P
from bench.workers import Turns

COMMON: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
}
"""Settings of both trainers."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress, metrics and warnings that transformers and TRL print."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    warnings.simplefilter("ignore", FutureWarning)
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def tokenizer_of_ids(num_ids: int, eos_id: int, pad_id: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are its ids, since the texts here consist of ids already."""
    words = {str(i): i for i in (*range(num_ids), eos_id, pad_id)}
    model = WordLevel(words, unk_token=str(pad_id))
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), pad_token=str(pad_id), eos_token=str(eos_id))


class InTurns(TrainerCallback):
    """Makes the trainer wait between two steps."""

    def __init__(self, turns: Turns, phases: Phases) -> None:
        self.turns, self.phases, self.started = turns, phases, 0.0

    def start(self) -> None:
        """Wait for the next turn and start the clock."""
        self.turns.wait()
        self.phases.clear()
        self.started = clock()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """The whole step, from the previous one on."""
        seconds = clock() - self.started
        # Everything else: besides the update, the rewards and advantages before it, which take far less.
        update = seconds - sum(time for phase, time in self.phases.items() if phase != "update")
        self.turns.done(self.phases | {"update": update, "seconds": seconds})
        self.start()


def work(turns: Turns, folder: Path, size: ModelSize, batch: int, response_length: int) -> None:
    """Train until the last turn is over."""
    phases = Phases()
    callback = InTurns(turns, phases)
    with tempfile.TemporaryDirectory() as output, quiet():
        trainer = make_trainer(folder, Path(output), size, batch, response_length)
        trainer.add_callback(callback)
        trainer.remove_callback(PrinterCallback)
        watch(phases, trainer)
        callback.start()
        trainer.train()


def watch(phases: Phases, trainer: PPOTrainer) -> None:
    """The phases of TRL's steps from now on, except the update."""

    def forward_phase(*_: Any) -> str:
        return "update" if torch.is_grad_enabled() else "log-probabilities"

    def reward_phase(model: torch.nn.Module, *_: Any) -> str:
        return "scoring" if model is trainer.reward_model else "log-probabilities"  # or the values

    phases.watch(ppo_trainer, "batch_generation", "generate")
    phases.watch(ppo_trainer, "forward", forward_phase)
    phases.watch(ppo_trainer, "get_reward", reward_phase)


def make_trainer(folder: Path, output: Path, size: ModelSize, batch: int, response_length: int) -> PPOTrainer:
    """TRL's trainer with minippo's weights, prompts and settings. Policy, reference, reward and value model are four
    transformers."""
    config = PPOConfig(
        output_dir=str(output),
        learning_rate=LR,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=EPOCHS,
        local_rollout_forward_batch_size=batch,
        num_sample_generations=0,
        total_episodes=batch * 10**6,
        response_length=response_length,
        temperature=1.0,
        kl_coef=KL_COEF,
        **COMMON,
    )
    classifier = {"num_labels": 1, "pad_token_id": size.vocab - 1}
    return PPOTrainer(
        config,
        # Ids that no model samples, so that nothing counts as padding.
        tokenizer_of_ids(size.vocab, eos_id=size.vocab, pad_id=size.vocab + 1),
        model=GPT2LMHeadModel.from_pretrained(folder),
        ref_model=GPT2LMHeadModel.from_pretrained(folder),
        reward_model=GPT2ForSequenceClassification.from_pretrained(folder, **classifier),
        value_model=GPT2ForSequenceClassification.from_pretrained(folder, **classifier),
        train_dataset=[{"input_ids": prompt} for prompt in size.prompts(8 * batch, P)],
        eval_dataset=[],
    )
