"""Text <-> token ids, and the bridge from the policy's tokens to the reward model's tokens.

Every tokenizer is a byte-level BPE encoded by tiktoken, plus a table from tiktoken's ranks to the model's ids. Text is
always encoded as ordinary text: a review that spells out `<|endoftext|>` or `</s>` never becomes that special token.

The bridge: policy and reward model may have different tokenizers, so a response reaches the reward model as text. It is
decoded with the policy's tokenizer, and prompt and response together are encoded with the reward model's
(`reward_tokens`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from operator import index
from pathlib import Path

import tiktoken

from minippo.errors import quoted
from minippo.tokenizer.bpe import GPT2_SPLIT, merges_of_ranks
from minippo.tokenizer.tiktoken_files import TiktokenVocabulary, tiktoken_texts, write_tiktoken
from minippo.tokenizer.vocab_json import END_OF_TEXT, PublicVocabulary, public_files

PAD = "<|pad|>"
"""Name of the padding token in `public_files` if the tokenizer has none."""

MAX_IDS = 1_000_000
"""Four times as many ids as the largest public vocabularies have."""

NEVER_IN_UTF8 = [bytes([byte]) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))]

# The same pattern as tiktoken's newer versions write it, with possessive quantifiers.
_GPT2_SPLITS = (GPT2_SPLIT, r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""")


class Tokenizer:
    """Text <-> token ids from 0 to `vocab_size` - 1. `eos_id` marks the end of a text.

    `pad_id` fills batches up. GPT-2 has no padding token and reuses `eos_id`, OPT has one. No computation depends on
    it, because masks are built from positions and travel with the batch.

    Nothing is prepended to a text, not even OPT's `</s>`: both models are trained and used without it. Hence the only
    end-of-text token that a model reads is the one at the end.
    """

    def __init__(
        self,
        encoding: tiktoken.Encoding,
        special_tokens: Mapping[str, int] | None = None,
        *,
        ids: Sequence[int] | None = None,
        eos: str = END_OF_TEXT,
        pad: str = "",
    ) -> None:
        """Args:

        - `encoding` splits texts into words and merges bytes into tokens.
        - `special_tokens` maps tokens that no text is encoded to (end-of-text, padding) to their ids; by default those
          of `encoding`.
        - `ids[rank]` is the model's id of the token with this rank; by default the rank itself.
        - `eos` and `pad` are special tokens; `pad` is `eos` by default.

        Raises ValueError if two tokens have the same id, or `eos` or `pad` is not a special token.
        """
        ranks = encoding._mergeable_ranks
        self.encoding, self.name = encoding, encoding.name
        self.special_tokens = dict(encoding._special_tokens if special_tokens is None else special_tokens)
        self.eos, self.pad = eos, pad or eos
        largest = max(*ranks.values(), *(ids or ()), *self.special_tokens.values())
        if largest >= MAX_IDS:  # every id below it would take memory, too
            raise ValueError(
                f"tokenizer {self.name!r}: ids and ranks must be below {MAX_IDS:,}, but one is {quoted(largest)}"
            )
        self._ids = list(range(max(ranks.values()) + 1) if ids is None else ids)
        self._bytes = {self._ids[rank]: token for token, rank in ranks.items()}
        all_ids = {*self._bytes, *self.special_tokens.values()}
        if len(all_ids) != len(ranks) + len(self.special_tokens) or min(all_ids) < 0:
            raise ValueError(
                f"tokenizer {self.name!r}: {len(ranks)} tokens and {len(self.special_tokens)} special tokens must have "
                f"different ids from 0 on, but have {len(all_ids)} different ids from {min(all_ids)} on"
            )
        for token in (self.eos, self.pad):
            if token not in self.special_tokens:
                names = ", ".join(map(repr, self.special_tokens)) or "it has none"
                raise ValueError(
                    f"tokenizer {self.name!r} has no special token {quoted(token)}: name those that are its "
                    f"end-of-text and padding, `eos` and `pad` ({names[:200]})"
                )
        self.eos_id, self.pad_id = self.special_tokens[self.eos], self.special_tokens[self.pad]
        self.vocab_size = max(all_ids) + 1

    @cached_property
    def non_text_ids(self) -> tuple[int, ...]:
        """Ids that no text is encoded to, except `eos_id`: special tokens and unassigned ids. A policy must not sample
        them."""
        return tuple(i for i in range(self.vocab_size) if i not in self._bytes and i != self.eos_id)

    def has_same_ids(self, other: Tokenizer) -> bool:
        """Whether no id means one text here and another text there."""
        return all(other._bytes.get(i, token) == token for i, token in self._bytes.items())

    def encode(self, text: str) -> list[int]:
        """The ids of `text` as ordinary text: it never becomes a special token, and none is added to it."""
        return [self._ids[rank] for rank in self.encoding.encode_ordinary(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` every text. Three times as fast on short texts as tiktoken's threaded `encode_batch`."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Bytes that are not valid UTF-8 (an incomplete character) become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`. `eos_id`, `non_text_ids` and ids outside the vocabulary have no bytes."""
        return b"".join([self._bytes.get(index(i), b"") for i in ids])

    def end_ids(self, stop_token: str = "") -> tuple[int, ...]:
        """The ids that end a response: end-of-text, and `stop_token` if it is given.

        Raises ValueError if that text is not exactly one token.
        """
        if not stop_token:
            return (self.eos_id,)
        ids = self.encode(stop_token)
        if len(ids) != 1:
            raise ValueError(f"the stop token {stop_token!r} must be one token of {self.name}, but is {len(ids)}")
        return (self.eos_id, ids[0])

    def save(self, path: Path) -> None:
        """Write the ranks in tiktoken's text format, and everything that this format cannot express to `path`.json.

        `load_tokenizer(path)` restores any tokenizer from these files alone.
        """
        write_tiktoken(path, self._vocabulary())

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that `save` writes. It is part of the cache key of all tokens made by this tokenizer."""
        return hashlib.sha256("\0".join(tiktoken_texts(self._vocabulary())).encode()).hexdigest()

    def _vocabulary(self) -> TiktokenVocabulary:
        ranks, pattern = self.encoding._mergeable_ranks, self.encoding._pat_str
        ids = None if all(i == rank for rank, i in enumerate(self._ids)) else self._ids
        return TiktokenVocabulary(self.name, ranks, self.special_tokens, pattern, ids, self.eos, self.pad)

    @cached_property
    def spare_id(self) -> int:
        """An id with an embedding that no text is encoded to: that of a byte which never occurs in UTF-8.

        Raises ValueError if all such bytes are parts of longer tokens.
        """
        used = {byte for token in self._bytes.values() if len(token) > 1 for byte in token}
        for i, token in sorted(self._bytes.items(), key=lambda item: item[1], reverse=True):
            if token in NEVER_IN_UTF8 and token[0] not in used:
                return i
        raise ValueError(f"tokenizer {self.name} has no unused id for padding: its tokens use every byte")

    def public_files(self, pad_id: int | None = None) -> dict[str, str]:
        """Name -> contents of files from which `transformers` loads a tokenizer with the same ids for ordinary text.
        (Unlike this class, it looks for special tokens in a text unless told not to.)

        `pad_id` becomes its padding token: one of `non_text_ids`, or `spare_id`; by default it is this tokenizer's.
        Raises ValueError if no table of merges expresses this tokenizer.
        """
        try:
            merges = merges_of_ranks(self.encoding._mergeable_ranks)
        except ValueError as error:
            raise ValueError(f"tokenizer {self.name} cannot be expressed as merges: {error}") from error
        ids, special_tokens = {token: i for i, token in self._bytes.items()}, dict(self.special_tokens)
        names = {i: token for token, i in special_tokens.items()}
        if pad_id is not None and pad_id not in names:  # the padding token replaces an unused one
            ids = {token: i for token, i in ids.items() if i != pad_id}
            names[pad_id], special_tokens[PAD] = PAD, pad_id
        pad = self.pad if pad_id is None else names[pad_id]
        pattern = "" if self.encoding._pat_str in _GPT2_SPLITS else self.encoding._pat_str
        return public_files(PublicVocabulary(merges, ids, special_tokens, self.eos, pad), pattern)


def whole_characters(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The longest beginning of `ids` that ends between two characters.

    A byte-level token may end within a character. Prompts are cut between characters, so that decoding prompt and
    response separately yields the same text as decoding them together.
    """
    kept = list(ids)
    while kept:
        try:
            tokenizer.decode_bytes(kept).decode("utf-8")
            return kept
        except UnicodeDecodeError:
            kept.pop()
    return kept


def reward_tokens(
    tokenizer: Tokenizer, prompts: Sequence[str], responses: Sequence[str], max_length: int
) -> list[list[int]]:
    """The tokens that the reward model reads, in training and in scoring: prompt + response, then its own end-of-text.

    The score is read at that last token. The text is cut at its end if there are more than `max_length` ids in total.
    """
    texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    return [[*ids[: max_length - 1], tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
