"""Reads and writes public tokenizers: `vocab.json` and `merges.txt`, as GPT-2, OPT and RoBERTa have them, or
`tokenizer.json`, which contains both."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from minippo.errors import quoted
from minippo.storage import checked, entry, read_object, read_text
from minippo.tokenizer.bpe import Merge

END_OF_TEXT = "<|endoftext|>"

VOCABULARY_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)

# The tokenizers of `transformers` that split and merge texts as GPT-2's does.
_LIKE_GPT2 = ("GPT2Tokenizer", "RobertaTokenizer", "BartTokenizer", "LongformerTokenizer", "LEDTokenizer")

# Keys of a tokenizer.json -> accepted values, of which the first, GPT-2's, is also the default of a missing key.
_PIPELINE = {
    ("normalizer",): (None,),
    ("pre_tokenizer", "type"): ("ByteLevel",),
    ("pre_tokenizer", "add_prefix_space"): (False,),
    ("pre_tokenizer", "use_regex"): (True,),
    ("model", "type"): ("BPE",),
    ("model", "dropout"): (None, 0),
    ("model", "continuing_subword_prefix"): (None, ""),
    ("model", "end_of_word_suffix"): (None, ""),
    ("model", "byte_fallback"): (False,),
    ("model", "ignore_merges"): (False,),
}


def _letters() -> list[str]:
    # vocab.json spells bytes as characters: a printable byte as itself, others as U+0100 and up (Radford et al. 2019).
    printing = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    other = iter(range(256, 512))
    return [chr(byte if byte in printing else next(other)) for byte in range(256)]


_LETTER_OF_BYTE = _letters()

_BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(_LETTER_OF_BYTE)}


@dataclass(frozen=True)
class PublicVocabulary:
    """The contents of the files."""

    merges: list[Merge]
    """In descending order of priority."""
    ids: dict[bytes, int]
    """Ids of the tokens that texts are encoded to: the 256 bytes and the results of the merges."""
    special_tokens: dict[str, int]
    """Ids of all other tokens: end-of-text, padding, and unused ones such as "madeupword0000"."""
    eos: str
    pad: str


def read_vocabulary(folder: Path) -> PublicVocabulary:
    """Read a folder with `vocab.json` and `merges.txt`, or with `tokenizer.json`, which takes precedence.

    End-of-text and padding are named in `tokenizer_config.json` or `special_tokens_map.json`. By default they are
    `</s>` and `<pad>` if these have the ids 2 and 1, as in OPT and RoBERTa, and otherwise `<|endoftext|>` for both.

    Raises FileNotFoundError if files are missing, and ValueError if the tokenizer is not of GPT-2's type.
    """
    settings = _settings(folder / "special_tokens_map.json") | _settings(folder / "tokenizer_config.json")
    kind = (settings.get("tokenizer_class") or "GPT2Tokenizer").removesuffix("Fast")
    if settings.get("add_prefix_space"):
        raise ValueError("it adds a space before every text (add_prefix_space in its tokenizer_config.json)")
    if (folder / "tokenizer.json").exists():
        path = folder / "tokenizer.json"
        whole = read_object(path)
        _check_pipeline(whole)
        model = whole["model"]
        vocabulary, merges = entry(model, "vocab", path, dict), entry(model, "merges", path, list)
        rows = entry(whole, "added_tokens", path, list, NoneType) or []
        kinds, where = {"content": str, "id": int, "special": bool}, f"{path}: an added token"
        added = [tuple(entry(row, key, where, kind) for key, kind in kinds.items()) for row in rows]
    else:
        for name in ("vocab.json", "merges.txt"):
            if not (folder / name).exists():
                raise FileNotFoundError(f"{folder} is not a tokenizer: it has neither {name} nor tokenizer.json")
        if kind not in _LIKE_GPT2:
            like = ", ".join(_LIKE_GPT2)
            raise ValueError(
                f"{quoted(kind)[1:-1]} is not supported, only those that split texts as GPT-2 does: {like}"
            )
        vocabulary, merges = read_object(folder / "vocab.json"), _read_merges(folder / "merges.txt")
        added = _added_tokens(settings, _read_optional(folder / "added_tokens.json"), folder / "tokenizer_config.json")
    ordinary = [token for token, _, special in added if not special]
    if ordinary:
        raise ValueError(
            f"it finds {len(ordinary)} added tokens in texts before merging ({quoted(ordinary[0])}), which tiktoken "
            "cannot do"
        )
    for token, index, _ in added:
        if vocabulary.setdefault(token, index) != index:
            raise ValueError(f"the added token {quoted(token)} has the ids {quoted(vocabulary[token])} and {index}")
    pairs = [_pair(merge, number) for number, merge in enumerate(merges, start=1)]
    public = _vocabulary(vocabulary, pairs, settings.get("eos_token", ""), settings.get("pad_token", ""))
    if both := [token for token, *_ in added if token not in public.special_tokens]:
        raise ValueError(f"the added token {quoted(both[0])} is also an ordinary token")
    return public


def _read_optional(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one if the file does not exist."""
    return read_object(path) if path.exists() else {}


def _settings(path: Path) -> dict[str, Any]:
    """The settings in a file, each special token as its text; empty if the file does not exist."""
    settings = _read_optional(path)
    entry(settings, "tokenizer_class", path, str, NoneType)
    # add_bos_token and the like are true or false, not tokens
    special = {key for key in settings if key.endswith("_token") and not key.startswith("add_")}
    return settings | {key: _text(settings[key], f"{path}: {key}") for key in special}


def _read_merges(path: Path) -> list[str]:
    lines = read_text(path).split("\n")  # splitlines() would also split at characters that spell bytes
    return [line for line in lines if line and not line.startswith("#version")]


def _check_pipeline(whole: dict[str, Any]) -> None:
    whole = {"pre_tokenizer": None, "model": None} | whole  # a file without these has no defaults of GPT-2's
    for keys, allowed in _PIPELINE.items():
        value = whole
        for key in keys:
            value = value.get(key, allowed[0]) if isinstance(value, dict) else value
        if value not in allowed:
            raise ValueError(
                f"{'.'.join(keys)} in its tokenizer.json is {json.dumps(value)[:60]}, but must be "
                f"{json.dumps(allowed[0])}: only tokenizers that split and merge texts as GPT-2 does are supported"
            )


def _added_tokens(settings: dict[str, Any], added: dict[str, int], where: Path) -> list[tuple[str, int, bool]]:
    """The tokens that are not in `vocab.json`: text, id, and whether it is special, hence never looked for in texts."""
    tokens = []
    for index, row in (entry(settings, "added_tokens_decoder", where, dict, NoneType) or {}).items():
        if not re.fullmatch(r"\d{1,9}", index):
            raise ValueError(f"{where}: the keys of added_tokens_decoder should be ids, but one is {quoted(index)}")
        token = f"{where}: added_tokens_decoder {index}"
        tokens.append((entry(row, "content", token, str), int(index), entry(row, "special", token, bool)))
    # The older added_tokens.json does not say which tokens are special: those that have a role in another file are.
    special = {value for key, value in settings.items() if key.endswith("_token")}
    more = entry(settings, "additional_special_tokens", where, list, NoneType) or []
    special |= {_text(token, f"{where}: additional_special_tokens") for token in more}
    special |= {token for token, _, is_special in tokens if is_special}
    return tokens + [(token, index, token in special) for token, index in added.items()]


def _text(token: Any, where: str) -> str:
    """The text of a special token, given as a string, as an object with `content`, or as null (no such token)."""
    checked(token, where, str, dict, NoneType)
    return (entry(token, "content", where, str) if isinstance(token, dict) else token) or ""


def _pair(merge: Any, number: int) -> list[str]:
    """The two parts of a merge, given as a string with a space between them or as a list."""
    where = f"merge {number}"
    parts = checked(merge, where, str, list)
    return parts.split(" ") if isinstance(parts, str) else [checked(part, where, str) for part in parts]


def _vocabulary(vocabulary: dict[str, int], pairs: list[list[str]], eos: str, pad: str) -> PublicVocabulary:
    odd = [token for token, index in vocabulary.items() if type(index) is not int]
    if odd:
        index = quoted(vocabulary[odd[0]])
        raise ValueError(f"the token {quoted(odd[0])} has the id {index}, which is not an integer")
    for number, pair in enumerate(pairs, start=1):
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise ValueError(f"merge {number}, {quoted(' '.join(pair))}, does not join two tokens into a third one")
        if not _BYTE_OF_LETTER.keys() >= {*"".join(pair)}:
            raise ValueError(f"merge {number}, {quoted(' '.join(pair))}, has characters that do not spell a byte")
    missing = sum(letter not in vocabulary for letter in _LETTER_OF_BYTE)
    if missing:
        raise ValueError(f"it is not byte-level: {missing} of the 256 single bytes are not tokens")
    words = {*_LETTER_OF_BYTE, *("".join(pair) for pair in pairs)}
    special_tokens = {token: index for token, index in vocabulary.items() if token not in words}
    if not eos:
        like_opt = (vocabulary.get("</s>"), vocabulary.get("<pad>")) == (2, 1)
        eos, pad = ("</s>", pad or "<pad>") if like_opt else (END_OF_TEXT, pad)
    for token in (eos, pad or eos):
        if token not in special_tokens:
            problem = "is also an ordinary token" if token in words else "is not in its vocabulary"
            raise ValueError(
                f"the special token {quoted(token)} {problem}; name its end-of-text and padding in its "
                f'tokenizer_config.json ("eos_token", "pad_token"): {quoted(", ".join(special_tokens), 100)}'
            )
    return PublicVocabulary(
        merges=[(_bytes(first), _bytes(second)) for first, second in pairs],
        ids={_bytes(word): vocabulary[word] for word in words},
        special_tokens=special_tokens,
        eos=eos,
        pad=pad or eos,
    )


def _bytes(word: str) -> bytes:
    return bytes(_BYTE_OF_LETTER[letter] for letter in word)


def _word(token: bytes) -> str:
    return "".join(_LETTER_OF_BYTE[byte] for byte in token)


def public_files(vocabulary: PublicVocabulary, pattern: str = "") -> dict[str, str]:
    """Name -> contents of the files from which `transformers` (`AutoTokenizer`) loads a tokenizer with the same ids.

    `pattern` splits texts into words; by default it is GPT-2's. Nothing is prepended to a text, as in training, even if
    the public tokenizer that the model started from does so. Raises ValueError if two tokens would have the same name.
    """
    ids = {_word(token): index for token, index in vocabulary.ids.items()}
    ambiguous = ids.keys() & vocabulary.special_tokens.keys()
    if ambiguous:
        raise ValueError(f"an ordinary token has the same spelling as the special token {min(ambiguous)!r}")
    ids |= vocabulary.special_tokens
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = sorted(vocabulary.special_tokens.items(), key=lambda item: item[1])
    whole = {
        "version": "1.0",
        "added_tokens": [{"id": index, "content": token, **plain, "special": True} for token, index in special],
        "normalizer": None,
        "pre_tokenizer": _pre_tokenizer(pattern),
        "post_processor": None,
        "decoder": _BYTE_LEVEL | {"use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": dict(sorted(ids.items(), key=lambda item: item[1])),
            "merges": [[_word(a), _word(b)] for a, b in vocabulary.merges],
        },
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": vocabulary.eos,
        "eos_token": vocabulary.eos,
        "pad_token": vocabulary.pad,
        "clean_up_tokenization_spaces": False,
    }
    files = {"tokenizer.json": whole, "tokenizer_config.json": settings}
    return {name: json.dumps(contents, indent=1, ensure_ascii=False) + "\n" for name, contents in files.items()}


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def _pre_tokenizer(pattern: str) -> dict[str, Any]:
    if not pattern:
        return _BYTE_LEVEL | {"use_regex": True}
    # The library that reads this does not take {1,3}+ (in cl100k_base) as possessive; an atomic group means the same.
    pattern = re.sub(r"(\\p\{\w+\}|\[[^\]]*\]|\\?.)(\{\d+,?\d*\})\+", r"(?>\1\2)", pattern)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL | {"use_regex": False}]}
