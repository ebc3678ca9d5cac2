"""Rollout speed compared with transformers' `generate`: same weights, batch and lengths, alternating in one process.

    python bench/rollout_speed.py                       # the sizes of the preset `reviews`, random weights
    python bench/rollout_speed.py --layers 4 --channels 256 --vocab 8192 --response-length 128 --batch-size 64

Prints Markdown: tokens per second of each, and the median over the rounds of their ratio. Every response has the full
length in both, so that no one gains by stopping early.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass

import minippo  # noqa: F401 - before PyTorch: it sets how the threads of OpenMP wait

# isort: split
import torch
from transformers import GPT2LMHeadModel
from transformers.utils import logging

from minippo.model import GPT, GPTConfig
from minippo.runs import command_line
from minippo.sampling import generate
from minippo.weights import save_pretrained


@dataclass(frozen=True)
class Options:
    """Sizes of the model and of the batch."""

    layers: int = 2
    heads: int = 4
    channels: int = 128
    vocab: int = 1024
    batch_size: int = 128
    query_length: int = 24
    response_length: int = 64
    rounds: int = 9
    """Measured rounds, after one that warms up."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Measure and print."""
    options = command_line(Options, __doc__)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    context = options.query_length + options.response_length
    ours = GPT(GPTConfig(options.vocab, context, options.layers, options.heads, options.channels)).eval()
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(ours, folder)
        theirs = GPT2LMHeadModel.from_pretrained(folder).eval().to(options.device)
    ours.to(options.device)
    queries = torch.randint(options.vocab - 1, (options.batch_size, options.query_length), device=options.device)
    query_mask = torch.ones_like(queries, dtype=torch.bool)
    query_mask[::2, : options.query_length // 3] = False  # prompts of two lengths, left-padded
    eos_id, R = options.vocab - 1, options.response_length

    def sample() -> None:
        generate(ours, queries, query_mask, max_new_tokens=R, min_new_tokens=R, eos_id=eos_id, pad_id=eos_id)

    def sample_transformers() -> None:
        theirs.generate(
            queries,
            attention_mask=query_mask.long(),
            do_sample=True,
            top_k=0,
            max_new_tokens=R,
            min_new_tokens=R,
            eos_token_id=eos_id,
            pad_token_id=eos_id,
        )

    seconds: dict[str, list[float]] = {"minippo": [], "transformers": []}
    for _ in range(options.rounds + 1):
        for name, function in (("minippo", sample), ("transformers", sample_transformers)):
            started = time.perf_counter()
            function()
            if options.device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    tokens = options.batch_size * R
    measured = {name: values[1:] for name, values in seconds.items()}
    ratios = [b / a for a, b in zip(measured["minippo"], measured["transformers"], strict=True)]
    print(f"{options.batch_size} prompts of {options.query_length} tokens, {R} new ones each, {options.device}\n")
    print("| | median s | tokens/s |\n| --- | --- | --- |")
    for name, values in measured.items():
        print(f"| {name} | {statistics.median(values):.3f} | {tokens / statistics.median(values):,.0f} |")
    print(f"\nratio: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} rounds)")


if __name__ == "__main__":
    main()
