"""Columns that no layout reads. Text must not be left out silently: it may be the question that the answers answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from minippo.data.answers import BEFORE, QUESTIONS, SYNONYMS
from minippo.data.conversations import shown
from minippo.data.formats import Example, Kind

ANSWERS = {"chosen", "rejected", "ranked", "completions", "responses", "answers", "human_ref_A", "human_ref_B"}

EXPECTED: dict[Kind, set[str]] = {
    "demonstrations": ANSWERS,
    "preferences": set(),
    "prompts": ANSWERS | {"completion", "output", "response", "answer", "messages", "conversations", "summaries"},
}
"""Answers that are left out on purpose where demonstrations or prompts are read from a file that has more."""

ASKED = {"prompt", *QUESTIONS, *BEFORE}
"""Columns that belong to the question: even one word of them must not be left out."""

READ = {"role", "from", "content", "value", "completion", *SYNONYMS["completion"]}
"""Keys of turns and of completions that are read wherever they occur."""

WORDS = re.compile(r"[\u0e00-\u0eff\u2e80-\uffff]{1,2}|[^\s\u0e00-\u0eff\u2e80-\uffff]+")
"""Scripts without spaces have about two characters per word."""


@dataclass
class Texts:
    """The texts of a column that is not read."""

    location: str
    """Location of the first of them, with that text."""
    count: int = 0
    sentences: bool = False
    phrases: set[str] = field(default_factory=set)
    """Different phrases of up to three words, at most eleven."""

    def is_text(self) -> bool:
        """Whether these are texts rather than a few categories, of which each occurs several times."""
        return self.sentences or len(self.phrases) > 10 or 4 * len(self.phrases) > self.count


class UnreadColumns:
    """Collects what is not read of the rows of a table."""

    def __init__(self, kind: Kind, read: frozenset[str]) -> None:
        self.read, self.expected = read, EXPECTED[kind]
        self.texts: dict[str, Texts] = {}
        self.templates: Counter[frozenset[str]] = Counter()
        """Words that Alpaca's column `text` adds to the row -> number of rows."""

    def add(self, location: str, row: Mapping[str, Any], example: Example) -> list[str]:
        """What of a row holds words, not only numbers and dates, but is not read: names of columns, and places in the
        columns that are read, such as `messages[].thinking`."""
        names, known = [], ""
        for name, value in row.items():
            if name in self.read and not isinstance(value, dict | list):
                continue
            if not any(texts := list(strings(value))) or is_index(name, value):
                continue
            # One word in ASCII is a name, an id, an address. What is read elsewhere in the row is not lost.
            known = known or example.prompt + "\n".join(example.completions)
            if name in self.read:
                lost = {place for place, text in nested(value, name) if not is_word(text) and text.strip() not in known}
                names += sorted(lost - {f"{name}[]"})  # texts in a list are completions, of which some are tied
                continue
            texts = [text for text in texts if not is_word(text) or (name in ASKED and text.strip())]
            lost = [text for text in texts if not _contains(known, text.strip())]
            if lost or not texts:
                names.append(name)
            if name == "text" and self._repeats_the_row(row):
                continue
            for text in lost if name not in self.expected else ():
                self._add_text(name, location, text)
        return names

    def _repeats_the_row(self, row: Mapping[str, Any]) -> bool:
        """Whether the column `text` is that of Alpaca: the whole row once more, in the words of a template, which are
        the same in many rows. (There are two, with and without an input.)"""
        others = list(strings([value for name, value in row.items() if name != "text"]))
        read = strings([row.get(column) for column in self.read])
        if not {"instruction", "output"} <= row.keys() or not all(text.strip() in row["text"] for text in read):
            return False
        template = Counter(row["text"].split()) - Counter(" ".join(others).split())
        self.templates[frozenset(template)] += 1
        return len(self.templates) <= 2 or 4 * len(self.templates) <= self.templates.total()

    def _add_text(self, name: str, location: str, text: str) -> None:
        texts = self.texts.setdefault(name, Texts(f"{location}: column {name!r} holds {shown(text)}"))
        texts.count += 1
        if name in ASKED or len(WORDS.findall(text)) > 3 or text.rstrip()[-1] in ".?!":
            texts.sentences = True
        elif len(texts.phrases) <= 10:
            texts.phrases.add(text)

    def check(self, columns: tuple[str, ...]) -> None:
        """Raise ValueError if a column holds text. `columns` are those of the layout that was read."""
        unread = {name: texts for name, texts in self.texts.items() if texts.is_text()}
        if unread:
            names = ",".join(unread)
            raise ValueError(
                f"{next(iter(unread.values())).location}, but only {', '.join(columns)} are read: rename "
                f"{' and '.join(map(repr, unread))} (to 'prompt', 'system', 'history', ...: see docs/data.md), or "
                f"train without (--data.ignore {names})"
            )


def is_index(name: str, value: object) -> bool:
    """Whether this is the number of a row, which pandas writes to CSV files."""
    return bool(re.fullmatch(r"|Unnamed: \d+", name)) and isinstance(value, str) and value.isdecimal()


def _contains(known: str, text: str) -> bool:
    """Whether `text` occurs in `known`; if it is one word, as a word."""
    return text in known and (not is_word(text) or bool(re.search(rf"(?<!\w){re.escape(text)}(?!\w)", known)))


def is_word(text: str) -> bool:
    """Whether a text has at most one word, in ASCII, or no letters."""
    return bool(re.fullmatch("[!-~]*", text.strip())) or not re.search(r"[^\W\d_]", text)


def nested(value: object, place: str) -> Iterator[tuple[str, str]]:
    """The strings in a value, with their places (`messages[].thinking`), except those that are read."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, list):
        for inner in value:
            yield from nested(inner, f"{place}[]")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if key not in READ:
                yield from nested(inner, f"{place}.{key}")


def strings(value: object) -> Iterator[str]:
    """All strings in a value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)
