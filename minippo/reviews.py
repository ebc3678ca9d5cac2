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
import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, islice
from pathlib import Path
from random import Random

from minippo.gold import gold_score
from minippo.grammar import is_grammatical, split_sentences
from minippo.lexicon import GENRES
from minippo.tokenizer import load_tokenizer, train_bpe
from minippo.writer import Prompt, Sign, Split, write_demonstration, write_prompt, write_review, write_spoilt_review

__all__ = ["accuracy_limit", "gold_score", "is_grammatical", "preference_probability", "rank", "split_sentences"]

SEED = 2203
"""Of everything in `data/`."""
SHARPNESS = 1.5
"""By how many nats the log-odds of a preference rise for every point of gold score."""
SPOILT_SHARE = 0.22
"""Of the reviews that annotators see are spoilt in one of the ways of `writer.SPOILERS`."""
NUM_ROWS = {
    "demonstrations": 20_000,
    "preferences-train": 16_000,
    "preferences-test": 1_500,
    "rankings-train": 3_000,
    "rankings-test": 300,
    "prompts-train": 4_000,
    "prompts-test": 512,
}
VOCABULARIES = {"policy": 1024, "reward": 768}
"""Ids of each tokenizer, end-of-text among them. They differ so that text has to cross between the two models."""

Row = dict[str, str | list[str]]


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


def accuracy_limit(comparisons: Sequence[tuple[str, Sequence[str]]]) -> tuple[float, float]:
    """How much of the annotators' labels the gold score gets right: on these very labels, and in expectation.

    A comparison is a prompt and its reviews, the preferred one first; a ranking of three counts as three pairs.
    Nothing that knows only the texts can expect to do better.
    """
    pairs = []
    for prompt, reviews in comparisons:
        pairs += combinations([gold_score(prompt, review) for review in reviews], 2)
    reached = sum(better > worse for better, worse in pairs) / len(pairs)
    expected = sum(preference_probability(abs(better - worse), 0.0) for better, worse in pairs) / len(pairs)
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
    """The rows of one file of `data/`, one after the other, from random numbers of its own."""
    rng = Random(f"{SEED} {name}")
    kind, _, split = name.partition("-")
    if kind == "demonstrations":
        return _demonstrations(rng)
    kinds: dict[str, Callable[[Random, Split], Iterator[Row]]]
    kinds = {"preferences": _preferences, "rankings": _rankings, "prompts": _prompts}
    return kinds[kind](rng, "test" if split == "test" else "train")


def as_line(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_corpus(folder: Path) -> None:
    """Write every file of `data/` but its README. bz2 gives the same bytes for the same text in every version."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count in NUM_ROWS.items():
        text = "".join(as_line(row) for row in islice(rows(name), count))
        (folder / f"{name}.jsonl.bz2").write_bytes(bz2.compress(text.encode()))
    texts = [row["prompt"] + row["completion"] for row in read_rows(folder, "demonstrations")]
    for name, vocab_size in VOCABULARIES.items():
        train_bpe(texts, vocab_size).save(folder / f"{name}.tiktoken")


def read_rows(folder: Path, name: str) -> list[dict]:
    with bz2.open(folder / f"{name}.jsonl.bz2", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def describe(folder: Path) -> str:
    """The corpus in figures, as a Markdown table."""
    data = {name: read_rows(folder, name) for name in NUM_ROWS}
    demonstrations = [(row["prompt"], row["completion"]) for row in data["demonstrations"]]
    pairs = {
        split: [(r["prompt"], (r["chosen"], r["rejected"])) for r in data[f"preferences-{split}"]]
        for split in ("train", "test")
    }
    rankings = [(row["prompt"], row["ranked"]) for row in data["rankings-test"]]
    golds = [gold_score(*demonstration) for demonstration in demonstrations]
    shown = [gold_score(prompt, review) for prompt, reviews in pairs["train"] for review in reviews]
    positive = {
        genre: [g > 0 for (p, _), g in zip(demonstrations, golds, strict=True) if genre in p] for genre in GENRES
    }
    shares = [statistics.fmean(signs) for signs in positive.values()]
    prompts = [row["prompt"] for rows in data.values() for row in rows]
    lengths = [len(review.split()) for _, review in demonstrations]
    lexicon = {word.strip(".,:").lower() for texts in demonstrations for text in texts for word in text.split()}
    figures = {
        "words in use": f"{len(lexicon)}",
        "words in a prompt": f"{min(len(p.split()) for p in prompts)} to {max(len(p.split()) for p in prompts)}",
        "words in a demonstration": f"{min(lengths)} to {max(lengths)}, mean {statistics.fmean(lengths):.1f}",
        "positive demonstrations": f"{statistics.fmean(g > 0 for g in golds):.1%}",
        "the same by genre": f"{min(shares):.1%} to {max(shares):.1%}",
        "gold score of demonstrations": f"mean {statistics.fmean(golds):+.2f}, standard deviation {statistics.pstdev(golds):.2f}",
        "gold score of compared reviews": f"mean {statistics.fmean(shown):+.2f}, standard deviation {statistics.pstdev(shown):.2f}",
    }
    for title, comparisons in (("pairs", pairs["test"]), ("rankings", rankings), ("both", pairs["test"] + rankings)):
        reached, expected = accuracy_limit(comparisons)
        figures[f"best possible accuracy, held-out {title}"] = f"{reached:.3f} (expected {expected:.3f})"
    for name in VOCABULARIES:
        tokenizer = load_tokenizer(folder / f"{name}.tiktoken")
        prompt_max = max(map(len, tokenizer.encode_batch(prompts)))
        review_max = max(map(len, tokenizer.encode_batch([review for _, review in demonstrations])))
        both_max = max(
            len(tokenizer.encode(prompt + review)) for prompt, reviews in pairs["train"] for review in reviews
        )
        figures[f"{name} tokens, at most: prompt, demonstration"] = f"{prompt_max}, {review_max}"
        figures[f"{name} tokens, at most: prompt and compared review"] = f"{both_max}"
    lines = ["| | |", "| --- | --- |", *(f"| {title} | {value} |" for title, value in figures.items())]
    return "\n".join(lines)


def main() -> None:
    """`python -m minippo.reviews`."""
    parser = argparse.ArgumentParser(description="The bundled reviews.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).resolve().parents[1] / "data", help="folder of the files"
    )
    parser.add_argument("--describe", action="store_true", help="print figures of the files that are there")
    options = parser.parse_args()
    if not options.describe:
        write_corpus(options.out)
    print(describe(options.out))


if __name__ == "__main__":
    main()
