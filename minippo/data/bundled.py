"""The bundled reviews."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from minippo.config import DataConfig
from minippo.data.cache import file_fingerprint, fingerprint_of
from minippo.data.sources import json_rows
from minippo.data.texts import Comparison, Demonstration, Texts, texts_of
from minippo.reviews import gold_score, is_grammatical, split_sentences
from minippo.splits import SPLITS, Split, split_texts
from minippo.storage import bundled

if TYPE_CHECKING:
    pass
from minippo.evaluation import Judge

T = TypeVar("T")


class BundledReviews:
    """The reviews of `minippo/reviews/build.py`, from the files that it wrote."""

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
