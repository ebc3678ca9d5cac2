"""Time and peak memory of tokenising the 100,000 IMDB reviews.

    python bench/data_memory.py [--imdb-path FOLDER] [--tokenizer gpt2]

Three ways are compared, each in a process of its own: lists of Python integers; a memory-mapped file, written for the
first time; and the same file again. The imports and the opened dataset are measured separately.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Literal

from minippo.config import DataConfig
from minippo.data import IMDB, Demonstration, Texts, policy_rows
from minippo.runs import command_line
from minippo.storage import bundled
from minippo.tokenizer import make_tokenizer

SPLITS = ("train", "test", "unsupervised")


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    imdb_path: str = DataConfig().imdb_path
    """Hub name of the IMDB dataset, or a folder with its three parquet files."""
    tokenizer: str = str(bundled("data/policy.tiktoken"))
    """The tokenizer: a file, a folder or a name."""
    way: Literal["all", "imports", "lists", "file"] = "all"
    """Measure one way in this process, or all of them, each in its own process."""


def read_all(imdb_path: str) -> Texts[Demonstration]:
    """The reviews of all three files, as `IMDB` returns them: without line break tags, with single spaces."""
    import datasets

    corpus = IMDB(DataConfig(source="imdb", imdb_path=imdb_path), seed=1)
    rows = datasets.concatenate_datasets([corpus.rows[split] for split in SPLITS])

    def read(first: int, last: int) -> list[Demonstration]:
        return [Demonstration("", " ".join(text.replace("<br />", " ").split())) for text in rows[first:last]["text"]]

    return Texts(len(rows), read, rows._fingerprint)


def measure(options: Options) -> None:
    """Measure one way and print the rest of its row of the table."""
    texts, tokenizer = read_all(options.imdb_path), make_tokenizer(options.tokenizer, [])
    started, rows = time.perf_counter(), []
    if options.way == "lists":
        demonstrations = list(texts)
        rows = [[*tokenizer.encode(d.completion), tokenizer.eos_id] for d in demonstrations]
    elif options.way == "file":
        rows = policy_rows(texts, tokenizer)
    count = sum(len(row) for row in rows)  # reads every id
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"{count:,} | {time.perf_counter() - started:.1f} | {peak:,.0f} |")


def main() -> None:
    """Measure all ways in turn and print a Markdown table."""
    options = command_line(Options, __doc__)
    if options.way != "all":
        measure(options)
        return
    print("| | tokens | seconds | peak memory, MB |\n| --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        for way, name in (
            ("imports", "imports and opening the data"),
            ("lists", "lists"),
            ("file", "memory-mapped, the first time"),
            ("file", "memory-mapped, again"),
        ):
            print(f"| {name} | ", end="", flush=True)
            command = [sys.executable, __file__, "--imdb-path", options.imdb_path, "--tokenizer", options.tokenizer]
            subprocess.run([*command, "--way", way], check=True, env=environment)


if __name__ == "__main__":
    main()
