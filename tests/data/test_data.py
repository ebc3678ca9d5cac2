"""Texts -> rows of ids -> batches."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minippo.batches import BatchStream, length_batches
from minippo.data import windows
from minippo.data.encode import query_ids
from minippo.masking import pad
from minippo.tokenizer import make_tokenizer

# ---------------------------------------------------------------------------------------------- prompts


def test_tokenizer_can_be_trained_named_or_read_from_a_file(tokenizer, tmp_path):
    texts = ["abab abab", "cdcd"]
    assert make_tokenizer("train:260", texts).vocab_size == 260
    tokenizer.save(tmp_path / "own.tiktoken")
    assert make_tokenizer(str(tmp_path / "own.tiktoken"), texts).encode("The plot") == tokenizer.encode("The plot")
    with pytest.raises(ValueError, match="unknown tokenizer 'tarin:260'"):
        make_tokenizer("tarin:260", texts)


@settings(deadline=None)
@given(text=st.text(max_size=30), length=st.integers(1, 10))
def test_prompts_are_cut_to_query_length_tokens_between_two_characters(tokenizer, text, length):
    whole = tokenizer.encode(text)
    beginnings = [tokenizer.encoding.decode_bytes(whole[:end]) for end in range(1, min(length, len(whole)) + 1)]
    if not any(text.startswith(start.decode("utf-8", "replace")) for start in beginnings):  # nothing to continue
        with pytest.raises(ValueError, match=f"no complete character in its first {length} tokens"):
            query_ids(tokenizer, [text], length)
        return
    (ids,) = query_ids(tokenizer, [text], length)
    assert ids == whole[: len(ids)]
    assert len(ids) <= length
    assert text.startswith(tokenizer.encoding.decode_bytes(ids).decode("utf-8"))  # strict: no incomplete character
    if len(ids) < min(length, len(whole)):  # shorter only if the next id would end within a character
        with pytest.raises(UnicodeDecodeError):
            tokenizer.encoding.decode_bytes(whole[: len(ids) + 1]).decode("utf-8")


@given(count=st.integers(1, 15), batch_size=st.integers(1, 20), epochs=st.integers(1, 3), seed=st.integers(0, 5))
def test_every_epoch_contains_each_prompt_once_for_any_batch_size(count, batch_size, epochs, seed):
    source = BatchStream([[i] for i in range(count)], batch_size, seed, "prompts")
    drawn = [query[0] for _ in range(-(-count * epochs // batch_size)) for query in next(source)]
    for epoch in range(epochs):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_the_seed_determines_a_different_order_for_every_epoch():
    def epochs(seed, name="prompts"):
        source = BatchStream([[i] for i in range(50)], 50, seed, name)
        return [next(source) for _ in range(3)]

    first = epochs(1)
    assert first == epochs(1)
    orders = [*first, *epochs(2), *epochs(1, "demonstrations")]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert first[0] != [[i] for i in range(50)]


@given(before=st.integers(0, 12), batch_size=st.integers(1, 6))
def test_prompts_continue_from_a_stored_position(before, batch_size):
    queries = [[i] for i in range(7)]
    source = BatchStream(queries, batch_size, 3, "prompts")
    for _ in range(before):
        next(source)
    fresh, used = (BatchStream(queries, batch_size, 3, "prompts") for _ in range(2))
    next(used)
    fresh.rows_drawn = used.rows_drawn = source.rows_drawn  # as a checkpoint does
    expected = [next(source) for _ in range(5)]
    assert [next(fresh) for _ in range(5)] == expected
    assert [next(used) for _ in range(5)] == expected


def test_an_empty_list_of_prompts_is_refused():
    with pytest.raises(ValueError, match="no rows"):
        BatchStream([], 4, 1, "prompts")


# ---------------------------------------------------------------------------------------------- collation

rows_of_ids = st.lists(st.lists(st.integers(0, 99), max_size=6), min_size=1, max_size=6)


@given(rows=rows_of_ids, side=st.sampled_from(["left", "right"]))
def test_padding_keeps_every_row_and_masks_the_rest(rows, side):
    tokens, mask = pad(rows, 99, side)  # rows may contain 99, too: masks are built from positions, not from ids
    width = max(map(len, rows))
    assert tokens.shape == mask.shape == (len(rows), width)
    assert (tokens.dtype, mask.dtype) == (torch.long, torch.bool)
    for row, ids, real in zip(rows, tokens.tolist(), mask.tolist(), strict=True):
        fill = width - len(row)
        assert ids == ([99] * fill + row if side == "left" else row + [99] * fill)
        assert real == ([False] * fill + [True] * len(row) if side == "left" else [True] * len(row) + [False] * fill)


@given(rows=rows_of_ids, length=st.integers(2, 5))
def test_windows_cover_every_row_in_order_except_single_ids(token_rows, rows, length):
    pieces = windows(token_rows(rows), length)
    assert pieces.lengths.tolist() == [len(piece) for piece in pieces]
    assert all(2 <= len(piece) <= length for piece in pieces)
    expected = []
    for row in rows:
        kept = row[:-1] if len(row) % length == 1 else row
        expected += kept
    assert list(itertools.chain(*pieces)) == expected
    assert not pieces.prompt_lengths.any()


@given(
    lengths=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=5), length=st.integers(2, 5)
)
def test_windows_know_which_of_their_ids_belong_to_the_prompt(token_rows, lengths, length):
    """Every id of a completion is predicted once, unless its window begins with it; no id of a prompt is."""
    rows = [[*range(prompt), *range(50, 50 + completion)] for prompt, completion in lengths]
    pieces = windows(token_rows(rows, [prompt for prompt, _ in lengths]), length)
    predicted = [ids[max(1, n) :] for ids, n in zip(pieces, pieces.prompt_lengths.tolist(), strict=True)]
    assert all(predicted)
    expected = [i for row in rows for place, i in enumerate(row) if i >= 50 and place % length > 0]
    assert list(itertools.chain(*predicted)) == expected


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40), budget=st.integers(1, 80), seed=st.integers(0, 9))
def test_batches_by_length_contain_every_row_once_and_respect_the_budget(lengths, budget, seed):
    batches = list(length_batches(np.array(lengths), budget, torch.Generator().manual_seed(seed)))
    assert Counter(index for batch in batches for index in batch) == Counter(range(len(lengths)))
    for batch in batches:
        assert len(batch) * max(lengths[index] for index in batch) <= budget or len(batch) == 1
    spans = sorted((min(lengths[i] for i in batch), max(lengths[i] for i in batch)) for batch in batches)
    assert all(
        before[1] <= after[0] for before, after in itertools.pairwise(spans)
    )  # rows of similar length share a batch


def test_batches_by_length_differ_between_epochs_and_are_reproducible():
    lengths = np.array([5] * 60 + [9] * 60)
    generator = torch.Generator().manual_seed(0)
    first, second = (list(length_batches(lengths, 45, generator)) for _ in range(2))
    assert first != second
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    again = list(length_batches(lengths, 45, torch.Generator().manual_seed(0)))
    assert again == first
    order = [lengths[batch[0]] for batch in first]
    assert order != sorted(order)
