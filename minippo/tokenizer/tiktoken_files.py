"""Tokenizers in tiktoken's text format: one line per token, with the base64 of its bytes, a space and its rank.

The format has no place for a split pattern, special tokens, or ids other than the ranks. If these differ from GPT-2's,
they are in a JSON file next to it, `NAME.json`.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

import regex

from minippo.errors import quoted
from minippo.storage import atomic_files, checked, entry, read_object, read_text, write_text
from minippo.tokenizer.bpe import GPT2_SPLIT, SINGLE_BYTES
from minippo.tokenizer.vocab_json import END_OF_TEXT

_LINE = re.compile(r"((?:[A-Za-z\d+/]{4})*(?:[A-Za-z\d+/]{2}==|[A-Za-z\d+/]{3}=)?) (\d{1,9})", re.ASCII)


# Every character of the alphabets up to Thai, alone and after a space, and long runs of some.
_PROBE = "".join(f"{chr(i)} {chr(i)}" for i in range(0xE80)) + "".join(100 * c for c in "a1!. \n\tA'é中😀a") + "!"


MAX_LINE = 100_000
"""Characters of a line; longer ones are refused without decoding them."""


@dataclass(frozen=True)
class TiktokenVocabulary:
    """The contents of the two files."""

    name: str
    ranks: dict[bytes, int]
    special_tokens: dict[str, int]
    """Ids of the tokens that no text is encoded to."""
    pattern: str = GPT2_SPLIT
    """Regular expression that splits texts into words."""
    ids: Sequence[int] | None = None
    """Id of the token of each rank; None: ids are ranks."""
    eos: str = END_OF_TEXT
    pad: str = END_OF_TEXT


def write_tiktoken(path: Path, vocabulary: TiktokenVocabulary) -> None:
    """Write `path` and, if necessary, `path`.json."""
    ranks, rest = tiktoken_texts(vocabulary)
    if rest:
        with atomic_files(_rest_path(path), path) as (rest_part, part):
            rest_part.write_bytes(rest.encode("utf-8"))
            part.write_bytes(ranks.encode("ascii"))
    else:
        write_text(path, ranks)
        _rest_path(path).unlink(missing_ok=True)  # left by another tokenizer that was saved here


def tiktoken_texts(vocabulary: TiktokenVocabulary) -> tuple[str, str]:
    """The contents of the two files; the second is empty if it is not necessary."""
    ranks = sorted(vocabulary.ranks.items(), key=lambda item: item[1])
    lines = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks)
    default = {END_OF_TEXT: len(ranks)}
    if (vocabulary.pattern, vocabulary.special_tokens, vocabulary.ids) == (GPT2_SPLIT, default, None):
        return lines, ""
    rest = {"name": vocabulary.name, "pattern": vocabulary.pattern, "special_tokens": vocabulary.special_tokens}
    rest |= {"eos": vocabulary.eos, "pad": vocabulary.pad, "ids": vocabulary.ids}
    return lines, json.dumps(rest) + "\n"


def read_tiktoken(path: Path) -> TiktokenVocabulary:
    """Read what `write_tiktoken` wrote, or a file of tiktoken itself. Raises ValueError for any other contents."""
    ranks, rest_path = _read_ranks(path), _rest_path(path)
    if not rest_path.exists():
        # End-of-text gets the id after the last rank. If ranks skip an id (p50k_base's do), that could be a token's.
        if sorted(ranks.values()) != list(range(len(ranks))):
            raise ValueError(f"{path}: the {len(ranks)} tokens must have the ranks 0 to {len(ranks) - 1}")
        return TiktokenVocabulary(path.stem, ranks, {END_OF_TEXT: len(ranks)})
    rest = read_object(rest_path)
    special_tokens = entry(rest, "special_tokens", rest_path, dict)
    ids = entry(rest, "ids", rest_path, list, NoneType)
    for token, index in special_tokens.items():
        checked(index, f"{rest_path}: the id of {token!r}", int)
    for rank, index in enumerate(ids or ()):
        checked(index, f"{rest_path}: the id of rank {rank}", int)
    if ids is not None and len(ids) != max(ranks.values()) + 1:
        problem = "few" if len(ids) <= max(ranks.values()) else "many"
        raise ValueError(f"{rest_path}: {len(ids)} ids are too {problem} for ranks up to {max(ranks.values())}")
    if both := [token for token in special_tokens if token.encode("utf-8", "replace") in ranks]:
        raise ValueError(f"{rest_path}: the special token {quoted(both[0])} is also an ordinary token in {path}")
    pattern = entry(rest, "pattern", rest_path, str)
    if pattern != GPT2_SPLIT:
        _check_pattern(pattern, rest_path)
    name = entry(rest, "name", rest_path, str)
    if len(name) > 200:
        raise ValueError(f"{rest_path}: the name has {len(name):,} characters, but must not have more than 200")
    eos = entry(rest, "eos", rest_path, str, NoneType) or END_OF_TEXT
    return TiktokenVocabulary(
        name,
        ranks,
        special_tokens,
        pattern,
        ids,
        eos,
        entry(rest, "pad", rest_path, str, NoneType) or eos,
    )


def _read_ranks(path: Path) -> dict[bytes, int]:
    # Not tiktoken's own reader: it caches by path and would return old contents after a file has been replaced.
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        match = _LINE.fullmatch(line[:MAX_LINE])
        if match is None:
            raise ValueError(f"{path}, line {number}: expected 'base64 rank', found {quoted(line)}")
        token, rank = base64.b64decode(match[1]), int(match[2])
        if token in ranks or not token:
            problem = "occurs on an earlier line, too" if token else "is empty"
            raise ValueError(f"{path}, line {number}: the token {quoted(token)} {problem}")
        ranks[token] = rank
    if len({*ranks.values()}) < len(ranks):
        twice, _ = Counter(ranks.values()).most_common(1)[0]
        raise ValueError(f"{path}: more than one token has the rank {twice}")
    missing = sum(token not in ranks for token in SINGLE_BYTES)
    if missing:
        raise ValueError(f"{path} is not a byte-level vocabulary: {missing} of the 256 single bytes are not tokens")
    return ranks


def _check_pattern(pattern: str, where: Path) -> None:
    """Raise ValueError unless the pattern is as simple as public ones, which split any text in little time, and splits
    texts into words without losing a character.

    tiktoken drops what lies between two matches, and fails if a match is empty or takes too many steps.
    """
    plain = re.sub(r"\\p\{\w+\}|\\[^1-9kg]|\[(?:\\.|[^\]\\])*\]", "x", pattern)  # without escapes and classes
    problem = ""
    if len(pattern) > 1000 or re.search(r"\)[*+{]|[}*+?][*{]|\\|\d{4}", plain):
        problem = "repeats a group, refers to one or is too long"
    else:
        try:
            words = [match[0] for match in regex.compile(pattern).finditer(_PROBE, timeout=0.5)]
            if "".join(words) != _PROBE or not all(words):
                problem = "does not split every text into words completely"
        except (regex.error, RecursionError, TimeoutError) as error:
            problem = f"is invalid: {str(error)[:80]}"
    if problem:
        raise ValueError(f"{where}: the pattern {quoted(pattern)} {problem}")


def _rest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")
