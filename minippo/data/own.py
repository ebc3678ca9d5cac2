"""Somebody's own demonstrations, preferences and prompts as a corpus. docs/data.md says what they may look like."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from minippo.config import DataConfig
from minippo.data.cache import fingerprint_of
from minippo.data.formats import NO_LABEL, PROBLEMS, USABLE, Kind
from minippo.data.labelled import LabelledTexts
from minippo.data.sources import find_sources, read_examples
from minippo.data.texts import CHUNK, Comparison, Demonstration, Texts, rows_of, texts_of
from minippo.splits import HELD_OUT, SPLITS, TEST_FIRST, Split, split_rows
from minippo.streams import generator

if TYPE_CHECKING:
    import datasets


T = TypeVar("T")


class OwnData:
    """What `data.demonstrations`, `data.preferences` and `data.prompts` name; what is not given is empty.

    All of it is read, and found to be in order, when the corpus is made. Raises ValueError where it is not.
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
                self.report[f"preferences, held out for {split}"] = {"rows": len(self._preferences[split])}
            held_out = _hashes(self._preferences[split], _prompt_or_texts)
            # At once, so that no test row in the training file is then held out for validation.
            for other in ("train", "validation") if split == "test" else ("train",):
                if other in self._preferences:
                    self._leave_out("preferences", config.preferences, self._preferences, other, held_out)
        self._prompts = self._find_prompts()
        self._leave_out_held_out_prompts()
        if self._prompts:
            self.report["different prompts"] = {split: len(self._prompts[split]) for split in SPLITS}
        self._labelled = {split: self._pairing(rows) for split, rows in self._preferences.items()}
        self.fingerprint = fingerprint_of(self._files)

    def demonstrations(self, split: Split) -> Texts[Demonstration]:
        """In a random order, since the first ones are held out and a file may be sorted."""
        if not self._demonstrations:
            return texts_of([], "no demonstrations")
        rows = self._demonstrations["train"]
        order = _order(len(rows), self.seed, "order of demonstrations")[: self.config.limit or None]
        rows = rows.select(split_rows(order, self._demonstration_hashes, split))
        return _texts(rows, lambda row: Demonstration(row["prompt"], row["completions"][0]))

    @cached_property
    def _demonstration_hashes(self) -> np.ndarray:
        return _hashes(self._demonstrations["train"], lambda row: row["prompt"] + row["completions"][0])

    def comparisons(self, split: Split, epoch: int = 0) -> Texts[Comparison]:
        """The same in every epoch, or where there are labelled texts, these paired anew."""
        if split not in self._preferences:
            return texts_of([], "no preferences")
        pairing = self._labelled[split]
        if pairing is not None:
            found = pairing.pairs(f"{self.seed} {split} {epoch}")
        else:
            rows = self._preferences[split]
            found = _texts(rows, lambda row: Comparison(row["prompt"], tuple(row["completions"])))
        return found[: self.config.limit or None]

    def prompts(self, split: Split) -> Texts[str]:
        """Those given; or else those of the preferences; or else those of the demonstrations."""
        if split not in self._prompts:
            return texts_of([], "no prompts")
        return _texts(self._prompts[split], lambda row: row["prompt"])

    def _read(self, kind: Kind, path: str) -> dict[Split, datasets.Dataset]:
        """The usable examples, by split; none at all where no path is given."""
        if not path:
            return {}
        sources = find_sources(path, f"data.{kind}", split_names(self.config))
        if kind == "demonstrations":
            sources = {"train": sources["train"]}  # what somebody has set apart is not trained on
        for split, found in sources.items():
            self._files.append((kind, split, *(source.fingerprint for source in found)))
        return {
            split: self._usable(kind, split, read_examples(kind, found)) for split, found in sources.items() if found
        }

    def _usable(self, kind: Kind, split: Split, rows: datasets.Dataset) -> datasets.Dataset:
        problems = _column(rows, "problem")
        if (problems == USABLE).all():
            self.report[f"{kind}, {split}"] = {"rows": len(rows)}
            return rows
        first = int(np.flatnonzero(problems != USABLE)[0])
        if self.config.unusable == "refuse":
            raise ValueError(f"{rows[first]['place']}: {PROBLEMS[problems[first]]} (data.unusable is refuse)")
        found = {
            f"dropped: {PROBLEMS[problem]}": int((problems == problem).sum())
            for problem in np.unique(problems[problems != USABLE])
        }
        if (problems != USABLE).all():
            raise ValueError(
                f"none of the {len(rows)} {kind} is usable; {rows[first]['place']}: {PROBLEMS[problems[first]]}"
            )
        self.report[f"{kind}, {split}"] = {"rows": len(rows)} | found
        return rows.select(np.flatnonzero(problems == USABLE))

    def _hold_out(self, kind: Kind, splits: dict[Split, datasets.Dataset], split: Split, path: str) -> None:
        """Move a share of the training rows to `split`, of each label, at most so much and at least one row: of any one
        prompt all or none."""
        rows = splits["train"]
        keys = _hashes(rows, _prompt_or_texts)
        labels, held_out = _column(rows, "label"), np.zeros(len(rows), bool)
        for label in np.unique(labels):
            these = np.flatnonzero(labels == label)
            _, which, counts = np.unique(keys[these], return_inverse=True, return_counts=True)
            most = max(1, int(self.config.hold_out * len(these)))
            chosen, num_rows = [], 0
            for prompt in _order(len(counts), self.seed, f"{kind} held out for {split}", label).tolist():
                if num_rows + counts[prompt] <= most:  # one that too many rows share stays in training
                    chosen.append(prompt)
                    num_rows += counts[prompt]
            if num_rows in (0, len(these)):
                raise ValueError(
                    f"{path}: of {len(these)} rows with {len(counts)} different prompts or texts no share of "
                    f"{self.config.hold_out} can be held out for the {split} split: that is {most} at most, each "
                    f"prompt has {counts.min()} or more, and some must be left for training; give more, or a split of "
                    f"its own (data.hold-out, data.{split}-split)"
                )
            held_out[these[np.isin(which, chosen)]] = True
        splits["train"] = rows.select(np.flatnonzero(~held_out))
        splits[split] = rows.select(np.flatnonzero(held_out))

    def _pairing(self, rows: datasets.Dataset) -> LabelledTexts | None:
        labels = _column(rows, "label")
        if (labels == NO_LABEL).all():
            return None
        if (labels == NO_LABEL).any():
            raise ValueError(f"{self.config.preferences} has both labelled texts and comparisons, expected one of them")
        return LabelledTexts(rows, labels, lambda row: row["completions"][0], self.config.crop_words)

    def _find_prompts(self) -> dict[Split, datasets.Dataset]:
        config = self.config
        for path, rows in (
            (config.prompts, self._read("prompts", config.prompts)),
            (config.preferences, self._preferences),
            (config.demonstrations, self._demonstrations),
        ):
            found = self._different(rows, path)
            if found:
                for split in TEST_FIRST:
                    if split not in rows:
                        self._hold_out("prompts", found, split, path)
                return found
        return {}

    def _leave_out_held_out_prompts(self) -> None:
        """Remove the training rows whose prompt is held out, for the policy or in a comparison, from demonstrations,
        comparisons and prompts. Rows without a prompt are identified by their texts."""
        tested = [
            _hashes(rows[split], _prompt_or_texts)
            for rows in (self._prompts, self._preferences)
            for split in HELD_OUT
            if rows
        ]
        held_out = np.setdiff1d(np.concatenate([np.zeros(0, np.uint64), *tested]), [NO_PROMPT])
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
        kept = np.flatnonzero(~np.isin(_hashes(rows, _prompt_or_texts), held_out))
        left_out = len(rows) - len(kept)
        if not len(kept):
            purpose = "training" if split == "train" else split
            raise ValueError(f"{path}: the prompts of all {left_out} rows for {purpose} are held out")
        if left_out:
            splits[split], counts = rows.select(kept), self.report[f"{kind}, {split}"]
            counts["left out: held out elsewhere"] = counts.get("left out: held out elsewhere", 0) + left_out

    def _different(self, rows: dict[Split, datasets.Dataset], path: str) -> dict[Split, datasets.Dataset]:
        """Each prompt once, in a random order, those of the test split not in the other; none where all are empty."""
        hashes = {split: _hashes(rows[split], _prompt) for split in (*TEST_FIRST, "train") if split in rows}
        empty = [split for split in hashes if (hashes[split] == NO_PROMPT).all()]
        if len(empty) == len(hashes):
            return {}
        if empty:
            names, filled = split_names(self.config), next(split for split in hashes if split not in empty)
            raise ValueError(
                f"{path}: none of the {len(rows[empty[0]])} rows of {names[empty[0]]!r} has a prompt, as rows of "
                f"{names[filled]!r} have"
            )
        seen, found = np.array([NO_PROMPT]), {}
        for split, hashed in hashes.items():
            _, firsts = np.unique(hashed, return_index=True)
            firsts = firsts[~np.isin(hashed[firsts], seen)]
            seen = np.concatenate([seen, hashed[firsts]])
            found[split] = rows[split].select(firsts[_order(len(firsts), self.seed, f"order of {split} prompts")])
            if not len(found[split]):
                raise ValueError(f"{path}: every prompt of the {split} split is also one of another split")
        return found


def split_names(config: DataConfig) -> dict[Split, str]:
    """The names of the splits in the user's files."""
    return {"train": config.train_split, "validation": config.validation_split, "test": config.test_split}


def _texts(rows: datasets.Dataset, of: Callable[[Mapping[str, Any]], T]) -> Texts[T]:
    def read(first: int, last: int) -> list[T]:
        return [of(row) for row in rows_of(rows[first:last])]

    return Texts(len(rows), read, rows._fingerprint, place=lambda number: rows[number]["place"])


def _prompt(row: Mapping[str, Any]) -> str:
    return row["prompt"]


def _prompt_or_texts(row: Mapping[str, Any]) -> str:
    return row["prompt"] or "\n".join(row["completions"])


def _column(rows: datasets.Dataset, name: str) -> np.ndarray:
    return np.asarray(rows.with_format("numpy")[name][:])


def _order(count: int, seed: int, name: str, *position: int) -> np.ndarray:
    return torch.randperm(count, generator=generator(seed, name, *position)).numpy()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


NO_PROMPT = np.uint64(_hash(""))


def _hashes(rows: datasets.Dataset, text_of: Callable[[Mapping[str, Any]], str]) -> np.ndarray:
    """Eight bytes for each row's text, instead of the texts, which memory may not hold."""
    hashes = (_hash(text_of(row)) for batch in rows.iter(CHUNK) for row in rows_of(batch))
    return np.fromiter(hashes, np.uint64, len(rows))
