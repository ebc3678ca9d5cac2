"""Using a finished run: answers that stream, and scores of texts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minippo.tools.generate import Stream
from minippo.tools.score import batches


@given(st.text(max_size=30))
def test_a_stream_gives_the_text_and_never_a_half_character(tokenizer, text):
    stream = Stream(tokenizer)
    parts = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(parts) + stream.rest() == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in part for part in parts)


def test_a_stream_shows_a_character_once_it_is_whole(tokenizer):
    euro = tokenizer.encode("€")  # three bytes, none of them merged
    assert len(euro) == 3
    stream = Stream(tokenizer)
    assert [stream.push(token) for token in euro] == ["", "", "€"]
    assert stream.rest() == ""


def test_a_stream_that_ends_within_a_character_says_so(tokenizer):
    stream = Stream(tokenizer)
    assert [stream.push(token) for token in tokenizer.encode("€")[:2]] == ["", ""]
    assert stream.rest() == "\ufffd"


def test_a_stream_leaves_the_end_of_text_out(tokenizer):
    stream = Stream(tokenizer)
    assert "".join(stream.push(token) for token in [*tokenizer.encode("The end."), tokenizer.eos_id]) == "The end."


@given(st.lists(st.integers(), max_size=20), st.integers(1, 7))
def test_batches_hold_everything_in_order(items, size):
    found = list(batches(map(str, items), size))
    assert [x for batch in found for x in batch] == list(map(str, items))
    assert all(len(batch) == size for batch in found[:-1])


def test_batches_do_not_wait_for_the_end_of_the_input():
    def endless():
        while True:
            yield "x"

    assert next(batches(endless(), 3)) == ["x"] * 3


@pytest.mark.parametrize("program", ["print('日本')", "[print('x', flush=True) for _ in range(100_000)]"])
def test_output_may_be_closed_and_need_not_know_every_letter(program):
    """In a process of its own, whose output is read as far as its first line."""
    source = f"from minippo.runs import output_of_any_text\nwith output_of_any_text():\n    {program}\n"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    with subprocess.Popen(
        [sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        first = process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == (first != b"??\n")
