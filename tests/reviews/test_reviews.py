"""The bundled corpus is as documented: varied, balanced, reproducible, and labelled with known noise."""

import math
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random
from statistics import fmean

import pytest

from minippo.reviews import __main__ as command
from minippo.reviews import annotators, bayes_accuracy, gold_score, is_grammatical, split_sentences
from minippo.reviews import build as reviews
from minippo.reviews.gold import interest
from minippo.reviews.grammar import RULES, SENTENCES
from minippo.reviews.lexicon import ASPECTS, GENRES
from minippo.reviews.writer import (
    CLEAR,
    SPOILERS,
    Prompt,
    Writer,
    pick_weighted,
    write_prompt,
    write_review,
    write_spoilt_review,
)
from minippo.tokenizer import load_tokenizer

DATA = Path(__file__).resolve().parents[2] / "data"
PROMPT = Prompt("I just saw a comedy about a shy pilot.", "comedy", None)


@pytest.fixture(scope="module")
def data():
    return {name: reviews.read_rows(DATA, name) for name in reviews.NUM_ROWS}


@pytest.fixture(scope="module")
def golds(data):
    """Gold scores of the demonstrations."""
    return [gold_score(row["prompt"], row["completion"]) for row in data["demonstrations"]]


def texts(row):
    """The reviews in a row of any kind."""
    return [review for key in ("completion", "chosen", "rejected") if (review := row.get(key))] + row.get("ranked", [])


# The files


@pytest.mark.parametrize("name", reviews.NUM_ROWS)
def test_files_begin_with_the_rows_of_the_generator(name, data):
    count = 60
    assert list(islice(reviews.rows(name), count)) == data[name][:count]
    assert len(data[name]) == reviews.NUM_ROWS[name]


@pytest.mark.slow
def test_generator_writes_the_files_again_byte_for_byte(tmp_path):
    reviews.write_corpus(tmp_path)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in DATA.iterdir() if path.name != "README.md"}
    assert written.keys() == kept.keys()
    assert [name for name in kept if written[name] != kept[name]] == []


def test_the_command_writes_the_corpus_and_its_statistics(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reviews, "NUM_ROWS", dict.fromkeys(reviews.NUM_ROWS, 40))
    monkeypatch.setattr(sys, "argv", ["reviews", "--out", str(tmp_path)])
    page = f"before {reviews.STATISTICS_BEGIN} old {reviews.STATISTICS_END} after\n"
    (tmp_path / "README.md").write_text(page)
    command.main()
    table = capsys.readouterr().out
    assert "| rows of `demonstrations` | 40 |" in table
    written = (tmp_path / "README.md").read_text()
    assert written == f"before {reviews.STATISTICS_BEGIN}\n{table}{reviews.STATISTICS_END} after\n"
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    monkeypatch.setattr(sys, "argv", ["reviews", "--out", str(tmp_path), "--describe"])
    command.main()
    assert capsys.readouterr().out == table
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_training_never_imports_the_generator():
    """`reviews` judges during a run; `build` and `writer` only generate the corpus."""
    code = "import sys, minippo.sft, train_rm, train_ppo; print(*(name for name in sys.modules if 'reviews' in name))"
    imported = subprocess.run([sys.executable, "-c", code], cwd=DATA.parent, capture_output=True, text=True, check=True)
    assert "minippo.reviews.gold" in imported.stdout.split()
    assert not {"minippo.reviews.build", "minippo.reviews.writer"} & {*imported.stdout.split()}


def test_files_are_small():
    assert sum(path.stat().st_size for path in DATA.iterdir()) <= 5_000_000


def test_readme_states_the_statistics_of_the_files():
    page = (DATA / "README.md").read_text(encoding="utf-8")
    assert reviews.describe(DATA) in page
    assert all(f"`{path.name}`" in page for path in DATA.iterdir() if path.name != "README.md")


@pytest.mark.parametrize(("name", "vocab_size"), reviews.VOCABULARIES.items())
def test_vocabularies_have_their_size_and_fit_the_texts(name, vocab_size, data):
    tokenizer = load_tokenizer(DATA / f"{name}.tiktoken")
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.eos_id == vocab_size - 1
    sample = [row["prompt"] + row["completion"] for row in data["demonstrations"][:200]]
    assert [tokenizer.decode(tokenizer.encode(text)) for text in sample] == sample
    assert fmean(len(tokenizer.encode(text)) / len(text.split()) for text in sample) < 2


def test_texts_fit_the_policy(data):
    tokenizer = load_tokenizer(DATA / "policy.tiktoken")
    prompts = [row["prompt"] for rows in data.values() for row in rows]
    assert max(map(len, tokenizer.encode_batch(prompts))) <= 24
    completions = [row["completion"] for row in data["demonstrations"]]
    assert max(map(len, tokenizer.encode_batch(completions))) + 1 <= 64  # with the end-of-text


# Prompts


def test_gold_score_understands_the_prompts():
    rng = Random(0)
    for held_out in (False, True):
        for prompt in (write_prompt(rng, held_out) for _ in range(500)):
            assert interest(prompt.text).genre == prompt.genre
            assert interest(prompt.text).aspect == prompt.aspect


def genre_and_subject(prompt):
    genre, subject = prompt.split(" about ")[:2]
    return interest(genre).genre, " ".join(word.strip(".,:") for word in subject.split()[1:3])


def test_held_out_pairs_of_genre_and_subject_are_not_in_training(data):
    seen = {"train": set(), "test": set()}
    for name, rows in data.items():
        split = "test" if name.endswith(("-test", "-validation")) else "train"
        seen[split] |= {genre_and_subject(row["prompt"]) for row in rows}
    assert len(seen["test"]) > 50
    assert not seen["train"] & seen["test"]
    # ... but every genre and every subject occurs in training, in other pairs.
    assert {genre for genre, _ in seen["test"]} == set(GENRES)
    assert {subject for _, subject in seen["test"]} <= {subject for _, subject in seen["train"]}


def test_writer_keeps_the_splits_apart():
    rng = Random(8)
    train, test = (
        {genre_and_subject(write_prompt(rng, held_out).text) for _ in range(1500)} for held_out in (False, True)
    )
    assert not train & test


def test_prompts_vary(data):
    prompts = [row["prompt"] for row in data["prompts-train"]]
    assert len(set(prompts)) == len(prompts)
    lengths = Counter(len(prompt.split()) for prompt in prompts)
    assert min(lengths) >= 5
    assert max(lengths) <= 20
    assert len(lengths) >= 8
    cared_for = Counter(interest(prompt).aspect for prompt in prompts)
    assert set(cared_for) == {None, *ASPECTS}
    assert 0.1 < cared_for[None] / len(prompts) < 0.4


# Reviews


def test_demonstrations_are_balanced_and_clear(data, golds):
    by_genre, by_aspect = {}, {}
    for row, gold in zip(data["demonstrations"], golds, strict=True):
        by_genre.setdefault(interest(row["prompt"]).genre, []).append(gold > 0)
        by_aspect.setdefault(interest(row["prompt"]).aspect, []).append(gold > 0)
    assert abs(fmean(gold > 0 for gold in golds) - 0.5) <= 0.01
    for shares in (by_genre, by_aspect):
        assert all(abs(fmean(signs) - 0.5) < 0.05 for signs in shares.values())
    assert min(map(abs, golds)) >= CLEAR
    # There are mixed reviews: the scores fill the whole range.
    assert fmean(abs(gold) < 1 for gold in golds) > 0.10


def test_demonstrations_are_grammatical_and_varied(data):
    rows = data["demonstrations"][:2000]
    sentences = [split_sentences(row["completion"]) for row in rows]
    assert all(is_grammatical(sentence) for found in sentences for sentence in found)
    assert {len(found) for found in sentences} == {2, 3, 4, 5}
    assert all(row["completion"].startswith(" ") and row["completion"].endswith(".") for row in rows)
    assert all(18 <= len(row["completion"].split()) <= 48 for row in rows)
    assert len({row["completion"] for row in rows}) == len(rows)
    words = {word.strip(".,:").lower() for row in data["demonstrations"] for word in row["completion"].split()}
    assert 400 < len(words) < 700


def test_every_kind_of_sentence_is_recognised_and_damaged_ones_are_not():
    rng = Random(1)
    damaged = []
    for symbol in ["fact", *(kind + sign for kind in SENTENCES for sign in "+-")]:
        for _ in range(60):
            sentence = Writer(rng, PROMPT).sentence(symbol)
            assert is_grammatical(sentence), sentence
            words = sentence.removesuffix(".").split()
            for place in range(len(words)):
                damaged.append((sentence, " ".join(words[:place] + words[place + 1 :])))
                damaged.append((sentence, " ".join(words[place:] + words[:place])))
            assert not is_grammatical(sentence.removesuffix("."))
            assert not is_grammatical(sentence.lower())
            assert not is_grammatical(sentence + " ")
            assert not is_grammatical(" " + sentence)
            assert not is_grammatical(sentence + ".")
    # Without one word, a sentence is rarely grammatical ("very good" -> "good"); with its words rotated, never.
    accepted = [
        is_grammatical(text[:1].upper() + text[1:] + ".") for sentence, text in damaged if text + "." != sentence
    ]
    assert fmean(accepted) < 0.1


@pytest.mark.parametrize(
    "sentence",
    [
        "The plot are clever.",
        "The songs is catchy.",
        "The songs soars.",
        "It is a excellent film.",
        "It is an good film.",
        "The plot is good, but the music is lovely.",
        "The plot is catchy.",
        "The Plot is clever.",
        "The plot  is clever.",
        "The plot is clever!",
        "The plot is clever\n.",
        "I a novel.",
        "",
        ".",
        "🎬",
    ],
)
def test_sentences_outside_the_grammar_are_not_grammatical(sentence):
    assert not is_grammatical(sentence)


def test_all_marks_of_the_grammar_are_expanded_and_every_symbol_has_a_rule():
    for lines in RULES.values():
        assert lines
        for line in lines:
            assert not set("±∓@") & set(line)


def test_sentences_are_split_without_losing_anything():
    assert split_sentences(" The plot is good. I liked it! Why") == ["The plot is good.", "I liked it!", "Why"]
    assert split_sentences("...Well?! ") == ["...", "Well?!"]
    assert split_sentences(" \n") == []


def test_reviews_mention_what_the_speaker_cares_about():
    prompt = Prompt("A comedy about a shy pilot. I came for the music.", "comedy", "music")
    nouns = ASPECTS["music"].one + ASPECTS["music"].many

    def share(p):
        rng = Random(2)
        return fmean(any(noun in write_review(rng, p, "+") for noun in nouns) for _ in range(400))

    assert share(prompt) > share(PROMPT) + 0.2


# Annotators


def test_preferences_follow_bradley_and_terry():
    rng, draws = Random(3), 20_000
    for difference in (0.0, 0.4, 1.5):
        expected = 1 / (1 + math.exp(-annotators.SHARPNESS * difference))
        assert annotators.preference_probability(0.7 + difference, 0.7) == pytest.approx(expected)
        won = sum(annotators.rank(rng, [0.7, 0.7 + difference]) == [1, 0] for _ in range(draws))
        assert abs(won / draws - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


def test_rankings_follow_plackett():
    golds, rng, draws = [0.5, -0.3, 1.0], Random(4), 30_000
    weights = [math.exp(annotators.SHARPNESS * gold) for gold in golds]
    found = Counter(tuple(annotators.rank(rng, golds)) for _ in range(draws))
    for first, second, third in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]:
        expected = weights[first] / sum(weights) * weights[second] / (weights[second] + weights[third])
        error = math.sqrt(expected * (1 - expected) / draws)
        assert abs(found[first, second, third] / draws - expected) < 4.5 * error


def test_labels_in_the_files_are_as_noisy_as_the_model_says(data):
    for name in ("preferences-train", "rankings-train", "preferences-test"):
        golds = reviews.comparison_golds(data[name][:3000])
        measured, expected = bayes_accuracy(golds)
        num_pairs = sum(len(scores) * (len(scores) - 1) // 2 for scores in golds)
        # Pairs within a ranking are not independent: count the rankings.
        independent = min(num_pairs, len(golds))
        assert abs(measured - expected) < 4 * math.sqrt(expected * (1 - expected) / independent)
        assert 0.77 <= expected <= 0.82


def test_bayes_accuracy_counts_pairs_by_hand():
    good, bad, worse = " The plot is superb.", " The plot is bad.", " The plot is awful."
    gold = {text: gold_score(PROMPT.text, text) for text in (good, bad, worse)}
    labels = [(good, bad), (worse, good), (bad, good, worse)]
    measured, expected = bayes_accuracy([[gold[text] for text in label] for label in labels])
    assert measured == pytest.approx(3 / 5)  # in the ranking, (bad, worse) and (good, worse) are right
    pairs = [(good, bad), (good, worse), (good, bad), (bad, worse), (good, worse)]
    assert expected == pytest.approx(fmean(annotators.preference_probability(gold[a], gold[b]) for a, b in pairs))


def test_a_tie_counts_as_wrong():
    assert bayes_accuracy([(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]).measured == 1 / 3


def test_compared_reviews_differ_and_some_are_spoilt(data):
    rows = data["preferences-train"][:2000] + data["rankings-train"][:500]
    assert all(len(set(texts(row))) == len(texts(row)) for row in rows)
    assert all(review.startswith(" ") for row in rows for review in texts(row))
    broken = [not all(map(is_grammatical, split_sentences(review))) for row in rows for review in texts(row)]
    # Three of the seven ways to spoil a review break its grammar: heap, scramble and cut.
    assert fmean(broken) == pytest.approx(reviews.SPOILT_SHARE * 3 / 7, abs=0.02)


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__)
def test_spoilt_praise_is_worth_less_and_spoilt_blame_stays_blame(spoil):
    rng = Random(5)
    prompts = [write_prompt(rng, held_out=False) for _ in range(300)]
    clean = fmean(gold_score(prompt.text, write_review(rng, prompt, "+")) for prompt in prompts)
    spoilt = {sign: fmean(gold_score(prompt.text, spoil(rng, prompt, sign)) for prompt in prompts) for sign in "+-"}
    assert spoilt["+"] < clean - 0.1
    assert spoilt["-"] < -0.5


def test_spoilt_reviews_are_short_enough():
    rng = Random(6)
    assert max(len(write_spoilt_review(rng, write_prompt(rng, held_out=False), "+")) for _ in range(300)) <= 230


def test_weighted_choice_has_its_weights():
    rng, draws = Random(7), 20_000
    found = Counter(pick_weighted(rng, {"a": 1.0, "b": 0.0, "c": 3.0}) for _ in range(draws))
    assert found["b"] == 0
    assert abs(found["c"] / draws - 0.75) < 4 * math.sqrt(0.75 * 0.25 / draws)
