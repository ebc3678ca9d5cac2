"""How commands end, and that nothing they print controls the terminal."""

from __future__ import annotations

import io
import re
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minippo.errors import TrainingError, printable, quoted
from minippo.exits import LONGEST_MESSAGE, command_frame, print_error, wrong_input_exits

BIDI = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}


@given(st.text(st.characters(exclude_categories=[]), max_size=50))
def test_printable_text_has_no_control_characters_and_is_the_same_text_otherwise(text):
    shown = printable(text)
    for character in shown:
        assert unicodedata.category(character) not in ("Cc", "Zl", "Zp", "Cs") or character in "\n\t"
        assert unicodedata.bidirectional(character) not in BIDI
    kept = [c for c in text if unicodedata.category(c) not in ("Cc", "Cf", "Zl", "Zp", "Cs") or c in "\n\t"]
    assert re.sub(r"\\(x..|u....|r)", "", shown) == re.sub(r"\\(x..|u....|r)", "", "".join(kept)) or "\\" in text
    assert printable(shown) == shown


def test_printable_text_keeps_what_a_text_may_contain():
    text = "caf\u00e9\n\t\u65e5\u672c \U0001f469\u200d\U0001f4bb \u05d0\u0628 \\x1b"
    assert printable(text) == text
    assert printable("\x1b[31m\r\x9b\u202e") == "\\x1b[31m\\r\\x9b\\u202e"


@pytest.mark.parametrize(
    "value", ["x" * 10**6, list(range(10**5)), {i: i for i in range(10**4)}, 10**4000, b"x" * 10**6]
)
def test_a_quoted_value_is_short(value):
    assert len(quoted(value)) < 150


def test_a_short_value_is_quoted_whole_and_escaped():
    assert quoted("a\x1b[31m\u202eb") == repr("a\x1b[31m\u202eb")
    assert quoted("x" * 60, 200) == repr("x" * 60)


@pytest.mark.parametrize(
    ("error", "status", "sentence"),
    [
        (ValueError("seed is \x1b[31m7"), 2, "seed is \\x1b[31m7"),
        (FileNotFoundError("runs/x has no sft/"), 2, "runs/x has no sft/"),
        (PermissionError(13, "Permission denied", "a\nb"), 2, "'a\\nb': Permission denied"),
        (OSError(5, "Input/output error"), 2, "Input/output error"),
        (ValueError("x" * 10**6), 2, "x" * LONGEST_MESSAGE + " ... (996,000 more characters)"),
    ],
)
def test_wrong_input_is_one_sentence_and_status_2(capsys, error, status, sentence):
    with pytest.raises(SystemExit) as end, command_frame(), wrong_input_exits():
        raise error
    assert end.value.code == status
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


@pytest.mark.parametrize("error", [TrainingError("loss is nan"), OSError(28, "No space left on device")])
def test_a_failure_after_that_is_one_sentence_and_status_1(capsys, error):
    with pytest.raises(SystemExit) as end, command_frame():
        raise error
    assert end.value.code == 1
    assert capsys.readouterr().err in ("error: loss is nan\n", "error: No space left on device\n")


@pytest.mark.parametrize("error", [ValueError("a bug"), ZeroDivisionError(), SystemExit(3)])
def test_bugs_and_exits_pass_the_frame(error):
    with pytest.raises(type(error)), command_frame():
        raise error


def test_the_standard_output_of_a_command_is_printable(capsys):
    with command_frame():
        print("red \x1b[31m \x9b31m \r \u202e", end="\n\t")
        sys.stdout.write("\x07")
    print("\x07")
    assert capsys.readouterr().out == "red \\x1b[31m \\x9b31m \\r \\u202e\n\t\\x07\x07\n"


def test_warnings_are_printable_and_progress_bars_return_to_the_start_of_the_line(capsys):
    with command_frame():
        print("\rppo: 50%\r\nwarning: a\x1b[31m\u202e", file=sys.stderr)
    assert capsys.readouterr().err == "\rppo: 50%\r\nwarning: a\\x1b[31m\\u202e\n"


class Broken(io.StringIO):
    """A stream that is connected to a full disk or a closed pipe."""

    def __init__(self, error: OSError, number: int) -> None:
        super().__init__()
        self.error, self.number, self.fails = error, number, True

    def flush(self) -> None:
        if self.fails:
            self.fails = False
            raise self.error

    def fileno(self) -> int:
        return self.number


@pytest.fixture
def unused(tmp_path) -> int:
    """A descriptor that may be replaced."""
    with (tmp_path / "unused").open("w") as file:
        yield file.fileno()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe")])
def test_training_goes_on_without_an_output_until_it_prints_its_result(monkeypatch, capsys, unused, error):
    steps = []
    monkeypatch.setattr("sys.stdout", Broken(error, unused))

    @command_frame()
    def main():
        print("begins")
        sys.stdout.flush()  # as the progress bar does
        steps.append("trained")
        print("result")
        steps.append("more")

    with pytest.raises(SystemExit) as end:
        main()
    assert (end.value.code, steps) == (1, ["trained"])
    said = "error: the standard output cannot be written: No space left on device\n"
    assert capsys.readouterr().err == ("" if isinstance(error, BrokenPipeError) else said)


def test_an_output_that_cannot_be_written_at_the_end_is_status_1(monkeypatch, unused):
    monkeypatch.setattr("sys.stdout", Broken(OSError(28, "No space left on device"), unused))
    with pytest.raises(SystemExit) as end, command_frame():
        print("result")
    assert end.value.code == 1


def test_errors_that_nobody_can_read_are_ignored(monkeypatch, unused):
    monkeypatch.setattr("sys.stderr", Broken(BrokenPipeError(32, "Broken pipe"), unused))
    with command_frame():
        print_error("x")
        print("y", file=sys.stderr, flush=True)
