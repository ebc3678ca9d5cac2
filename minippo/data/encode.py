"""Texts -> rows of token ids, as the policy and the reward model read them."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from minippo.data.rows import TokenGroups, TokenRows, cached_groups, cached_rows
from minippo.data.texts import Comparison, Demonstration, Texts
from minippo.splits import TEST_FIRST, Split
from minippo.tokenizer import Tokenizer, reward_tokens, whole_characters

if TYPE_CHECKING:
    from minippo.config import DataConfig

TOKENIZER_TEXTS = 10_000
"""Number of texts from which a tokenizer ("train:4096") learns its merges."""

NO_LIMIT = 10**9

# ---------------------------------------------------------------------------------------------- prompts


def query_ids(tokenizer: Tokenizer, prompts: Sequence[str], query_length: int) -> list[list[int]]:
    """Encode prompts for the policy: at most the first `query_length` ids of each, cut between two characters.

    A token may end in the middle of a character. If a prompt were cut there, the response would complete the character,
    and decoding prompt and response separately would give another text than decoding them together.

    Raises ValueError if nothing is left of a prompt, because the policy needs a token to start from.
    """
    queries = [whole_characters(tokenizer, ids[:query_length]) for ids in tokenizer.encode_batch(prompts)]
    for prompt, ids in zip(prompts, queries, strict=True):
        if not ids:
            raise ValueError(f"the prompt {prompt!r} has no complete character in its first {query_length} tokens")
    return queries


def prompt_rows(
    prompts: Callable[[Split], Texts[str]], tokenizer: Tokenizer, config: DataConfig
) -> tuple[dict[Split, TokenRows], dict[str, dict[str, int]]]:
    """Encode the prompts of every split for the policy. Returns the rows by split, and a report of the rows left out.

    Prompts that are too long are dropped or cut (`Texts.whole`). Two prompts that differ only after `query_length`
    tokens are the same to the policy: each row of ids is kept once, and in one split only. If it is held out, it is
    left out of training; if it is in both held-out splits, it stays in the test split.

    Raises ValueError if a split has no prompt left.
    """
    kept: dict[Split, TokenRows] = {}
    report: dict[str, dict[str, int]] = {}
    seen = np.zeros(0, np.uint64)
    for split in (*TEST_FIRST, "train"):
        rows, counts = _fitting_prompts(prompts(split), tokenizer, config)
        hashes = np.fromiter(map(_row_hash, rows), np.uint64, len(rows))  # (rows,) 8 bytes instead of the row
        new = np.sort(np.unique(hashes, return_index=True)[1])  # indices of first occurrences
        new = new[~np.isin(hashes[new], seen)]
        seen = np.concatenate([seen, hashes[new]])
        if len(new) < len(rows):
            counts = counts or {"rows": len(rows)}
            counts["left out: the same tokens as another prompt"] = len(rows) - len(new)
        if not len(new):
            raise ValueError(
                f"all {len(rows)} {split} prompts have the same first {config.query_length} tokens as prompts of "
                "another split (data.query-length)"
            )
        kept[split] = rows[new]
        if counts:
            report[f"prompts, {split}"] = counts
    return kept, report


def _row_hash(ids: Sequence[int]) -> int:
    return int.from_bytes(hashlib.blake2b(np.array(ids, np.uint32).tobytes(), digest_size=8).digest(), "big")


def _fitting_prompts(prompts: Texts[str], tokenizer: Tokenizer, config: DataConfig) -> tuple[TokenRows, dict[str, int]]:
    if not len(prompts):
        raise ValueError("there are no prompts: give data.prompts, or preferences or demonstrations with prompts")
    max_length = NO_LIMIT if prompts.whole else config.query_length
    rows = cached_rows(
        ("prompts", prompts.fingerprint, max_length),
        tokenizer,
        (ids for chunk in prompts.chunks() for ids in query_ids(tokenizer, chunk, max_length)),
    )
    kept, dropped = _fitting(prompts, rows.lengths, config.query_length, "data.query-length", config)
    return rows[kept], dropped


# ---------------------------------------------------------------------------------------------- comparisons


def comparison_rows(
    comparisons: Texts[Comparison], tokenizer: Tokenizer, context: int, config: DataConfig
) -> tuple[TokenGroups, np.ndarray, dict[str, int]]:
    """Encode comparisons for the reward model, with the same function that encodes texts for scoring.

    Returns the comparisons that fit into its context, their indices, (kept,), and a report of the others. Excerpts that
    do not fit are cut and counted (`Texts.whole`). Raises ValueError if no comparison fits.
    """
    if not len(comparisons):
        raise ValueError("there are no preferences to train a reward model on (data.preferences)")
    max_length = NO_LIMIT if comparisons.whole else context

    def groups() -> Iterator[list[list[int]]]:
        for chunk in comparisons.chunks():
            pairs = [(comparison.prompt, completion) for comparison in chunk for completion in comparison.ranked]
            prompts, completions = [prompt for prompt, _ in pairs], [completion for _, completion in pairs]
            ids = iter(reward_tokens(tokenizer, prompts, completions, NO_LIMIT))
            yield from ([next(ids) for _ in comparison.ranked] for comparison in chunk)

    key = ("comparisons", comparisons.fingerprint, max_length)
    rows, cut = cached_groups(key, tokenizer, groups(), max_length)
    kept, dropped = _fitting(comparisons, rows.longest, context, "the reward model's context", config)
    if cut:
        dropped = {"rows": len(rows), "cut: longer than the reward model's context": cut}
    return rows[kept], kept, dropped


# ---------------------------------------------------------------------------------------------- demonstrations


def policy_rows(demonstrations: Texts[Demonstration], tokenizer: Tokenizer) -> TokenRows:
    """Encode demonstrations for the policy: prompt, completion and end-of-text.

    Prompt and completion are encoded separately, because in PPO the policy continues the prompt's tokens: no token of
    a response can span both. The rows have the lengths of the prompts, because the policy learns to answer them, not
    to write them.
    """
    prompt_lengths = array("q")

    def rows() -> Iterator[list[int]]:
        for chunk in demonstrations.chunks():
            prompts = tokenizer.encode_batch([d.prompt for d in chunk])
            completions = tokenizer.encode_batch([d.completion for d in chunk])
            prompt_lengths.extend(map(len, prompts))
            yield from (p + c + [tokenizer.eos_id] for p, c in zip(prompts, completions, strict=True))

    return cached_rows(("demonstrations, policy", demonstrations.fingerprint), tokenizer, rows(), prompt_lengths)


def reward_rows(demonstrations: Texts[Demonstration], tokenizer: Tokenizer) -> TokenRows:
    """Encode demonstrations for the reward model: prompt and completion as one text, as in scoring.

    It has to read both, so its backbone learns to predict both.
    """
    rows = (
        ids
        for chunk in demonstrations.chunks()
        for ids in reward_tokens(tokenizer, [d.prompt for d in chunk], [d.completion for d in chunk], NO_LIMIT)
    )
    return cached_rows(("demonstrations, reward", demonstrations.fingerprint), tokenizer, rows)


# ---------------------------------------------------------------------------------------------- length limits


def _fitting(
    texts: Texts[str] | Texts[Comparison], lengths: np.ndarray, most: int, limit: str, config: DataConfig
) -> tuple[np.ndarray, dict[str, int]]:
    """Indices of the texts of at most `most` tokens, (kept,), and a report of the others, empty if there are none.

    `limit` is the name of the limit. Raises ValueError if no text fits, or if `data.unusable` refuses long ones.
    """
    too_long = np.flatnonzero(lengths > most)
    if len(too_long) == 0:
        return np.arange(len(lengths)), {}
    first = int(too_long[0])
    length = f"{texts.location(first)} has {lengths[first]} tokens, more than {limit} of {most}"
    if config.unusable == "refuse":
        raise ValueError(f"{length} (data.unusable is refuse)")
    if len(too_long) == len(lengths):
        raise ValueError(f"all {len(lengths)} rows are too long: {length}")
    return np.flatnonzero(lengths <= most), {"rows": len(lengths), f"dropped: longer than {limit}": len(too_long)}
