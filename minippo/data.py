"""Where texts come from, and how they become batches.

A corpus gives demonstrations (what the reference policy imitates), comparisons (what the reward model learns from) and
prompts (what the policy answers). A preference pair is a ranking of two.
"""

from __future__ import annotations

import bz2
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from minippo.config import Config, DataConfig
from minippo.reviews import gold_score, is_grammatical, split_sentences
from minippo.tokenizer import Tokenizer, load_tokenizer, train_bpe, whole_characters

Split = Literal["train", "test"]
TOKENIZER_TEXTS = 10_000  # as many texts say which pairs of bytes are frequent
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Demonstration:
    """A text to imitate; `prompt` may be empty."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Comparison:
    """Completions of the same kind, the preferred one first. IMDB has no prompts: there the whole text is compared."""

    prompt: str
    ranked: tuple[str, ...]


@dataclass(frozen=True)
class Judge:
    """What plays the human, where a corpus has it: never used in training."""

    gold_score: Callable[[str, str], float]
    """Of a prompt and a response; above 0 is positive."""
    split_sentences: Callable[[str], list[str]]
    is_grammatical: Callable[[str], bool]
    """Of a sentence."""


class Corpus(Protocol):
    """What the three stages ask of a source of texts."""

    judge: Judge | None

    def demonstrations(self) -> list[Demonstration]: ...

    def comparisons(self, split: Split, epoch: int = 0) -> list[Comparison]:
        """Where pairs are made rather than given, every epoch pairs anew."""
        ...

    def prompts(self, split: Split) -> list[str]:
        """In a random order that is always the same; the two splits share none."""
        ...


def load_corpus(config: Config) -> Corpus:
    """The corpus that `config.data` names. Raises FileNotFoundError where its files are not there."""
    if config.data.source == "imdb":
        return IMDB(config.data, config.seed)
    return BundledReviews(config.data)


class BundledReviews:
    """The reviews of `minippo/reviews.py`, from the files that it wrote."""

    judge = Judge(gold_score, split_sentences, is_grammatical)

    def __init__(self, config: DataConfig) -> None:
        self.folder, self.limit = bundled(config.folder), config.limit
        splits = [f"{kind}-{split}" for kind in ("preferences", "rankings", "prompts") for split in ("train", "test")]
        for name in ("demonstrations", *splits):
            if not self._path(name).is_file():
                raise FileNotFoundError(f"{self.folder} has no {self._path(name).name} (data.folder)")

    def demonstrations(self) -> list[Demonstration]:
        return [Demonstration(row["prompt"], row["completion"]) for row in self._rows("demonstrations")]

    def comparisons(self, split: Split, epoch: int = 0) -> list[Comparison]:
        pairs = [
            Comparison(row["prompt"], (row["chosen"], row["rejected"])) for row in self._rows(f"preferences-{split}")
        ]
        return pairs + [Comparison(row["prompt"], tuple(row["ranked"])) for row in self._rows(f"rankings-{split}")]

    def prompts(self, split: Split) -> list[str]:
        return [row["prompt"] for row in self._rows(f"prompts-{split}", limit=0)]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl.bz2"

    def _rows(self, name: str, limit: int | None = None) -> list[dict[str, Any]]:
        with bz2.open(self._path(name), "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        limit = self.limit if limit is None else limit
        return rows[:limit] if limit else rows


class IMDB:
    """The Large Movie Review Dataset (Maas et al. 2011): sentiment labels become preferences.

    Language models train on the training and the unlabelled reviews. A comparison is a positive against a negative
    review, both cut to `crop_words` words at a random place. Prompts are beginnings of test reviews, which no language
    model and no reward model has been trained on: one thousand for evaluation, the others for PPO.
    """

    judge = None
    EVALUATION_PROMPTS = 1000

    def __init__(self, config: DataConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        files = {split: f"{config.imdb_path}/{split}.parquet" for split in ("train", "test", "unsupervised")}
        import datasets  # slow to import, and needed by this corpus alone

        datasets.disable_progress_bars()
        if Path(config.imdb_path).exists():
            missing = [path for path in files.values() if not Path(path).is_file()]
            if missing:
                raise FileNotFoundError(f"{config.imdb_path} is no IMDB folder: {', '.join(missing)} not found")
            self.rows = datasets.load_dataset("parquet", data_files=files)
        elif config.imdb_path.count("/") == 1 and not config.imdb_path.startswith((".", "/")):
            self.rows = datasets.load_dataset(config.imdb_path)
        else:
            raise FileNotFoundError(f"no IMDB folder {config.imdb_path} (data.imdb-path)")

    def demonstrations(self) -> list[Demonstration]:
        texts = [clean(text) for split in ("train", "unsupervised") for text in self.rows[split]["text"]]
        random.Random(self.seed).shuffle(texts)
        return [Demonstration("", text) for text in texts[: self.config.limit or None]]

    def comparisons(self, split: Split, epoch: int = 0) -> list[Comparison]:
        chance = random.Random(f"{self.seed} {split} {epoch}")
        by_label: dict[int, list[str]] = {0: [], 1: []}
        for text, label in zip(self.rows[split]["text"], self.rows[split]["label"], strict=True):
            by_label[label].append(crop(clean(text), self.config.crop_words, chance))
        for texts in by_label.values():
            chance.shuffle(texts)
        pairs = zip(by_label[1], by_label[0], strict=False)
        return [Comparison("", pair) for pair in pairs][: self.config.limit or None]

    def prompts(self, split: Split) -> list[str]:
        # A word is a token or more, so these words hold every prompt of `query_length` tokens.
        texts = [" ".join(clean(text).split(" ")[: self.config.query_length]) for text in self.rows["test"]["text"]]
        texts = list(dict.fromkeys(texts))  # the file holds some reviews twice, and many begin alike
        random.Random(self.seed).shuffle(texts)  # and is sorted by label
        n = self.EVALUATION_PROMPTS
        return texts[:n] if split == "test" else texts[n:]


def clean(text: str) -> str:
    """An IMDB review without its HTML line breaks."""
    return " ".join(text.replace("<br />", " ").split())


def crop(text: str, num_words: int, chance: random.Random) -> str:
    """`num_words` words of `text` from a random place; all of a shorter one."""
    words = text.split(" ")
    start = chance.randrange(max(1, len(words) - num_words + 1))
    return " ".join(words[start : start + num_words])


def bundled(path: str | Path) -> Path:
    """`path`, or where there is no such thing, the same path in the repository."""
    path = Path(path)
    return path if path.exists() or path.is_absolute() else REPOSITORY / path


def make_tokenizer(name: str, texts: Sequence[str]) -> Tokenizer:
    """The tokenizer that `model.*.tokenizer` names; "train:4096" trains one on `texts`."""
    kind, _, size = name.partition(":")
    if kind == "train" and size.isdigit():
        return train_bpe(texts[:TOKENIZER_TEXTS], int(size))
    return load_tokenizer(bundled(name) if bundled(name).is_file() else name)


def query_ids(tokenizer: Tokenizer, prompts: Sequence[str], query_length: int) -> list[list[int]]:
    """Prompts as the policy reads them: at most the first `query_length` ids, cut between two characters.

    Raises ValueError where nothing is left of one, since a response has to follow something.
    """
    queries = [whole_characters(tokenizer, ids[:query_length]) for ids in tokenizer.encode_batch(prompts)]
    for prompt, ids in zip(prompts, queries, strict=True):
        if not ids:
            raise ValueError(f"the prompt {prompt!r} has no whole character in its first {query_length} tokens")
    return queries


class RowSource:
    """Endless batches of rows of ids (prompts, demonstrations), each epoch shuffled anew. Its place is one number,
    `drawn`."""

    def __init__(self, rows: Sequence[list[int]], batch_size: int, seed: int, drawn: int = 0) -> None:
        if not rows:
            raise ValueError("there are no rows to draw from")
        self.rows, self.batch_size, self.seed, self.drawn = rows, batch_size, seed, drawn
        self._epoch, self._order = -1, [0]

    def __next__(self) -> list[list[int]]:
        batch = []
        for _ in range(self.batch_size):
            epoch, place = divmod(self.drawn, len(self.rows))
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                self._epoch, self._order = epoch, torch.randperm(len(self.rows), generator=generator).tolist()
            batch.append(self.rows[self._order[place]])
            self.drawn += 1
        return batch


# ---------------------------------------------------------------------------------------------- collation


def pad(rows: Sequence[Sequence[int]], pad_id: int, side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
    """Rows of ids -> (B, longest) ids and a mask that is True where a token is real."""
    tokens = torch.full((len(rows), max(map(len, rows))), pad_id, dtype=torch.long)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(tokens.shape[1] - len(row), None)
        tokens[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = True
    return tokens, mask


def windows(rows: Sequence[list[int]], length: int) -> list[list[int]]:
    """Every row cut into pieces of at most `length` ids; pieces of a single id, which predict nothing, are left out."""
    pieces = (row[start : start + length] for row in rows for start in range(0, len(row), length))
    return [piece for piece in pieces if len(piece) > 1]


def length_batches(lengths: Sequence[int], batch_tokens: int, generator: torch.Generator) -> Iterator[list[int]]:
    """One epoch of batches of indices, in random order: rows of like length, about `batch_tokens` with the padding."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    order.sort(key=lambda index: lengths[index])  # stable, so rows of one length stay shuffled
    batches: list[list[int]] = [[]]
    for index in order:
        if batches[-1] and (len(batches[-1]) + 1) * lengths[index] > batch_tokens:
            batches.append([])
        batches[-1].append(index)
    for place in torch.randperm(len(batches), generator=generator).tolist():
        yield batches[place]
