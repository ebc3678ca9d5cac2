"""A row of somebody's file -> an example, or a sentence about what is wrong with it. The columns are those that people
use; a conversation becomes plain text by one template. docs/data.md is the page about it."""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

Kind = Literal["demonstrations", "preferences", "prompts"]

Row = Mapping[str, Any]

# The template, as hh-rlhf spells conversations (Bai et al. 2022): plain text, no special tokens.
SPEAKERS = {"system": "\n\nSystem:", "user": "\n\nHuman:", "assistant": "\n\nAssistant:"}

ANSWER = SPEAKERS["assistant"]

NO_LABEL = -1

USABLE, UNREADABLE, EMPTY_PROMPT, EMPTY_COMPLETION, IDENTICAL = range(5)

PROBLEMS = ("", "unreadable characters", "empty prompt", "empty completion", "identical completions")
"""What makes an example unusable, by its number."""


class Example(NamedTuple):
    """What a row says. Completions: one of a demonstration, of a comparison all, best first, of a prompt none."""

    prompt: str
    completions: tuple[str, ...]
    label: int = NO_LABEL
    """Of a text that is to be paired with one of the other label: 1 is preferred to 0."""

    def problem(self) -> int:
        """What makes it unusable, a place in PROBLEMS; 0 where nothing does."""
        if any(re.search("[\ud800-\udfff\ufffd]", text) for text in (self.prompt, *self.completions)):
            return UNREADABLE  # half a character, or the sign that somebody could not read one
        if not self.completions and not self.prompt.strip():
            return EMPTY_PROMPT
        if not all(text.strip() for text in self.completions):
            return EMPTY_COMPLETION
        return IDENTICAL if len(set(self.completions)) < len(self.completions) else USABLE


# ---------------------------------------------------------------------------------------------- values


def shown(value: object) -> str:
    """A value as errors show it: `3 (int)`, `null`."""
    if value is None:
        return "null"
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(value).__name__})"


def value_of(row: Row, column: str) -> Any:
    """Raises ValueError where the row has no such column."""
    if column not in row:
        raise ValueError(f"no column {column!r}, found {', '.join(map(repr, row)) or 'none'}")
    return row[column]


def is_conversation(value: object) -> bool:
    """Whether it is a list of turns."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def is_turn(value: object) -> bool:
    """Whether somebody known says a text in it."""
    return isinstance(value, dict) and isinstance(value.get("content"), str) and value.get("role") in list(SPEAKERS)


def flatten(turns: Sequence[Row]) -> str:
    """A conversation as text: a blank line, who speaks, a space, what is said; and so on for every turn."""
    return "".join(f"{SPEAKERS[turn['role']]} {turn['content']}" for turn in turns)


def text_of(value: object, column: str) -> str:
    """Text as it is, a conversation flattened. Raises ValueError where it is neither."""
    if isinstance(value, str):
        return value
    if not is_conversation(value):
        raise ValueError(f"column {column!r} holds {shown(value)}, expected text or a list of turns")
    for number, turn in enumerate(value, start=1):
        if not is_turn(turn):
            raise ValueError(
                f"column {column!r}, turn {number} holds {shown(turn)}, expected a text 'content' and a 'role' "
                f"that is {', '.join(SPEAKERS)}"
            )
    return flatten(value)


def question(value: object, column: str) -> str:
    """A prompt as text. One that is a conversation ends where the assistant is to speak."""
    text = text_of(value, column)
    return text + ANSWER if is_conversation(value) and value[-1]["role"] != "assistant" else text


def shared_prompt(texts: Sequence[str]) -> int:
    """How many characters of whole texts are the prompt: their common beginning up to the last time that the assistant
    starts to speak in it; where nobody speaks, up to the last whole word, so that each completion begins with the white
    space before its first own word."""
    common = os.path.commonprefix(list(texts))  # noqa: RUF071 - character by character is what is wanted
    if ANSWER in common:
        return common.rindex(ANSWER) + len(ANSWER)
    if common != common.rstrip() and any(len(text) > len(common) for text in texts):
        return len(common.rstrip())
    words = common.rsplit(maxsplit=1)
    return len(words[0]) if len(words) == 2 else 0


# ---------------------------------------------------------------------------------------------- formats


def _continued(row: Row, values: Mapping[str, Any]) -> Example:
    """Completions of the row's prompt; `values` has them by their column."""
    texts = [text_of(value, column) for column, value in values.items()]
    prompt = value_of(row, "prompt")
    prompt_text = text_of(prompt, "prompt")
    if len(texts) > 1 and all(is_conversation(value) and value[0]["role"] != "assistant" for value in values.values()):
        return _compared(texts)  # they hold the prompt themselves
    for column, value in values.items():
        is_list = is_conversation(value)
        if is_list != is_conversation(prompt):
            kinds = ("a list of turns", "text") if is_list else ("text", "a list of turns")
            raise ValueError(f"column {column!r} holds {kinds[0]} and 'prompt' {kinds[1]}, expected the same in both")
        if is_list and value[0]["role"] != "assistant":
            raise ValueError(f"column {column!r} does not begin with the assistant's turn")
    if is_conversation(prompt):
        return Example(prompt_text + ANSWER, tuple(text.removeprefix(ANSWER) for text in texts))
    return Example(prompt_text, tuple(texts))


def _compared(texts: Sequence[str]) -> Example:
    cut = shared_prompt(texts)
    return Example(texts[0][:cut], tuple(text[cut:] for text in texts))


def _pair(row: Row) -> dict[str, Any]:
    return {column: value_of(row, column) for column in ("chosen", "rejected")}


def _ranking(row: Row) -> Example:
    ranked = value_of(row, "ranked")
    if not isinstance(ranked, list) or len(ranked) < 2:
        raise ValueError(f"column 'ranked' holds {shown(ranked)}, expected a list of two completions or more")
    return _continued(row, {f"ranked[{place}]": value for place, value in enumerate(ranked)})


def _labelled(row: Row) -> Example:
    label = value_of(row, "label")
    if not isinstance(label, int) or label not in (0, 1):
        raise ValueError(f"column 'label' holds {shown(label)}, expected 1 (preferred) or 0")
    return Example("", (text_of(value_of(row, "text"), "text"),), int(label))


def _messages(row: Row) -> Example:
    turns = value_of(row, "messages")
    text_of(turns, "messages")
    if not is_conversation(turns) or turns[-1]["role"] != "assistant":
        raise ValueError(f"column 'messages' holds {shown(turns)}, expected turns of which the last is the assistant's")
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
"""Kind -> the columns that it may have, the first that are all there being taken -> how such a row is read."""


def recognise(kind: Kind, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns to read. Raises ValueError where none of the known sets of columns is there, or one of them twice."""
    for wanted in FORMATS[kind]:
        if set(wanted) <= set(columns):
            for column in wanted:
                if list(columns).count(column) > 1:
                    raise ValueError(f"has the column {column!r} {list(columns).count(column)} times, expected once")
            return wanted
    accepted = "; or ".join(", ".join(wanted) for wanted in FORMATS[kind])
    raise ValueError(f"has the columns {', '.join(columns) or '(none)'}; {kind} need {accepted}")
