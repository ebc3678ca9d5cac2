"""reviews."""

from minippo.reviews.gold import gold_score
from minippo.reviews.grammar import is_grammatical, split_sentences

__all__ = [
    "gold_score",
    "is_grammatical",
    "split_sentences",
]
