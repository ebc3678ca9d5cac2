"""Corpora whose rows can be told apart in whatever a model is given, and a record of what each model was given.

Every row holds markers, words of eight consonants that stand nowhere else. Their letters survive any byte-level
tokenizer, so they are found again by decoding ids.
"""

from __future__ import annotations

import bz2
import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from datasets import Dataset

import train_ppo
import train_rm
from minippo import sft
from minippo.data import load_corpus
from minippo.heads import RewardModel
from minippo.model import GPT, KVCache
from minippo.runs import load_config
from minippo.tokenizer import load_tokenizer, train_bpe

SPLITS = ("train", "validation", "test")
MAINS = {"sft": sft.main, "rm": train_rm.main, "ppo": train_ppo.main}
CONSONANTS = "bcdfghjklmnpqrstvwxz"
CONTEXTS = {56: "policy", 64: "reward"}  # by these the two models are told apart
# The tokenizers are so small that no token holds a marker, which a response might then contain by chance.
# Everything is used to the end: every training row is trained on, every held-out row is evaluated on.
SETTINGS = """
model:
  policy: {tokenizer: "train:270", layers: 1, heads: 2, channels: 16, context: 56}
  reward: {tokenizer: "train:264", layers: 1, heads: 2, channels: 16, context: 64}
sft:
  policy: {tokens: 5000, batch_tokens: 512}
  reward: {tokens: 5000, batch_tokens: 512}
rm: {epochs: 3, batch_size: 6, eval_every: 2, normalisation_samples: 100, normalise_before: true}
ppo:
  num_iterations: 4
  rollout_batch_size: 12
  num_epochs: 1
  num_minibatches: 2
  microbatch_size: 6
  ptx_coef: 0.1
  ptx_batch_size: 16
eval: {every: 1, prompts: 100, final_prompts: 100, samples: 100}
data: {query_length: 12, response_length: 6, crop_words: 3, """


def marker_source(seed: int) -> Iterator[str]:
    """Words of eight consonants; that one comes twice has a chance of 1e-6."""
    chance = random.Random(seed)
    while True:
        yield "".join(chance.choices(CONSONANTS, k=8))


def markers_in(text: str, known: Iterable[str]) -> set[str]:
    """The known markers in a text, whatever stands beside them."""
    return {*re.findall(f"(?=([{CONSONANTS}]{{8}}))", text)} & set(known)


# ---------------------------------------------------------------------------------------------- corpora


class Row(NamedTuple):
    """A row of a file."""

    kind: str  # demonstrations, comparisons, prompts
    split: str | None  # as the file says, or None if the product has to divide the file
    prompt: str  # its marker, or "" if there is none
    texts: tuple[str, ...]  # the marker of each other text


@dataclass
class Corpus:
    """Files of marked rows."""

    folder: Path
    rows: list[Row] = field(default_factory=list)
    config: Path = Path()

    @property
    def markers(self) -> set[str]:
        return {marker for row in self.rows for marker in (row.prompt, *row.texts) if marker}

    def add(self, kind: str, split: str | None, prompt: str, *texts: str) -> Row:
        self.rows.append(Row(kind, split, prompt, texts))
        return self.rows[-1]

    def configure(self, data: str) -> Corpus:
        self.config = self.folder / "config.yaml"
        self.config.write_text(SETTINGS + data + "}\n")
        return self

    def splits(self) -> dict[str, dict[str, set[str]]]:
        """Kind of row -> split -> the markers of the rows that the product hands out."""
        config, known = load_config(str(self.config)), self.markers
        corpus = load_corpus(config)
        texts: dict[str, Callable[[str], list[str]]] = {
            "demonstrations": lambda split: [d.completion for d in corpus.demonstrations(split)],
            "comparisons": lambda split: [
                " ".join(c.ranked)
                for epoch in range(config.rm.epochs if split == "train" else 1)
                for c in corpus.comparisons(split, epoch)
            ],
            "compared prompts": lambda split: [c.prompt for c in corpus.comparisons(split)],
            "prompts": lambda split: list(corpus.prompts(split)),
        }
        found = {
            kind: {split: markers_in(" ".join(read(split)), known) for split in SPLITS} for kind, read in texts.items()
        }
        # A prompt of the bundled layout may stand in several files; it is asked in the first of these splits alone.
        if config.data.source == "reviews":
            prompts = found["prompts"]
            prompts["validation"] -= prompts["test"]
            prompts["train"] -= prompts["test"] | prompts["validation"]
        return found


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def demonstrations(corpus: Corpus, path: Path, asked: Iterable[str], marker: Iterator[str]) -> None:
    """Each of them twice: what is held out must not be trained on in its other place."""
    rows = [corpus.add("demonstrations", None, prompt, next(marker)) for prompt in asked]
    write_jsonl(path, 2 * [{"prompt": f"{row.prompt}:", "completion": f" {row.texts[0]} it is."} for row in rows])


def preferences(corpus: Corpus, path: Path, asked: Iterable[str], marker: Iterator[str], split: str | None) -> None:
    rows = [corpus.add("comparisons", split, prompt, next(marker), next(marker)) for prompt in asked]
    write_jsonl(
        path,
        [
            {"prompt": f"{row.prompt}:", "chosen": f" {row.texts[0]} good", "rejected": f" {row.texts[1]} bad"}
            for row in rows
        ],
    )


def prompts(corpus: Corpus, path: Path, asked: Iterable[str], split: str | None) -> None:
    known = {row.prompt for row in corpus.rows if row.kind == "prompts"}
    for prompt in asked:
        if prompt not in known:  # else it belongs to the split that has been written before
            corpus.add("prompts", split, prompt)
    write_jsonl(path, [{"prompt": f"{prompt}:"} for prompt in asked])


def take(marker: Iterator[str], count: int) -> list[str]:
    return [next(marker) for _ in range(count)]


def bundled(folder: Path) -> Corpus:
    """The layout of data/. Prompts of a held-out split stand among those of training and of the other one, too."""
    corpus, marker = Corpus(folder), marker_source(1)
    texts: dict[str, list[dict[str, Any]]] = {"demonstrations": []}
    for number in range(14):  # of fewer than 200 the first is for testing, the second for validation
        split = {0: "test", 1: "validation"}.get(number, "train")
        row = corpus.add("demonstrations", split, *take(marker, 2))
        texts["demonstrations"].append({"prompt": f"{row.prompt}:", "completion": f" {row.texts[0]} it is."})
    asked = {split: take(marker, count) for split, count in (("test", 5), ("validation", 4), ("train", 12))}
    asked["validation"].insert(2, asked["test"][2])
    asked["train"] += [asked["test"][1], asked["validation"][1]]
    for split in SPLITS:
        pairs = [corpus.add("comparisons", split, *take(marker, 3)) for _ in range(4)]
        rankings = [corpus.add("comparisons", split, *take(marker, 4)) for _ in range(3)]
        texts[f"preferences-{split}"] = [
            {"prompt": f"{row.prompt}:", "chosen": f" {row.texts[0]} good", "rejected": f" {row.texts[1]} bad"}
            for row in pairs
        ]
        texts[f"rankings-{split}"] = [
            {"prompt": f"{row.prompt}:", "ranked": [f" {text} it is." for text in row.texts]} for row in rankings
        ]
        texts[f"prompts-{split}"] = [{"prompt": f"{prompt}:"} for prompt in asked[split]]
    for split in ("test", "validation", "train"):
        seen = {row.prompt for row in corpus.rows if row.kind == "prompts"}
        for prompt in asked[split]:
            if prompt not in seen:
                corpus.add("prompts", split, prompt)
    for name, rows in texts.items():
        with bz2.open(folder / f"{name}.jsonl.bz2", "wt", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
    return corpus.configure(f"source: reviews, folder: {folder}")


def imdb(folder: Path) -> Corpus:
    """The three files, sorted by label. Some reviews for testing are also among the others, spaced otherwise."""
    corpus, marker = Corpus(folder), marker_source(2)
    reviews = {name: take(marker, count) for name, count in (("train", 16), ("test", 60), ("unsupervised", 12))}
    for name in ("train", "unsupervised"):
        for review in reviews[name]:
            corpus.add("demonstrations", None, "", review)
    for name in ("train", "test"):
        for review in reviews[name]:
            corpus.add("comparisons", "train" if name == "train" else None, "", review)
    for review in reviews["test"]:
        corpus.add("prompts", None, review)
    for name, found in reviews.items():
        texts = [" ".join([review] * 5) for review in found]
        labels = [-1 if name == "unsupervised" else int(row >= len(found) / 2) for row in range(len(found))]
        repeated = [] if name == "test" else reviews["test"][:30] if name == "train" else reviews["test"][30:]
        for row, review in enumerate(repeated):
            between = (" ", "<br /><br />", "  ", " <br />\n", "\t")[row % 5]
            texts.append(between.join([review] * 5) + between * (row % 2))
            labels.append(-1 if name == "unsupervised" else row % 2)
        if name == "unsupervised":  # further repetitions: of these, and of reviews for training
            again = [*reviews["unsupervised"], *reviews["train"]]
            texts += ["  ".join([review] * 5) for review in again]
            labels += [-1] * len(again)
        Dataset.from_dict({"text": texts, "label": labels}).to_parquet(folder / f"{name}.parquet")
    return corpus.configure(f"source: imdb, imdb_path: {folder}")


def files_of_all_splits(folder: Path) -> Corpus:
    """Preferences in three files. Held-out prompts also stand in training rows and in demonstrations, one test prompt
    also among the rows for validation."""
    corpus, marker = Corpus(folder), marker_source(3)
    test, validation, train = take(marker, 4), take(marker, 4), take(marker, 14)
    preferences(corpus, folder / "prefs" / "test.jsonl", test, marker, "test")
    preferences(corpus, folder / "prefs" / "validation.jsonl", [*validation, test[2]], marker, "validation")
    preferences(corpus, folder / "prefs" / "train.jsonl", [*train, test[0], validation[0]], marker, "train")
    shown = [*take(marker, 10), test[1], validation[1], *train[:2]]
    demonstrations(corpus, folder / "demos.jsonl", shown, marker)
    return corpus.configure(f"source: files, preferences: {folder / 'prefs'}, demonstrations: {folder / 'demos.jsonl'}")


def files_of_two_splits(folder: Path) -> Corpus:
    """Training and test files alone, of demonstrations too; prompts in a file of their own, with all three splits."""
    corpus, marker = Corpus(folder), marker_source(4)
    test, train = take(marker, 4), take(marker, 20)
    preferences(corpus, folder / "prefs" / "test.jsonl", test, marker, "test")
    preferences(corpus, folder / "prefs" / "train.jsonl", train, marker, None)
    asked = {split: take(marker, count) for split, count in (("test", 3), ("validation", 3), ("train", 9))}
    asked["validation"] += [train[3], asked["test"][1]]
    asked["train"] += [asked["test"][2], asked["validation"][2]]
    for split in ("test", "validation", "train"):
        prompts(corpus, folder / "prompts" / f"{split}.jsonl", asked[split], split)
    demonstrations(corpus, folder / "demos" / "train.jsonl", [*take(marker, 11), asked["test"][0]], marker)
    write_jsonl(folder / "demos" / "test.jsonl", [{"prompt": f"{m}:", "completion": " no."} for m in take(marker, 5)])
    paths = ", ".join(f"{kind}: {folder / name}" for kind, name in KINDS)
    return corpus.configure(f"source: files, hold_out: 0.2, {paths}")


def single_files(folder: Path) -> Corpus:
    """One file of each kind, which the product divides; each prompt has two rows, and the three kinds share some."""
    corpus, marker = Corpus(folder), marker_source(5)
    asked = take(marker, 20)
    compared = [*asked[:8], *take(marker, 12)]
    prompts(corpus, folder / "prompts" / "all.jsonl", asked, None)
    preferences(corpus, folder / "prefs" / "all.jsonl", compared * 2, marker, None)
    demonstrations(corpus, folder / "demos" / "all.jsonl", [*asked[4:12], *take(marker, 8)] * 2, marker)
    paths = ", ".join(f"{kind}: {folder / name}" for kind, name in KINDS)
    return corpus.configure(f"source: files, hold_out: 0.2, {paths}")


KINDS = (("prompts", "prompts"), ("preferences", "prefs"), ("demonstrations", "demos"))


def labelled_texts(folder: Path) -> Corpus:
    """Texts with labels, of which some for training are test texts; prompts are those of the demonstrations."""
    corpus, marker = Corpus(folder), marker_source(6)
    texts = {"test": take(marker, 8), "train": take(marker, 30)}
    for split, found in texts.items():
        for text in found:
            corpus.add("comparisons", "test" if split == "test" else None, "", text)
        repeated = texts["test"][:3] if split == "train" else []
        write_jsonl(
            folder / "prefs" / f"{split}.jsonl",
            [{"text": " ".join([text] * 5), "label": row % 2} for row, text in enumerate([*found, *repeated])],
        )
    demonstrations(corpus, folder / "demos.jsonl", take(marker, 24), marker)
    return corpus.configure(
        f"source: files, hold_out: 0.2, preferences: {folder / 'prefs'}, demonstrations: {folder / 'demos.jsonl'}"
    )


CORPORA = {
    make.__name__: make
    for make in (bundled, imdb, files_of_all_splits, files_of_two_splits, single_files, labelled_texts)
}


# ---------------------------------------------------------------------------------------------- the record


class Pass(NamedTuple):
    """What one forward pass read."""

    learns: bool  # with a gradient
    model: str
    rows: list[list[int]]


@dataclass
class Record:
    """What the models were given in one stage, in order, without the later tokens of a response being sampled."""

    passes: list[Pass | str] = field(default_factory=list)
    tokenizer_texts: list[str] = field(default_factory=list)
    scores_normalised: list[int] = field(default_factory=list)
    texts: list[tuple[bool, str, list[str]]] = field(default_factory=list)
    """The same decoded: whether it learns, the model, the rows."""


@contextmanager
def recorded(record: Record) -> Iterator[None]:
    """Watch every forward pass of a transformer, tokenizer training and score normalisation."""
    embed, normalise = GPT.embed, RewardModel.normalise

    def watched_embed(self: GPT, tokens, *args, **kwargs):
        cache = next((x for x in (*args, *kwargs.values()) if isinstance(x, KVCache)), None)
        continues = cache is not None and cache.length > 0
        states, allowed = embed(self, tokens, *args, **kwargs)
        if not continues:
            record.passes.append(Pass(states.requires_grad, CONTEXTS[self.config.context], tokens.tolist()))
        return states, allowed

    def watched_normalise(self: RewardModel, scores):
        record.passes.append("normalise")
        record.scores_normalised.append(len(scores))
        return normalise(self, scores)

    def watched_train_bpe(texts, *args, **kwargs):
        texts = list(texts)
        record.tokenizer_texts += texts
        return train_bpe(texts, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GPT, "embed", watched_embed)
        patch.setattr(RewardModel, "normalise", watched_normalise)
        replace_everywhere(patch, train_bpe, watched_train_bpe)
        yield


def replace_everywhere(patch: pytest.MonkeyPatch, original: object, replacement: object) -> None:
    """Put `replacement` wherever a module of the product has imported `original`."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("minippo", "train_rm", "train_ppo"):
            for key, value in list(vars(module).items()):
                if value is original:
                    patch.setattr(module, key, replacement)


def run_stages(corpus: Corpus, run: Path, *options: object) -> dict[str, Record]:
    """Run all three stages by their commands; what each stage's models were given."""
    arguments = ("--config", corpus.config, "--run-dir", run, *options)
    return {name: run_command(main, run, *arguments) for name, main in MAINS.items()}


def run_command(main: Callable[[], None], run: Path, *arguments: object) -> Record:
    """Run a command; what the models of the run were given."""
    record = Record()
    with pytest.MonkeyPatch.context() as patch, recorded(record):
        patch.setattr("sys.argv", ["command", "--device", "cpu", *map(str, arguments)])
        main()
    tokenizers = {name: load_tokenizer(run / "tokenizers" / f"{name}.tiktoken") for name in ("policy", "reward")}
    for step in record.passes:
        if isinstance(step, Pass):
            rows = [tokenizers[step.model].decode(row) for row in step.rows]
            record.texts.append((step.learns, step.model, rows))
        else:
            record.texts.append((False, step, []))
    return record


class Phase(NamedTuple):
    """Neighbouring passes of one sort over rows of one split."""

    what: str  # "learn", "look" or "normalise"
    split: str  # several, joined by "+", if a row belongs to several
    markers: set[str]


def phases(
    record: Record, known: set[str], splits: dict[str, dict[str, set[str]]], kinds: tuple[str, ...]
) -> list[Phase]:
    """What a stage does with which rows, in order. A row is of the first of `kinds` that has one of its markers."""
    steps = []
    for learns, model, rows in record.texts:
        if model == "normalise":
            steps.append(Phase("normalise", "", set()))
        for text in rows:
            found = markers_in(text, known)
            kind = next((kind for kind in kinds if found & set().union(*splits[kind].values())), None)
            assert kind is not None, f"a row of no split: {text!r}"
            split = "+".join(split for split in SPLITS if found & splits[kind][split])
            steps.append(Phase("learn" if learns else "look", split, found))
    merged = []
    for (what, split), same in groupby(steps, key=lambda step: step[:2]):
        merged.append(Phase(what, split, set().union(*(step.markers for step in same))))
    return merged
