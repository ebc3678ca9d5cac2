"""Generates prompts and reviews: clean ones from the grammar, and spoilt ones as a policy may produce them in PPO.

All random choices use `Random.random()`, the only method whose results Python guarantees never to change for a seed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Literal, TypeVar

from minippo.reviews.gold import gold_score
from minippo.reviews.grammar import ABOUT_ASPECT, RULES, SYMBOL, split_sentences, with_article
from minippo.reviews.lexicon import (
    ADJECTIVES,
    ASPECTS,
    CALLINGS,
    GENRES,
    MOODS,
    OPENINGS,
    PEOPLE,
    SUBJECT_NOUNS,
    SUBJECT_TRAITS,
    WISHES,
    mood_valence,
)

Item = TypeVar("Item")

Sign = Literal["+", "-"]

NUM_SENTENCES = {2: 0.15, 3: 0.35, 4: 0.35, 5: 0.15}
"""Number of sentences of a review -> its probability."""

OPINIONS = {
    "statement": 0.34,
    "contrast": 0.20,
    "personal": 0.16,
    "negated": 0.10,
    "film": 0.07,
    "reaction": 0.07,
    "compared": 0.06,
}
"""Kind of sentence that expresses an opinion -> its probability."""

FACT_SHARE = 0.4
"""Share of the reviews with three sentences or more that contain a neutral fact."""

VERDICT_SHARE = 0.4
"""Share of the reviews that end with a verdict."""

LOYALTY = 0.92
"""Share of the sentences that have the sign of their review."""

CARED_FOR_SHARE = 0.75
"""Share of the reviews that begin, first or second, with the aspect that the speaker cares about."""

WISH_SHARE = {"calling": 0.4, "other": 0.7}
"""Share of the prompts that say what the speaker cares about: if an occupation implies it already, and otherwise."""

NUM_WORDS = range(18, 46)
"""Number of words of a clean review."""

MAX_CHARACTERS = 180
"""Of a clean review, so that it fits into a response of 64 policy tokens including end-of-text."""

MAX_SPOILT_CHARACTERS = 230
"""Of a spoilt review."""

MAX_PROMPT_WORDS = 16
"""Of a prompt, so that it fits into 24 policy tokens."""

CLEAR = 0.15
"""Smallest absolute gold score of a demonstration."""


def pick(rng: Random, items: Sequence[Item]) -> Item:
    return items[int(rng.random() * len(items))]


def pick_weighted(rng: Random, shares: Mapping[Item, float]) -> Item:
    items, ends = tuple(shares), tuple(accumulate(shares.values()))
    return items[min(bisect_right(ends, rng.random() * ends[-1]), len(items) - 1)]


def shuffled(rng: Random, items: Sequence[Item]) -> list[Item]:
    return [item for _, item in sorted(((rng.random(), item) for item in items), key=lambda pair: pair[0])]


@dataclass(frozen=True)
class Prompt:
    """A prompt and its meaning."""

    text: str
    genre: str
    aspect: str | None
    """What the speaker cares about; None if the text does not say so."""


def write_prompt(rng: Random, held_out: bool) -> Prompt:
    """Generate a prompt for held-out data or for training. One pair of genre and subject in nine is held out."""
    while True:
        genre, trait, noun = (int(rng.random() * len(things)) for things in (GENRES, SUBJECT_TRAITS, SUBJECT_NOUNS))
        if ((3 * genre + 5 * trait + noun) % 9 == 0) != held_out:
            continue
        prompt = _word_prompt(rng, GENRES[genre], f"{SUBJECT_TRAITS[trait]} {SUBJECT_NOUNS[noun]}")
        if len(prompt.text.split()) <= MAX_PROMPT_WORDS:
            return prompt


def _word_prompt(rng: Random, genre: str, subject: str) -> Prompt:
    opening, calling, aspect = pick(rng, OPENINGS), pick(rng, tuple(CALLINGS)), None
    if "<calling>" in opening:
        aspect = CALLINGS[calling]
    wish = ""
    if rng.random() < WISH_SHARE["calling" if aspect else "other"]:
        aspect = pick(rng, tuple(ASPECTS))
        wish = pick(rng, WISHES).replace("<noun>", pick(rng, RULES[f"noun.{aspect}"]))
    opening = opening.replace("<genre>", genre).replace("<subject>", with_article(subject))
    opening = opening.replace("<calling>", calling).replace("<person>", pick(rng, PEOPLE))
    return Prompt(f"{opening} {wish}".strip(), genre, aspect)


class Writer:
    """Draws the sentences of one review from the grammar and avoids lines that it has already used."""

    def __init__(self, rng: Random, prompt: Prompt, aspects: Sequence[str] = ()) -> None:
        """`aspects` are written about in turn; by default all, usually beginning with what the speaker cares about."""
        self.rng, self.genre = rng, prompt.genre
        self.used: set[str] = set()
        self.aspects = list(aspects) or shuffled(rng, tuple(ASPECTS))
        if not aspects and prompt.aspect and rng.random() < CARED_FOR_SHARE:
            self.aspects.remove(prompt.aspect)
            self.aspects.insert(int(rng.random() * 2), prompt.aspect)

    def sentence(self, symbol: str) -> str:
        text = self._expand(symbol)
        return text[0].upper() + text[1:] + "."

    def _expand(self, symbol: str) -> str:
        lines = self._lines(symbol)
        line = pick(self.rng, [line for line in lines if line not in self.used] or lines)
        self.used.add(line)
        return SYMBOL.sub(lambda match: self._expand(match[1]), line) if "<" in line else line

    def _lines(self, symbol: str) -> Sequence[str]:
        name, sign = symbol[:-1], symbol[-1]
        if symbol == "genre":
            return (self.genre,)
        if name == "mood":
            return [word for word in MOODS if (mood_valence(word, self.genre) > 0) == (sign == "+")]
        if name in ABOUT_ASPECT:
            self.aspects.append(self.aspects.pop(0))
            return RULES[f"{name}.{self.aspects[-1]}{sign}"]
        return RULES[symbol]


def write_review(rng: Random, prompt: Prompt, sign: Sign, aspects: Sequence[str] = ()) -> str:
    """A clean review that mostly praises (+) or mostly blames (-). It begins with a space, to follow the prompt."""
    flip: dict[Sign, Sign] = {"+": "-", "-": "+"}
    while True:
        writer = Writer(rng, prompt, aspects)
        kinds = [pick_weighted(rng, OPINIONS) for _ in range(pick_weighted(rng, NUM_SENTENCES))]
        symbols = [kind + (sign if rng.random() < LOYALTY else flip[sign]) for kind in kinds]
        if rng.random() < VERDICT_SHARE:
            symbols[-1] = "verdict" + sign
        if len(symbols) > 2 and rng.random() < FACT_SHARE:
            symbols[int(rng.random() * (len(symbols) - 1))] = "fact"
        review = "".join(" " + writer.sentence(symbol) for symbol in symbols)
        if len(review.split()) in NUM_WORDS and len(review) <= MAX_CHARACTERS:
            return review


def write_demonstration(rng: Random, prompt: Prompt, sign: Sign) -> str:
    """A clean review whose gold score has this sign and is not close to 0."""
    while True:
        review = write_review(rng, prompt, sign)
        gold = gold_score(prompt.text, review)
        if (gold > 0) == (sign == "+") and abs(gold) >= CLEAR:
            return review


# Ways to spoil a review. Each returns a text that begins with a space and praises (+) or blames (-).


def repeat(rng: Random, prompt: Prompt, sign: Sign) -> str:
    """One sentence occurs two to four times."""
    sentences = split_sentences(write_review(rng, prompt, sign))
    index = int(rng.random() * len(sentences))
    sentences[index : index + 1] = [sentences[index]] * (2 + int(rng.random() * 3))
    return "".join(" " + sentence for sentence in sentences[:6])


def harp(rng: Random, prompt: Prompt, sign: Sign) -> str:
    """Every sentence is about the same aspect of the film."""
    return write_review(rng, prompt, sign, [pick(rng, tuple(ASPECTS))])


def echo(rng: Random, prompt: Prompt, sign: Sign) -> str:
    """The same opinion about one aspect after another."""
    phrase = pick(rng, RULES["boost"]) + " " + pick(rng, RULES["extreme" + sign])
    nouns = [pick(rng, RULES[f"one.{aspect}"]) for aspect in shuffled(rng, tuple(ASPECTS))[: 3 + int(rng.random() * 4)]]
    return "".join(f" The {noun} is {phrase}." for noun in nouns)


def heap(rng: Random, prompt: Prompt, sign: Sign) -> str:
    """A series of opinion words that is not a sentence, alone or after some sentences."""
    words = [word for word, valence in ADJECTIVES.items() if (valence > 0) == (sign == "+")]
    run = " ".join(pick(rng, words) for _ in range(4 + int(rng.random() * 12)))
    before = split_sentences(write_review(rng, prompt, sign))[: int(rng.random() * 3)]
    return "".join(" " + sentence for sentence in before) + " " + run[0].upper() + run[1:] + "."


def scramble(rng: Random, prompt: Prompt, sign: Sign) -> str:
    """Words are missing or exchanged with their neighbours."""
    words = write_review(rng, prompt, sign).split()
    for _ in range(1 + int(rng.random() * 5)):
        index = int(rng.random() * (len(words) - 1))
        swapped = [words[index + 1], words[index]]
        words[index : index + 2] = swapped if rng.random() < 0.5 else swapped[:1]
    return " " + " ".join(words)


def cut(rng: Random, prompt: Prompt, sign: Sign) -> str:
    """The review ends in the middle of a sentence."""
    words = write_review(rng, prompt, sign).split()
    kept = words[: len(words) // 3 + int(rng.random() * (2 * len(words) // 3 - 1))]
    return " " + " ".join(kept).rstrip(".")


def stray(rng: Random, prompt: Prompt, sign: Sign) -> str:
    """The review is about a film of another genre, which it names."""
    other = pick(rng, [genre for genre in GENRES if genre != prompt.genre])
    while True:
        review = write_review(rng, Prompt(prompt.text, other, prompt.aspect), sign)
        if other in review:
            return review


SPOILERS: tuple[Callable[[Random, Prompt, Sign], str], ...] = (repeat, harp, echo, heap, scramble, cut, stray)


def write_spoilt_review(rng: Random, prompt: Prompt, sign: Sign) -> str:
    """A review spoilt in one of these ways, which are equally likely."""
    spoil = pick(rng, SPOILERS)
    while True:
        review = spoil(rng, prompt, sign)
        if len(review) <= MAX_SPOILT_CHARACTERS:
            return review
