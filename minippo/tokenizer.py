"""Byte-level BPE: encode, decode, train; and the bridge from the policy's tokens to the reward model's.

Every tokenizer is a `tiktoken.Encoding` with one special token, `<|endoftext|>`. Text is always encoded as ordinary
text: a review that spells `<|endoftext|>` becomes the letters, never the token.
"""

from __future__ import annotations

import base64
import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import regex
import tiktoken

END_OF_TEXT = "<|endoftext|>"
# How GPT-2 cuts text into words before merging (Radford et al. 2019): merges never cross these borders.
GPT2_SPLIT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


class Tokenizer:
    """Text <-> token ids. `vocab_size` counts the end-of-text token, which has the id `eos_id`.

    `pad_id` fills the unused places of a batch. Like GPT-2 we have no token for it and reuse `eos_id`; nothing ever
    looks at a pad, because masks are built from positions and travel with the batch.
    """

    def __init__(self, encoding: tiktoken.Encoding) -> None:
        self.encoding = encoding
        self.name = encoding.name
        self.vocab_size = encoding.n_vocab
        self.eos_id = encoding.eot_token
        self.pad_id = self.eos_id
        self._special_ids = set(encoding._special_tokens.values())

    @property
    def textless_ids(self) -> tuple[int, ...]:
        """The ids that no text has, end-of-text not counted: other special tokens, and ids that nothing stands for."""
        return tuple(sorted(set(range(self.vocab_size)) - set(self.encoding._mergeable_ranks.values()) - {self.eos_id}))

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, as ordinary text and without an end-of-text token."""
        return self.encoding.encode_ordinary(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text; on short ones the threads of tiktoken's own batches take three times as long."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Special tokens have no text; what is not UTF-8 (a cut-off character) becomes U+FFFD."""
        return self.encoding.decode_bytes([i for i in ids if i not in self._special_ids]).decode(
            "utf-8", errors="replace"
        )

    def end_ids(self, stop_token: str = "") -> tuple[int, ...]:
        """The ids that end a response: end-of-text, and `stop_token` where one is given.

        Raises ValueError where that text is not exactly one token.
        """
        if not stop_token:
            return (self.eos_id,)
        ids = self.encode(stop_token)
        if len(ids) != 1:
            raise ValueError(f"the stop token {stop_token!r} is {len(ids)} tokens of {self.name}, and must be one")
        return (self.eos_id, ids[0])

    def save(self, path: Path) -> None:
        """Write the merges in tiktoken's text format: base64 of the token's bytes, a space, its rank.

        What that format cannot say, an unusual split pattern or further special tokens, goes into `path`.json.
        """
        ranks, special = self.encoding._mergeable_ranks, self.encoding._special_tokens
        lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in sorted(ranks.items(), key=_rank))
        path.write_text("".join(lines), encoding="ascii", newline="\n")
        if (self.encoding._pat_str, special) != (GPT2_SPLIT, {END_OF_TEXT: len(ranks)}):
            rest = {"name": self.name, "pattern": self.encoding._pat_str, "special_tokens": special}
            _rest_path(path).write_text(json.dumps(rest, indent=2) + "\n", encoding="utf-8")
        else:
            _rest_path(path).unlink(missing_ok=True)  # that of another tokenizer, saved here before


def _rest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _rank(item: tuple[bytes, int]) -> int:
    return item[1]


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """A tokenizer by tiktoken's name ("gpt2", "r50k_base", "cl100k_base") or from a file in tiktoken's format.

    Raises ValueError for a name that is neither, and for a file that does not hold a complete byte-level vocabulary.
    """
    path = Path(name_or_path)
    if path.is_file():
        ranks = _read_ranks(path)
        if not _rest_path(path).is_file():
            return _from_ranks(path.stem, ranks)
        rest = json.loads(_rest_path(path).read_text(encoding="utf-8"))
        return Tokenizer(
            tiktoken.Encoding(
                rest["name"],
                pat_str=rest["pattern"],
                mergeable_ranks=ranks,
                special_tokens=rest["special_tokens"],
            )
        )
    if str(name_or_path) not in tiktoken.list_encoding_names():
        known = ", ".join(tiktoken.list_encoding_names())
        raise ValueError(f"no tokenizer {str(name_or_path)!r}: neither a file nor one of tiktoken's names ({known})")
    return Tokenizer(tiktoken.get_encoding(str(name_or_path)))


def _read_ranks(path: Path) -> dict[bytes, int]:
    # Not tiktoken's own reader: it caches by path, and would go on serving a file that has been replaced.
    ranks = {}
    for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), start=1):
        token, _, rank = line.partition(" ")
        if not rank.isdigit():
            raise ValueError(f"{path}, line {number}: expected 'base64 rank', found {line[:40]!r}")
        ranks[base64.b64decode(token)] = int(rank)
    missing = sum(bytes([byte]) not in ranks for byte in range(256))
    if missing:
        raise ValueError(f"{path} is not a byte-level vocabulary: {missing} of the 256 single bytes have no token")
    return ranks


def _from_ranks(name: str, ranks: dict[bytes, int]) -> Tokenizer:
    # Ranks that skip an id (p50k_base's do) would let end-of-text collide with a token.
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"tokenizer {name!r}: its {len(ranks)} tokens do not have the ranks 0 to {len(ranks) - 1}")
    special = {END_OF_TEXT: len(ranks)}
    return Tokenizer(tiktoken.Encoding(name, pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens=special))


def train_bpe(texts: Iterable[str], vocab_size: int, name: str = "bpe") -> Tokenizer:
    """Byte-pair encoding (Sennrich et al. 2016) on bytes (Radford et al. 2019), `vocab_size` ids in all.

    Start from the 256 bytes; again and again give the most frequent neighbouring pair an id of its own. Of equally
    frequent pairs the one with the smaller bytes is merged, so that the result depends on nothing but the texts.
    The last id is end-of-text. Fewer ids come out where the texts run out of pairs.
    """
    if vocab_size < 257:
        raise ValueError(f"a byte-level vocabulary has at least 256 bytes and end-of-text, not {vocab_size} ids")
    split = regex.compile(GPT2_SPLIT)
    counts = Counter(word for text in texts for word in split.findall(text))
    words = [[bytes([byte]) for byte in word.encode()] for word in counts]
    frequency = list(counts.values())

    pair_count: Counter[tuple[bytes, bytes]] = Counter()
    where = defaultdict(set)  # pair -> the words that hold it
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pair_count[pair] += frequency[index]
            where[pair].add(index)
    # The heap may hold stale counts; an entry counts only if it agrees with `pair_count`.
    heap = [(-count, pair) for pair, count in pair_count.items()]
    heapq.heapify(heap)

    ranks = {bytes([byte]): byte for byte in range(256)}
    while len(ranks) < vocab_size - 1 and heap:
        count, pair = heapq.heappop(heap)
        if -count != pair_count[pair] or count == 0:
            continue
        merged = pair[0] + pair[1]
        ranks.setdefault(merged, len(ranks))
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
    return _from_ranks(name, ranks)


def _merge(word: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    merged, position = [], 0
    while position < len(word):
        if tuple(word[position : position + 2]) == pair:
            merged.append(pair[0] + pair[1])
            position += 2
        else:
            merged.append(word[position])
            position += 1
    return merged


def whole_characters(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The longest beginning of `ids` that ends between two characters.

    Prompts are cut here, so that prompt and response decode apart and together to the same text.
    """
    kept = list(ids)
    while kept:
        try:
            tokenizer.encoding.decode_bytes(kept).decode("utf-8")
            return kept
        except UnicodeDecodeError:
            kept.pop()
    return kept


def reward_tokens(
    tokenizer: Tokenizer, prompts: Sequence[str], responses: Sequence[str], max_length: int
) -> list[list[int]]:
    """What the reward model reads, in its training and in scoring alike: prompt + response + its own end-of-text.

    The score is read at that last token. Text beyond `max_length` ids in all is cut at its end.
    """
    texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    return [[*ids[: max_length - 1], tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
