"""Stage 1: language-model training on demonstrations. Makes the reference policy, and warm-starts the reward model.

    python -m minippo sft                                       # the bundled reviews, in runs/reviews
    python -m minippo sft --config imdb --run-dir runs/imdb     # another preset, or a YAML file
    python -m minippo sft --sft.policy.tokens 2000000 --seed 2  # every field of config.py is an option

Two models are trained, each on the demonstrations in its own tokens: the policy, which PPO starts from and is compared
with, and the backbone of the reward model, which learns faster from comparisons if it knows the language already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from minippo.batches import EpochStream, length_batches
from minippo.config import BackboneConfig, Config, LMTrainConfig
from minippo.data import (
    TOKENIZER_TEXTS,
    Corpus,
    TokenRows,
    comparison_rows,
    load_corpus,
    policy_rows,
    prompt_rows,
    reward_rows,
    windows,
)
from minippo.errors import require_finite
from minippo.language_model import backward_in_chunks, held_out_loss
from minippo.masking import completion_mask, pad
from minippo.memory import phase
from minippo.model import GPT, GPTConfig
from minippo.optim import lr_schedule, set_lr
from minippo.runs import (
    Checkpoints,
    Metrics,
    Run,
    check_context,
    due,
    language_model_line,
    load_named_scorer,
    resumed_line,
    run_stage,
    sampling_params,
)
from minippo.splits import SPLITS, Split
from minippo.state import TrainState
from minippo.streams import generator, seed_global
from minippo.tokenizer import Tokenizer, make_tokenizer
from minippo.weights import (
    check_public_tokenizer,
    file_format,
    load_pretrained,
    pretrained_config,
    save_pretrained,
    set_file_format,
    suppressed_ids,
)

Name = Literal["policy", "reward"]


@dataclass(frozen=True)
class Backbone:
    """A model to train: the transformer, its tokenizer, and the demonstrations in its tokens (None if there are
    none)."""

    gpt: GPT
    tokenizer: Tokenizer
    rows: Mapping[Split, TokenRows] | None


@dataclass(frozen=True)
class Inputs:
    """Inputs, loaded and validated before training."""

    backbones: Mapping[Name, Backbone]
    data: str  # fingerprint of the corpus
    report: dict[str, dict[str, int]]


def prepare(run: Run) -> Inputs:
    """Load the data, train or load the tokenizers, and create the models. Raises ValueError if the run cannot work."""
    config = run.config
    check_weights(config)
    corpus = load_corpus(config)
    demonstrations = {split: corpus.demonstrations(split) for split in SPLITS}
    check_demonstrations(config, sum(map(len, demonstrations.values())))
    # A tokenizer may be trained, too, and only on training texts: its merges would reveal held-out ones.
    texts = [d.prompt + d.completion for d in demonstrations["train"][:TOKENIZER_TEXTS]]
    backbones: dict[Name, Backbone] = {}
    for name in get_args(Name):
        model_config = getattr(config.model, name)
        tokenizer = make_tokenizer(model_config.tokenizer, texts)
        seed_global(config.seed, f"initial weights, {name}")
        gpt = make_backbone(model_config, tokenizer)
        encode = {"policy": policy_rows, "reward": reward_rows}[name]
        rows = {split: encode(demonstrations[split], tokenizer) for split in SPLITS} if texts else None
        # A checkpoint belongs to its tokens, too: somebody may have replaced the file of the tokenizer.
        data = f"{corpus.fingerprint} {tokenizer.fingerprint}"
        Checkpoints(run.checkpoints_folder("sft") / name, data).check_latest()
        backbones[name] = Backbone(gpt, tokenizer, rows)
    check_later_stages(config, corpus, backbones)
    return Inputs(backbones, corpus.fingerprint, corpus.report)


def check_later_stages(config: Config, corpus: Corpus, backbones: Mapping[Name, Backbone]) -> None:
    """Raise ValueError if stage 2 or 3 would refuse these data or settings; it would be known an hour later.

    Prompts and preferences may still be missing. What is tokenised here is in the cache when those stages need it.
    """
    policy, reward = backbones["policy"], backbones["reward"]
    sampling_params(config, policy.tokenizer)
    if len(corpus.prompts("train")):
        prompt_rows(corpus.prompts, policy.tokenizer, config.data)
    if config.ppo.scorer:
        load_named_scorer(config.ppo.scorer)
    elif len(corpus.comparisons("train")):
        for split in SPLITS:
            comparison_rows(corpus.comparisons(split), reward.tokenizer, reward.gpt.config.context, config.data)


def make_backbone(config: BackboneConfig, tokenizer: Tokenizer) -> GPT:
    """A transformer for this tokenizer, from public weights or from scratch."""
    dtype = getattr(torch, config.dtype)
    if config.weights:
        check_public_tokenizer(config.weights, tokenizer, config.tokenizer)
        gpt = load_pretrained(config.weights, dtype)
        if unused := file_format(gpt).unused:
            print(f"note: {config.weights} has tensors that are not used: {', '.join(unused)[:200]}", file=sys.stderr)
    else:
        gpt = GPT(
            GPTConfig(
                vocab_size=tokenizer.vocab_size,
                context=config.context,
                layers=config.layers,
                heads=config.heads,
                channels=config.channels,
                activation=config.activation,
            )
        ).to(dtype)
    gpt.set_suppress_tokens(suppressed_ids(tokenizer, gpt.config.vocab_size))
    set_file_format(gpt, eos_id=tokenizer.eos_id)
    return gpt


def check_weights(config: Config) -> None:
    """Raise ValueError or FileNotFoundError if public weights are missing or do not fit; downloads only config.json."""
    for name in get_args(Name):
        weights = getattr(config.model, name).weights
        if weights:
            check_context(config.data, name, pretrained_config(weights).context, f"model.{name}.weights {weights}")


def check_demonstrations(config: Config, count: int) -> None:
    """Raise ValueError if there are too few demonstrations for what is to be trained on them."""
    uses = []
    for name in get_args(Name):
        backbone, training = getattr(config.model, name), getattr(config.sft, name)
        if training.tokens > 0:
            uses.append(f"sft.{name}.tokens is {training.tokens}")
        if backbone.tokenizer.startswith("train:"):
            uses.append(f"model.{name}.tokenizer is {backbone.tokenizer}")
    if count < len(SPLITS) and (uses or count):
        reason = " and ".join(uses[:2]) or "two are held out"
        raise ValueError(
            f"{reason}, but there are only {count} usable demonstrations; at least 3 are needed, one for each split "
            "(data.demonstrations)"
        )


def train(run: Run, inputs: Inputs) -> dict[str, object]:
    """Train both models from the last checkpoint; without demonstrations they stay as they are. Returns the entries
    of summary.json."""
    run.save_tokenizers(*(backbone.tokenizer for backbone in inputs.backbones.values()))
    entries: dict[str, object] = {}
    for name, backbone in inputs.backbones.items():
        if backbone.rows is not None:
            data = f"{inputs.data} {backbone.tokenizer.fingerprint}"
            checkpoints = Checkpoints(run.unfinished("sft") / name, data)
            with phase(name):
                entries[f"sft_{name}_loss"] = train_language_model(run, name, backbone, checkpoints)
        save_pretrained(backbone.gpt.cpu(), run.results_folder("sft") / name)
    return entries


def train_language_model(run: Run, name: Name, backbone: Backbone, checkpoints: Checkpoints) -> float:
    """Train on `tokens` tokens of the training rows, in windows of the model's context.

    Logs the loss on the validation rows and returns the loss on the test rows, nats per token.
    """
    config: LMTrainConfig = getattr(run.config.sft, name)
    gpt, pad_id, device, seed = backbone.gpt.to(run.device), backbone.tokenizer.pad_id, run.device, run.config.seed
    pieces = {split: windows(rows, gpt.config.context) for split, rows in backbone.rows.items()}
    lengths = pieces["train"].lengths  # (pieces,)

    def held_out(split: Split) -> float:
        return held_out_loss(gpt, pieces[split], pieces[split].prompt_lengths, pad_id, config.batch_tokens)

    def epoch_batches(epoch: int) -> Iterator[list[int]]:
        return length_batches(lengths, config.batch_tokens, generator(seed, f"sft {name}", epoch + 1))

    # `tokens` counts tokens of text. An epoch has all of them once, so the number of steps follows from its batches.
    steps_per_epoch = sum(1 for _ in epoch_batches(0))
    num_steps = round(config.tokens / int(lengths.sum()) * steps_per_epoch)
    state = TrainState.initial(gpt, EpochStream(epoch_batches), config, seed, run.config.memory)
    if checkpoints.restore_latest(state):
        print(resumed_line(state, config, num_steps))
    metrics, optimizer = Metrics(run, f"sft-{name}", start=state.step), state.optimizer
    if num_steps == 0:
        metrics.log(0, {"eval/loss": held_out("validation")})
    for step in metrics.progress(state.step + 1, num_steps):
        gpt.train()
        seed_global(seed, f"sft {name}: dropout", step)  # public weights may ask for dropout; new models have none
        with metrics.timer("step"), phase("training step"):
            batch = pieces["train"][np.array(next(state.batches))]
            tokens, mask = pad(batch, pad_id, "right")  # (B, T)
            tokens, predicted = tokens.to(device), completion_mask(mask, batch.prompt_lengths).to(device)
            lr = config.lr * lr_schedule(config.schedule, step - 1, num_steps, warmup=config.warmup)
            set_lr(optimizer, lr)
            with optimizer.gradients.together([gpt.token_embedding.weight]):
                loss = backward_in_chunks(gpt, tokens, predicted)  # (), and the gradients
            grad_norm = optimizer.clip_gradients(config.max_grad_norm)
            stats = {"loss/lm": loss.item(), "train/grad_norm": grad_norm, "lr": lr}
            require_finite(stats)
            optimizer.step()
            optimizer.zero_grad()  # gradients would add up over the steps, and evaluations need their memory
        state.step = step
        if step == num_steps:
            # Only the validation loss is logged where settings are chosen; the test loss goes to the summary.
            stats["eval/loss"] = held_out("validation")
        if due(step, 10, num_steps):
            metrics.log(step, stats, num_tokens=int(mask.sum()))
        if checkpoints.due(step, config.save_every, num_steps):
            checkpoints.save(state)
    metrics.close()
    return held_out("test")


def main() -> None:
    """`python -m minippo sft`."""
    run_stage("sft", __doc__, prepare, train, show=language_model_line)
