"""The layouts of your own files: which columns are read, and what a row of them becomes.

`LAYOUTS` is the table of all of them. A new layout is an entry in it and a function of a few lines. docs/data.md shows
rows of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NamedTuple

from minippo.data.answers import (
    BEFORE,
    QUESTIONS,
    SYNONYMS,
    Row,
    answered,
    compared,
    conversation,
    prompt_of,
    turns_before,
    value_of,
)
from minippo.data.conversations import (
    ANSWER,
    flatten,
    is_turn,
    opening,
    shown,
    text_of,
    turns_of,
)
from minippo.data.formats import NO_ANSWER, TIED, Example, Kind, UnusableError

NUMBERS = ("scores", "ranks")
"""Columns that rank `completions`."""


# ---------------------------------------------------------------------------------------------- layouts


def _pair(row: Row) -> dict[str, Any]:
    return {column: value_of(row, column) for column in ("chosen", "rejected")}


def _list(row: Row, column: str) -> list[Any]:
    values = value_of(row, column)
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(f"column {column!r} holds {shown(values)}, expected a list of at least two completions")
    return values


def _scored(row: Row) -> Example:
    """A ranking by scores (or ranks, 1 is best), in a column of their own or next to the text of each completion."""
    answers = _list(row, "completions")
    columns = {name: row[name] for name in NUMBERS if isinstance(row.get(name), list)}
    if all(isinstance(answer, dict) and not is_turn(answer) for answer in answers):
        for name in ("score", "overall_score", "rating", "rank"):
            if name in answers[0]:
                columns[f"{name}s"] = [answer.get(name) for answer in answers]
        answers = [
            next((a[k] for k in ("text", "completion", *SYNONYMS["completion"]) if k in a), None) for a in answers
        ]
    name, scores = next(iter(columns.items()), ("scores", None))
    if scores is None or len(scores) != len(answers) or not all(map(_is_finite, scores)):
        raise ValueError(f"column 'completions' holds {len(answers)} texts, expected as many numbers as 'scores'")
    best_first = sorted(range(len(scores)), key=lambda i: scores[i], reverse=name != "ranks")
    kept = [i for place, i in enumerate(best_first) if place == 0 or scores[i] != scores[best_first[place - 1]]]
    if len(kept) < 2:
        raise UnusableError(TIED)
    example = answered(row, {f"completions[{i}]": answers[i] for i in kept})
    return example._replace(tied=len(scores) - len(kept))


def _is_finite(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and isfinite(value))


def _label(row: Row, column: str = "label") -> int:
    """1 (preferred) or 0; a CSV file has it as text."""
    label = value_of(row, column)
    number = {"1": 1, "0": 0, "true": 1, "false": 0}.get(label.strip().lower()) if isinstance(label, str) else label
    if not isinstance(number, int | float) or number not in (0, 1):
        raise ValueError(f"column {column!r} holds {shown(label)}, expected 1 (preferred) or 0")
    return int(number)


def _labelled(row: Row) -> Example:
    label = _label(row)
    return Example("", (text_of(value_of(row, "text"), "text"),), label)


def _shp(row: Row) -> Example:
    answers = {column: value_of(row, column) for column in ("human_ref_A", "human_ref_B")}
    best_first = dict(sorted(answers.items(), reverse=not _label(row, "labels")))
    return answered({"question": value_of(row, "history")}, best_first)


def _summaries(row: Row) -> Example:
    info, summaries, choice = value_of(row, "info"), _list(row, "summaries"), value_of(row, "choice")
    if not isinstance(info, dict) or not all(isinstance(s, dict) for s in summaries) or choice not in (0, 1):
        raise ValueError(f"columns 'info', 'summaries', 'choice' hold {shown([info, summaries, choice])}")
    names = {"subreddit": "SUBREDDIT: r/", "title": "TITLE: ", "post": "POST: ", "article": "ARTICLE: "}
    parts = [f"{name}{info[key]}\n\n" for key, name in names.items() if info.get(key)]  # Stiennon et al. 2020
    texts = [text_of(summary.get("text"), "summaries") for summary in summaries[:2]]
    return Example("".join(parts) + "TL;DR:", (" " + texts[choice].lstrip(), " " + texts[1 - choice].lstrip()))


def _messages(row: Row) -> Example:
    if row.get("messages") == []:
        raise UnusableError(NO_ANSWER)
    turns = turns_of(value_of(row, "messages"), "messages")
    return conversation([turn for turn in turns_before(row) if turn not in turns] + turns)


def _last_question(row: Row) -> Example:
    """The prompt that the last answer of a conversation responds to."""
    turns = turns_before(row) + turns_of(value_of(row, "messages"), "messages")
    return Example(flatten(turns[:-1] if turns[-1]["role"] == "assistant" else turns) + ANSWER, ())


def _asked(row: Row) -> Example:
    prompt = prompt_of(row)
    return Example(prompt if isinstance(prompt, str) else opening(prompt), ())


def _only_text(row: Row) -> Example:
    return Example("", (text_of(value_of(row, "text"), "text"),))


LAYOUTS: dict[Kind, dict[tuple[str, ...], Callable[[Row], Example]]] = {
    "demonstrations": {
        ("prompt", "completion"): lambda row: answered(row, {"completion": value_of(row, "completion")}),
        ("messages",): _messages,
        ("text",): _only_text,
    },
    "preferences": {
        ("prompt", "chosen", "rejected"): lambda row: answered(row, _pair(row)),
        ("prompt", "ranked"): lambda row: answered(
            row, {f"ranked[{i}]": value for i, value in enumerate(_list(row, "ranked"))}
        ),
        ("prompt", "completions"): _scored,
        ("chosen", "rejected"): lambda row: compared([text_of(value, name) for name, value in _pair(row).items()]),
        ("history", "human_ref_A", "human_ref_B", "labels"): _shp,
        ("info", "summaries", "choice"): _summaries,
        ("prompt", "completion", "label"): lambda row: answered(
            row, {"completion": value_of(row, "completion")}
        )._replace(label=_label(row)),
        ("text", "label"): _labelled,
    },
    "prompts": {
        ("prompt",): _asked,
        ("messages",): _last_question,
        ("text",): lambda row: _asked({"prompt": value_of(row, "text")}),
    },
}
"""Kind -> accepted sets of columns, of which the first that is complete applies -> function that reads such a row."""


class Layout(NamedTuple):
    """How the rows of one table are read."""

    columns: tuple[str, ...]
    """The key in `LAYOUTS`."""
    names: dict[str, str]
    """Column of the table that has another name in `LAYOUTS` -> that name."""
    read: frozenset[str]
    """All columns of the table that are read."""
    function: Callable[[Row], Example]

    def example(self, row: Row) -> Example:
        """The example of a row. Raises ValueError if the row is invalid, UnusableError if it makes no example."""
        return self.function({self.names.get(column, column): value for column, value in row.items()})


def recognise(kind: Kind, columns: Sequence[str]) -> Layout:
    """The first layout whose columns are complete. Raises ValueError if there is none, or a column occurs twice."""
    if {"text", "parent_id"} <= {*columns}:
        raise ValueError(
            "has single messages of trees (columns text and parent_id, as in OASST), expected whole conversations: "
            "write the turns from the root to each answer as a list in a column messages (docs/data.md)"
        )
    names = {}
    for name, others in SYNONYMS.items():
        other = next((other for other in others if other in columns), None)
        if name not in columns and other:
            names[other] = name
    known = {names.get(column, column) for column in columns}
    if known & set(QUESTIONS[:-1]):  # `context` alone asks nothing
        known.add("prompt")
    for wanted, function in LAYOUTS[kind].items():
        if set(wanted) <= known:
            read = {*wanted, *(other for other, name in names.items() if name in wanted)}
            if "prompt" in wanted:
                read |= {*BEFORE, *(() if "prompt" in columns else QUESTIONS)}
            if "messages" in wanted:
                read |= {*BEFORE}
            if "completions" in wanted:
                read |= {*NUMBERS}
            for column in read:
                if list(columns).count(column) > 1:
                    raise ValueError(f"has the column {column!r} {list(columns).count(column)} times, expected once")
            return Layout(wanted, names, frozenset(read), function)
    accepted = "; or ".join(", ".join(wanted) for wanted in LAYOUTS[kind])
    raise ValueError(f"has the columns {', '.join(columns) or '(none)'}, but {kind} need {accepted} (docs/data.md)")
