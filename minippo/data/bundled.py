"""The bundled reviews, as the files in `data/` hold them (data/README.md)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from minippo.data.cache import file_fingerprint, fingerprint_of
from minippo.data.texts import Comparison, Demonstration, Texts
from minippo.reviews import gold_score, is_grammatical, split_sentences
from minippo.splits import SPLITS, Split, split_texts
from minippo.storage import bundled, read_json_lines

if TYPE_CHECKING:
    from minippo.config import DataConfig

T = TypeVar("T")


class ReviewsJudge:
    """The simulated human behind the labels of the bundled reviews (an `evaluation.Judge`)."""

    gold_score = staticmethod(gold_score)
    split_sentences = staticmethod(split_sentences)
    is_grammatical = staticmethod(is_grammatical)


class BundledReviews:
    """The corpus of `config.folder`. The files are small enough to be read into memory."""

    judge, labelled = ReviewsJudge(), False

    def __init__(self, config: DataConfig) -> None:
        self.folder, self.limit = bundled(config.folder), config.limit
        self.report: dict[str, dict[str, int]] = {}  # every row is used
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
        comparisons = [Comparison(row["prompt"], (row["chosen"], row["rejected"])) for row in self._rows(pairs)]
        comparisons += [Comparison(row["prompt"], tuple(row["ranked"])) for row in self._rows(rankings)]
        return self._texts(comparisons, pairs, rankings)

    def prompts(self, split: Split) -> Texts[str]:
        return self._texts([row["prompt"] for row in self._rows(f"prompts-{split}", limit=0)], f"prompts-{split}")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl.bz2"

    def _texts(self, items: list[T], *names: str) -> Texts[T]:
        """`items`, which were made from the files of these names."""
        files = " ".join(file_fingerprint(self._path(name)) for name in names)
        return Texts(len(items), lambda first, last: items[first:last], f"{files} {names} {self.limit}")

    def _rows(self, name: str, limit: int | None = None) -> list[dict[str, Any]]:
        rows = [row for _, row in read_json_lines(self._path(name))]
        limit = self.limit if limit is None else limit
        return rows[:limit] if limit else rows
