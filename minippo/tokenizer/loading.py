"""Loads tokenizers from files or by name, or trains them on texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tiktoken

from minippo.storage import bundled
from minippo.tokenizer.bpe import GPT2_SPLIT, SINGLE_BYTES, ranks_of_merges, train_ranks
from minippo.tokenizer.tiktoken_files import read_tiktoken
from minippo.tokenizer.tokenizer import Tokenizer
from minippo.tokenizer.vocab_json import END_OF_TEXT, VOCABULARY_FILES, read_vocabulary


def load_tokenizer(name_or_path: str | Path) -> Tokenizer:
    """Load a tokenizer. `name_or_path` is, in this order of precedence:

    - a file in tiktoken's format, with a `.json` file next to it if necessary (`Tokenizer.save`);
    - a folder with a vocabulary of GPT-2's type: `vocab.json` and `merges.txt`, or `tokenizer.json`;
    - a name of tiktoken ("gpt2", "cl100k_base");
    - a repository with such files on the Hugging Face hub ("facebook/opt-125m").

    Raises ValueError if it is none of these, or if the tokenizer's ids cannot be reproduced exactly, and
    FileNotFoundError if files are missing or cannot be downloaded.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_file():
        return _from_file(path)
    if path.is_dir():
        return _from_public(name, path)
    if name in tiktoken.list_encoding_names():
        with _fetching(name):
            return Tokenizer(tiktoken.get_encoding(name))
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        from huggingface_hub import snapshot_download  # here, because only public tokenizers need the network

        with _fetching(name):
            folder = snapshot_download(name, allow_patterns=list(VOCABULARY_FILES))
        return _from_public(name, Path(folder))
    known = ", ".join(tiktoken.list_encoding_names())
    raise ValueError(
        f"unknown tokenizer {name!r}: expected a file in tiktoken's format, a folder with vocab.json and merges.txt, a "
        f"name of tiktoken ({known}) or a name on the Hugging Face hub (owner/name)"
    )


@contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Turn network errors into a FileNotFoundError of one sentence."""
    try:
        yield
    except OSError as error:
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(f"the tokenizer {name} cannot be downloaded: {reason}") from error


def _from_file(path: Path) -> Tokenizer:
    vocabulary = read_tiktoken(path)
    try:
        encoding = _encoding(vocabulary.name, vocabulary.ranks, vocabulary.pattern)
        return Tokenizer(
            encoding, vocabulary.special_tokens, ids=vocabulary.ids, eos=vocabulary.eos, pad=vocabulary.pad
        )
    except ValueError as error:
        raise ValueError(f"{path} and {path.name}.json are not a tokenizer: {error}") from error


def _from_public(name: str, folder: Path) -> Tokenizer:
    try:
        public = read_vocabulary(folder)
        # Single bytes are ranked in the order of their ids, so that in GPT-2's own vocabulary every id is the rank.
        ranks = ranks_of_merges(public.merges, sorted(SINGLE_BYTES, key=public.ids.__getitem__))
    except ValueError as error:
        files = "tokenizer.json" if (folder / "tokenizer.json").exists() else "vocab.json and merges.txt"
        raise ValueError(f"the tokenizer {name} cannot be loaded: {error} (from its {files})") from error
    ids = [public.ids[token] for token in ranks]  # (ranks,) `ranks` is in ascending order
    return Tokenizer(_encoding(name, ranks), public.special_tokens, ids=ids, eos=public.eos, pad=public.pad)


def _encoding(name: str, ranks: dict[bytes, int], pattern: str = GPT2_SPLIT) -> tiktoken.Encoding:
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def train_bpe(texts: Iterable[str], vocab_size: int, name: str = "bpe") -> Tokenizer:
    """Train a byte-level BPE on `texts`, with `vocab_size` ids including end-of-text, which is the last one.

    The vocabulary is smaller if the texts have no more pairs to merge.
    """
    if vocab_size < 257:
        raise ValueError(f"a byte-level vocabulary needs 256 bytes and end-of-text, at least 257 ids, not {vocab_size}")
    ranks = train_ranks(texts, vocab_size - 1)
    return Tokenizer(_encoding(name, ranks), {END_OF_TEXT: len(ranks)})


def tokenizer_in(folder: Path) -> Tokenizer | None:
    """The tokenizer whose files lie in a folder, such as that of public weights; None if there are none to load."""
    try:
        return _from_public(str(folder), folder)
    except (ValueError, FileNotFoundError):
        return None


def make_tokenizer(name: str, texts: Sequence[str]) -> Tokenizer:
    """The tokenizer that an option such as `model.policy.tokenizer` names; "train:4096" trains one on `texts`."""
    if (size := trained_size(name)) is not None:
        return train_bpe(texts, size)
    return load_tokenizer(bundled(name) if bundled(name).is_file() else name)


def trained_size(name: str) -> int | None:
    """The number of ids in the vocabulary that "train:4096" trains; None if `name` names a tokenizer that exists."""
    match = re.fullmatch(r"train:(\d{1,9})", name, re.ASCII)
    return int(match[1]) if match else None
