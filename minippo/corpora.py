"""Where texts come from: the bundled reviews, the IMDB reviews, or somebody's own files."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from minippo.cache import file_fingerprint, fingerprint_of
from minippo.config import Config, DataConfig
from minippo.data import bundled
from minippo.files import json_rows, load_from_hub
from minippo.labelled import LabelledTexts
from minippo.own_data import OwnData
from minippo.reviews import gold_score, is_grammatical, split_sentences
from minippo.texts import (
    CHUNK,
    SPLITS,
    Comparison,
    Demonstration,
    Split,
    Texts,
    rows_of,
    split_rows,
    split_texts,
    texts_of,
)

if TYPE_CHECKING:
    import datasets

T = TypeVar("T")


@dataclass(frozen=True)
class Judge:
    """What plays the human, where a corpus has it: never used in training."""

    gold_score: Callable[[str, str], float]
    """Of a prompt and a response; above 0 is positive."""
    split_sentences: Callable[[str], list[str]]
    is_grammatical: Callable[[str], bool]
    """Of a sentence."""


class Corpus(Protocol):
    """What the three stages ask of a source of texts. What it does not have is empty."""

    judge: Judge | None
    report: dict[str, dict[str, int]]
    """What was read, and how many rows were unusable and why."""
    fingerprint: str
    """Of what is in the files, wherever they lie: a run that is resumed must not go on with other texts."""

    def demonstrations(self, split: Split) -> Texts[Demonstration]:
        """What the reference policy imitates."""
        ...

    def comparisons(self, split: Split, epoch: int = 0) -> Texts[Comparison]:
        """What the reward model learns from. Where pairs are made rather than given, every epoch pairs anew."""
        ...

    def prompts(self, split: Split) -> Texts[str]:
        """What the policy answers, in a random order that is always the same; no two splits share one."""
        ...


def load_corpus(config: Config) -> Corpus:
    """The corpus that `config.data` names. Raises FileNotFoundError where its files are not there, ValueError where
    something is wrong in them."""
    if config.data.source == "imdb":
        return IMDB(config.data, config.seed)
    if config.data.source == "files":
        return OwnData(config.data, config.seed)
    return BundledReviews(config.data)


def judge_of(config: Config) -> Judge | None:
    """The judge of the corpus that `config.data` names, without reading any of it."""
    return BundledReviews.judge if config.data.source == "reviews" else None


class BundledReviews:
    """The reviews of `minippo/reviews.py`, from the files that it wrote."""

    judge = Judge(gold_score, split_sentences, is_grammatical)

    def __init__(self, config: DataConfig) -> None:
        self.folder, self.limit = bundled(config.folder), config.limit
        self.report: dict[str, dict[str, int]] = {}
        names = [f"{kind}-{split}" for kind in ("preferences", "rankings", "prompts") for split in SPLITS]
        paths = [self._path(name) for name in ("demonstrations", *names)]
        for path in paths:
            if not path.is_file():
                raise FileNotFoundError(f"{self.folder} has no {path.name} (data.folder)")
        self.fingerprint = fingerprint_of(*map(file_fingerprint, paths))

    def demonstrations(self, split: Split) -> Texts[Demonstration]:
        rows = [Demonstration(row["prompt"], row["completion"]) for row in self._rows("demonstrations")]
        return split_texts(self._texts(rows, "demonstrations"), split)

    def comparisons(self, split: Split, epoch: int = 0) -> Texts[Comparison]:
        pairs, rankings = f"preferences-{split}", f"rankings-{split}"
        found = [Comparison(row["prompt"], (row["chosen"], row["rejected"])) for row in self._rows(pairs)]
        found += [Comparison(row["prompt"], tuple(row["ranked"])) for row in self._rows(rankings)]
        return self._texts(found, pairs, rankings)

    def prompts(self, split: Split) -> Texts[str]:
        return self._texts([row["prompt"] for row in self._rows(f"prompts-{split}", limit=0)], f"prompts-{split}")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl.bz2"

    def _texts(self, items: list[T], *names: str) -> Texts[T]:
        files = " ".join(file_fingerprint(self._path(name)) for name in names)
        return texts_of(items, f"{files} {names} {self.limit}")

    def _rows(self, name: str, limit: int | None = None) -> list[dict[str, Any]]:
        rows = [row for _, row in json_rows(self._path(name))]
        limit = self.limit if limit is None else limit
        return rows[:limit] if limit else rows


class IMDB:
    """The Large Movie Review Dataset (Maas et al. 2011): sentiment labels become preferences.

    Language models train on the training and the unlabelled reviews, the reward model on the training reviews. Reviews
    that also occur in the test file (some hundred do) are left out of both. The test file is divided, by a hash of each
    review and so alike in every run, into three: two fifths are the test split and one fifth the validation split, from
    which comparisons and prompts are taken; the beginnings of the others are the prompts that PPO trains on. A
    comparison is a positive against a negative review, both cut to `crop_words` words at a random position.
    """

    judge = None
    FIFTHS: tuple[Split, ...] = ("test", "test", "validation", "train", "train")

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.report: dict[str, dict[str, int]] = {}
        files = {split: f"{config.imdb_path}/{split}.parquet" for split in ("train", "test", "unsupervised")}
        if Path(config.imdb_path).exists():
            missing = [path for path in files.values() if not Path(path).is_file()]
            if missing:
                raise FileNotFoundError(f"{config.imdb_path} is no IMDB folder: {', '.join(missing)} not found")
            import datasets  # slow to import

            datasets.disable_progress_bars()
            self.rows = datasets.load_dataset("parquet", data_files=files)
            # Not that of datasets, which changes with the files' places and dates.
            self.fingerprint = fingerprint_of(*[file_fingerprint(Path(path)) for path in files.values()])
        elif config.imdb_path.count("/") == 1 and not config.imdb_path.startswith((".", "/")):
            self.rows = load_from_hub(config.imdb_path)
            self.fingerprint = fingerprint_of(*[self.rows[split]._fingerprint for split in files])
        else:
            raise FileNotFoundError(f"no IMDB folder {config.imdb_path} (data.imdb-path)")
        self._labelled: dict[Split, LabelledTexts] = {}
        hashes_kept = []
        for name in ("train", "unsupervised"):
            hashes = _review_hashes(self.rows[name])
            kept = np.flatnonzero(~np.isin(hashes, self._test_hashes))
            self.report[f"{name} reviews"] = {
                "rows": len(hashes),
                "left out: also in the test file": len(hashes) - len(kept),
            }
            self.rows[name] = self.rows[name].select(kept)
            hashes_kept.append(hashes[kept])
        self._demonstration_hashes = np.concatenate(hashes_kept)

    @cached_property
    def _test_hashes(self) -> np.ndarray:
        return _review_hashes(self.rows["test"])

    def _test_reviews(self, split: Split) -> datasets.Dataset:
        """The reviews of the test file that belong to `split`, each once."""
        firsts = np.sort(np.unique(self._test_hashes, return_index=True)[1])
        splits = np.array(self.FIFTHS)[self._test_hashes[firsts] % len(self.FIFTHS)]
        return self.rows["test"].select(firsts[splits == split])

    def demonstrations(self, split: Split) -> Texts[Demonstration]:
        import datasets

        rows = datasets.concatenate_datasets([self.rows["train"], self.rows["unsupervised"]])
        order = list(range(len(rows)))
        random.Random(f"{self.seed} demonstrations").shuffle(order)
        order = np.array(order[: self.config.limit or None])
        rows = rows.select(split_rows(order, self._demonstration_hashes, split))

        def read(first: int, last: int) -> list[Demonstration]:
            return [Demonstration("", clean(text)) for text in rows[first:last]["text"]]

        return Texts(len(rows), read, f"{rows._fingerprint} {self.seed}")

    def comparisons(self, split: Split, epoch: int = 0) -> Texts[Comparison]:
        if split not in self._labelled:
            rows = self.rows["train"] if split == "train" else self._test_reviews(split)
            labels = np.asarray(rows["label"][:])
            self._labelled[split] = LabelledTexts(rows, labels, _text_of, self.config.crop_words)
        return self._labelled[split].pairs(f"{self.seed} {split} {epoch}")[: self.config.limit or None]

    def prompts(self, split: Split) -> Texts[str]:
        rows, length = self._test_reviews(split), self.config.query_length
        # A word is a token or more, so these words hold every prompt of `query_length` tokens.
        texts = [" ".join(clean(text).split(" ")[:length]) for text in rows["text"]]
        random.Random(f"{self.seed} {split} prompts").shuffle(texts)  # the file is sorted by label
        return texts_of(texts, f"{rows._fingerprint} {self.seed} {length}", whole=False)


def _text_of(row: Mapping[str, Any]) -> str:
    return clean(row["text"])


def _review_hashes(rows: datasets.Dataset) -> np.ndarray:
    """Eight bytes for each review as it is read, (rows,) uint64."""
    texts = (_text_of(row) for batch in rows.iter(CHUNK) for row in rows_of(batch))
    hashes = (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") for text in texts)
    return np.fromiter(hashes, np.uint64, len(rows))


def clean(text: str) -> str:
    """An IMDB review without its HTML line breaks."""
    return " ".join(text.replace("<br />", " ").split())
