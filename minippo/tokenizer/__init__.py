"""tokenizer."""

from minippo.tokenizer.loading import load_tokenizer, make_tokenizer, train_bpe
from minippo.tokenizer.tokenizer import Tokenizer, reward_tokens, whole_characters

__all__ = [
    "Tokenizer",
    "load_tokenizer",
    "make_tokenizer",
    "reward_tokens",
    "train_bpe",
    "whole_characters",
]
