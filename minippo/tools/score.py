"""Score texts with the reward model of a run, or with the scorer that it was trained on.

python -m minippo score --run runs/reviews "A lovely film. I adored the songs."

Without texts, each line of the standard input that is not empty is scored. The output has one line per text: the
score, a tab and the text.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from minippo.config import Count
from minippo.data import unreadable
from minippo.runs import (
    Argument,
    command_frame,
    command_line,
    load_run,
    load_run_scorer,
    wrong_input_exits,
)
from minippo.scoring import score_texts
from minippo.tools.lines import lines

T = TypeVar("T")


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `score`."""

    run: Annotated[Path, Argument(alias="--run-dir")]
    """Run directory."""
    texts: Annotated[tuple[str, ...], Argument(positional=True)] = ()
    """Texts to score. Without any, the lines of the standard input are scored."""
    prompt: str = ""
    """Prompt that the texts respond to."""
    scorer: str | None = None
    """The run's scorer, if it was trained on a function of yours (docs/scorer.md): a function that only the run
    directory names is not called."""
    batch_size: Count = 64
    """Texts per forward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on. "auto" uses a GPU if there is one."""


def batches(texts: Iterable[T], size: int) -> Iterator[list[T]]:
    """Split `texts` into batches of `size`. The last batch may be smaller."""
    iterator = iter(texts)
    while batch := list(islice(iterator, size)):
        yield batch


@command_frame()
def main() -> None:
    """`python -m minippo score --run RUN TEXT`."""
    options = command_line(ScoreOptions, __doc__)
    with wrong_input_exits():
        run = load_run(options.run, options.device)
        if not run.config.ppo.scorer:
            run.require_finished("rm")
        scorer = load_run_scorer(run, options.scorer)
        for text in (options.prompt, *options.texts):
            if problem := unreadable(text):
                raise ValueError(f"the text {text[:60]!r} has {problem}")
        if "" in options.texts:
            raise ValueError("a text is empty")
    if not options.texts and sys.stdin.isatty():
        print("texts, one per line:", file=sys.stderr)
    texts = enumerate(options.texts, start=1) if options.texts else lines()
    for batch in batches(texts, options.batch_size):
        scores = score_texts(scorer, [options.prompt] * len(batch), [text for _, text in batch])  # (len(batch),)
        for (_, text), score in zip(batch, scores.tolist(), strict=True):
            print(f"{score:+.3f}\t{text}", flush=True)
        for index in getattr(scorer, "cut", ()):
            print(
                f"note: {'text' if options.texts else 'line'} {batch[index][0]} is longer than the reward model's "
                "context and was scored without its end",
                file=sys.stderr,
            )
