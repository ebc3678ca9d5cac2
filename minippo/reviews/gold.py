"""The gold score: what the simulated human thinks of a review. It labels and judges; nothing is trained on it.

A review is read clause by clause, and the steps are these.

1. An opinion word has a valence. A degree word before it scales it ("very good"), a negation flips and weakens it
   ("not exactly good"). A mood word such as "scary" praises in one genre and blames in another: the prompt's decides.
2. A clause is worth the mean of its opinions, so a second word of praise adds nothing by itself, and strong words
   saturate.
3. A clause weighs 1, 1.6 times that where it is about what the speaker of the prompt cares about, less where it is
   conceded ("although ...", "... but"), and less for every earlier clause on the same aspect.
4. The clauses' weighted mean is drawn towards 0 where their weights are few: saying more helps, ever less.
5. Off goes something for repeated words, for sentences that are no sentences, and for the wrong kind of film.
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
"""No clause is worth more than this either way, however strong its words."""

PRIOR_WEIGHT = 1.0
"""Weight of the neutral opinion that every review starts with."""

CARED_FOR = 1.6
"""Weight of a clause about the aspect that the speaker of the prompt cares about."""

CONCEDED = 0.5
"""Weight of a clause that another one overrules."""

SAME_ASPECT = 0.6
"""Weight of a clause, for every earlier clause on the same aspect."""

NOTHING_SAID = -0.5
"""Score of a review without an opinion, before the costs."""

REPETITION_COST = 3.0
"""Times the share of neighbouring word pairs that have stood there before."""

STALE_COST = 1.5
"""Times the share of opinion and degree words that have stood there before."""

BROKEN_COST = 0.6
"""Times the share of sentences that the language of reviews does not know."""

WRONG_GENRE_COST = 1.0
"""Where the review calls the film something else than the prompt does."""

HEAP_SIZE = 3
"""So many opinion and degree words, more than half of a broken sentence, are a heap of words and no opinion."""

Kind = Literal["opinion", "mood", "degree", "negation", "aspect", "genre", "conceding", "contrasting", "comma"]

LOADED = ("opinion", "mood", "degree")

WORD = re.compile(r"[a-z]+(?:'[a-z]+)*|,")


@dataclass(frozen=True)
class Term:
    """A word or fixed phrase as the gold score reads it."""

    kind: Kind
    text: str
    value: float = 0.0
    """Valence of an opinion, factor of a degree or a negation."""
    name: str = ""
    """The aspect that a noun belongs to."""


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

# First word -> lengths of the phrases that begin with it, longest first.
LENGTHS = {
    first: sorted({len(key) for key in TERMS if key[0] == first}, reverse=True) for first in {key[0] for key in TERMS}
}


def read(found: list[str]) -> list[Term]:
    """Those of the words that mean something here, with fixed phrases as one term; longer phrases go first."""
    terms, start = [], 0
    while start < len(found):
        step = 1
        for length in LENGTHS.get(found[start], ()):
            term = TERMS.get(tuple(found[start : start + length]))
            if term:
                terms.append(term)
                step = length
                break
        start += step
    return terms


@dataclass(frozen=True)
class Interest:
    """What a prompt says about the film and the speaker; None where it says nothing."""

    genre: str | None
    aspect: str | None


@lru_cache(maxsize=100_000)
def interest(prompt: str) -> Interest:
    """The genre a prompt names, and the aspect that its speaker cares about: named, or given away by a calling."""
    found = WORD.findall(prompt.lower())
    terms = read(found)
    genre = next((term.text for term in terms if term.kind == "genre"), None)
    named = next((term.name for term in terms if term.kind == "aspect"), None)
    spoken = f" {' '.join(found)} "
    called = next((aspect for calling, aspect in CALLINGS.items() if f" {calling} " in spoken), None)
    return Interest(genre, named or called)


@dataclass
class Clause:
    """One thing said: the opinions in it, and about which aspect."""

    values: list[float] = field(default_factory=list)
    aspect: str = FILM
    conceded: bool = False

    def value(self) -> float:
        """The mean of its opinions, bent to stay within the ceiling."""
        return CEILING * tanh(sum(self.values) / len(self.values) / CEILING)


def clauses(terms: Iterable[Term], genre: str | None) -> list[Clause]:
    """A sentence cut at commas and contrasts, each clause with the values of its opinions."""
    found = [Clause()]
    negation = degree = 1.0
    for term in terms:
        clause = found[-1]
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
                for earlier in found:
                    earlier.conceded = True
            found.append(Clause(conceded=term.kind == "conceding"))
            negation = degree = 1.0
    return [clause for clause in found if clause.values]


def _is_heap(found: list[str], terms: list[Term]) -> bool:
    loaded = sum(term.kind in LOADED for term in terms)
    return loaded >= HEAP_SIZE and 2 * loaded > len(found) - found.count(",")


def _weighted_mean(said: Iterable[Clause], cared_for: str | None) -> float | None:
    """Steps 3 and 4, in units of valence; None where nothing is said."""
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
    """How much the simulated human likes a response to a prompt; above 0 is positive. Defined for any two texts.

    Within a few points of 0; the module's text and constants say how it comes about.
    """
    wish = interest(prompt)
    said: list[Clause] = []
    terms: list[Term] = []
    spoken: list[str] = []
    num_sentences = num_broken = 0
    for sentence in split_sentences(response):
        broken = not is_grammatical(sentence)
        found = WORD.findall(sentence.lower())
        found_terms = read(found)
        if not (broken and _is_heap(found, found_terms)):
            said += clauses(found_terms, wish.genre)
        terms += found_terms
        spoken += found
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
