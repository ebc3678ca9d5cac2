"""The sentences of the bundled reviews: a context-free grammar that both writes them and recognises them.

A symbol maps to its alternatives; `<name>` inside an alternative is another symbol. Where a rule is written with the
signs of praise and blame, ± stands for its own sign and ∓ for the opposite one, so that one line gives two rules:
"<claim∓>, but <claim±>" praises after blaming in `contrast+`, and blames after praising in `contrast-`.
"""

from __future__ import annotations

import re

from minippo.lexicon import (
    DEGREES,
    NEGATIONS,
    words,
)

Rules = dict[str, tuple[str, ...]]

SYMBOL = re.compile(r"<([^<>]+)>")

# The kinds of opinion sentence, and how often the writer turns to each.
OPINION_KINDS = {
    "plain": 0.30,
    "negated": 0.12,
    "paired": 0.08,
    "contrast": 0.22,
    "felt": 0.14,
    "compared": 0.08,
    "film": 0.06,
}

SIGNED = {
    "plain": ("<claim±>", "<claim±> <when>", "<claim±>, and <claim±>"),
    "negated": ("<denial±>", "<denial±> <when>", "I would not call the <noun.one> <adjective∓>"),
    "paired": (
        "the <noun.one> is both <adjective±> and <adjective±>",
        "the <noun.many> are <adjective±> and <adjective±>",
    ),
    "contrast": (
        "<claim∓>, but <claim±>",
        "<claim∓>, yet <claim±>",
        "although <claim∓>, <claim±>",
        "while <claim∓>, <claim±>",
        "for all its <adjective∓> <noun.many>, <claim±>",
        "despite the <adjective∓> <noun>, <claim±>",
        "<claim∓>, but I <feeling±> the <noun>",
        "I <feeling∓> the <noun>, but <claim±>",
    ),
    "felt": (
        "I <feeling±> the <noun>",
        "I <feeling±> the <noun> <when>",
        "I found the <noun> <degree><adjective±>",
        "there is something <degree><adjective±> about the <noun>",
        "it has <degree><adjective±> <noun.many>",
        "what stays with me is the <adjective±> <noun>",
    ),
    "compared": (
        "the <noun.one> is <comparative±> than <standard>",
        "the <noun.many> are <comparative±> than <standard>",
        "<claim±>, <comparative±> than <standard>",
    ),
    "film": (
        "it is <a adjective±> <film>",
        "this is <a degree adjective±> <film>",
        "the <film> is <degree><mood±>",
        "the <film> is <negation> <mood∓>",
        "for <a film>, it is <degree><mood±>",
        "the whole <film> feels <degree><mood±>",
    ),
    "reaction": (
        "I <reaction±>",
        "my friend <reaction.other±>",
        "halfway through, I <reaction±>",
        "to be honest, I <reaction±>",
    ),
    "verdict": (
        "<finally>, it is a <verdict±>",
        "<finally>, this <film> is a <verdict±>",
        "my advice: <advice±>",
        "<finally>, I <feeling±> it",
        "<finally>, it <verb.one±>",
    ),
    "claim": (
        "the <noun.one> is <degree><adjective±>",
        "the <noun.many> are <degree><adjective±>",
        "the <noun.one> <verb.one±>",
        "the <noun.many> <verb.many±>",
    ),
    "denial": ("the <noun.one> is <negation> <adjective∓>", "the <noun.many> are <negation> <adjective∓>"),
}

UNSIGNED = {
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
        "nobody in it says a word for <minutes>",
    ),
    "degree": ("", *(degree + " " for degree in DEGREES)),
    "negation": tuple(NEGATIONS),
    "when": words(
        "from start to finish, from the first minute, in every scene, throughout, in the second half, most of the time"
    ),
    "standard": words(
        "I expected, in the book, the trailer promised, in most films of its kind, anyone had told me, the year before"
    ),
    "finally": words("all in all, in the end, in short, on the whole, to sum up"),
    "length": words("ninety minutes, about two hours, nearly three hours, barely eighty minutes"),
    "where": words(
        "in a small port, on an island, in the mountains, near the border, in Lisbon, on a river boat, "
        "in a hotel, on a farm, in an old theatre, by the sea"
    ),
    "season": words("in winter, over one summer, in autumn, during a long strike"),
    "second job": words("wrote the book, plays a waiter, produced it, holds the microphone, sings in one scene"),
    "source": words("a novel, a true story, an old play, three letters, a radio show"),
    "hour": words("at night, before breakfast, on a train, in a kitchen, during a storm"),
    "occasion": words(
        "on a Tuesday, with my sister, at a small cinema, on a long flight, with a full house, on a rainy evening"
    ),
    "years": words("two years, ten years, thirty years"),
    "minutes": words("five minutes, ten minutes, half an hour"),
}


def _signed_rules(rules: dict[str, tuple[str, ...]]) -> Rules:
    flip = {"+": "-", "-": "+"}
    return {
        name + sign: tuple(text.replace("±", sign).replace("∓", flip[sign]) for text in alternatives)
        for name, alternatives in rules.items()
        for sign in "+-"
    }


def _by_sign(name: str, valences: dict[str, float]) -> Rules:
    return {
        name + "+": tuple(word for word, valence in valences.items() if valence > 0),
        name + "-": tuple(word for word, valence in valences.items() if valence < 0),
    }


def _with_article(phrases: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(("an " if phrase[0] in "aeiou" else "a ") + phrase for phrase in phrases)
