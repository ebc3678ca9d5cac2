"""The IMDB reviews (Maas et al. 2011)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minippo.data.cache import file_fingerprint, fingerprint_of
from minippo.data.labelled import LabelledTexts, crop_words_of
from minippo.data.sources import load_dataset, load_from_hub
from minippo.data.texts import Comparison, Demonstration, Texts, text_hashes
from minippo.splits import Split, split_rows

if TYPE_CHECKING:
    import datasets

    from minippo.config import DataConfig


class IMDB:
    """The Large Movie Review Dataset: sentiment labels become preferences.

    - Demonstrations are the training and the unlabelled reviews; comparisons for training are made from the training
      reviews. Reviews that also occur in the test file (a few hundred do) are left out of both.
    - The reviews of the test file are divided by a hash of their text, hence in the same way in every run: two fifths
      are the test split and one fifth is the validation split, each for comparisons and prompts. The beginnings of the
      other two fifths are the prompts that PPO trains on.
    - A comparison is a positive and a negative review, both cropped to `crop_words` words at a random position;
      for training to a random number of words, if there is a `min_crop_words`.
    """

    judge, labelled = None, True
    FIFTHS: tuple[Split, ...] = ("test", "test", "validation", "train", "train")

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.report: dict[str, dict[str, int]] = {}
        files = {split: f"{config.imdb_path}/{split}.parquet" for split in ("train", "test", "unsupervised")}
        if Path(config.imdb_path).exists():
            missing = [path for path in files.values() if not Path(path).is_file()]
            if missing:
                raise FileNotFoundError(f"{config.imdb_path} is not an IMDB folder: {', '.join(missing)} not found")
            self.rows = load_dataset(config.imdb_path, "parquet", data_files=files)
            # Not the fingerprint of `datasets`, which changes with the paths and dates of the files.
            self.fingerprint = fingerprint_of(*[file_fingerprint(Path(path)) for path in files.values()])
        elif config.imdb_path.count("/") == 1 and not config.imdb_path.startswith((".", "/")):
            self.rows = load_from_hub(config.imdb_path)
            if missing := files.keys() - self.rows.keys():
                raise ValueError(f"{config.imdb_path} has no split {' or '.join(sorted(missing))} (data.imdb-path)")
            self.fingerprint = fingerprint_of(*[self.rows[split]._fingerprint for split in files])
        else:
            raise FileNotFoundError(f"the IMDB folder {config.imdb_path} does not exist (data.imdb-path)")
        for split in files:
            _check_columns(self.rows[split], f"{config.imdb_path}, {split}")
        self._labelled: dict[Split, LabelledTexts] = {}
        hashes_kept = []
        for name in ("train", "unsupervised"):
            hashes = text_hashes(self.rows[name], _text_of)
            kept = np.flatnonzero(~np.isin(hashes, self._test_hashes))
            self.report[f"{name} reviews"] = {
                "rows": len(hashes),
                "left out: also in the test file": len(hashes) - len(kept),
            }
            self.rows[name] = self.rows[name].select(kept)
            hashes_kept.append(hashes[kept])
        self._demonstration_hashes = np.concatenate(hashes_kept)  # (train + unsupervised reviews,)

    @cached_property
    def _test_hashes(self) -> np.ndarray:
        return text_hashes(self.rows["test"], _text_of)

    def _test_reviews(self, split: Split) -> datasets.Dataset:
        """The reviews of the test file that belong to `split`, without repetitions."""
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
            self._labelled[split] = LabelledTexts(rows, labels, _text_of, crop_words_of(self.config, split))
        return self._labelled[split].pairs(f"{self.seed} {split} {epoch}")[: self.config.limit or None]

    def prompts(self, split: Split) -> Texts[str]:
        rows, length = self._test_reviews(split), self.config.query_length
        # A word has at least one token, so `length` words are enough for a prompt of `length` tokens.
        texts = [" ".join(clean(text).split(" ")[:length]) for text in rows["text"]]
        random.Random(f"{self.seed} {split} prompts").shuffle(texts)  # the file is sorted by label
        fingerprint = f"{rows._fingerprint} {self.seed} {length}"
        return Texts(len(texts), lambda first, last: texts[first:last], fingerprint, whole=False)


def _check_columns(rows: datasets.Dataset, name: str) -> None:
    for column, kind in (("text", "string"), ("label", "int")):
        if column not in rows.column_names:
            raise ValueError(f"{name} has no column {column!r}")
        if kind not in rows.features[column].dtype or rows.data.column(column).null_count:
            raise ValueError(f"{name}: the column {column!r} must hold {kind} values and no null")


def _text_of(row: Mapping[str, Any]) -> str:
    return clean(row["text"])


def clean(text: str) -> str:
    """An IMDB review without HTML line breaks, and with single spaces."""
    return " ".join(text.replace("<br />", " ").split())
