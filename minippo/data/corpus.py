"""The interface of a corpus, and the choice between the three: bundled reviews, IMDB reviews, your own files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from minippo.data.bundled import BundledReviews
from minippo.data.imdb import IMDB
from minippo.data.own import OwnData
from minippo.data.texts import Comparison, Demonstration, Texts
from minippo.splits import Split

if TYPE_CHECKING:
    from minippo.answers import Judge
    from minippo.config import Config


class Corpus(Protocol):
    """Texts for the three stages. A corpus without texts of one kind returns empty `Texts`."""

    judge: Judge | None
    """The simulated human, if the corpus has one. Only evaluations use it."""
    report: dict[str, dict[str, int]]
    """Numbers of rows: what was read, what was dropped and why, what is used."""
    labelled: bool
    """Whether the comparisons pair texts with labels, 1 before 0, so that a text can also be classified by itself."""
    fingerprint: str
    """A hash of the contents of all files, wherever they are. A run must not be resumed with other texts."""

    def demonstrations(self, split: Split) -> Texts[Demonstration]:
        """Texts for the reference policy to imitate."""
        ...

    def comparisons(self, split: Split, epoch: int = 0) -> Texts[Comparison]:
        """Training data of the reward model. A corpus that makes pairs from labelled texts pairs them anew in every
        epoch."""
        ...

    def prompts(self, split: Split) -> Texts[str]:
        """Prompts for the policy, in a fixed random order. No two splits share a prompt."""
        ...


def load_corpus(config: Config) -> Corpus:
    """Open the corpus that `config.data` names.

    Raises FileNotFoundError if its files do not exist, and ValueError if their contents cannot be used.
    """
    seed = split_seed(config)
    corpus: Corpus
    if config.data.source == "imdb":
        corpus = IMDB(config.data, seed)
    elif config.data.source == "files":
        corpus = OwnData(config.data, seed)
    else:
        corpus = BundledReviews(config.data)
    if config.rm.objective == "labels" and not corpus.labelled:
        data = config.data
        where = f"data.preferences {data.preferences}" if data.source == "files" else f"data.source {data.source}"
        raise ValueError(f"rm.objective labels needs texts with labels 1 and 0, but {where} has comparisons")
    return corpus


def split_seed(config: Config) -> int:
    """Seed of the order and the held-out rows of IMDB and of your own files. The bundled reviews do not need it."""
    return config.seed if config.data.seed is None else config.data.seed


def judge_of(config: Config) -> Judge | None:
    """The judge of the corpus that `config.data` names, without reading the corpus."""
    return BundledReviews.judge if config.data.source == "reviews" else None
