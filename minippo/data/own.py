"""Your own demonstrations, preferences and prompts as a corpus. docs/data.md documents the accepted files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from minippo.data.cache import fingerprint_of
from minippo.data.examples import read_examples
from minippo.data.formats import NO_LABEL, PROBLEMS, USABLE, Kind
from minippo.data.holding_out import column, hold_out, prompt_or_texts, random_order
from minippo.data.labelled import LabelledTexts, crop_words_of
from minippo.data.sources import find_sources
from minippo.data.texts import CHUNK, NO_TEXT, Comparison, Demonstration, Texts, rows_of, text_hashes
from minippo.splits import HELD_OUT, SPLITS, TEST_FIRST, Split, split_rows

if TYPE_CHECKING:
    import datasets

    from minippo.config import DataConfig

T = TypeVar("T")

NOTHING = Texts(0, lambda first, last: [], "nothing")

HELD_OUT_PROMPT = "left out: prompt held out"


class OwnData:
    """The corpus of `data.demonstrations`, `data.preferences` and `data.prompts`; what is not given is empty.

    The constructor reads and checks all files. Raises ValueError if something in them cannot be used.
    """

    judge = None

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.report: dict[str, dict[str, int]] = {}
        self._files: list[tuple[str, ...]] = []
        self._demonstrations = self._read("demonstrations", config.demonstrations)
        self._preferences = self._read("preferences", config.preferences)
        for split in TEST_FIRST if self._preferences else ():
            if split not in self._preferences:
                self._hold_out("preferences", self._preferences, split, config.preferences)
            held_out = text_hashes(self._preferences[split], prompt_or_texts)
            # Before the next split is held out, so that no test row in the training file is held out for validation.
            for other in ("train", "validation") if split == "test" else ("train",):
                if other in self._preferences:
                    self._leave_out("preferences", config.preferences, self._preferences, other, held_out)
        self._prompts = self._find_prompts()
        self._leave_out_held_out_prompts()
        self._demonstrations = self._demonstrations or self._preferred()
        self._labelled = {split: self._pairing(rows, split) for split, rows in self._preferences.items()}
        self.labelled = all(pairing is not None for pairing in self._labelled.values())
        for name, size in (
            ("demonstrations after holding out", lambda split: len(self.demonstrations(split))),
            ("comparisons after holding out", self._num_comparisons),
            ("different prompts", lambda split: len(self.prompts(split))),
        ):
            sizes = {split: size(split) for split in SPLITS}
            if any(sizes.values()):
                self.report[name] = sizes
        self.fingerprint = fingerprint_of(self._files)

    # ------------------------------------------------------------------------------------------ the corpus

    def demonstrations(self, split: Split) -> Texts[Demonstration]:
        """Demonstrations in a random order, because the first ones are held out and a file may be sorted."""
        if not self._demonstrations:
            return NOTHING
        rows = self._demonstrations["train"]
        order = random_order(len(rows), self.seed, "order of demonstrations")[: self.config.limit or None]
        rows = rows.select(split_rows(order, self._demonstration_hashes, split))
        return _texts(rows, lambda row: Demonstration(row["prompt"], row["completions"][0]))

    @cached_property
    def _demonstration_hashes(self) -> np.ndarray:
        return text_hashes(self._demonstrations["train"], lambda row: row["prompt"] + row["completions"][0])

    def comparisons(self, split: Split, epoch: int = 0) -> Texts[Comparison]:
        """The same comparisons in every epoch, or new pairs of the labelled texts."""
        if split not in self._preferences:
            return NOTHING
        pairing = self._labelled[split]
        if pairing is not None:
            comparisons = pairing.pairs(f"{self.seed} {split} {epoch}")
        else:
            rows = self._preferences[split]
            comparisons = _texts(rows, lambda row: Comparison(row["prompt"], tuple(row["completions"])))
        return comparisons[: self.config.limit or None]

    def _num_comparisons(self, split: Split) -> int:
        """`len(self.comparisons(split))`, without reading labelled texts to pair them."""
        pairing = self._labelled.get(split)
        if pairing is None:
            return len(self.comparisons(split))
        return min(pairing.num_pairs, self.config.limit or pairing.num_pairs)

    def prompts(self, split: Split) -> Texts[str]:
        """The prompts of `data.prompts`; if not given, those of the preferences, or else of the demonstrations."""
        return _texts(self._prompts[split], _prompt) if split in self._prompts else NOTHING

    # ------------------------------------------------------------------------------------------ reading

    def _read(self, kind: Kind, path: str) -> dict[Split, datasets.Dataset]:
        """The usable examples by split; no split at all if no path is given."""
        if not path:
            return {}
        sources = find_sources(path, f"data.{kind}", split_names(self.config))
        ignored = frozenset(name.strip() for name in self.config.ignore.split(",")) - {""}
        if kind == "demonstrations":
            sources = {"train": sources["train"]}  # the file's own held-out rows are not trained on
        for split, tables in sources.items():
            self._files.append((kind, split, *(table.fingerprint for table in tables)))
        return {
            split: self._usable(kind, split, read_examples(kind, tables, ignored))
            for split, tables in sources.items()
            if tables
        }

    def _usable(self, kind: Kind, split: Split, rows: datasets.Dataset) -> datasets.Dataset:
        """Drop and count unusable rows, and count what is not read of the others.

        Raises ValueError if no row is usable, or `data.unusable` is "refuse".
        """
        problems = column(rows, "problem")
        counts = self.report[f"{kind}, {split}"] = {"rows read": len(rows)}
        unread = Counter(chain(*chain(*(batch["unread"] for batch in rows.select_columns("unread").iter(CHUNK)))))
        counts |= {f"values of column {name!r} not read": count for name, count in unread.items()}
        if tied := int(column(rows, "tied").sum()):
            counts["completions left out: same score as another"] = tied
        if without_space := int(column(rows, "without_space").sum()):
            counts["joined to their prompt without a space"] = without_space
        if (problems == USABLE).all():
            return rows
        first = int(np.flatnonzero(problems != USABLE)[0])
        example = f"{rows[first]['location']}: {PROBLEMS[problems[first]]}"
        if self.config.unusable == "refuse":
            raise ValueError(f"{example} (data.unusable is refuse)")
        if (problems != USABLE).all():
            raise ValueError(f"none of the {len(rows)} {kind} is usable; the first is {example}")
        for problem in np.unique(problems[problems != USABLE]):
            counts[f"dropped: {PROBLEMS[problem]}"] = int((problems == problem).sum())
        return rows.select(np.flatnonzero(problems == USABLE))

    def _preferred(self) -> dict[Split, datasets.Dataset]:
        """The preferred completions of the training preferences, which are demonstrations if there are no others."""
        if not self._preferences:
            return {}
        rows = self._preferences["train"]
        rows = rows.select(np.flatnonzero(column(rows, "label") != 0))
        if len(rows) < len(SPLITS):
            return {}
        self.report["demonstrations"] = {"preferred completions, because data.demonstrations is empty": len(rows)}
        return {"train": rows}

    def _pairing(self, rows: datasets.Dataset, split: Split) -> LabelledTexts | None:
        labels = column(rows, "label")
        if (labels == NO_LABEL).all():
            return None
        if (labels == NO_LABEL).any():
            raise ValueError(f"{self.config.preferences} mixes labelled texts and comparisons, expected one of them")
        has_prompts = (text_hashes(rows, _prompt) != NO_TEXT).any()
        crop_words = crop_words_of(self.config, split)
        return LabelledTexts(
            rows, labels, lambda row: row["completions"][0], crop_words, _prompt if has_prompts else None
        )

    def _find_prompts(self) -> dict[Split, datasets.Dataset]:
        for path, rows in (
            (self.config.prompts, self._read("prompts", self.config.prompts)),
            (self.config.preferences, self._preferences),
            (self.config.demonstrations, self._demonstrations),
        ):
            prompts = self._different(rows, path)
            if prompts:
                for split in TEST_FIRST:
                    if split not in rows:
                        self._hold_out("prompts", prompts, split, path)
                return prompts
        return {}

    def _different(self, rows: dict[Split, datasets.Dataset], path: str) -> dict[Split, datasets.Dataset]:
        """Each prompt once, in a random order and in one split, the test split first. Empty if no row has a prompt."""
        hashes = {split: text_hashes(rows[split], _prompt) for split in (*TEST_FIRST, "train") if split in rows}
        empty = [split for split in hashes if (hashes[split] == NO_TEXT).all()]
        if len(empty) == len(hashes):
            return {}
        if empty:
            names, filled = split_names(self.config), next(split for split in hashes if split not in empty)
            raise ValueError(
                f"{path}: none of the {len(rows[empty[0]])} rows of {names[empty[0]]!r} has a prompt, but rows of "
                f"{names[filled]!r} have"
            )
        seen, prompts = np.array([NO_TEXT]), {}
        for split, hashed in hashes.items():
            _, firsts = np.unique(hashed, return_index=True)
            firsts = firsts[~np.isin(hashed[firsts], seen)]
            seen = np.concatenate([seen, hashed[firsts]])
            prompts[split] = rows[split].select(
                firsts[random_order(len(firsts), self.seed, f"order of {split} prompts")]
            )
            if not len(prompts[split]):
                raise ValueError(f"{path}: every prompt of the {split} split is also in another split")
        return prompts

    # ------------------------------------------------------------------------------------------ holding out

    def _hold_out(self, kind: Kind, splits: dict[Split, datasets.Dataset], split: Split, path: str) -> None:
        """Move `data.hold_out` of the training rows to `split`."""
        missing = [other for other in TEST_FIRST if other not in splits]
        try:
            splits["train"], splits[split] = hold_out(
                splits["train"], self.config.hold_out, self.seed, f"{kind} held out for {split}", missing
            )
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def _leave_out_held_out_prompts(self) -> None:
        """Remove training rows whose prompt is held out, as a prompt or in a comparison, from demonstrations,
        preferences and prompts. Rows without a prompt are identified by their texts."""
        tested = [
            text_hashes(rows[split], prompt_or_texts)
            for rows in (self._prompts, self._preferences)
            for split in HELD_OUT
            if rows
        ]
        held_out = np.setdiff1d(np.concatenate([np.zeros(0, np.uint64), *tested]), [NO_TEXT])
        for kind, path, rows in (
            ("demonstrations", self.config.demonstrations, self._demonstrations),
            ("preferences", self.config.preferences, self._preferences),
            ("prompts", self.config.prompts, self._prompts),
        ):
            if rows and len(held_out):
                self._leave_out(kind, path, rows, "train", held_out)

    def _leave_out(
        self, kind: Kind, path: str, splits: dict[Split, datasets.Dataset], split: Split, held_out: np.ndarray
    ) -> None:
        """Remove the rows of `split` whose prompt (or, without one, whose texts) has one of the hashes `held_out`."""
        rows = splits[split]
        kept = np.flatnonzero(~np.isin(text_hashes(rows, prompt_or_texts), held_out))
        left_out = len(rows) - len(kept)
        if not len(kept):
            raise ValueError(f"{path}: the prompts of all {left_out} {split} rows are held out")
        if left_out:
            splits[split], counts = rows.select(kept), self.report.setdefault(f"{kind}, {split}", {})
            counts[HELD_OUT_PROMPT] = counts.get(HELD_OUT_PROMPT, 0) + left_out


def split_names(config: DataConfig) -> dict[Split, str]:
    """The names of the splits in the user's files."""
    return {"train": config.train_split, "validation": config.validation_split, "test": config.test_split}


def _texts(rows: datasets.Dataset, of: Callable[[Mapping[str, Any]], T]) -> Texts[T]:
    def read(first: int, last: int) -> list[T]:
        return [of(row) for row in rows_of(rows[first:last])]

    return Texts(len(rows), read, rows._fingerprint, location=lambda number: rows[number]["location"])


def _prompt(row: Mapping[str, Any]) -> str:
    return row["prompt"]
