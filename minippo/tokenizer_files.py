"""A tokenizer as Hugging Face's tools load it: `tokenizer.json` with its vocabulary and merges."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

from minippo.tokenizer import GPT2_SPLIT, Tokenizer

PAD = "<|pad|>"
# tiktoken writes GPT-2's pattern in another way that matches the same.
_GPT2_SPLITS = (GPT2_SPLIT, r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""")
_NOT_IN_UTF8 = (0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0xFA, 0xF9, 0xF8, 0xF7, 0xF6, 0xF5, 0xC1, 0xC0)


def spare_id(tokenizer: Tokenizer) -> int:
    """An id that has an embedding and stands in no text: that of a byte which UTF-8 never uses.

    Raises ValueError where all of them are parts of other tokens.
    """
    ids = _ids(tokenizer)
    used = {byte for token in ids if len(token) > 1 for byte in token}
    spare = [byte for byte in _NOT_IN_UTF8 if byte not in used]
    if not spare:
        raise ValueError(f"tokenizer {tokenizer.name} has no id to pad with: its tokens use every byte")
    return ids[bytes([spare[0]])]


def tokenizer_files(tokenizer: Tokenizer, pad_id: int) -> dict[str, str]:
    """Name -> text of the files; they give the same ids, save that special tokens are found in texts that spell them.

    `pad_id` is the id of a special token or `spare_id`. Raises ValueError where merges of pairs cannot say what the
    tokenizer does.
    """
    ids, special = _ids(tokenizer), dict(tokenizer.encoding._special_tokens)
    merges = [[_letters(part) for part in pair] for pair in merged_pairs(tokenizer)]
    if pad_id not in special.values():
        special[PAD] = pad_id
    letters = {index: _letters(token) for token, index in ids.items()}
    letters |= {index: name for name, index in special.items()}
    if len(set(letters.values())) != len(letters):
        raise ValueError(f"tokenizer {tokenizer.name}: an ordinary token is spelled like a special one")
    contents = {
        "version": "1.0",
        "added_tokens": [_added(letters[index], index) for index in sorted(special.values())],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(tokenizer.encoding._pat_str),
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": {letters[index]: index for index in sorted(letters)}, "merges": merges},
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": letters[tokenizer.eos_id],
        "eos_token": letters[tokenizer.eos_id],
        "pad_token": letters[pad_id],
        "clean_up_tokenization_spaces": False,
    }
    files = {"tokenizer.json": contents, "tokenizer_config.json": settings}
    return {name: json.dumps(value, indent=1, ensure_ascii=False) + "\n" for name, value in files.items()}


def _ids(tokenizer: Tokenizer) -> dict[bytes, int]:
    """The id of every token that is bytes."""
    return tokenizer.encoding._mergeable_ranks


def merged_pairs(tokenizer: Tokenizer) -> list[tuple[bytes, bytes]]:
    """The pair of tokens that each longer token is merged from, in the order of merging.

    tiktoken merges any two neighbours that are a token together, the lowest rank first. By the time a token's turn
    comes, all lower ranks have been merged within it, so only one pair can be left. Raises ValueError where it is none.
    """
    ranks = tokenizer.encoding._mergeable_ranks
    pairs = []
    for token in sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__):
        parts = [bytes([byte]) for byte in token]
        while True:
            lower = [ranks.get(a + b, ranks[token]) for a, b in pairwise(parts)]
            if not lower or min(lower) >= ranks[token]:
                break
            place = lower.index(min(lower))
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) != 2:
            raise ValueError(
                f"tokenizer {tokenizer.name} cannot be written as merges of pairs: its token {token!r} comes of no "
                f"pair, but of {parts}"
            )
        pairs.append((parts[0], parts[1]))
    return pairs


def _byte_letters() -> list[str]:
    # Bytes that print stand for themselves, the others for the letters from U+0100 on (Radford et al. 2019).
    printing = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    other = iter(range(256, 512))
    return [chr(byte if byte in printing else next(other)) for byte in range(256)]


_LETTERS = _byte_letters()


def _letters(token: bytes) -> str:
    return "".join(_LETTERS[byte] for byte in token)


def _added(content: str, index: int) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **plain, "special": True}


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if pattern in _GPT2_SPLITS:
        return byte_level | {"use_regex": True}
    # A possessive {1,3}+ (cl100k_base's) is another thing to the library that reads this; an atomic group is the same.
    pattern = re.sub(r"(\\p\{\w+\}|\[[^\]]*\]|\\?.)(\{\d+,?\d*\})\+", r"(?>\1\2)", pattern)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level | {"use_regex": False}]}
