"""Tokenizers: text <-> token ids, and text of the policy -> tokens of the reward model.

`load_tokenizer` loads tiktoken files, GPT-2-type vocabularies (`vocab.json` and `merges.txt`, or `tokenizer.json`) and
names of tiktoken or the Hugging Face hub; `train_bpe` trains one. `reward_tokens` is the bridge between the two models,
which need not share a tokenizer.
"""

from minippo.tokenizer.loading import load_tokenizer, make_tokenizer, tokenizer_in, train_bpe, trained_size
from minippo.tokenizer.tokenizer import Tokenizer, reward_tokens, whole_characters

__all__ = [
    "Tokenizer",
    "load_tokenizer",
    "make_tokenizer",
    "reward_tokens",
    "tokenizer_in",
    "train_bpe",
    "trained_size",
    "whole_characters",
]
