"""Stage 1: language-model training on demonstrations. Makes the reference policy, and warm-starts the reward model.

python -m minippo sft --config reviews
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch
from tqdm import tqdm

from minippo.batches import length_batches
from minippo.config import BackboneConfig, Config, LMTrainConfig
from minippo.data import TOKENIZER_TEXTS, TokenRows, load_corpus, policy_rows, reward_rows, windows
from minippo.errors import require_finite
from minippo.language_model import backward_in_chunks, held_out_loss
from minippo.masking import pad
from minippo.model import GPT, GPTConfig
from minippo.optim import CPUAdamW, lr_schedule, param_groups, set_lr
from minippo.runs import (
    Metrics,
    Run,
    broken_run_exits,
    check_context,
    open_run,
    parse_options,
    print_report,
    wrong_input_exits,
)
from minippo.splits import HELD_OUT, SPLITS, Split
from minippo.streams import generator, seed_global
from minippo.tokenizer import Tokenizer, make_tokenizer
from minippo.weights import load_pretrained, pretrained_config, save_pretrained

MOST_PADDED_ROWS = 128  # embeddings are padded to multiples of at most so many


def make_backbone(config: BackboneConfig, tokenizer: Tokenizer) -> GPT:
    """A transformer for this tokenizer, from public weights or from scratch."""
    if config.weights:
        embeddings = pretrained_config(config.weights).vocab_size
        if not 0 <= embeddings - tokenizer.vocab_size < MOST_PADDED_ROWS:
            raise ValueError(
                f"{config.weights} has {embeddings} embeddings and the tokenizer {config.tokenizer} "
                f"{tokenizer.vocab_size} ids, so they do not belong together; weights need the tokenizer they were "
                "trained with (model.policy.tokenizer, model.reward.tokenizer)"
            )
        gpt = load_pretrained(config.weights)
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
        )
    padded_rows = range(tokenizer.vocab_size, gpt.config.vocab_size)
    gpt.set_ids(never_sampled=(*tokenizer.non_text_ids, *padded_rows), eos_id=tokenizer.eos_id)
    return gpt


def check_weights(config: Config) -> None:
    """Raise ValueError or FileNotFoundError where public weights cannot be had or do not fit; fetches no weights."""
    for name in ("policy", "reward"):
        weights = getattr(config.model, name).weights
        if weights:
            check_context(config.data, name, pretrained_config(weights).context, f"model.{name}.weights {weights}")


def train_language_model(
    gpt: GPT, rows: Mapping[Split, TokenRows], config: LMTrainConfig, tokenizer: Tokenizer, run: Run, name: str
) -> float:
    """Train `gpt` on `config.tokens` tokens of the training rows, in windows of its context.

    Logs the loss on the validation rows and returns that on the test rows, nats per token.
    """
    seed_global(run.config.seed, f"sft {name}: dropout")  # that of public weights; from scratch there is none
    device = run.device
    pieces = windows(rows["train"], gpt.config.context)
    lengths = pieces.lengths
    optimizer = CPUAdamW(param_groups(gpt.parameters(), config.weight_decay), config.lr, (0.9, 0.99), 1e-8)
    # As many steps as the tokens last, where an epoch's batches hold all tokens of the rows once.
    batches_per_epoch = sum(1 for _ in length_batches(lengths, config.batch_tokens, torch.Generator()))
    num_steps = round(config.tokens / int(lengths.sum()) * batches_per_epoch)
    metrics = Metrics(run.folder, f"sft-{name}")
    gpt.to(device).train()
    bar = tqdm(total=num_steps, desc=f"sft {name}", unit="step")
    step = epoch = 0
    while step < num_steps:
        epoch += 1
        for batch in length_batches(lengths, config.batch_tokens, generator(run.config.seed, f"sft {name}", epoch)):
            if step == num_steps:
                break
            started = time.perf_counter()
            tokens, mask = (t.to(device) for t in pad([pieces[i] for i in batch], tokenizer.pad_id, "right"))
            lr = config.lr * lr_schedule(config.schedule, step, num_steps, warmup=config.warmup)
            set_lr(optimizer, lr)
            optimizer.zero_grad(set_to_none=True)
            loss = backward_in_chunks(gpt, tokens, mask)
            grad_norm = torch.nn.utils.clip_grad_norm_(gpt.parameters(), config.max_grad_norm)
            require_finite(f"sft {name}: step {step + 1}", loss=loss.item(), gradient=grad_norm.item())
            optimizer.step()
            step += 1
            bar.update()
            if step % 10 == 0 or step == num_steps:
                seconds = time.perf_counter() - started
                found = {"loss/lm": loss.item(), "train/grad_norm": grad_norm.item(), "lr": lr}
                metrics.log(step, found, {"tokens_per_second": int(mask.sum()) / seconds})
                bar.set_postfix(loss=f"{loss.item():.3f}")
    validation_loss, test_loss = (
        held_out_loss(gpt, windows(rows[split], gpt.config.context), tokenizer.pad_id, config.batch_tokens)
        for split in HELD_OUT
    )
    bar.set_postfix(validation=f"{validation_loss:.3f}")
    bar.close()
    metrics.log(num_steps, {"eval/loss": validation_loss})
    metrics.close()
    return test_loss


def main() -> None:
    """`python -m minippo sft`."""
    options = parse_options(__doc__ or "", stage="sft")
    started = time.perf_counter()
    with wrong_input_exits():
        run = open_run(options, "sft")
        if run.is_finished("sft"):
            print(f"the reference policy is there already: {run.stage('sft')}")
            return
        check_weights(run.config)
        corpus = load_corpus(run.config)
        demonstrations = {split: corpus.demonstrations(split) for split in SPLITS}
        check_demonstrations(run.config, sum(map(len, demonstrations.values())))
        texts = [d.prompt + d.completion for d in demonstrations["train"][:TOKENIZER_TEXTS]]
        configs = (run.config.model.policy, run.config.model.reward)
        tokenizers = tuple(make_tokenizer(config.tokenizer, texts) for config in configs)
        backbones = []
        for name, config, tokenizer in zip(("policy", "reward"), configs, tokenizers, strict=True):
            seed_global(run.config.seed, f"initial weights, {name}")
            backbones.append(make_backbone(config, tokenizer))
        rows = [
            {split: read(demonstrations[split], tokenizer) for split in SPLITS}
            if len(demonstrations["train"])
            else None
            for read, tokenizer in zip((policy_rows, reward_rows), tokenizers, strict=True)
        ]
        run.begin("sft")
    print_report(corpus.report)
    with broken_run_exits():
        train_backbones(run, backbones, tokenizers, rows, corpus.report, started)


def check_demonstrations(config: Config, count: int) -> None:
    """Raise ValueError if there are too few for what is to be trained on them: two at least are held out."""
    uses = []
    for name in ("policy", "reward"):
        backbone, training = getattr(config.model, name), getattr(config.sft, name)
        if training.tokens > 0:
            uses.append(f"sft.{name}.tokens is {training.tokens}")
        if backbone.tokenizer.startswith("train:"):
            uses.append(f"model.{name}.tokenizer is {backbone.tokenizer}")
    if count < 3 and (uses or count):
        why = " and ".join(uses[:2]) or "two are held out"
        raise ValueError(
            f"{why}, but {count} usable demonstrations are left and at least 3 are needed, one for each split "
            "(data.demonstrations)"
        )


def train_backbones(
    run: Run,
    backbones: Sequence[GPT],
    tokenizers: Sequence[Tokenizer],
    demonstrations: Sequence[Mapping[Split, TokenRows] | None],
    data_report: dict[str, dict[str, int]],
    started: float,
) -> None:
    """Stage 1: the policy's, then the reward model's. Without demonstrations they stay as they are."""
    run.save_tokenizers(*tokenizers)
    found = {}
    for name, gpt, tokenizer, rows in zip(("policy", "reward"), backbones, tokenizers, demonstrations, strict=True):
        if rows is not None:
            config = getattr(run.config.sft, name)
            found[f"sft_{name}_loss"] = train_language_model(gpt, rows, config, tokenizer, run, name)
        save_pretrained(gpt, run.unfinished("sft") / name)
    run.add_to_summary("sft", time.perf_counter() - started, data_report, **found)
    run.finish("sft")
