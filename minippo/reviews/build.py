"""The bundled corpus: film reviews by a grammar, compared by simulated annotators, and the files in `data/`.

    python -m minippo.reviews             write data/ anew, always the same bytes
    python -m minippo.reviews --describe  the corpus in figures

Annotators prefer by chance, the better review more often (Bradley & Terry 1952; for rankings Plackett 1975). So the
labels hold a known amount of noise, and no model can agree with more of them than the gold score behind them does.
"""

from __future__ import annotations

import argparse
import bz2
import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice
from pathlib import Path
from random import Random
from statistics import fmean, pstdev
from typing import Any

from minippo.reviews.gold import gold_score, interest
from minippo.reviews.grammar import is_grammatical, split_sentences
from minippo.reviews.lexicon import GENRES
from minippo.reviews.writer import (
    Prompt,
    Sign,
    Split,
    write_demonstration,
    write_prompt,
    write_review,
    write_spoilt_review,
)
from minippo.splits import split_texts
from minippo.tokenizer import load_tokenizer, train_bpe

__all__ = [
    "accuracy_limit",
    "gold_score",
    "is_grammatical",
    "preference_probability",
    "rank",
    "split_sentences",
]

SEED = 2203
"""Of everything in `data/`."""

SHARPNESS = 0.8
"""By how many nats the log-odds of a preference rise for every point of gold score."""

SPOILT_SHARE = 0.22
"""Of the reviews that annotators see are spoilt in one of the ways of `writer.SPOILERS`."""

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
"""Split -> the name of its random numbers. The settings were chosen on the rows that are now the validation split; the
test split was written afterwards."""

FIGURES_BEGIN, FIGURES_END = "<!-- figures -->", "<!-- end of figures -->"

VOCABULARIES = {"policy": 1280, "reward": 1472}
"""Ids of each tokenizer, end-of-text among them. They differ so that text has to cross between the two models."""

Row = dict[str, str | list[str]]

Comparison = tuple[str, Sequence[str]]  # a prompt and its reviews, the preferred one first


def preference_probability(gold: float, other_gold: float) -> float:
    """That an annotator prefers the first of two reviews with these gold scores (Bradley & Terry 1952)."""
    return 1 / (1 + math.exp(-SHARPNESS * (gold - other_gold)))


def rank(rng: Random, golds: Sequence[float]) -> list[int]:
    """An annotator's order of reviews with these gold scores, as places, best first.

    The best is drawn with probability proportional to exp(SHARPNESS * gold), then the best of the others, and so on
    (Plackett 1975). Of two reviews this is the Bradley-Terry model, and any two within a ranking follow it as well.
    """
    places, order = list(range(len(golds))), []
    while places:
        best = max(golds[place] for place in places)
        weights = [math.exp(SHARPNESS * (golds[place] - best)) for place in places]
        point, chosen = rng.random() * sum(weights), len(places) - 1
        for index, weight in enumerate(weights):
            point -= weight
            if point < 0:
                chosen = index
                break
        order.append(places.pop(chosen))
    return order


def accuracy_limit(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """How much of the annotators' labels the gold score gets right: on these very labels, and in expectation.

    A ranking of three counts as three pairs. Nothing that knows only the texts can expect to do better.
    """
    pairs: list[tuple[float, float]] = []
    for prompt, reviews in comparisons:
        pairs += combinations([gold_score(prompt, review) for review in reviews], 2)
    reached = fmean(better > worse for better, worse in pairs)
    expected = fmean(preference_probability(abs(better - worse), 0.0) for better, worse in pairs)
    return reached, expected


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


def _ranked(rng: Random, split: Split, count: int) -> tuple[Prompt, list[str]]:
    prompt = write_prompt(rng, split)
    reviews = _candidates(rng, prompt, count)
    return prompt, [reviews[place] for place in rank(rng, [gold_score(prompt.text, review) for review in reviews])]


def _demonstrations(rng: Random) -> Iterator[Row]:
    while True:
        for sign in ("+", "-"):  # in turn, so that exactly half of them are positive
            prompt = write_prompt(rng, "train")
            yield {"prompt": prompt.text, "completion": write_demonstration(rng, prompt, sign)}


def _preferences(rng: Random, split: Split) -> Iterator[Row]:
    while True:
        prompt, (chosen, rejected) = _ranked(rng, split, 2)
        yield {"prompt": prompt.text, "chosen": chosen, "rejected": rejected}


def _rankings(rng: Random, split: Split) -> Iterator[Row]:
    while True:
        prompt, ranked = _ranked(rng, split, 3)
        yield {"prompt": prompt.text, "ranked": ranked}


def _prompts(rng: Random, split: Split) -> Iterator[Row]:
    seen: set[str] = set()
    while True:
        text = write_prompt(rng, split).text
        if text not in seen:
            seen.add(text)
            yield {"prompt": text}


def rows(name: str) -> Iterator[Row]:
    """The rows of one file of `data/`, one after the other, from random numbers of its own. No prompt of the validation
    split is in the test split."""
    kind, _, split = name.partition("-")
    if kind == "demonstrations":
        return _demonstrations(Random(f"{SEED} {name}"))
    kinds: dict[str, Callable[[Random, Split], Iterator[Row]]]
    kinds = {"preferences": _preferences, "rankings": _rankings, "prompts": _prompts}
    found = kinds[kind](Random(f"{SEED} {kind}-{STREAMS[split]}"), "train" if split == "train" else "test")
    if split != "test":
        return found
    names = [f"{kind}-validation" for kind in kinds]
    taken = {row["prompt"] for name in names for row in islice(rows(name), NUM_ROWS[name])}
    return (row for row in found if row["prompt"] not in taken)


def as_line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_corpus(folder: Path) -> None:
    """Write every file of `data/` but its README. bz2 gives the same bytes for the same text in every version."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in NUM_ROWS.items():
        text = "".join(as_line(row) for row in islice(rows(name), count))
        (folder / f"{name}.jsonl.bz2").write_bytes(bz2.compress(text.encode()))
    texts = [row["prompt"] + row["completion"] for row in read_rows(folder, "demonstrations")]
    texts = split_texts(texts, "train")  # what is held out is not trained on, not even here
    for name, vocab_size in VOCABULARIES.items():
        train_bpe(texts, vocab_size).save(folder / f"{name}.tiktoken")


def read_rows(folder: Path, name: str) -> list[dict[str, Any]]:
    with bz2.open(folder / f"{name}.jsonl.bz2", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def as_comparisons(rows: Sequence[dict[str, Any]]) -> list[Comparison]:
    """Rows of pairs or rankings, each as the prompt and its reviews, the preferred one first."""
    return [(row["prompt"], row.get("ranked") or (row["chosen"], row["rejected"])) for row in rows]


def describe(folder: Path) -> str:
    """The corpus in figures, as a Markdown table."""
    data = {name: read_rows(folder, name) for name in NUM_ROWS}
    demonstrations = [(row["prompt"], row["completion"]) for row in data["demonstrations"]]
    golds = [gold_score(prompt, review) for prompt, review in demonstrations]
    positive = [
        fmean(g > 0 for (p, _), g in zip(demonstrations, golds, strict=True) if interest(p).genre == genre)
        for genre in GENRES
    ]
    held_out = {name: as_comparisons(data[f"{name}-test"]) for name in ("preferences", "rankings")}
    shown = [gold_score(prompt, review) for prompt, reviews in held_out["preferences"] for review in reviews]
    compared = [prompt + review for prompt, reviews in as_comparisons(data["preferences-train"]) for review in reviews]
    prompts = [row["prompt"] for name in NUM_ROWS for row in data[name]]
    prompt_words = [len(prompt.split()) for prompt in prompts]
    review_words = [len(review.split()) for _, review in demonstrations]
    lexicon = {word.strip(".,:").lower() for texts in demonstrations for text in texts for word in text.split()}
    figures = {f"rows in {name}": f"{len(data[name]):,}" for name in NUM_ROWS} | {
        "different words in the demonstrations": f"{len(lexicon)}",
        "words in a prompt": f"{min(prompt_words)} to {max(prompt_words)}, mean {fmean(prompt_words):.1f}",
        "words in a demonstration": f"{min(review_words)} to {max(review_words)}, mean {fmean(review_words):.1f}",
        "demonstrations with a gold score above 0": f"{fmean(g > 0 for g in golds):.1%}",
        "the same within a genre": f"{min(positive):.1%} to {max(positive):.1%}",
        "gold score of demonstrations": f"mean {fmean(golds):+.2f}, standard deviation {pstdev(golds):.2f}",
        "gold score of compared reviews, test": f"mean {fmean(shown):+.2f}, standard deviation {pstdev(shown):.2f}",
    }
    for title, comparisons in (held_out | {"both": held_out["preferences"] + held_out["rankings"]}).items():
        reached, expected = accuracy_limit(comparisons)
        figures[f"best possible accuracy, test: {title}"] = f"{reached:.3f}, in expectation {expected:.3f}"
    for name in VOCABULARIES:
        tokenizer = load_tokenizer(folder / f"{name}.tiktoken")
        longest = [
            max(map(len, tokenizer.encode_batch(texts)))
            for texts in (prompts, [review for _, review in demonstrations], compared)
        ]
        title = f"longest prompt, demonstration, prompt with compared review, in {name} tokens"
        figures[title] = ", ".join(map(str, longest))
    return "\n".join(["| | |", "| --- | --- |", *(f"| {title} | {value} |" for title, value in figures.items())])


def update_readme(folder: Path) -> None:
    """Put the figures of the files into the folder's README, where it has a place for them."""
    readme = folder / "README.md"
    if readme.is_file():
        before, mark, rest = readme.read_text(encoding="utf-8").partition(FIGURES_BEGIN)
        after = rest.partition(FIGURES_END)[2]
        if mark and after:
            readme.write_text(f"{before}{mark}\n{describe(folder)}\n{FIGURES_END}{after}", encoding="utf-8")


def main() -> None:
    """`python -m minippo.reviews`."""
    parser = argparse.ArgumentParser(description="The bundled reviews.")
    data = Path(__file__).resolve().parents[2] / "data"
    parser.add_argument("--out", type=Path, default=data, help="folder of the files")
    parser.add_argument("--describe", action="store_true", help="print figures of the files that are there")
    options = parser.parse_args()
    if not options.describe:
        write_corpus(options.out)
        update_readme(options.out)
    print(describe(options.out))


if __name__ == "__main__":
    main()
