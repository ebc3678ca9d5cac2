"""Score texts with what a run's policy is trained for: `python -m minippo.score --run runs/reviews "A fine film."`

Texts are arguments, or the lines of the standard input that are not empty. Each comes out on a line: its score, a tab,
the text.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import tyro

from minippo.runs import (
    broken_run_exits,
    command_line,
    load_run,
    load_run_scorer,
    output_of_any_text,
    wrong_input_exits,
)


@dataclass(frozen=True)
class ScoreOptions:
    """Scores of texts."""

    run: Annotated[Path, tyro.conf.arg(aliases=["--run-dir"])]
    """Folder of the run."""
    texts: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """The texts; without any, the lines of the standard input."""
    prompt: str = ""
    """What the texts answer, where they answer something."""
    batch_size: int = 64
    """Texts scored at a time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def batches(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """The texts, `size` at a time; a last batch may be smaller."""
    left = iter(texts)
    while batch := list(islice(left, size)):
        yield batch


def main() -> None:
    """`python -m minippo.score --run RUN`."""
    options = command_line(ScoreOptions, __doc__)
    with wrong_input_exits():
        if options.batch_size < 1:
            raise ValueError(f"batch-size must be at least 1, not {options.batch_size}")
        run = load_run(options.run, options.device)
        if not run.config.ppo.scorer and not run.is_finished("rm"):
            raise ValueError(f"{run.folder} has no finished rm/: train the reward model first (python train_rm.py)")
        scorer = load_run_scorer(run)
        if "" in options.texts:
            raise ValueError("a text is empty")
    if not options.texts and sys.stdin.isatty():
        print("texts, one a line:", file=sys.stderr)
    texts = options.texts or filter(None, (line.rstrip("\n") for line in sys.stdin))
    with output_of_any_text(), broken_run_exits():
        for batch in batches(texts, options.batch_size):
            for text, score in zip(batch, scorer([options.prompt] * len(batch), batch).tolist(), strict=True):
                print(f"{score:+.3f}\t{text}", flush=True)


if __name__ == "__main__":
    main()
