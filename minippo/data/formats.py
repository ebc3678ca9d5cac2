"""The formats of your own files: a row -> an example, or a ValueError that says what is wrong with the row.

The columns are those in common use for preference data; a conversation becomes plain text with one fixed template.
docs/data.md documents all of it.
"""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["demonstrations", "preferences", "prompts"]

Row = Mapping[str, Any]

# The template of hh-rlhf (Bai et al. 2022): plain text, no special tokens.
SPEAKERS = {"system": "\n\nSystem:", "user": "\n\nHuman:", "assistant": "\n\nAssistant:"}

ANSWER = SPEAKERS["assistant"]

NO_LABEL = -1

USABLE, UNREADABLE, EMPTY_PROMPT, EMPTY_COMPLETION, IDENTICAL = range(5)

PROBLEMS = ("", "unreadable characters", "empty prompt", "empty completion", "identical completions")
"""Why an example is unusable, indexed by its `problem`."""


class Example(NamedTuple):
    """The contents of a row. `completions` holds one text for a demonstration, all texts of a comparison (best first),
    none for a prompt."""

    prompt: str
    completions: tuple[str, ...]
    label: int = NO_LABEL
    """Label of a text that will be paired with one of the other label; 1 is preferred to 0."""

    def problem(self) -> int:
        """Why the example is unusable, an index into PROBLEMS; 0 if it is usable."""
        if any(re.search("[\ud800-\udfff\ufffd]", text) for text in (self.prompt, *self.completions)):
            return UNREADABLE  # half of a surrogate pair, or the character that replaces invalid bytes
        if not self.completions and not self.prompt.strip():
            return EMPTY_PROMPT
        if not all(text.strip() for text in self.completions):
            return EMPTY_COMPLETION
        return IDENTICAL if len(set(self.completions)) < len(self.completions) else USABLE


# ---------------------------------------------------------------------------------------------- values


def shown(value: object) -> str:
    """A value as error messages show it: `3 (int)`, `null`."""
    if value is None:
        return "null"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(value).__name__})"


def value_of(row: Row, column: str) -> Any:
    """`row[column]`. Raises ValueError if the row has no such column."""
    if column not in row:
        raise ValueError(f"no column {column!r}, found {', '.join(map(repr, row)) or 'none'}")
    return row[column]


def is_conversation(value: object) -> bool:
    """Whether `value` is a list of turns (each an object with a role and its content)."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def is_turn(value: object) -> bool:
    """Whether `value` is a turn with a known role and a text as its content."""
    return isinstance(value, dict) and isinstance(value.get("content"), str) and value.get("role") in list(SPEAKERS)


def flatten(turns: Sequence[Row]) -> str:
    """A conversation as text. Each turn is a blank line, the speaker, a space and the content."""
    return "".join(f"{SPEAKERS[turn['role']]} {turn['content']}" for turn in turns)


def text_of(value: object, column: str) -> str:
    """A text unchanged, or a conversation flattened. Raises ValueError if `value` is neither."""
    if isinstance(value, str):
        return value
    if not is_conversation(value):
        raise ValueError(f"column {column!r} holds {shown(value)}, expected text or a list of turns")
    for number, turn in enumerate(value, start=1):
        if not is_turn(turn):
            raise ValueError(
                f"column {column!r}, turn {number} holds {shown(turn)}, expected a text as 'content' and one of "
                f"{', '.join(SPEAKERS)} as 'role'"
            )
    return flatten(value)


def question(value: object, column: str) -> str:
    """A prompt as text. A conversation ends with "Assistant:", so that the policy continues with the answer."""
    text = text_of(value, column)
    return text + ANSWER if is_conversation(value) and value[-1]["role"] != "assistant" else text


def shared_prompt(texts: Sequence[str]) -> int:
    """Number of characters that form the prompt of texts which include it: their common beginning, up to the last
    "Assistant:" in it. Without such a turn, it ends at the last whole word, so that each completion begins with the
    white space before its own first word."""
    common = os.path.commonprefix(list(texts))  # noqa: RUF071 - compares characters, not path components
    if ANSWER in common:
        return common.rindex(ANSWER) + len(ANSWER)
    if common != common.rstrip() and any(len(text) > len(common) for text in texts):
        return len(common.rstrip())
    words = common.rsplit(maxsplit=1)
    return len(words[0]) if len(words) == 2 else 0


# ---------------------------------------------------------------------------------------------- formats


def _continued(row: Row, values: Mapping[str, Any]) -> Example:
    """An example of the row's prompt and the completions in `values`, which maps their column to them."""
    texts = [text_of(value, column) for column, value in values.items()]
    prompt = value_of(row, "prompt")
    prompt_text = text_of(prompt, "prompt")
    if len(texts) > 1 and all(is_conversation(value) and value[0]["role"] != "assistant" for value in values.values()):
        return _compared(texts)  # the conversations include the prompt
    for column, value in values.items():
        is_list = is_conversation(value)
        if is_list != is_conversation(prompt):
            kinds = ("a list of turns", "text") if is_list else ("text", "a list of turns")
            raise ValueError(f"column {column!r} holds {kinds[0]} but 'prompt' holds {kinds[1]}, expected the same")
        if is_list and value[0]["role"] != "assistant":
            raise ValueError(f"column {column!r} does not begin with a turn of the assistant")
    if is_conversation(prompt):
        return Example(prompt_text + ANSWER, tuple(text.removeprefix(ANSWER) for text in texts))
    return Example(prompt_text, tuple(texts))


def _compared(texts: Sequence[str]) -> Example:
    """An example of texts that include their prompt."""
    cut = shared_prompt(texts)
    return Example(texts[0][:cut], tuple(text[cut:] for text in texts))


def _pair(row: Row) -> dict[str, Any]:
    return {column: value_of(row, column) for column in ("chosen", "rejected")}


def _ranking(row: Row) -> Example:
    ranked = value_of(row, "ranked")
    if not isinstance(ranked, list) or len(ranked) < 2:
        raise ValueError(f"column 'ranked' holds {shown(ranked)}, expected a list of at least two completions")
    return _continued(row, {f"ranked[{index}]": value for index, value in enumerate(ranked)})


def _labelled(row: Row) -> Example:
    label = value_of(row, "label")
    if not isinstance(label, int) or label not in (0, 1):
        raise ValueError(f"column 'label' holds {shown(label)}, expected 1 (preferred) or 0")
    return Example("", (text_of(value_of(row, "text"), "text"),), int(label))


def _messages(row: Row) -> Example:
    turns = value_of(row, "messages")
    text_of(turns, "messages")
    if not is_conversation(turns) or turns[-1]["role"] != "assistant":
        raise ValueError(f"column 'messages' holds {shown(turns)}, expected turns that end with one of the assistant")
    return Example(flatten(turns[:-1]) + ANSWER, (f" {turns[-1]['content']}",))


FORMATS: dict[Kind, dict[tuple[str, ...], Callable[[Row], Example]]] = {
    "demonstrations": {
        ("prompt", "completion"): lambda row: _continued(row, {"completion": value_of(row, "completion")}),
        ("messages",): _messages,
        ("text",): lambda row: Example("", (text_of(value_of(row, "text"), "text"),)),
    },
    "preferences": {
        ("prompt", "chosen", "rejected"): lambda row: _continued(row, _pair(row)),
        ("prompt", "ranked"): _ranking,
        ("chosen", "rejected"): lambda row: _compared([text_of(value, name) for name, value in _pair(row).items()]),
        ("text", "label"): _labelled,
    },
    "prompts": {
        ("prompt",): lambda row: Example(question(value_of(row, "prompt"), "prompt"), ()),
        ("text",): lambda row: Example(question(value_of(row, "text"), "text"), ()),
    },
}
"""Kind -> accepted sets of columns, of which the first that is complete applies -> function that reads such a row."""


def recognise(kind: Kind, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns to read. Raises ValueError if no accepted set of columns is complete, or a column occurs twice."""
    for wanted in FORMATS[kind]:
        if set(wanted) <= set(columns):
            for column in wanted:
                if list(columns).count(column) > 1:
                    raise ValueError(f"has the column {column!r} {list(columns).count(column)} times, expected once")
            return wanted
    accepted = "; or ".join(", ".join(wanted) for wanted in FORMATS[kind])
    raise ValueError(f"has the columns {', '.join(columns) or '(none)'}, but {kind} need {accepted}")
