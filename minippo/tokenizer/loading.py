"""Tokenizers from files, by name, or trained on texts."""

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
    """A tokenizer from any of these, the first that there is:

    - a file in tiktoken's format, with what it cannot say in a `.json` beside it (`Tokenizer.save`);
    - a folder with `vocab.json` and `merges.txt`, or `tokenizer.json`, of GPT-2's type;
    - one of tiktoken's names ("gpt2", "cl100k_base");
    - the name of a repository with such files on the Hugging Face hub ("facebook/opt-125m").

    Raises ValueError for what is none of them, and for a tokenizer whose ids cannot be reproduced exactly;
    FileNotFoundError where files are missing or cannot be fetched.
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
        from huggingface_hub import snapshot_download  # only who asks for a public tokenizer needs the network

        with _fetching(name):
            folder = snapshot_download(name, allow_patterns=list(VOCABULARY_FILES))
        return _from_public(name, Path(folder))
    known = ", ".join(tiktoken.list_encoding_names())
    raise ValueError(
        f"no tokenizer {name!r}: neither a file in tiktoken's format, nor a folder with vocab.json and merges.txt, nor "
        f"one of tiktoken's names ({known}), nor a name on the Hugging Face hub (owner/name)"
    )


@contextmanager
def _fetching(name: str) -> Iterator[None]:
    """Say in one sentence what could not be had from the network."""
    try:
        yield
    except OSError as error:
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(f"the tokenizer {name} is not here and cannot be fetched: {reason}") from error


def _from_file(path: Path) -> Tokenizer:
    found = read_tiktoken(path)
    try:
        encoding = _encoding(found.name, found.ranks, found.pattern)
        return Tokenizer(encoding, found.special_tokens, ids=found.ids, eos=found.eos, pad=found.pad)
    except ValueError as error:
        raise ValueError(f"{path} and {path.name}.json make no tokenizer: {error}") from error


def _from_public(name: str, folder: Path) -> Tokenizer:
    try:
        public = read_vocabulary(folder)
        # Bytes ranked as their ids are, so that in GPT-2's own vocabulary all ids are ranks.
        ranks = ranks_of_merges(public.merges, sorted(SINGLE_BYTES, key=public.ids.__getitem__))
    except ValueError as error:
        raise ValueError(f"the tokenizer {name} cannot be loaded: {error}") from error
    ids = [public.ids[token] for token in ranks]  # in the order of the ranks
    return Tokenizer(_encoding(name, ranks), public.special_tokens, ids=ids, eos=public.eos, pad=public.pad)


def _encoding(name: str, ranks: dict[bytes, int], pattern: str = GPT2_SPLIT) -> tiktoken.Encoding:
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


def train_bpe(texts: Iterable[str], vocab_size: int, name: str = "bpe") -> Tokenizer:
    """A byte-level BPE trained on `texts`, with `vocab_size` ids in all, the last of which is end-of-text.

    Fewer ids come out where the texts run out of pairs.
    """
    if vocab_size < 257:
        raise ValueError(f"a byte-level vocabulary has at least 256 bytes and end-of-text, not {vocab_size} ids")
    ranks = train_ranks(texts, vocab_size - 1)
    return Tokenizer(_encoding(name, ranks), {END_OF_TEXT: len(ranks)})


def make_tokenizer(name: str, texts: Sequence[str]) -> Tokenizer:
    """The tokenizer that `model.*.tokenizer` names; "train:4096" trains one on `texts`."""
    kind, _, size = name.partition(":")
    if kind == "train" and size.isdigit():
        return train_bpe(texts, int(size))
    return load_tokenizer(bundled(name) if bundled(name).is_file() else name)
