"""Where texts come from: the bundled reviews, the IMDB reviews, or somebody's own files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from minippo.config import Config
from minippo.data.own import OwnData
from minippo.data.texts import Comparison, Demonstration, Texts
from minippo.splits import Split

if TYPE_CHECKING:
    pass
from minippo.data.bundled import BundledReviews
from minippo.data.imdb import IMDB
from minippo.evaluation import Judge

T = TypeVar("T")


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
