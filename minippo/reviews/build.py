"""Generates the files in `data/`: demonstrations, comparisons, prompts and two tokenizers."""

from __future__ import annotations

import bz2
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from statistics import fmean, pstdev
from typing import Any

from minippo.reviews.annotators import bayes_accuracy, rank
from minippo.reviews.gold import gold_score, interest
from minippo.reviews.lexicon import GENRES
from minippo.reviews.writer import Prompt, Sign, write_demonstration, write_prompt, write_review, write_spoilt_review
from minippo.splits import split_texts
from minippo.storage import read_json_lines, write_bytes, write_text
from minippo.tokenizer import load_tokenizer, train_bpe

SEED = 2203
"""Seed of everything in `data/`."""

SPOILT_SHARE = 0.22
"""Share of the compared reviews that are spoilt in one of the ways of `writer.SPOILERS`."""

NUM_ROWS = {
    "demonstrations": 20_000,
    "preferences-train": 12_000,
    "preferences-validation": 4_000,
    "preferences-test": 4_000,
    "rankings-train": 30_000,
    "rankings-validation": 600,
    "rankings-test": 600,
    "prompts-train": 4_000,
    "prompts-validation": 512,
    "prompts-test": 512,
}

STREAMS = {"train": "train", "validation": "test", "test": "second test"}
"""Split -> name of its random stream. The validation split was the test split while the settings were chosen; the
present test split was generated afterwards, so its stream is the "second test"."""

STATISTICS_BEGIN, STATISTICS_END = "<!-- statistics -->", "<!-- end of statistics -->"

VOCABULARIES = {"policy": 1527, "reward": 1472}
"""Number of ids of each tokenizer, including end-of-text. They differ, so that text has to cross between the models."""

Row = dict[str, Any]

# ---------------------------------------------------------------------------------------------- rows


def _candidates(rng: Random, prompt: Prompt, count: int) -> list[str]:
    """Different reviews for the same prompt, some of them spoilt."""
    reviews: list[str] = []
    while len(reviews) < count:
        sign: Sign = "+" if rng.random() < 0.5 else "-"
        write = write_spoilt_review if rng.random() < SPOILT_SHARE else write_review
        review = write(rng, prompt, sign)
        if review not in reviews:
            reviews.append(review)
    return reviews


def _ranked(rng: Random, held_out: bool, count: int) -> tuple[Prompt, list[str]]:
    """A prompt and `count` reviews as an annotator ranks them, best first."""
    prompt = write_prompt(rng, held_out)
    reviews = _candidates(rng, prompt, count)
    return prompt, [reviews[index] for index in rank(rng, [gold_score(prompt.text, review) for review in reviews])]


def _demonstrations(rng: Random) -> Iterator[Row]:
    while True:
        for sign in ("+", "-"):  # alternately, so that exactly half of them are positive
            prompt = write_prompt(rng, held_out=False)
            yield {"prompt": prompt.text, "completion": write_demonstration(rng, prompt, sign)}


def _preferences(rng: Random, held_out: bool) -> Iterator[Row]:
    while True:
        prompt, (chosen, rejected) = _ranked(rng, held_out, 2)
        yield {"prompt": prompt.text, "chosen": chosen, "rejected": rejected}


def _rankings(rng: Random, held_out: bool) -> Iterator[Row]:
    while True:
        prompt, ranked = _ranked(rng, held_out, 3)
        yield {"prompt": prompt.text, "ranked": ranked}


def _prompts(rng: Random, held_out: bool) -> Iterator[Row]:
    seen: set[str] = set()
    while True:
        text = write_prompt(rng, held_out).text
        if text not in seen:
            seen.add(text)
            yield {"prompt": text}


def rows(name: str) -> Iterator[Row]:
    """The endless rows of a file of `data/`, from a random stream of their own.

    Rows of the test split have no prompt that occurs in the validation split.
    """
    kind, _, split = name.partition("-")
    if kind == "demonstrations":
        return _demonstrations(Random(f"{SEED} {name}"))
    kinds: dict[str, Callable[[Random, bool], Iterator[Row]]]
    kinds = {"preferences": _preferences, "rankings": _rankings, "prompts": _prompts}
    generated = kinds[kind](Random(f"{SEED} {kind}-{STREAMS[split]}"), split != "train")
    if split != "test":
        return generated
    validation = [f"{kind}-validation" for kind in kinds]
    taken = {row["prompt"] for name in validation for row in islice(rows(name), NUM_ROWS[name])}
    return (row for row in generated if row["prompt"] not in taken)


# ---------------------------------------------------------------------------------------------- files


def write_corpus(folder: Path) -> None:
    """Write every file of `data/` except its README. bz2 compresses to the same bytes on every platform."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in NUM_ROWS.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in islice(rows(name), count))
        write_bytes(folder / f"{name}.jsonl.bz2", bz2.compress(text.encode()))
    texts = [row["prompt"] + row["completion"] for row in read_rows(folder, "demonstrations")]
    texts = split_texts(texts, "train")  # the tokenizers are not trained on held-out texts either
    for name, vocab_size in VOCABULARIES.items():
        train_bpe(texts, vocab_size).save(folder / f"{name}.tiktoken")


def read_rows(folder: Path, name: str) -> list[Row]:
    """The rows of a file that `write_corpus` wrote."""
    return [row for _, row in read_json_lines(folder / f"{name}.jsonl.bz2")]


def update_readme(folder: Path) -> None:
    """Update the statistics in the folder's README, if it has a place for them."""
    readme = folder / "README.md"
    if readme.is_file():
        before, mark, rest = readme.read_text(encoding="utf-8").partition(STATISTICS_BEGIN)
        after = rest.partition(STATISTICS_END)[2]
        if mark and after:
            write_text(readme, f"{before}{mark}\n{describe(folder)}\n{STATISTICS_END}{after}")


# ---------------------------------------------------------------------------------------------- statistics


def describe(folder: Path) -> str:
    """Statistics of the corpus, as a Markdown table."""
    data = {name: read_rows(folder, name) for name in NUM_ROWS}
    demonstrations = [(row["prompt"], row["completion"]) for row in data["demonstrations"]]
    golds = [gold_score(prompt, review) for prompt, review in demonstrations]
    positive = [
        fmean(gold > 0 for (prompt, _), gold in zip(demonstrations, golds, strict=True) if _genre(prompt) == genre)
        for genre in GENRES
    ]
    test_golds = {name: comparison_golds(data[f"{name}-test"]) for name in ("preferences", "rankings")}
    compared = [gold for pair in test_golds["preferences"] for gold in pair]
    prompts = [row["prompt"] for name in NUM_ROWS for row in data[name]]
    prompt_words = [len(prompt.split()) for prompt in prompts]
    review_words = [len(review.split()) for _, review in demonstrations]
    lexicon = {word.strip(".,:").lower() for texts in demonstrations for text in texts for word in text.split()}
    table = {f"rows of `{name}`": f"{len(data[name]):,}" for name in NUM_ROWS} | {
        "distinct words in the demonstrations": f"{len(lexicon)}",
        "words per prompt": f"{min(prompt_words)} to {max(prompt_words)}, mean {fmean(prompt_words):.1f}",
        "words per demonstration": f"{min(review_words)} to {max(review_words)}, mean {fmean(review_words):.1f}",
        "demonstrations with a positive gold score": f"{fmean(gold > 0 for gold in golds):.1%}",
        "the same, by genre": f"{min(positive):.1%} to {max(positive):.1%}",
        "gold score of the demonstrations": _mean_and_deviation(golds),
        "gold score of the reviews in `preferences-test`": _mean_and_deviation(compared),
    }
    for title, scores in (
        ("`preferences-test`", test_golds["preferences"]),
        ("`rankings-test`", test_golds["rankings"]),
        ("both", test_golds["preferences"] + test_golds["rankings"]),
    ):
        accuracy = bayes_accuracy(scores)
        table[f"best possible accuracy, {title}"] = f"{accuracy.measured:.3f} (expected {accuracy.expected:.3f})"
    texts = {
        "prompt": prompts,
        "demonstration without its prompt": [review for _, review in demonstrations],
        "prompt and compared review": [
            prompt + review for prompt, reviews in map(comparison, data["preferences-train"]) for review in reviews
        ],
    }
    for name in VOCABULARIES:
        tokenizer = load_tokenizer(folder / f"{name}.tiktoken")
        for title, items in texts.items():
            table[f"longest {title}, in {name} tokens"] = f"{max(map(len, tokenizer.encode_batch(items)))}"
    return "\n".join(["| | |", "| --- | --- |", *(f"| {title} | {value} |" for title, value in table.items())])


def comparison(row: Row) -> tuple[str, Sequence[str]]:
    """The prompt and the reviews of a preference or a ranking, the preferred review first."""
    return row["prompt"], row.get("ranked") or (row["chosen"], row["rejected"])


def comparison_golds(rows: Iterable[Row]) -> list[list[float]]:
    """Gold scores of the reviews of each comparison, the preferred review first."""
    return [[gold_score(prompt, review) for review in reviews] for prompt, reviews in map(comparison, rows)]


def _genre(prompt: str) -> str | None:
    return interest(prompt).genre


def _mean_and_deviation(golds: Sequence[float]) -> str:
    return f"mean {fmean(golds):+.2f}, standard deviation {pstdev(golds):.2f}"
