"""The gold score: how much the simulated human likes a review. It labels and evaluates; nothing is trained on it.

A review is interpreted clause by clause:

1. An opinion word has a valence. A preceding degree word scales it ("very good"), a negation reverses and weakens it
   ("not exactly good"). A mood word such as "scary" praises films of some genres and blames the others; the genre is
   that of the prompt.
2. The value of a clause is the mean of its opinions, so a second word of praise adds nothing by itself. Strong values
   saturate.
3. A clause has weight 1. The weight is multiplied by 1.6 if the clause is about the aspect that the speaker of the
   prompt cares about, by 0.5 if it is conceded ("although ...", "... but"), and by 0.6 for every earlier clause about
   the same aspect.
4. The score is the weighted mean of the clauses, shrunk towards 0 if their total weight is small: saying more helps,
   with diminishing returns.
5. Repeated words, ungrammatical sentences and the wrong genre are penalised.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from math import tanh
from typing import Literal

from minippo.reviews.grammar import is_grammatical, split_sentences
from minippo.reviews.lexicon import (
    ADJECTIVES,
    ADVICE,
    ASPECTS,
    CALLINGS,
    COMPARATIVES,
    CONCEDING,
    CONTRASTING,
    DEGREES,
    FEELINGS,
    FILM,
    GENRES,
    MOODS,
    NEGATIONS,
    OTHER_NEGATIONS,
    OTHER_OPINIONS,
    REACTIONS,
    VERBS,
    VERDICTS,
    mood_valence,
)

SCALE = 2.6
"""Gold points per unit of valence."""

CEILING = 2.0
"""Upper bound of the absolute value of a clause, however strong its words."""

PRIOR_WEIGHT = 1.0
"""Weight of a neutral opinion that every review starts with."""

CARED_FOR = 1.6
"""Weight factor of a clause about the aspect that the speaker of the prompt cares about."""

CONCEDED = 0.5
"""Weight factor of a conceded clause."""

SAME_ASPECT = 0.6
"""Weight factor of a clause for every earlier clause about the same aspect."""

NOTHING_SAID = -0.5
"""Score of a review without any opinion, before penalties."""

REPETITION_COST = 3.0
"""Penalty per share of word pairs that have occurred before."""

STALE_COST = 1.5
"""Penalty per share of opinion and degree words that have occurred before."""

BROKEN_COST = 0.6
"""Penalty per share of ungrammatical sentences."""

WRONG_GENRE_COST = 1.0
"""Penalty if the review names another genre than the prompt."""

HEAP_SIZE = 3
"""An ungrammatical sentence with at least this many opinion and degree words, if they are more than half of its words,
is a mere list of words and expresses no opinion."""

Kind = Literal["opinion", "mood", "degree", "negation", "aspect", "genre", "conceding", "contrasting", "comma"]

LOADED = ("opinion", "mood", "degree")

WORD = re.compile(r"[a-z]+(?:'[a-z]+)*|,")


@dataclass(frozen=True)
class Term:
    """A word or fixed phrase with its meaning."""

    kind: Kind
    text: str
    value: float = 0.0
    """Valence of an opinion; factor of a degree or a negation."""
    name: str = ""
    """The aspect that a noun refers to."""


def _terms() -> Iterator[Term]:
    verbs = VERBS | {verb: value for aspect in ASPECTS.values() for verb, value in aspect.verbs.items()}
    verbs |= {verb.removesuffix("s"): value for verb, value in verbs.items()}
    own = {word: value for aspect in ASPECTS.values() for word, value in aspect.adjectives.items()}
    for table in (ADJECTIVES, own, verbs, FEELINGS, COMPARATIVES, VERDICTS, REACTIONS, ADVICE, OTHER_OPINIONS):
        yield from (Term("opinion", text, value) for text, value in table.items())
    yield from (Term("mood", text) for text in MOODS)
    yield from (Term("degree", text, value) for text, value in DEGREES.items())
    yield from (Term("negation", text, value) for text, value in (OTHER_NEGATIONS | NEGATIONS).items())
    for name, aspect in ASPECTS.items():
        yield from (Term("aspect", text, name=name) for text in aspect.one + aspect.many)
    yield from (Term("genre", text) for text in GENRES)
    yield from (Term("conceding", text) for text in CONCEDING)
    yield from (Term("contrasting", text) for text in CONTRASTING)
    yield Term("comma", ",")


TERMS = {tuple(WORD.findall(term.text)): term for term in _terms()}

# First word -> lengths of the terms that begin with it, longest first.
LENGTHS = {
    first: sorted({len(key) for key in TERMS if key[0] == first}, reverse=True) for first in {key[0] for key in TERMS}
}


def read(words: list[str]) -> list[Term]:
    """The terms among these words; words without a meaning are skipped. Longer phrases take precedence."""
    terms, start = [], 0
    while start < len(words):
        step = 1
        for length in LENGTHS.get(words[start], ()):
            term = TERMS.get(tuple(words[start : start + length]))
            if term:
                terms.append(term)
                step = length
                break
        start += step
    return terms


@dataclass(frozen=True)
class Interest:
    """What a prompt says about the film and the speaker; None if it does not say it."""

    genre: str | None
    aspect: str | None


@lru_cache(maxsize=100_000)
def interest(prompt: str) -> Interest:
    """The genre that a prompt names, and the aspect its speaker cares about: named, or implied by an occupation."""
    words = WORD.findall(prompt.lower())
    terms = read(words)
    genre = next((term.text for term in terms if term.kind == "genre"), None)
    named = next((term.name for term in terms if term.kind == "aspect"), None)
    text = f" {' '.join(words)} "
    implied = next((aspect for calling, aspect in CALLINGS.items() if f" {calling} " in text), None)
    return Interest(genre, named or implied)


@dataclass
class Clause:
    """The opinions in a clause, and the aspect they are about."""

    values: list[float] = field(default_factory=list)
    aspect: str = FILM
    conceded: bool = False

    def value(self) -> float:
        """The mean of its opinions, saturating at CEILING."""
        return CEILING * tanh(sum(self.values) / len(self.values) / CEILING)


def clauses_of(terms: Iterable[Term], genre: str | None) -> list[Clause]:
    """The clauses with an opinion in a sentence, which is divided at commas, conceding and contrasting words."""
    clauses = [Clause()]
    negation = degree = 1.0
    for term in terms:
        clause = clauses[-1]
        if term.kind == "opinion" or (term.kind == "mood" and genre is not None):
            valence = mood_valence(term.text, genre or "") if term.kind == "mood" else term.value
            clause.values.append(valence * degree * negation)
            negation = degree = 1.0
        elif term.kind == "degree":
            degree = term.value
        elif term.kind == "negation":
            negation *= term.value
        elif term.kind == "aspect" and clause.aspect == FILM:
            clause.aspect = term.name
        elif term.kind in ("comma", "contrasting", "conceding"):
            if term.kind == "contrasting":
                for earlier in clauses:
                    earlier.conceded = True
            clauses.append(Clause(conceded=term.kind == "conceding"))
            negation = degree = 1.0
    return [clause for clause in clauses if clause.values]


def _is_heap(words: list[str], terms: list[Term]) -> bool:
    loaded = sum(term.kind in LOADED for term in terms)
    return loaded >= HEAP_SIZE and 2 * loaded > len(words) - words.count(",")


def _weighted_mean(said: Iterable[Clause], cared_for: str | None) -> float | None:
    """Steps 3 and 4, in units of valence; None if there is no opinion."""
    times: Counter[str] = Counter()
    total, weights = 0.0, 0.0
    for clause in said:
        weight = SAME_ASPECT ** times[clause.aspect]
        times[clause.aspect] += 1
        weight *= CARED_FOR if clause.aspect == cared_for else 1.0
        weight *= CONCEDED if clause.conceded else 1.0
        total += weight * clause.value()
        weights += weight
    return total / (PRIOR_WEIGHT + weights) if weights > 0 else None


def repeated_share(items: list[object]) -> float:
    """Share of the items that are equal to an earlier one."""
    return 1 - len(set(items)) / len(items) if items else 0.0


def gold_score(prompt: str, response: str) -> float:
    """How much the simulated human likes a response to a prompt. Above 0 is positive; most reviews are within 5 of 0.

    Defined for any two texts. The docstring and the constants of this module describe how it is computed.
    """
    wish = interest(prompt)
    said: list[Clause] = []
    terms: list[Term] = []
    spoken: list[str] = []
    num_sentences = num_broken = 0
    for sentence in split_sentences(response):
        broken = not is_grammatical(sentence)
        words = WORD.findall(sentence.lower())
        sentence_terms = read(words)
        if not (broken and _is_heap(words, sentence_terms)):
            said += clauses_of(sentence_terms, wish.genre)
        terms += sentence_terms
        spoken += words
        num_sentences += 1
        num_broken += broken
    mean = _weighted_mean(said, wish.aspect)
    score = NOTHING_SAID if mean is None else SCALE * mean
    score -= REPETITION_COST * repeated_share(list(pairwise(spoken)))
    score -= STALE_COST * repeated_share([term.text for term in terms if term.kind in LOADED])
    score -= BROKEN_COST * (num_broken / num_sentences if num_sentences else 1.0)
    genres = {term.text for term in terms if term.kind == "genre"}
    if wish.genre is not None and genres - {wish.genre}:
        score -= WRONG_GENRE_COST
    return score
