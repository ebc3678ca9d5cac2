"""Conversations as plain text, in one fixed template: the one of hh-rlhf (Bai et al. 2022), without special tokens."""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping, Sequence
from itertools import chain

from minippo.data.formats import NO_TEXT, UnusableError
from minippo.errors import quoted

Turn = dict[str, str]
"""`role` and `content`. The role "" stands for a text that is in the template already."""

SPEAKERS = {"system": "\n\nSystem:", "user": "\n\nHuman:", "assistant": "\n\nAssistant:"}

ANSWER = SPEAKERS["assistant"]

ROLES = {"human": "user", "prompter": "user"} | dict.fromkeys(("gpt", "chatgpt", "model", "bot"), "assistant")
"""Other names of the speakers. A role that is not listed, such as `tool`, is kept as the speaker's name."""


def shown(value: object) -> str:
    """A value as error messages show it: `3 (int)`, `null`."""
    if value is None:
        return "null"
    text = quoted(value)
    return f"{text if len(text) <= 60 else text[:60] + '...'} ({type(value).__name__})"


def contents(turns: Sequence[Turn]) -> set[str]:
    """The stripped contents of turns, also of those in a text that is in the template already."""
    inside = "|".join(map(re.escape, SPEAKERS.values()))
    texts = (re.split(inside, turn["content"]) if turn["role"] == "" else [turn["content"]] for turn in turns)
    return {text.strip() for text in chain(*texts)} - {""}


def is_turn(value: object) -> bool:
    """Whether `value` looks like a turn: an object with a `role` (ShareGPT: `from`)."""
    return isinstance(value, dict) and ("role" in value or "from" in value)


def turns_of(value: object, column: str, role: str = "user") -> list[Turn]:
    """A list of turns, one turn, or a text, which becomes a turn of `role` unless it is in the template already.

    Raises ValueError if `value` is none of these, and UnusableError if a turn has no text, such as a call of a tool.
    """
    if isinstance(value, str):
        if value.startswith(SPEAKERS["user"]):
            return [{"role": "", "content": value.rstrip().removesuffix(ANSWER)}]
        return [{"role": role, "content": value}]
    turns = [value] if is_turn(value) else value
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], dict):
        raise ValueError(f"column {column!r} holds {shown(value)}, expected text or a list of turns")
    return [_turn(turn, f"column {column!r}, turn {number}") for number, turn in enumerate(turns, start=1)]


def _turn(turn: object, where: str) -> Turn:
    if isinstance(turn, dict):
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if isinstance(content, list):  # parts, as in the API of OpenAI
            parts = [part.get("text") if isinstance(part, dict) else None for part in content]
            content = "\n\n".join(parts) if all(isinstance(part, str) for part in parts) else content
        if isinstance(role, str) and role.strip():
            if content is None or (not content and turn.get("tool_calls")):
                raise UnusableError(NO_TEXT)
            if isinstance(content, str):
                role = role.strip().lower()
                return {"role": ROLES.get(role, role), "content": content}
    raise ValueError(f"{where} holds {shown(turn)}, expected a 'role' and a text as 'content' (or 'from' and 'value')")


def flatten(turns: Sequence[Mapping[str, str]]) -> str:
    """A conversation as text. Each turn is a blank line, the speaker, a space and the content."""
    return "".join(_speaker(turn["role"]) + turn["content"] for turn in turns)


def _speaker(role: str) -> str:
    return SPEAKERS.get(role, f"\n\n{role.capitalize()}:") + " " if role else ""


def text_of(value: object, column: str) -> str:
    """A text unchanged, or a conversation flattened. Raises ValueError if `value` is neither."""
    return value if isinstance(value, str) else flatten(turns_of(value, column))


def opening(turns: Sequence[Turn]) -> str:
    """A conversation as a prompt: it ends with "Assistant:", so that the policy continues with the answer."""
    return flatten(turns) + (ANSWER if turns[-1]["role"] != "assistant" else "")


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
