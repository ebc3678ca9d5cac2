"""Byte-pair encoding: learn the merges from texts, and what they must be like for tiktoken to apply them.

A merge joins two neighbouring tokens into one. A table of merges is a list of pairs, the first of which goes first; in
tiktoken it is a rank for every token, the lowest of which goes first.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import regex

# How GPT-2 cuts text into words before merging (Radford et al. 2019): merges never cross these borders.
GPT2_SPLIT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

SINGLE_BYTES = [bytes([byte]) for byte in range(256)]

Merge = tuple[bytes, bytes]


def train_ranks(texts: Iterable[str], num_tokens: int) -> dict[bytes, int]:
    """Byte-pair encoding (Sennrich et al. 2016) on bytes (Radford et al. 2019): token -> rank, at most `num_tokens`.

    Start from the 256 bytes; again and again give the most frequent neighbouring pair an id of its own. Of equally
    frequent pairs the one with the smaller bytes is merged, so that the result depends on nothing but the texts.
    """
    split = regex.compile(GPT2_SPLIT)
    counts = Counter(word for text in texts for word in split.findall(text))
    words = [[bytes([byte]) for byte in word.encode()] for word in counts]
    frequency = list(counts.values())

    pair_count: Counter[Merge] = Counter()
    where = defaultdict(set)  # pair -> the words that hold it
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pair_count[pair] += frequency[index]
            where[pair].add(index)
    # The heap may hold stale counts; an entry counts only if it agrees with `pair_count`.
    heap = [(-count, pair) for pair, count in pair_count.items()]
    heapq.heapify(heap)

    ranks = {token: rank for rank, token in enumerate(SINGLE_BYTES)}
    while len(ranks) < num_tokens and heap:
        count, pair = heapq.heappop(heap)
        if -count != pair_count[pair] or count == 0:
            continue
        ranks.setdefault(pair[0] + pair[1], len(ranks))
        changed = set()
        for index in where.pop(pair):
            old = words[index]
            new = _merge(old, pair)
            for sign, word in ((-1, old), (1, new)):
                for neighbours in pairwise(word):
                    pair_count[neighbours] += sign * frequency[index]
                    changed.add(neighbours)
                    if sign > 0:
                        where[neighbours].add(index)
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
    """What tiktoken has made of the bytes of `token` when only `token` itself is left to be made: two parts, where
    merging leads there at all."""
    parts = [token[place : place + 1] for place in range(len(token))]
    while len(parts) > 2:
        joined = [(ranks[a + b], place) for place, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not joined:
            break
        _, place = min(joined)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def ranks_of_merges(merges: Sequence[Merge], single_bytes: Sequence[bytes] = SINGLE_BYTES) -> dict[bytes, int]:
    """The ranks with which tiktoken merges as Hugging Face's BPE does with this table: `single_bytes`, then the merges.

    The two differ. Hugging Face joins the neighbours whose *pair* comes first in the table; tiktoken those whose
    *joined bytes* have the lowest rank, however they are cut in two, and takes a word that is a token as it is. They
    agree where every merge is the one by which the bytes of its own token become that token:

        for every merge (a, b):  last_parts(a + b) == [a, b],  and no other merge makes a + b.

    Then they agree on every text. For where they first differ, tiktoken would join x + y to a token whose merge is
    another pair (a, b). No merge has crossed the ends of those bytes, so in between the same has happened as happens
    to them alone; but alone they become a and b, not x and y. And a word that is a token becomes it by merging, too.

    Otherwise some merge is never used, which training never writes. Its token, where it is a word of its own, is one
    token to tiktoken, while Hugging Face leaves the parts, or makes it by another merge with another place.

    Raises ValueError, with an example, where it does not hold.
    """
    ranks = {token: rank for rank, token in enumerate(single_bytes)}
    for a, b in merges:
        if a + b in ranks:
            raise ValueError(
                f"two of its merges make {_show(a + b)}, the second is {_show(a, b)}: each has its own place in the "
                "table, but tiktoken knows one rank for a token"
            )
        ranks[a + b] = len(ranks)
    # The shortest first: everything in it is then known to agree, so that the example is what Hugging Face makes of it.
    for a, b in sorted(merges, key=lambda merge: len(merge[0] + merge[1])):
        parts = last_parts(a + b, ranks)
        if parts != [a, b]:
            raise ValueError(
                f"its merge {_show(a, b)} is never used: the text {_show(a + b)} becomes {_show(*parts)}, but tiktoken "
                "would make it one token"
            )
    return ranks


def merges_of_ranks(ranks: Mapping[bytes, int]) -> list[Merge]:
    """The table of merges, in its order, that `ranks` were made from; `ranks_of_merges` is the way back.

    Raises ValueError, with an example, where no table of merges makes all tokens.
    """
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1:
            parts = last_parts(token, ranks)
            if len(parts) != 2:
                raise ValueError(f"no merge makes its token {_show(token)}; the others make {_show(*parts)} of it")
            merges.append((parts[0], parts[1]))
    return merges


def _show(*tokens: bytes) -> str:
    return " + ".join(repr(token)[1:] for token in tokens)
