"""Data: where texts come from, and how they become rows of token ids.

`load_corpus` opens one of three corpora: the bundled reviews, the IMDB reviews, or your own files (docs/data.md).
Each has three methods, `demonstrations`, `comparisons` and `prompts`, which return `Texts`: sequences that read their
items from disk on demand. `policy_rows`, `reward_rows`, `comparison_rows` and `prompt_rows` tokenise them into
memory-mapped files that later stages and runs reuse.

To add a corpus, write a class with the attributes and methods of `Corpus` and select it in `load_corpus`.
"""

from minippo.data.corpus import Corpus, judge_of, load_corpus, split_seed
from minippo.data.encode import TOKENIZER_TEXTS, comparison_rows, policy_rows, prompt_rows, reward_rows
from minippo.data.formats import unreadable
from minippo.data.imdb import IMDB
from minippo.data.rows import TokenGroups, TokenRows, windows
from minippo.data.texts import Comparison, Demonstration, Texts

__all__ = [
    "IMDB",
    "TOKENIZER_TEXTS",
    "Comparison",
    "Corpus",
    "Demonstration",
    "Texts",
    "TokenGroups",
    "TokenRows",
    "comparison_rows",
    "judge_of",
    "load_corpus",
    "policy_rows",
    "prompt_rows",
    "reward_rows",
    "split_seed",
    "unreadable",
    "windows",
]
