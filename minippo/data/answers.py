"""Prompt and completions of a row, from columns that hold texts or turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minippo.data.conversations import ANSWER, Turn, contents, flatten, shared_prompt, shown, turns_of
from minippo.data.formats import EMPTY_PROMPT, NO_ANSWER, Example, UnusableError

Row = Mapping[str, Any]

SYNONYMS = {
    "completion": ("output", "response", "answer"),
    "messages": ("conversations", "conversation"),
    "completions": ("responses", "answers"),
}
"""A column of `layouts.LAYOUTS` -> other names of it."""


def value_of(row: Row, column: str) -> Any:
    """`row[column]`. Raises ValueError if the row has no such column."""
    if column not in row:
        raise ValueError(f"no column {column!r}, found {', '.join(map(repr, row)) or 'none'}")
    return row[column]


QUESTIONS = ("instruction", "question", "query", "input", "context")
"""Columns that hold what the user asks, if there is no column `prompt`. Together they are one turn of the user."""

BEFORE = ("system", "system_prompt", "history")
"""Columns that hold what comes before the prompt: the system's turn and earlier turns."""


def prompt_of(row: Row) -> str | list[Turn]:
    """The prompt of a row: the text of its column `prompt` as it is; turns in all other cases."""
    before = turns_before(row)
    if "prompt" in row or not any(column in row for column in QUESTIONS):
        value = value_of(row, "prompt")
        return value if isinstance(value, str) and not before else before + turns_of(value, "prompt")
    given = {column: row[column] for column in QUESTIONS if row.get(column) not in (None, "")}
    if all(isinstance(value, str) for value in given.values()):
        text = "\n\n".join(given.values())
        if not text.strip():
            raise UnusableError(EMPTY_PROMPT)
        return before + turns_of(text, "prompt")
    return before + [turn for column, value in given.items() for turn in turns_of(value, column)]


def turns_before(row: Row) -> list[Turn]:
    """What comes before the prompt."""
    turns = []
    for column in BEFORE:
        value, role = row.get(column), "user" if column == "history" else "system"
        if isinstance(value, list) and value and isinstance(value[0], list):  # pairs of a question and its answer
            for pair in value:
                if not isinstance(pair, list) or len(pair) != 2:
                    raise ValueError(f"column 'history' holds {shown(pair)}, expected a question and its answer")
                turns += [*turns_of(pair[0], column), *turns_of(pair[1], column, "assistant")]
        elif value:
            turns += turns_of(value, column, role)
    return turns


def answered(row: Row, values: Mapping[str, Any]) -> Example:
    """An example of the row's prompt and the completions in `values`, which maps their column to them.

    Texts are joined to a text unchanged. If one of them is a conversation, all are turns of one.
    """
    prompt = prompt_of(row)
    if isinstance(prompt, str) and all(isinstance(value, str) for value in values.values()):
        return Example(prompt, tuple(values.values()))
    answers = [turns_of(value, column, "assistant") for column, value in values.items()]
    asked = turns_of(prompt, "prompt") if isinstance(prompt, str) else prompt
    if all(turns[0]["role"] == "assistant" for turns in answers):
        return Example(flatten(asked) + ANSWER, tuple(flatten(turns).removeprefix(ANSWER) for turns in answers))
    # Conversations that include the prompt. What they lack of it, such as the system's turn, comes before them.
    included = set[str]().union(*map(contents, answers))
    missing = [turn for turn in asked if not contents([turn]) <= included]
    complete = [[*(asked if turns[0]["role"] == "assistant" else missing), *turns] for turns in answers]
    return conversation(complete[0]) if len(complete) == 1 else compared([flatten(turns) for turns in complete])


def compared(texts: Sequence[str]) -> Example:
    """An example of texts that include their prompt."""
    cut = shared_prompt(texts)
    return Example(texts[0][:cut], tuple(text[cut:] for text in texts))


def conversation(turns: Sequence[Turn]) -> Example:
    """An example whose completion is the last turn."""
    if turns[-1]["role"] != "assistant":
        raise UnusableError(NO_ANSWER)
    return Example(flatten(turns[:-1]) + ANSWER, (f" {turns[-1]['content']}",))
