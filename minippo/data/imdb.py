"""The IMDB reviews."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minippo.config import DataConfig
from minippo.data.cache import file_fingerprint, fingerprint_of
from minippo.data.labelled import LabelledTexts
from minippo.data.sources import load_from_hub
from minippo.data.texts import CHUNK, Comparison, Demonstration, Texts, rows_of, texts_of
from minippo.splits import Split, split_rows

if TYPE_CHECKING:
    import datasets


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
