"""The sentences of the bundled reviews: a context-free grammar that generates and recognises them.

A symbol maps to its alternatives, and `<name>` in an alternative is another symbol. Two marks stand for several
rules at once:

- ± is the sign of the rule, + for praise and - for blame, and ∓ is the opposite sign: "<claim∓>, but <claim±>" blames
  and then praises in `contrast+`, and the other way round in `contrast-`.
- @ is an aspect, the same one in the whole line: "the <one@> is <rated@±>" becomes one line about the plot, one about
  the music, and so on.
"""

from __future__ import annotations

import re
from functools import cache

from minippo.reviews.lexicon import (
    ADJECTIVES,
    ADVICE,
    ASPECTS,
    COMPARATIVES,
    EXTREME,
    FEELINGS,
    FILM_NAMES,
    GENRES,
    MOODS,
    NEGATIONS,
    REACTIONS,
    VERBS,
    VERDICTS,
    words,
)

Rules = dict[str, tuple[str, ...]]

SYMBOL = re.compile(r"<([^<>]+)>")

# Whole sentences, without the capital letter and the full stop.
SENTENCES = {
    "statement": ("<claim±>", "<claim±>", "<claim±> <when>", "<aside>, <claim±>", "<claim±>, and <claim±>", "<both±>"),
    "negated": ("<denial±>", "<denial±>", "<aside>, <denial±>"),
    "contrast": (
        "<claim∓>, <but> <claim±>",
        "<claim∓>, <but> <felt±>",
        "<felt∓>, but <claim±>",
        "<concession∓>, <claim±>",
        "<claim±>, <although> <claim∓>",
    ),
    "personal": ("<felt±>", "<felt±>", "<aside>, <felt±>", "<remark±>"),
    "compared": ("<comparison±> than <standard>",),
    "film": (
        "it is <an adjective±> <film>",
        "this is <a degree> <plain±> <film>",
        "the <film> is <degree±> <mood±>",
        "the whole <film> feels <mood±>",
        "the <film> is <negation> <mood∓>",
        "for a <genre>, it is <degree±> <mood±>",
        "for a <genre>, it is <negation> <mood∓>",
    ),
    "reaction": ("I <reacted±>", "in truth, I <reacted±>", "to be honest, I <reacted±>"),
    "verdict": (
        "<finally>, it is a <judgement±>",
        "this <film> is a <judgement±>",
        "<finally>, I <feeling±> it",
        "<finally>, it <verb±>",
        "my advice: <advice±>",
    ),
}

# Parts of sentences that are about one aspect.
ABOUT_ASPECT = {
    "claim": (
        "the <one@> is <rated@±>",
        "the <many@> are <rated@±>",
        "the <one@> <verb@±>",
        "the <many@> <verbs@±>",
    ),
    "both": (
        "the <one@> is <adjective@±> and <adjective@±>",
        "the <many@> are <adjective@±> and <adjective@±>",
    ),
    "denial": (
        "the <one@> is <negation> <adjective@∓>",
        "the <many@> are <negation> <adjective@∓>",
        "I would not call the <noun@> <adjective@∓>",
    ),
    "concession": (
        "<although> the <one@> is <rated@±>",
        "<although> the <many@> are <rated@±>",
        "although I <feeling±> the <noun@>",
        "for all its <adjective@±> <many@>",
        "despite the <adjective@±> <noun@>",
    ),
    "felt": ("I <feeling±> the <noun@>", "I found the <noun@> <rated@±>"),
    "remark": (
        "there is something <rated@±> about the <noun@>",
        "it has <rated@±> <many@>",
        "what stays with me is the <adjective@±> <one@>",
        "what I remember are the <adjective@±> <many@>",
    ),
    "comparison": ("the <one@> is <comparative±>", "the <many@> are <comparative±>"),
}

# Adjectives, alone or with a degree. An alternative that is listed twice is chosen twice as often.
PHRASES = {
    "rated@": (
        "<plain@±>",
        "<plain@±>",
        "<degree±> <plain@±>",
        "<degree±> <plain@±>",
        "<extreme@±>",
        "<boost> <extreme@±>",
    ),
    "adjective@": ("<plain@±>", "<plain@±>", "<extreme@±>"),
    "plain@": ("<plain±>", "<own plain@±>"),
    "extreme@": ("<extreme±>", "<own extreme@±>"),
}

LEXICONS = {
    "verb": VERBS,
    "feeling": FEELINGS,
    "comparative": COMPARATIVES,
    "judgement": VERDICTS,
    "reacted": REACTIONS,
    "advice": ADVICE,
}

SLOTS: Rules = {
    "but": words("but, yet"),
    "although": words("although, while"),
    "degree+": words("fairly, quite, rather, really, very, truly, remarkably, unusually"),
    "degree-": words("slightly, a little, quite, rather, really, very, deeply, painfully"),
    "boost": words("simply, really, truly, absolutely, utterly"),
    "a degree": words("a fairly, a rather, a really, a very, a truly, a quite"),
    "negation": tuple(NEGATIONS),
    "film": (*FILM_NAMES, "<genre>"),
    "genre": GENRES,
    "when": words("throughout, from start to finish, most of the time"),
    "aside": words("to my surprise, as far as I can tell, to be fair, I must say"),
    "standard": words(
        "I expected, in the book, the trailer promised, in most such films, anyone had told me, the poster suggests"
    ),
    "finally": words("all in all, in the end, in short, on the whole, to sum up"),
}

# Neutral sentences.
FACTS: Rules = {
    "fact": (
        "it runs for <length>",
        "it was filmed <where>",
        "it was filmed <where> <season>",
        "it takes place <where>",
        "it opens <where> and closes there too",
        "the director also <second job>",
        "it is based on <source>",
        "most of it happens <hour>",
        "I saw it <occasion>",
        "it was made <years> ago",
        "nobody says a word for <minutes>",
    ),
    "length": words("ninety minutes, about two hours, nearly three hours, just eighty minutes"),
    "where": words(
        "in a small port, on an island, in the mountains, near the border, in Lisbon, on a river boat, in a hotel, "
        "on a farm, in an old theatre, by the sea"
    ),
    "season": words("in winter, over one summer, in autumn, during a long strike"),
    "second job": words("wrote the book, plays a waiter, produced it, plays the piano, sings in one scene"),
    "source": words("a novel, a true story, an old play, three letters, a radio show"),
    "hour": words("at night, before breakfast, on a train, in a garden, during a storm"),
    "occasion": words(
        "on a Tuesday, with my sister, at a small cinema, on a long flight, with a full house, on a rainy evening"
    ),
    "years": words("two years, ten years, thirty years"),
    "minutes": words("five minutes, ten minutes, half an hour"),
}


def with_article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _by_sign(name: str, valences: dict[str, float], extreme: bool | None = None) -> Rules:
    """The words of a lexicon by sign; if `extreme` is given, only the extreme ones or only the others."""
    kept = [word for word, v in valences.items() if extreme is None or (abs(v) >= EXTREME) == extreme]
    return {name + sign: tuple(word for word in kept if (valences[word] > 0) == (sign == "+")) for sign in "+-"}


def _plural(verbs: dict[str, float]) -> dict[str, float]:
    return {verb.removesuffix("s"): valence for verb, valence in verbs.items()}


def _aspect_words(name: str) -> Rules:
    own = ASPECTS[name]
    verbs = VERBS | own.verbs
    return {
        f"one.{name}": own.one,
        f"many.{name}": own.many,
        f"noun.{name}": own.one + own.many,
        **_by_sign(f"verb.{name}", verbs),
        **_by_sign(f"verbs.{name}", _plural(verbs) if own.many else {}),
        **_by_sign(f"own plain.{name}", own.adjectives, extreme=False),
        **_by_sign(f"own extreme.{name}", own.adjectives, extreme=True),
    }


def _build() -> Rules:
    signed: Rules = {name + "±": lines for name, lines in SENTENCES.items()}
    leaves: Rules = SLOTS | FACTS
    for name in ABOUT_ASPECT:
        signed[name + "±"] = tuple(f"<{name}.{aspect}±>" for aspect in ASPECTS)
    for aspect in ASPECTS:
        for name, lines in ABOUT_ASPECT.items():
            signed[f"{name}.{aspect}±"] = tuple(line.replace("@", "." + aspect) for line in lines)
        for name, lines in PHRASES.items():
            signed[name.replace("@", "." + aspect) + "±"] = tuple(line.replace("@", "." + aspect) for line in lines)
        leaves |= _aspect_words(aspect)
    signed["plain.tone±"] += ("<mood±>", "<mood±>")
    for name, valences in LEXICONS.items():
        leaves |= _by_sign(name, valences)
    leaves |= _by_sign("plain", ADJECTIVES, extreme=False) | _by_sign("extreme", ADJECTIVES, extreme=True)
    leaves |= _by_sign("an adjective", {with_article(word): valence for word, valence in ADJECTIVES.items()})
    # Whether a mood praises depends on the genre of the film, which the grammar does not know.
    leaves |= {"mood+": tuple(MOODS), "mood-": tuple(MOODS)}
    rules = leaves | {
        name.replace("±", sign): tuple(line.replace("±", sign).replace("∓", other) for line in lines)
        for name, lines in signed.items()
        for sign, other in ("+-", "-+")
    }
    return _without_dead_lines(rules)


def _without_dead_lines(rules: Rules) -> Rules:
    """Remove lines that can never be completed, such as one with a plural noun for the tone, which has none."""
    while True:
        alive = {
            name: tuple(line for line in lines if all(rules[symbol] for symbol in SYMBOL.findall(line)))
            for name, lines in rules.items()
        }
        if alive == rules:
            return {name: lines for name, lines in rules.items() if lines}
        rules = alive


RULES = _build()


def _pattern(symbol: str) -> str:
    lines = dict.fromkeys(RULES[symbol])  # without duplicates
    return "(?:" + "|".join(_line_pattern(line) for line in lines) + ")"


def _line_pattern(line: str) -> str:
    parts = SYMBOL.split(line)  # text, symbol, text, symbol, ..., text
    return "".join(_pattern(part) if i % 2 else re.escape(part) for i, part in enumerate(parts))


@cache
def _sentence_patterns() -> list[re.Pattern[str]]:
    tops = ["fact", *(kind + sign for kind in SENTENCES for sign in "+-")]
    return [re.compile(_pattern(top)) for top in tops]


def is_grammatical(sentence: str) -> bool:
    """Whether the grammar can generate this sentence, including its capital letter and its full stop."""
    if not sentence.endswith(".") or not sentence[0].isupper():
        return False
    body = sentence[:-1] if sentence.startswith("I ") else sentence[0].lower() + sentence[1:-1]
    return any(pattern.fullmatch(body) for pattern in _sentence_patterns())


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each with its closing punctuation; a rest without punctuation is a sentence, too."""
    return [sentence.strip() for sentence in re.findall(r"[^.!?]+[.!?]*|[.!?]+", text) if sentence.strip()]
