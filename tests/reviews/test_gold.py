"""The gold score follows its documentation and is defined for any text."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minippo.reviews import gold, gold_score
from minippo.reviews.gold import interest
from minippo.reviews.grammar import FACTS, RULES
from minippo.reviews.lexicon import ADJECTIVES, ASPECTS, CALLINGS, GENRES, MOODS, NEGATIONS, OPENINGS, WISHES

PROMPT = "I just saw a comedy about a shy pilot."  # a speaker who cares about nothing in particular


def score(response, prompt=PROMPT):
    return gold_score(prompt, response)


def test_praise_is_positive_and_blame_is_negative():
    for word, valence in ADJECTIVES.items():
        assert (score(f" The plot is {word}.") > 0) == (valence > 0), word


def test_opinions_are_graded():
    ordered = ["dreadful", "dull", "ordinary", "decent", "good", "lovely", "superb"]
    scores = [score(f" The plot is {word}.") for word in ordered]
    assert scores == sorted(scores)
    assert len(set(scores)) == len(scores)


@pytest.mark.parametrize(
    ("word", "weaker", "stronger"),
    [("good", ("fairly", "rather"), ("very", "truly")), ("dull", ("slightly", "rather"), ("very", "painfully"))],
)
def test_degrees_scale_an_opinion(word, weaker, stronger):
    phrases = [f"{weaker[0]} {word}", f"{weaker[1]} {word}", word, f"{stronger[0]} {word}", f"{stronger[1]} {word}"]
    sizes = [abs(score(f" The plot is {phrase}.")) for phrase in phrases]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == len(sizes)


def test_strong_words_saturate():
    faint, strong = (score(f" The plot is {word}.") for word in ("decent", "superb"))
    very_faint, very_strong = (score(f" The plot is {word}.") for word in ("very decent", "truly superb"))
    assert 1 < very_strong / strong < 1.25 < very_faint / faint  # the degrees alone are 1.4 and 1.3


@pytest.mark.parametrize("negation", NEGATIONS)
def test_negation_flips_and_does_not_strengthen(negation):
    for word in ("gripping", "dull"):
        plain, negated = score(f" The plot is {word}."), score(f" The plot is {negation} {word}.")
        assert plain * negated < 0
        assert abs(negated) <= abs(plain)
    assert abs(score(" The plot is not dull.")) < abs(score(" The plot is anything but dull."))


def test_negation_reaches_over_words_but_not_into_the_next_clause():
    assert score(" I would not call the plot clever.") < 0
    assert score(" The plot is not clever, but the music is lovely.") == pytest.approx(
        score(" The plot is anything but clever, but the music is lovely."), abs=0.5
    )
    assert score(" The plot never ends, but the music is lovely.") > 0
    assert score(" The plot is very, the music is good.") == score(" The plot is, the music is good.")


@pytest.mark.parametrize(
    "contrast", ["{0}, but {1}", "{0}, yet {1}", "although {0}, {1}", "while {0}, {1}", "{1}, although {0}"]
)
def test_contrast_weighs_the_clause_that_is_not_conceded(contrast):
    good, bad = "the plot is good", "the music is bad"  # "bad" is the stronger word
    praise = contrast.format("the music is bad", "the plot is good")
    blame = contrast.format(good, bad)
    assert score(" " + praise.capitalize() + ".") > 0 > score(" " + blame.capitalize() + ".")


def test_what_the_speaker_cares_about_weighs_more():
    review = " The music is superb. The plot is terrible."
    assert score(review, "A comedy about a shy pilot. I care most about the songs.") > 0
    assert score(review, "A comedy about a shy pilot. I care most about the story.") < 0
    assert score(review, "A pianist on a comedy about a shy pilot:") > 0
    assert score(review, "A novelist on a comedy about a shy pilot:") < 0


def test_an_explicit_wish_takes_precedence_over_an_occupation():
    assert interest("As a pianist, I saw this comedy about a dog. I came for the story.").aspect == "plot"
    assert interest("As a pianist, I saw this comedy about a dog.").aspect == "music"
    assert interest("Hello!") == gold.Interest(None, None)


@pytest.mark.parametrize("word", MOODS)
def test_a_mood_praises_in_some_genres_and_blames_in_the_others(word):
    for genre in GENRES:
        found = score(f" The mood is very {word}.", f"A {genre} about a shy pilot.")
        assert (found > 0) == (genre in MOODS[word]), genre
    assert 0 < len(MOODS[word]) < len(GENRES)


@pytest.mark.parametrize("genre", GENRES)
def test_every_genre_has_moods_of_both_kinds(genre):
    assert 0 < sum(genre in genres for genres in MOODS.values()) < len(MOODS)


def test_repetition_is_penalised():
    once = " The plot is superb. The music is lovely. I liked the cast."
    assert score(once + " The music is lovely.") < score(once) - 0.5
    assert score(once + " The music is lovely." * 3) < score(once + " The music is lovely.") - 0.2
    assert score(once * 2) < score(once) - 1
    varied = " The plot is superb. I loved the music. The cast shines."
    assert score(varied) > score(" The plot is superb. The music is superb. The cast is superb.") + 0.5


def test_one_aspect_earns_less_than_several():
    harping = " The plot is clever. I admired the story. What I remember are the lovely twists."
    varied = " The plot is clever. I admired the music. What I remember are the lovely costumes."
    assert score(harping) < score(varied)


def test_a_mere_list_of_opinion_words_is_not_praise():
    assert score(" Superb brilliant wonderful magnificent excellent lovely.") < 0
    assert score(" Superb brilliant wonderful magnificent excellent lovely " * 5) < -3


def test_an_ungrammatical_sentence_is_penalised():
    whole = " The plot is superb. The music is lovely."
    assert score(" The plot is superb. The is music lovely.") < score(whole) - 0.25
    assert score(" The plot is superb. The music is lovely") < score(whole) - 0.25  # no full stop


def test_the_wrong_genre_is_penalised():
    assert score(" This is a very good comedy.") > score(" This is a very good thriller.") + 0.9
    assert score(" This is a very good thriller.", "Hello!") > 0  # without a genre in the prompt none is wrong


def test_further_opinions_have_diminishing_returns():
    parts = [" The plot is lovely.", " I adored the music.", " The cast delights.", " It has sparkling lines."]
    scores = [score("".join(parts[:n])) for n in range(1, 5)]
    gains = [after - before for before, after in itertools.pairwise(scores)]
    assert gains[0] > gains[1] > 0.3 * gains[0] > gains[2]
    # Length alone earns nothing: a longer review with fainter praise has a lower score.
    assert score(" The plot is superb. I adored the music.") > score(
        " The plot is decent. I liked the music. The cast is solid."
    )


def test_saying_nothing_is_not_positive():
    assert score("") < 0
    assert score(" It was filmed in Lisbon.") < 0


def test_neutral_facts_do_not_change_the_score():
    opinion = " The plot is clever."
    for fact in ("it is based on a novel", "most of it happens at night", "nobody says a word for ten minutes"):
        whole = opinion + " " + fact.capitalize() + "."
        assert score(whole) == pytest.approx(score(opinion)), fact
    words = {word for lines in FACTS.values() for line in lines for word in line.split()}
    assert not any(gold.TERMS[key].kind in gold.LOADED for key in gold.TERMS if len(key) == 1 and key[0] in words)


def test_plain_english_beyond_the_grammar_is_understood():
    assert score(" I loved this movie! It was great.") > 0
    assert score(" I hated this movie! It was boring.") < 0
    assert score(" It isn't funny") < score(" It is funny")


def test_every_term_has_one_meaning():
    terms = list(gold._terms())
    by_key = {}
    for term in terms:
        key = tuple(gold.WORD.findall(term.text))
        assert by_key.setdefault(key, term) == term, f"{term} and {by_key[key]}"


def test_every_opinion_word_of_the_grammar_is_known_with_its_sign():
    for name, words in RULES.items():
        if "<" in "".join(words) or name[-1] not in "+-" or name.startswith(("mood", "degree")):
            continue
        for word in words:
            found = [term for term in gold.read(gold.WORD.findall(word.lower())) if term.kind == "opinion"]
            assert [(term.value > 0) == (name[-1] == "+") for term in found] == [True], (name, word)


def test_templates_of_prompts_have_no_meaning_by_themselves():
    for text in (*OPENINGS, *WISHES):
        assert interest(text) == gold.Interest(None, None), text
    assert set(CALLINGS.values()) <= set(ASPECTS)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200), st.text(max_size=400))
def test_any_text_has_a_finite_score(prompt, response):
    assert math.isfinite(gold_score(prompt, response))


WORDS = st.sampled_from([" ".join(key) for key in gold.TERMS] + [".", "!", "The", "is", "\u0000", "İ", "ﬁ", "🎬", "'"])


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=60).map(" ".join), st.lists(WORDS, max_size=60).map(" ".join))
def test_any_sequence_of_known_words_scores_within_bounds(prompt, response):
    costs = gold.REPETITION_COST + gold.STALE_COST + gold.BROKEN_COST + gold.WRONG_GENRE_COST
    most = gold.SCALE * gold.CEILING
    assert -most - costs <= gold_score(prompt, response) <= most
