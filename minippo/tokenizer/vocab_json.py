"""Public tokenizers in and out: `vocab.json` and `merges.txt` as GPT-2, OPT and RoBERTa have them, or the
`tokenizer.json` that holds both."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from minippo.storage import checked, entry, read_object
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

# Of transformers' tokenizers that read vocab.json and merges.txt, those that split and merge as GPT-2's does.
_LIKE_GPT2 = ("GPT2Tokenizer", "RobertaTokenizer", "BartTokenizer", "LongformerTokenizer", "LEDTokenizer")

# What a tokenizer.json must say, GPT-2's own first, which also holds where it says nothing.
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
    # Bytes that print stand for themselves, the others for the letters from U+0100 on (Radford et al. 2019).
    printing = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    other = iter(range(256, 512))
    return [chr(byte if byte in printing else next(other)) for byte in range(256)]


_LETTER_OF_BYTE = _letters()

_BYTE_OF_LETTER = {letter: byte for byte, letter in enumerate(_LETTER_OF_BYTE)}


@dataclass(frozen=True)
class PublicVocabulary:
    """What the files say."""

    merges: list[Merge]
    """The one that goes first is first."""
    ids: dict[bytes, int]
    """Of the tokens that texts have: the 256 bytes, and what the merges make."""
    special_tokens: dict[str, int]
    """All others, which no text has: the end of a text, a pad, "madeupword0000"."""
    eos: str
    pad: str


def read_vocabulary(folder: Path) -> PublicVocabulary:
    """Read a folder with `vocab.json` and `merges.txt`, or with a `tokenizer.json`, which counts where both are there.

    The end-of-text and the pad are those of `tokenizer_config.json` or `special_tokens_map.json`. Where these name
    none: `</s>` and `<pad>` if they have the ids 2 and 1, as in OPT and RoBERTa, else `<|endoftext|>` for both.

    Raises FileNotFoundError where files are missing, and ValueError for a tokenizer that is not of GPT-2's type.
    """
    settings = _settings(folder / "special_tokens_map.json") | _settings(folder / "tokenizer_config.json")
    kind = (settings.get("tokenizer_class") or "GPT2Tokenizer").removesuffix("Fast")
    if settings.get("add_prefix_space"):
        raise ValueError("it puts a space before every text (add_prefix_space in its tokenizer_config.json)")
    if (folder / "tokenizer.json").is_file():
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
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} is no tokenizer: it has no {name}, and no tokenizer.json")
        if kind not in _LIKE_GPT2:
            raise ValueError(f"it is a {kind}; what splits texts as GPT-2 does can be loaded: {', '.join(_LIKE_GPT2)}")
        vocabulary, merges = read_object(folder / "vocab.json"), _read_merges(folder / "merges.txt")
        added = _added_tokens(settings, _read_optional(folder / "added_tokens.json"), folder / "tokenizer_config.json")
    ordinary = [token for token, _, special in added if not special]
    if ordinary:
        raise ValueError(
            f"it looks for {len(ordinary)} added tokens in a text before it merges ({ordinary[0]!r}); tiktoken cannot"
        )
    vocabulary = vocabulary | {token: index for token, index, _ in added}
    pairs = [_pair(merge, number) for number, merge in enumerate(merges, start=1)]
    return _vocabulary(vocabulary, pairs, settings.get("eos_token", ""), settings.get("pad_token", ""))


def _read_optional(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no file."""
    return read_object(path) if path.is_file() else {}


def _settings(path: Path) -> dict[str, Any]:
    """What a file says of the tokenizer, each special token as its text; nothing where there is no file."""
    found = _read_optional(path)
    entry(found, "tokenizer_class", path, str, NoneType)
    special = {key for key in found if key.endswith("_token") and not key.startswith("add_")}  # add_bos_token: true
    return found | {key: _text(found[key], f"{path}: {key}") for key in special}


def _read_merges(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").split("\n")  # splitlines would also split at letters that stand for bytes
    return [line for line in lines if line and not line.startswith("#version")]


def _check_pipeline(whole: dict[str, Any]) -> None:
    whole = {"pre_tokenizer": None, "model": None} | whole  # without these two it says something, only nothing of ours
    for keys, allowed in _PIPELINE.items():
        found = whole
        for key in keys:
            found = found.get(key, allowed[0]) if isinstance(found, dict) else found
        if found not in allowed:
            raise ValueError(
                f"its tokenizer.json says {'.'.join(keys)} {json.dumps(found)[:60]}, and only what splits and merges "
                f"texts as GPT-2 does can be, with {json.dumps(allowed[0])} there"
            )


def _added_tokens(settings: dict[str, Any], added: dict[str, int], where: Path) -> list[tuple[str, int, bool]]:
    """The tokens named beside `vocab.json`: text, id, and whether it is special, so never looked for in our texts."""
    found = []
    for index, row in (entry(settings, "added_tokens_decoder", where, dict, NoneType) or {}).items():
        if not index.isdecimal():
            raise ValueError(f"{where}: added_tokens_decoder should have ids for keys, and has {index!r}")
        token = f"{where}: added_tokens_decoder {index}"
        found.append((entry(row, "content", token, str), int(index), entry(row, "special", token, bool)))
    # The older added_tokens.json does not say which are special: those that have a role elsewhere.
    special = {value for key, value in settings.items() if key.endswith("_token")}
    more = entry(settings, "additional_special_tokens", where, list, NoneType) or []
    special |= {_text(token, f"{where}: additional_special_tokens") for token in more}
    special |= {token for token, _, is_special in found if is_special}
    return found + [(token, index, token in special) for token, index in added.items()]


def _text(token: Any, where: str) -> str:
    """That of a special token, which is given as that, or as an object that has it, or not at all."""
    checked(token, where, str, dict, NoneType)
    return (entry(token, "content", where, str) if isinstance(token, dict) else token) or ""


def _pair(merge: Any, number: int) -> list[str]:
    """The two parts of a merge, which is given as both with a space between them, or as a list."""
    where = f"its merge {number}"
    parts = checked(merge, where, str, list)
    return parts.split(" ") if isinstance(parts, str) else [checked(part, where, str) for part in parts]


def _vocabulary(vocabulary: dict[str, int], pairs: list[list[str]], eos: str, pad: str) -> PublicVocabulary:
    odd = [token for token, index in vocabulary.items() if type(index) is not int]
    if odd:
        raise ValueError(f"its token {odd[0]!r} has the id {vocabulary[odd[0]]!r}, which is no whole number")
    for number, pair in enumerate(pairs, start=1):
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise ValueError(f"its merge {number}, {' '.join(pair)[:40]!r}, does not join two known tokens to a third")
        if not _BYTE_OF_LETTER.keys() >= {*"".join(pair)}:
            raise ValueError(f"its merge {number}, {' '.join(pair)[:40]!r}, has letters that stand for no byte")
    missing = sum(letter not in vocabulary for letter in _LETTER_OF_BYTE)
    if missing:
        raise ValueError(f"it is not byte-level: {missing} of the 256 single bytes have no token")
    words = {*_LETTER_OF_BYTE, *("".join(pair) for pair in pairs)}
    special_tokens = {token: index for token, index in vocabulary.items() if token not in words}
    if not eos:
        like_opt = (vocabulary.get("</s>"), vocabulary.get("<pad>")) == (2, 1)
        eos, pad = ("</s>", pad or "<pad>") if like_opt else (END_OF_TEXT, pad)
    for token in (eos, pad or eos):
        if token not in special_tokens:
            problem = "is an ordinary token, too" if token in words else "is not in its vocabulary"
            raise ValueError(f"its special token {token!r} {problem}")
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
    """Name -> text of the files from which `transformers`, its `AutoTokenizer` too, makes a tokenizer of the same ids.

    `pattern` splits texts into words, by default GPT-2's. Nothing is put before a text, as our models are trained, also
    where the public model's own tokenizer does so. Raises ValueError where two tokens would have the same name.
    """
    ids = {_word(token): index for token, index in vocabulary.ids.items()}
    alike = ids.keys() & vocabulary.special_tokens.keys()
    if alike:
        raise ValueError(f"an ordinary token is spelled like the special one {min(alike)!r}")
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
    # A possessive {1,3}+ (cl100k_base's) is another thing to the library that reads this; an atomic group is the same.
    pattern = re.sub(r"(\\p\{\w+\}|\[[^\]]*\]|\\?.)(\{\d+,?\d*\})\+", r"(?>\1\2)", pattern)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL | {"use_regex": False}]}
