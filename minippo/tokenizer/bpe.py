"""Byte-pair encoding (BPE): learns merges from texts, and converts between two ways to store them.

A merge joins two neighbouring tokens into a longer one. A word starts as single bytes; as long as a merge applies to
it, the one with the highest priority is carried out. There are two ways to write down the priorities:

- a table of merges (Hugging Face's `merges.txt`): pairs of tokens, in descending order of priority;
- ranks (tiktoken): a number for every token. The pair whose joined bytes have the lowest rank is merged first.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import regex

from minippo.errors import quoted

# How GPT-2 splits text into words before merging (Radford et al. 2019). No merge crosses a word boundary.
GPT2_SPLIT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

SINGLE_BYTES = [bytes([byte]) for byte in range(256)]

Merge = tuple[bytes, bytes]

MAX_LENGTHS = 10**8
"""Sum of the squared lengths of all tokens, which `last_parts` takes about as many steps for; GPT-2's is some
million."""


def train_ranks(texts: Iterable[str], num_tokens: int) -> dict[bytes, int]:
    """Learn merges (Sennrich et al. 2016) of bytes (Radford et al. 2019). Returns token -> rank, at most `num_tokens`.

    Start with the 256 bytes and repeatedly make the most frequent pair of neighbours a token. Of equally frequent pairs
    the one with the smaller bytes wins, so that the result depends on the texts only.
    """
    split = regex.compile(GPT2_SPLIT)
    counts = Counter(word for text in texts for word in split.findall(text))
    words = [[bytes([byte]) for byte in word.encode()] for word in counts]
    frequency = list(counts.values())

    pair_count: Counter[Merge] = Counter()
    words_with = defaultdict(set)  # pair -> indices of the words that contain it
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pair_count[pair] += frequency[index]
            words_with[pair].add(index)
    # Entries are not updated when counts change; an outdated entry is recognised by comparison with `pair_count`.
    heap = [(-count, pair) for pair, count in pair_count.items()]
    heapq.heapify(heap)

    ranks = {token: rank for rank, token in enumerate(SINGLE_BYTES)}
    while len(ranks) < num_tokens and heap:
        count, pair = heapq.heappop(heap)
        if -count != pair_count[pair] or count == 0:
            continue
        ranks.setdefault(pair[0] + pair[1], len(ranks))
        changed = set()
        for index in words_with.pop(pair):
            old = words[index]
            new = _merge(old, pair)
            for sign, word in ((-1, old), (1, new)):
                for neighbours in pairwise(word):
                    pair_count[neighbours] += sign * frequency[index]
                    changed.add(neighbours)
                    if sign > 0:
                        words_with[neighbours].add(index)
            words[index] = new
        for neighbours in changed:
            if pair_count[neighbours] > 0:
                heapq.heappush(heap, (-pair_count[neighbours], neighbours))
    return ranks


def _merge(word: list[bytes], pair: Merge) -> list[bytes]:
    merged, position = [], 0
    while position < len(word):
        if tuple(word[position : position + 2]) == pair:
            merged.append(pair[0] + pair[1])
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return merged


def last_parts(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The parts into which tiktoken has merged the bytes of `token` before its last step: two, if the other tokens'
    merges lead to `token` at all, otherwise more."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not joined:
            break
        _, i = min(joined)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def ranks_of_merges(merges: Sequence[Merge], single_bytes: Sequence[bytes] = SINGLE_BYTES) -> dict[bytes, int]:
    """Ranks with which tiktoken encodes every text as Hugging Face's BPE does with this table of merges: first
    `single_bytes`, then the results of the merges.

    The two algorithms differ. Hugging Face merges the neighbours whose *pair* comes first in the table. tiktoken merges
    those whose *joined bytes* have the lowest rank, whichever two parts they consist of, and encodes a word that is a
    token as that token without merging. They agree if every merge is the last step by which the bytes of its result
    become one token:

        for every merge (a, b):  last_parts(a + b) == [a, b],  and no other merge results in a + b.

    Proof: at the first step where they differ, tiktoken joins x + y, whose merge in the table is another pair (a, b).
    No merge has crossed the ends of these bytes so far, so they have been merged as if they were a word of their own;
    but such a word becomes a and b, not x and y. And a word that is a token also becomes that token by merging.

    If the condition fails, some merge is never used, which does not happen in tables that were trained. tiktoken would
    encode a word that equals its result as one token; Hugging Face would leave the parts or reach it by another merge.

    Raises ValueError, with an example, if the condition fails.
    """
    _check_lengths(a + b for a, b in merges)
    ranks = {token: rank for rank, token in enumerate(single_bytes)}
    for a, b in merges:
        if a + b in ranks:
            raise ValueError(
                f"two merges result in {_show(a + b)}, the second is {_show(a, b)}: tiktoken has one rank per token, "
                "so it cannot give them different priorities"
            )
        ranks[a + b] = len(ranks)
    # Shortest first: the merges of all parts are then known to agree, so that the example shows Hugging Face's result.
    for a, b in sorted(merges, key=lambda merge: len(merge[0] + merge[1])):
        parts = last_parts(a + b, ranks)
        if parts != [a, b]:
            raise ValueError(
                f"the merge {_show(a, b)} is never used: the text {_show(a + b)} becomes {_show(*parts)}, but tiktoken "
                "would encode it as one token"
            )
    return ranks


def merges_of_ranks(ranks: Mapping[bytes, int]) -> list[Merge]:
    """The table of merges for these ranks, in order of priority: the inverse of `ranks_of_merges`.

    Raises ValueError, with an example, if a token cannot be reached by merging two others.
    """
    _check_lengths(ranks)
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1:
            parts = last_parts(token, ranks)
            if len(parts) != 2:
                raise ValueError(f"no merge results in the token {_show(token)}: the others make it {_show(*parts)}")
            merges.append((parts[0], parts[1]))
    return merges


def _check_lengths(tokens: Iterable[bytes]) -> None:
    if sum(len(token) ** 2 for token in tokens) > MAX_LENGTHS:
        raise ValueError("its tokens are so long that comparing their merges would take minutes")


def _show(*tokens: bytes) -> str:
    return " + ".join(quoted(token)[1:] for token in tokens)
