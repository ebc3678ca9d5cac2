"""Tokenizers in tiktoken's text format: a line for each token, base64 of its bytes, a space, its rank.

What that format cannot say, whatever differs from GPT-2's pattern, ids and one special token, goes into a `.json`
beside it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType

from minippo.storage import checked, entry, read_object
from minippo.tokenizer.bpe import GPT2_SPLIT, SINGLE_BYTES
from minippo.tokenizer.vocab_json import END_OF_TEXT

_LINE = re.compile(r"((?:[A-Za-z\d+/]{4})*(?:[A-Za-z\d+/]{2}==|[A-Za-z\d+/]{3}=)?) (\d+)", re.ASCII)


@dataclass(frozen=True)
class TiktokenVocabulary:
    """What the two files say."""

    name: str
    ranks: dict[bytes, int]
    special_tokens: dict[str, int]
    """Id of each token that no text has."""
    pattern: str = GPT2_SPLIT
    """Cuts texts into words."""
    ids: Sequence[int] | None = None
    """Id of the token of each rank; None: its rank."""
    eos: str = END_OF_TEXT
    pad: str = END_OF_TEXT


def write_tiktoken(path: Path, vocabulary: TiktokenVocabulary) -> None:
    """Write `path`, and `path`.json where it is needed."""
    ranks = sorted(vocabulary.ranks.items(), key=lambda item: item[1])
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks)
    path.write_text("".join(lines), encoding="ascii", newline="\n")
    usual = {END_OF_TEXT: len(ranks)}
    if (vocabulary.pattern, vocabulary.special_tokens, vocabulary.ids) != (GPT2_SPLIT, usual, None):
        rest = {"name": vocabulary.name, "pattern": vocabulary.pattern, "special_tokens": vocabulary.special_tokens}
        rest |= {"eos": vocabulary.eos, "pad": vocabulary.pad, "ids": vocabulary.ids}
        _rest_path(path).write_text(json.dumps(rest) + "\n", encoding="utf-8")
    else:
        _rest_path(path).unlink(missing_ok=True)  # that of another tokenizer, saved here before


def read_tiktoken(path: Path) -> TiktokenVocabulary:
    """What `write_tiktoken` wrote, or a file of tiktoken's own. Raises ValueError for anything else."""
    ranks, beside = _read_ranks(path), _rest_path(path)
    if not beside.is_file():
        # Ranks that skip an id (p50k_base's do) would let end-of-text collide with a token.
        if sorted(ranks.values()) != list(range(len(ranks))):
            raise ValueError(f"{path}: its {len(ranks)} tokens do not have the ranks 0 to {len(ranks) - 1}")
        return TiktokenVocabulary(path.stem, ranks, {END_OF_TEXT: len(ranks)})
    rest = read_object(beside)
    special_tokens = entry(rest, "special_tokens", beside, dict)
    ids = entry(rest, "ids", beside, list, NoneType)
    for token, index in special_tokens.items():
        checked(index, f"{beside}: the id of {token!r}", int)
    for rank, index in enumerate(ids or ()):
        checked(index, f"{beside}: the id of rank {rank}", int)
    if ids is not None and len(ids) <= max(ranks.values()):
        raise ValueError(f"{beside}: {len(ids)} ids are too few for ranks up to {max(ranks.values())}")
    eos = entry(rest, "eos", beside, str, NoneType) or END_OF_TEXT
    return TiktokenVocabulary(
        entry(rest, "name", beside, str),
        ranks,
        special_tokens,
        entry(rest, "pattern", beside, str),
        ids,
        eos,
        entry(rest, "pad", beside, str, NoneType) or eos,
    )


def _read_ranks(path: Path) -> dict[bytes, int]:
    # Not tiktoken's own reader: it caches by path, and would go on serving a file that has been replaced.
    ranks = {}
    for number, line in enumerate(path.read_text(encoding="ascii", errors="replace").splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"{path}, line {number}: expected 'base64 rank', found {line[:40]!r}")
        ranks[base64.b64decode(found[1])] = int(found[2])
    missing = sum(token not in ranks for token in SINGLE_BYTES)
    if missing:
        raise ValueError(f"{path} is not a byte-level vocabulary: {missing} of the 256 single bytes have no token")
    return ranks


def _rest_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")
