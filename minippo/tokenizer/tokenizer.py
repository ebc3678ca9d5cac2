"""Text <-> token ids, and the bridge from the policy's tokens to the reward model's.

Every tokenizer is byte-level BPE by tiktoken, behind a table from tiktoken's ranks to the ids of the model. Text is
always encoded as ordinary text: a review that spells `<|endoftext|>` or `</s>` becomes the letters, never the token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from operator import index
from pathlib import Path

import tiktoken

from minippo.tokenizer.bpe import GPT2_SPLIT, merges_of_ranks
from minippo.tokenizer.tiktoken_files import TiktokenVocabulary, write_tiktoken
from minippo.tokenizer.vocab_json import END_OF_TEXT, PublicVocabulary, public_files

PAD = "<|pad|>"
"""What stands for a pad in `public_files`, where there is no such token."""

NEVER_IN_UTF8 = [bytes([byte]) for byte in (0xC0, 0xC1, *range(0xF5, 0x100))]

# tiktoken's newer spelling of the same pattern.
_GPT2_SPLITS = (GPT2_SPLIT, r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""")


class Tokenizer:
    """Text <-> token ids from 0 to `vocab_size` - 1, of which `eos_id` is the end of a text.

    `pad_id` fills the unused places of a batch. GPT-2 has no token for it and reuses `eos_id`, OPT has one; nothing
    ever looks at a pad, because masks are built from positions and travel with the batch.

    Nothing is put before a text, not even OPT's `</s>`: the policy and the reward model see their texts from us alone,
    in training and afterwards, and always without it. So the one end-of-text in what a model reads is the end.
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
        """`encoding` splits and merges. `special_tokens`: id of each token that no text has, by default those of the
        encoding. `ids[rank]`: id of the token of that rank; by default its rank. `pad` is by default `eos`.

        Raises ValueError where two tokens have the same id, or the end-of-text or the pad has none.
        """
        ranks = encoding._mergeable_ranks
        self.encoding, self.name = encoding, encoding.name
        self.special_tokens = dict(encoding._special_tokens if special_tokens is None else special_tokens)
        self.eos, self.pad = eos, pad or eos
        self._ids = list(range(max(ranks.values()) + 1) if ids is None else ids)
        self._bytes = {self._ids[rank]: token for token, rank in ranks.items()}
        all_ids = {*self._bytes, *self.special_tokens.values()}
        if len(all_ids) != len(ranks) + len(self.special_tokens) or min(all_ids) < 0:
            raise ValueError(
                f"tokenizer {self.name!r}: {len(ranks)} tokens and {len(self.special_tokens)} special tokens have "
                f"{len(all_ids)} different ids, from {min(all_ids)} on"
            )
        for token in (self.eos, self.pad):
            if token not in self.special_tokens:
                raise ValueError(f"tokenizer {self.name!r} has no token {token!r}")
        self.eos_id, self.pad_id = self.special_tokens[self.eos], self.special_tokens[self.pad]
        self.vocab_size = max(all_ids) + 1

    @cached_property
    def non_text_ids(self) -> tuple[int, ...]:
        """The ids below `vocab_size`, other than `eos_id`, that no text has, and a policy should never draw: special
        tokens, and ids that no token has."""
        return tuple(i for i in range(self.vocab_size) if i not in self._bytes and i != self.eos_id)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, as ordinary text: no special token comes of it, before it or behind it."""
        return [self._ids[rank] for rank in self.encoding.encode_ordinary(text)]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text; on short ones the threads of tiktoken's own batches take three times as long."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. What is not UTF-8 (a cut-off character) becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`. The end-of-text, `non_text_ids` and ids from `vocab_size` on have none."""
        return b"".join([self._bytes.get(index(i), b"") for i in ids])

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
        """Write the merges in tiktoken's text format, and what it cannot say into `path`.json.

        So `load_tokenizer(path)` gives back any tokenizer, and needs nothing else.
        """
        ranks, pattern = self.encoding._mergeable_ranks, self.encoding._pat_str
        ids = None if all(i == rank for rank, i in enumerate(self._ids)) else self._ids
        vocabulary = TiktokenVocabulary(self.name, ranks, self.special_tokens, pattern, ids, self.eos, self.pad)
        write_tiktoken(path, vocabulary)

    @cached_property
    def spare_id(self) -> int:
        """An id that stands in no text, though it has an embedding: that of a byte which UTF-8 never uses.

        Raises ValueError where all such bytes are parts of longer tokens.
        """
        used = {byte for token in self._bytes.values() if len(token) > 1 for byte in token}
        for i, token in sorted(self._bytes.items(), key=lambda item: item[1], reverse=True):
            if token in NEVER_IN_UTF8 and token[0] not in used:
                return i
        raise ValueError(f"tokenizer {self.name} has no id to pad with: its tokens use every byte")

    def public_files(self, pad_id: int | None = None) -> dict[str, str]:
        """Name -> text of the files from which `transformers` makes a tokenizer with the same ids for ordinary text.
        (It finds special tokens in a text unless told not to.)

        `pad_id` fills its batches: an id that no text has, or `spare_id`; by default ours. Raises ValueError where a
        table of merges cannot say what this tokenizer does.
        """
        try:
            merges = merges_of_ranks(self.encoding._mergeable_ranks)
        except ValueError as error:
            raise ValueError(f"{self.name} cannot be written as merges: {error}") from error
        ids, special_tokens = {token: i for i, token in self._bytes.items()}, dict(self.special_tokens)
        names = {i: token for token, i in special_tokens.items()}
        if pad_id is not None and pad_id not in names:  # the pad takes the place of what no text has
            ids = {token: i for token, i in ids.items() if i != pad_id}
            names[pad_id], special_tokens[PAD] = PAD, pad_id
        pad = self.pad if pad_id is None else names[pad_id]
        pattern = "" if self.encoding._pat_str in _GPT2_SPLITS else self.encoding._pat_str
        return public_files(PublicVocabulary(merges, ids, special_tokens, self.eos, pad), pattern)


def whole_characters(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """The longest beginning of `ids` that ends between two characters.

    Prompts are cut here, so that prompt and response decode apart and together to the same text.
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
    """What the reward model reads, in its training and in scoring alike: prompt + response + its own end-of-text.

    The score is read at that last token. Text beyond `max_length` ids in all is cut at its end.
    """
    texts = [prompt + response for prompt, response in zip(prompts, responses, strict=True)]
    return [[*ids[: max_length - 1], tokenizer.eos_id] for ids in tokenizer.encode_batch(texts)]
