"""data."""

from minippo.data.corpus import Corpus, judge_of, load_corpus
from minippo.data.encode import TOKENIZER_TEXTS, comparison_rows, policy_rows, prompt_rows, reward_rows
from minippo.data.rows import TokenGroups, TokenRows, windows
from minippo.data.texts import Comparison, Demonstration

__all__ = [
    "TOKENIZER_TEXTS",
    "Comparison",
    "Corpus",
    "Demonstration",
    "TokenGroups",
    "TokenRows",
    "comparison_rows",
    "judge_of",
    "load_corpus",
    "policy_rows",
    "prompt_rows",
    "reward_rows",
    "windows",
]
