"""What it takes to tokenise the 100,000 IMDB reviews: seconds and peak memory.

    python bench/data_memory.py [--imdb-path FOLDER] [--tokenizer gpt2]

Three ways, each in a process of its own: as lists of Python's integers; streamed into a memory-mapped file; and again,
when the file is there. What the imports and the opened dataset take is listed apart.
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
from minippo.data import Demonstration, policy_rows
from minippo.data.imdb import IMDB, clean
from minippo.data.texts import Texts
from minippo.runs import command_line
from minippo.storage import bundled
from minippo.tokenizer import make_tokenizer

SPLITS = ("train", "test", "unsupervised")


@dataclass(frozen=True)
class Options:
    """What to measure."""

    imdb_path: str = DataConfig().imdb_path
    """Hub name of the IMDB dataset, or a folder with its three parquet files."""
    tokenizer: str = str(bundled("data/policy.tiktoken"))
    """Whose ids."""
    way: Literal["all", "imports", "lists", "file"] = "all"
    """Measure one way in this process, or all, each in its own."""


def read_all(imdb_path: str) -> Texts[Demonstration]:
    """The reviews of all three splits, as the corpus would give them."""
    import datasets

    corpus = IMDB(DataConfig(source="imdb", imdb_path=imdb_path), seed=1)
    rows = datasets.concatenate_datasets([corpus.rows[split] for split in SPLITS])

    def read(first: int, last: int) -> list[Demonstration]:
        return [Demonstration("", clean(text)) for text in rows[first:last]["text"]]

    return Texts(len(rows), read, rows._fingerprint)


def measure(options: Options) -> None:
    """One way; prints a row of the table."""
    texts, tokenizer = read_all(options.imdb_path), make_tokenizer(options.tokenizer, [])
    started, rows = time.perf_counter(), []
    if options.way == "lists":
        demonstrations = list(texts)
        rows = [[*tokenizer.encode(d.completion), tokenizer.eos_id] for d in demonstrations]
    elif options.way == "file":
        rows = policy_rows(texts, tokenizer)
    count = sum(len(row) for row in rows)  # reads all of it
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"{count:,} | {time.perf_counter() - started:.1f} | {peak:,.0f} |")


def main() -> None:
    """All ways in turn, as Markdown."""
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
