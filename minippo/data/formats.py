"""What a row of your own files becomes: an example, or the reason why no example can be made of it."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Kind = Literal["demonstrations", "preferences", "prompts"]

NO_LABEL = -1

PROBLEMS = (
    "",
    "unreadable characters",
    "empty prompt",
    "empty completion",
    "identical completions",
    "more than 100,000 spaces in a row",
    "a turn without text",
    "no answer at the end",
    "all scores are equal",
)
"""Why an example is unusable, indexed by its `problem`."""

USABLE, UNREADABLE, EMPTY_PROMPT, EMPTY_COMPLETION, IDENTICAL, SPACES, NO_TEXT, NO_ANSWER, TIED = range(len(PROBLEMS))


class UnusableError(Exception):
    """A valid row that no example can be made of. `args[0]` is an index into PROBLEMS."""


class Example(NamedTuple):
    """The contents of a row. `completions` holds one text for a demonstration, all texts of a comparison (best first),
    none for a prompt."""

    prompt: str
    completions: tuple[str, ...]
    label: int = NO_LABEL
    """Label of a text that will be paired with one of the other label; 1 is preferred to 0."""
    tied: int = 0
    """Number of completions left out of a ranking, because another one has the same score."""

    @property
    def without_space(self) -> bool:
        """Whether a completion begins with a letter or digit right after the prompt, as if it ended the last word."""
        return bool(self.prompt.rstrip() == self.prompt != "") and any(
            text[:1].isascii() and text[:1].isalnum() for text in self.completions
        )

    def problem(self) -> int:
        """Why the example is unusable, an index into PROBLEMS; 0 if it is usable."""
        for text in (self.prompt, *self.completions):
            if problem := text_problem(text):
                return problem
        if not self.completions and not self.prompt.strip():
            return EMPTY_PROMPT
        if not all(text.strip() for text in self.completions):
            return EMPTY_COMPLETION
        return IDENTICAL if len(set(self.completions)) < len(self.completions) else USABLE


def unreadable(text: str) -> str:
    """Why no model can read a text, in words; empty if it can."""
    return PROBLEMS[text_problem(text)]


def text_problem(text: str) -> int:
    """Why no model can read a text, an index into PROBLEMS; 0 if it can."""
    if re.search("[\0\ud800-\udfff\ufffd]", text):
        return UNREADABLE  # NUL, half of a surrogate pair, or the character that replaces invalid bytes
    # tiktoken's regular expressions fail on several hundred thousand spaces or blank lines in a row.
    return SPACES if len(text) > 100_000 and re.search(r"\s{100001}", text) else USABLE
