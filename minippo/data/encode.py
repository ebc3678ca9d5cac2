"""Texts -> rows of ids -> batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from minippo.config import DataConfig
from minippo.data.rows import TokenGroups, TokenRows, kept_groups, kept_rows
from minippo.data.texts import Comparison, Demonstration, Texts
from minippo.splits import TEST_FIRST, Split
from minippo.tokenizer import Tokenizer, reward_tokens, whole_characters

TOKENIZER_TEXTS = 10_000  # as many texts say which pairs of bytes are frequent

NO_LIMIT = 10**9


def query_ids(tokenizer: Tokenizer, prompts: Sequence[str], query_length: int) -> list[list[int]]:
    """Prompts as the policy reads them: at most the first `query_length` ids, cut between two characters.

    Raises ValueError where nothing is left of one, since a response has to follow something.
    """
    queries = [whole_characters(tokenizer, ids[:query_length]) for ids in tokenizer.encode_batch(prompts)]
    for prompt, ids in zip(prompts, queries, strict=True):
        if not ids:
            raise ValueError(f"the prompt {prompt!r} has no whole character in its first {query_length} tokens")
    return queries


# ---------------------------------------------------------------------------------------------- rows


def prompt_rows(
    prompts: Callable[[Split], Texts[str]], tokenizer: Tokenizer, config: DataConfig
) -> tuple[dict[Split, TokenRows], dict[str, dict[str, int]]]:
    """Prompts as the policy reads them, by split, without those that do not fit; and how many were left out.

    Each row of ids occurs once, and in one split: two prompts that differ only after `query_length` tokens are one
    prompt to the policy. A held-out one stays held out; of the held-out splits, the test split comes first.

    Raises ValueError if a split has no prompt left.
    """
    kept: dict[Split, TokenRows] = {}
    report: dict[str, dict[str, int]] = {}
    seen = np.zeros(0, np.uint64)
    for split in (*TEST_FIRST, "train"):
        rows, counts = _fitting_prompts(prompts(split), tokenizer, config)
        hashes = np.fromiter(map(_row_hash, rows), np.uint64, len(rows))  # eight bytes a row, where memory is short
        new = np.sort(np.unique(hashes, return_index=True)[1])
        new = new[~np.isin(hashes[new], seen)]
        seen = np.concatenate([seen, hashes[new]])
        if len(new) < len(rows):
            counts = counts or {"rows": len(rows)}
            counts["left out: the same tokens as another prompt"] = len(rows) - len(new)
        if not len(new):
            raise ValueError(
                f"all {len(rows)} {split} prompts are, in their first {config.query_length} tokens, prompts of another "
                "split (data.query-length)"
            )
        kept[split] = rows[new]
        if counts:
            report[f"prompts, {split}"] = counts
    return kept, report


def _row_hash(ids: Sequence[int]) -> int:
    return int.from_bytes(hashlib.blake2b(np.array(ids, np.uint32).tobytes(), digest_size=8).digest(), "big")


def _fitting_prompts(prompts: Texts[str], tokenizer: Tokenizer, config: DataConfig) -> tuple[TokenRows, dict[str, int]]:
    if not len(prompts):
        raise ValueError("there are no prompts: neither data.prompts nor prompts of preferences or demonstrations")
    most = NO_LIMIT if prompts.whole else config.query_length
    rows = kept_rows(
        ("prompts", prompts.fingerprint, most),
        tokenizer,
        (ids for chunk in prompts.chunks() for ids in query_ids(tokenizer, chunk, most)),
    )
    kept, dropped = _fitting(prompts, rows.lengths, config.query_length, "data.query-length", config)
    return rows[kept], dropped


def comparison_rows(
    comparisons: Texts[Comparison], tokenizer: Tokenizer, context: int, config: DataConfig
) -> tuple[TokenGroups, np.ndarray, dict[str, int]]:
    """Comparisons as the reward model reads them, by the function that scoring uses too, without those that do not fit
    its context; the numbers of those that are left; and how many are not.

    Raises ValueError where none is left.
    """
    if not len(comparisons):
        raise ValueError("there are no preferences to train a reward model on (data.preferences)")
    most = NO_LIMIT if comparisons.whole else context

    def groups() -> Iterator[list[list[int]]]:
        for chunk in comparisons.chunks():
            flat = [(comparison.prompt, completion) for comparison in chunk for completion in comparison.ranked]
            ids = iter(reward_tokens(tokenizer, [prompt for prompt, _ in flat], [text for _, text in flat], most))
            yield from ([next(ids) for _ in comparison.ranked] for comparison in chunk)

    found = kept_groups(("comparisons", comparisons.fingerprint, most), tokenizer, groups())
    kept, dropped = _fitting(comparisons, found.longest, context, "the reward model's context", config)
    return found[kept], kept, dropped


def policy_rows(demonstrations: Texts[Demonstration], tokenizer: Tokenizer) -> TokenRows:
    """Demonstrations as the policy will see them: prompt and completion encoded apart, then end-of-text."""

    def rows() -> Iterator[list[int]]:
        for chunk in demonstrations.chunks():
            prompts = tokenizer.encode_batch([d.prompt for d in chunk])
            completions = tokenizer.encode_batch([d.completion for d in chunk])
            yield from (p + c + [tokenizer.eos_id] for p, c in zip(prompts, completions, strict=True))

    return kept_rows(("demonstrations, policy", demonstrations.fingerprint), tokenizer, rows())


def reward_rows(demonstrations: Texts[Demonstration], tokenizer: Tokenizer) -> TokenRows:
    """Demonstrations as the reward model will see them."""
    rows = (
        ids
        for chunk in demonstrations.chunks()
        for ids in reward_tokens(tokenizer, [d.prompt for d in chunk], [d.completion for d in chunk], NO_LIMIT)
    )
    return kept_rows(("demonstrations, reward", demonstrations.fingerprint), tokenizer, rows)


def _fitting(
    texts: Texts[str] | Texts[Comparison], lengths: np.ndarray, most: int, limit: str, config: DataConfig
) -> tuple[np.ndarray, dict[str, int]]:
    too_long = np.flatnonzero(lengths > most)
    if len(too_long) == 0:
        return np.arange(len(lengths)), {}
    first = int(too_long[0])
    length = f"{texts.place(first)} has {lengths[first]} tokens, more than {limit} of {most}"
    if config.unusable == "refuse":
        raise ValueError(f"{length} (data.unusable is refuse)")
    if len(too_long) == len(lengths):
        raise ValueError(f"none of {len(lengths)} fits; {length}")
    return np.flatnonzero(lengths <= most), {"rows": len(lengths), f"dropped: longer than {limit}": len(too_long)}
