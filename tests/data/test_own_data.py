"""Your own files: formats and file types are equivalent, errors name their location, unusable rows are counted."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import os
import random
import re
from pathlib import Path

import datasets
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from minippo import storage
from minippo.config import Config, DataConfig, RMConfig
from minippo.data import Comparison, Demonstration, load_corpus
from minippo.data import examples as files
from minippo.data.conversations import flatten, shared_prompt
from minippo.data.layouts import LAYOUTS
from minippo.data.own import OwnData
from minippo.runs.validation import check
from minippo.splits import HELD_OUT, SPLITS

N = 40


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(contents)]


def answer(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


def prompt_of(i: int) -> str:
    return f"\n\nHuman: What of film {i}?\n\nAssistant:"


def write(path: Path, rows: list[dict]) -> Path:
    """Write a file of the type that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
        return path
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes({".gz": gzip.compress, ".bz2": bz2.compress}.get(path.suffix, bytes)(text))
    return path


def own(seed: int = 1, **changes) -> OwnData:
    changes = {name: str(value) if isinstance(value, Path) else value for name, value in changes.items()}
    config = DataConfig(source="files", **changes)
    check(Config(data=config))
    return OwnData(config, seed)


def comparisons(corpus: OwnData, epoch: int = 0) -> list[Comparison]:
    return [comparison for split in SPLITS for comparison in corpus.comparisons(split, epoch)]


def prompts(corpus: OwnData) -> list[str]:
    return [prompt for split in SPLITS for prompt in corpus.prompts(split)]


def demonstrations(corpus: OwnData) -> list[Demonstration]:
    return [demonstration for split in SPLITS for demonstration in corpus.demonstrations(split)]


@pytest.fixture(scope="module", autouse=True)
def quiet():
    datasets.disable_progress_bars()


# ---------------------------------------------------------------------------------------------- formats

QUESTIONS = [f"What of film {i}?" for i in range(N)]
PAIRS = {
    "prompt, chosen, rejected": lambda i: {
        "prompt": prompt_of(i), "chosen": f" Good {i}. End.", "rejected": f" Good bad {i}.", "id": i
    },
    "prompt, ranked": lambda i: {"prompt": prompt_of(i), "ranked": [f" Good {i}. End.", f" Good bad {i}."]},
    "chosen, rejected": lambda i: {
        "chosen": f"{prompt_of(i)} Good {i}. End.", "rejected": f"{prompt_of(i)} Good bad {i}."
    },
    "turns": lambda i: {
        "prompt": turns(QUESTIONS[i]), "chosen": answer(f"Good {i}. End."), "rejected": answer(f"Good bad {i}.")
    },
    "turns, ranked": lambda i: {
        "prompt": turns(QUESTIONS[i]), "ranked": [answer(f"Good {i}. End."), answer(f"Good bad {i}.")]
    },
    "turns that hold the prompt": lambda i: {
        "chosen": turns(QUESTIONS[i], f"Good {i}. End."), "rejected": turns(QUESTIONS[i], f"Good bad {i}.")
    },
    "turns that hold the prompt, beside it": lambda i: {
        "prompt": QUESTIONS[i],
        "chosen": turns(QUESTIONS[i], f"Good {i}. End."),
        "rejected": turns(QUESTIONS[i], f"Good bad {i}."),
    },
}  # fmt: skip
SAME = {Comparison(prompt_of(i), (f" Good {i}. End.", f" Good bad {i}.")) for i in range(N)}
KINDS_OF_FILE = ["p.jsonl", "p.jsonl.gz", "p.jsonl.bz2", "p.parquet", "folder", "hub"]


@pytest.fixture
def laid_out(tmp_path, monkeypatch):
    """Write rows to a kind of file; returns the value of the option."""

    def put(rows: list[dict], kind: str) -> str:
        if kind == "hub":
            tables = datasets.DatasetDict(
                {"train": datasets.Dataset.from_list(rows[:-9]), "test": datasets.Dataset.from_list(rows[-9:])}
            )

            def load_dataset(name, subset=None):
                assert (name, subset) == ("somebody/films", "english")
                return tables

            monkeypatch.setattr(datasets, "load_dataset", load_dataset)
            return "somebody/films:english"
        if kind == "folder":
            write(tmp_path / "folder" / "train-00000-of-00002.jsonl", rows[:20])
            write(tmp_path / "folder" / "train-00001-of-00002.parquet", rows[20:-9])
            write(tmp_path / "folder" / "test.jsonl.gz", rows[-9:])
            write(tmp_path / "folder" / ".old" / "train.jsonl", rows)
            (tmp_path / "folder" / "README.md").write_text("about")
            return str(tmp_path / "folder")
        return str(write(tmp_path / kind, rows))

    return put


@pytest.mark.parametrize("kind", KINDS_OF_FILE)
@pytest.mark.parametrize("form", PAIRS)
def test_every_format_in_every_type_of_file_gives_the_same_comparisons(laid_out, form, kind):
    corpus = own(preferences=laid_out([PAIRS[form](i) for i in range(N)], kind))
    assert set(comparisons(corpus)) == SAME
    assert len(comparisons(corpus)) == N
    if kind in ("folder", "hub"):
        assert [c.prompt for c in corpus.comparisons("test")] == [prompt_of(i) for i in range(N - 9, N)]
    assert sorted(prompts(corpus)) == sorted(prompt_of(i) for i in range(N))
    for split in SPLITS:
        assert set(corpus.prompts(split)) == {c.prompt for c in corpus.comparisons(split)}


@pytest.mark.parametrize("kind", ["p.jsonl", "p.parquet", "hub"])
def test_demonstrations_and_prompts_in_every_format(laid_out, tmp_path, kind):
    asked = [Demonstration(prompt_of(i), f" Fine {i}.") for i in range(N)]
    others = write(tmp_path / "others.jsonl", [{"prompt": text} for text in ("What else?", "And now?", "So?")])
    for form, expected in (
        (lambda i: {"prompt": prompt_of(i), "completion": f" Fine {i}."}, asked),
        (lambda i: {"prompt": turns(QUESTIONS[i]), "completion": answer(f"Fine {i}.")}, asked),
        (lambda i: {"messages": turns(QUESTIONS[i], f"Fine {i}.")}, asked),
        (lambda i: {"text": f"Film {i}: fine."}, [Demonstration("", f"Film {i}: fine.") for i in range(N)]),
        (lambda i: {"text": turns("Q", f"A{i}")}, [Demonstration("", flatten(turns("Q", f"A{i}"))) for i in range(N)]),
    ):
        name = laid_out([form(i) for i in range(N)], kind)
        found = demonstrations(own(demonstrations=name, prompts=others))
        expected = expected[:-9] if kind == "hub" else expected  # the test split is not used
        assert list(found) != expected  # shuffled: a file may be sorted, and the first rows are held out
        assert sorted(found, key=str) == sorted(expected, key=str)
    for form in (
        lambda i: {"prompt": prompt_of(i)},
        lambda i: {"text": prompt_of(i)},
        lambda i: {"prompt": turns(QUESTIONS[i])},
    ):
        corpus = own(prompts=laid_out([form(i) for i in range(N)], kind))
        assert sorted(prompts(corpus)) == sorted(map(prompt_of, range(N)))


def test_a_ranking_keeps_its_order_and_its_length(tmp_path):
    rows = [{"prompt": f"P{i}", "ranked": [f" {word}" for word in "abcd"[: 2 + i % 3]]} for i in range(N)]
    found = comparisons(own(preferences=write(tmp_path / "r.jsonl", rows)))
    assert {c.ranked for c in found} == {(" a", " b"), (" a", " b", " c"), (" a", " b", " c", " d")}


def test_template_is_the_documented_one():
    conversation = [{"role": "system", "content": "Be brief."}, *turns("Hi.", "Yes?", "Bye.")]
    assert flatten(conversation) == "\n\nSystem: Be brief.\n\nHuman: Hi.\n\nAssistant: Yes?\n\nHuman: Bye."


def test_prompt_of_a_longer_conversation_ends_where_the_last_answer_begins(tmp_path):
    row = {"chosen": turns("Hi.", "Yes?", "Bye.", "See you."), "rejected": turns("Hi.", "Yes?", "Bye.", "So long.")}
    others = [{"chosen": turns(word, "A"), "rejected": turns(word, "B")} for word in ("Ho.", "Ha.")]
    found = comparisons(own(preferences=write(tmp_path / "c.jsonl", [row, *others])))
    expected = Comparison(flatten(turns("Hi.", "Yes?", "Bye.")) + "\n\nAssistant:", (" See you.", " So long."))
    assert expected in found


words = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=4), max_size=5)


@given(common=words, first=words, second=words)
@example(common=["one", "two"], first=[], second=["three"])
@example(common=["one"], first=["two"], second=["twice"])
def test_shared_prompt_is_a_common_beginning_of_whole_words(common, first, second):
    texts = [" ".join(common + rest) for rest in (first, second)]
    cut = shared_prompt(texts)
    prompt = texts[0][:cut]
    assert all(text.startswith(prompt) for text in texts)
    if cut and "\n\nAssistant:" not in prompt:
        assert not prompt[-1].isspace()
        assert all(text[cut : cut + 1].isspace() for text in texts)  # between two words, with a rest


def test_shared_prompt_of_examples():
    for texts, prompt in (
        (["The film was good.", "The film was bad."], "The film was"),
        (["The film was good.", "The film was gone."], "The film was"),
        (["The film", "The film was"], "The"),
        (["good", "bad"], ""),
        (["\n\nHuman: Q\n\nAssistant: I think so", "\n\nHuman: Q\n\nAssistant: I do"], "\n\nHuman: Q\n\nAssistant:"),
    ):
        assert texts[0][: shared_prompt(texts)] == prompt


# ---------------------------------------------------------------------------------------------- labelled texts


def labelled(count: int = N) -> list[dict]:
    return [
        {"text": " ".join(f"{'good' if i % 2 else 'bad'}{i}w{w}" for w in range(9)), "label": i % 2}
        for i in range(count)
    ]


@pytest.mark.parametrize("kind", ["p.jsonl", "p.parquet", "hub"])
def test_labelled_texts_are_paired_and_cropped_differently_in_every_epoch(laid_out, kind):
    corpus = own(preferences=laid_out(labelled(), kind), crop_words=4)
    first, again, second = (comparisons(corpus, epoch) for epoch in (0, 0, 1))
    assert first == again
    assert {c.ranked for c in first} != {c.ranked for c in second}
    for comparison in first:
        assert comparison.prompt == ""
        for text, sort in zip(comparison.ranked, ("good", "bad"), strict=True):
            found = [re.fullmatch(rf"{sort}(\d+)w(\d)", word) for word in text.split(" ")]
            assert len({match[1] for match in found}) == 1
            assert [int(match[2]) - int(found[0][2]) for match in found] == [0, 1, 2, 3]
    shorter = own(preferences=laid_out(labelled(), kind), crop_words=4, min_crop_words=2)
    for split in SPLITS:
        lengths = {len(text.split(" ")) for c in shorter.comparisons(split) for text in c.ranked}
        assert lengths == ({2, 3, 4} if split == "train" else {4})
    assert not corpus.comparisons("train").whole  # a crop that is too long may be cut
    starts = {int(c.ranked[0].split("w")[1][0]) for c in first}
    assert len(starts) > 2


def test_labels_are_learned_from_labelled_texts_alone(tmp_path):
    pairs = str(write(tmp_path / "pairs.jsonl", [PAIRS["prompt, ranked"](i) for i in range(N)]))
    labels = str(write(tmp_path / "labels.jsonl", labelled()))

    def config(path, **data):
        return Config(data=DataConfig(source="files", preferences=path, **data), rm=RMConfig(objective="labels"))

    assert load_corpus(config(labels)).labelled
    assert load_corpus(config("", demonstrations=labels)).labelled  # preferences may come later
    with pytest.raises(ValueError, match=r"needs texts with labels 1 and 0, but data\.preferences .*pairs\.jsonl has"):
        load_corpus(config(pairs))
    with pytest.raises(ValueError, match=r"but data\.source reviews has comparisons"):
        load_corpus(Config(rm=RMConfig(objective="labels")))


def test_labelled_texts_with_a_single_label_are_refused(tmp_path):
    rows = [{"text": f"good {i}", "label": 1} for i in range(N)]
    with pytest.raises(ValueError, match="none of the 37 labelled texts has the label 0"):
        own(preferences=write(tmp_path / "l.jsonl", rows))


def test_a_mix_of_labelled_texts_and_comparisons_is_refused(tmp_path):
    write(tmp_path / "both" / "a.jsonl", labelled())
    write(tmp_path / "both" / "b.jsonl", [PAIRS["prompt, ranked"](i) for i in range(N)])
    with pytest.raises(ValueError, match="both mixes labelled texts and comparisons"):
        own(preferences=tmp_path / "both")


# ---------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("hold_out", [0.1, 0.5])
def test_rows_of_one_prompt_are_held_out_together(tmp_path, hold_out):
    rows = [PAIRS["prompt, ranked"](i // 4) | {"ranked": [f" a{i}", f" b{i}"]} for i in range(200)]
    random.Random(0).shuffle(rows)
    corpus = own(preferences=write(tmp_path / "p.jsonl", rows), hold_out=hold_out)
    found = {split: {c.prompt for c in corpus.comparisons(split)} for split in SPLITS}
    assert sum(map(len, found.values())) == len(set.union(*found.values())) == 50
    assert len(corpus.comparisons("test")) == pytest.approx(200 * hold_out, abs=4)
    assert len(corpus.comparisons("validation")) == pytest.approx(200 * (1 - hold_out) * hold_out, abs=4)
    for split in SPLITS:
        assert set(corpus.prompts(split)) == found[split]
    test = found["test"]
    other = own(2, preferences=tmp_path / "p.jsonl", hold_out=hold_out)
    assert {c.prompt for c in other.comparisons("test")} != test
    same = own(1, preferences=tmp_path / "p.jsonl", hold_out=hold_out)
    assert list(same.comparisons("test")) == list(corpus.comparisons("test"))


def test_a_prompt_is_asked_once_and_in_one_split(tmp_path):
    folder = tmp_path / "prompts"
    write(folder / "train.jsonl", [{"prompt": f"P{i % 20}"} for i in range(60)])
    write(folder / "validation.jsonl", [{"prompt": f"P{i}"} for i in range(13, 17)])
    write(folder / "test.jsonl", [{"prompt": f"P{i}"} for i in range(15, 25)])
    corpus = own(prompts=folder)
    assert sorted(corpus.prompts("train")) == sorted(f"P{i}" for i in range(13))
    assert sorted(corpus.prompts("validation")) == ["P13", "P14"]
    assert sorted(corpus.prompts("test")) == [f"P{i}" for i in range(15, 25)]
    assert list(corpus.prompts("train")) != [f"P{i}" for i in range(13)]  # the file may be sorted
    assert corpus.report["different prompts"] == {"train": 13, "validation": 2, "test": 10}
    write(folder / "train.jsonl", [{"prompt": "P16"}])
    with pytest.raises(ValueError, match="every prompt of the train split is also in another split"):
        own(prompts=folder)


def test_prompts_come_from_prompts_else_preferences_else_demonstrations(tmp_path):
    asked = write(tmp_path / "prompts.jsonl", [{"prompt": f"asked {i}"} for i in range(N)])
    pairs = write(tmp_path / "pairs.jsonl", [PAIRS["prompt, ranked"](i) for i in range(N)])
    without = write(tmp_path / "labels.jsonl", labelled())
    shown = write(tmp_path / "shown.jsonl", [{"prompt": f"shown {i}", "completion": " x"} for i in range(N)])

    def beginnings(**given):
        corpus = own(**given)
        return {prompt.split()[0] for prompt in prompts(corpus)}

    assert beginnings(prompts=asked, preferences=pairs, demonstrations=shown) == {"asked"}
    assert beginnings(preferences=pairs, demonstrations=shown) == {"Human:"}
    assert beginnings(preferences=without, demonstrations=shown) == {"shown"}
    assert beginnings(preferences=without) == set()
    assert len(own(preferences=without).prompts("train")) == 0


def test_splits_are_found_by_the_configured_names(tmp_path):
    rows = [PAIRS["prompt, ranked"](i) for i in range(N)]
    write(tmp_path / "f" / "train_prefs.jsonl", rows[:30])
    write(tmp_path / "f" / "dev_prefs.jsonl", rows[30:])
    corpus = own(preferences=tmp_path / "f", test_split="dev")
    assert [len(corpus.comparisons(split)) for split in SPLITS] == [29, 1, 10]  # one held out for validation
    corpus = own(preferences=tmp_path / "f", validation_split="dev")
    assert [len(corpus.comparisons(split)) for split in SPLITS] == [29, 10, 1]
    corpus = own(preferences=tmp_path / "f", train_split="dev_prefs", test_split="train_prefs")
    assert [len(corpus.comparisons(split)) for split in SPLITS] == [9, 1, 30]
    message = "the name of .*dev_prefs.jsonl must contain exactly one of 'train' or 'validation' or 'test'"
    with pytest.raises(ValueError, match=message):
        own(preferences=tmp_path / "f")
    with pytest.raises(ValueError, match=r"no file of .*f has 'learn' in its name .*data.train-split"):
        own(preferences=tmp_path / "f", train_split="learn", test_split="prefs")


@pytest.mark.parametrize("name", ["p.jsonl.gz", "p.csv.gz", "p.jsonl"])
def test_a_line_that_may_not_fit_into_memory_is_refused(tmp_path, monkeypatch, name):
    """As that of a small compressed file may be: no more of it is read than the limit."""
    monkeypatch.setattr(storage, "MAX_TEXT", 1000)
    row = '{"prompt": "P", "chosen": " a", "rejected": " b"}\n' if "json" in name else "prompt,chosen,rejected\n"
    content = (row + '{"prompt": "P' + "x" * 10**7).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(ValueError, match=rf"{name}, line 2 is longer than 1,000 bytes, the most that is read"):
        own(preferences=tmp_path / name)


@pytest.mark.parametrize("name", ["test.jsonl.zst", "test", "data/train-0.arrow", "test/0.zst", "validation"])
def test_what_has_the_name_of_a_split_but_cannot_be_read_is_refused(tmp_path, name):
    rows = [{"prompt": f"P{i}"} for i in range(N)]
    folder = tmp_path / "data"
    write(folder / "train.jsonl", rows)
    write(tmp_path / "real" / "rows.jsonl", rows)
    write(folder / "more" / "train" / "rows.jsonl", [{"prompt": f"Q{i}"} for i in range(N)])
    for place in (folder, folder / "more", folder / "more" / "train"):
        (place / "README.md").write_text("A test.")
    assert len(prompts(own(prompts=folder))) == 2 * N
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if path.suffix:
        path.write_bytes(b"")
    else:
        path.symlink_to(Path("../real" if name == "test" else "../nowhere"))
    with pytest.raises(ValueError, match=rf"data.prompts: {path} has the name of a split but cannot be read"):
        own(prompts=folder)
    assert len(prompts(own(prompts=folder / "train.*l"))) == N


def test_a_pattern_chooses_files_of_a_folder(tmp_path):
    for kind, count in (("prefs", 30), ("sft", 9)):
        for split in ("train", "test"):
            rows = [PAIRS["prompt, ranked"](i + 50 * (split == "test")) for i in range(count)]
            write(tmp_path / "data" / f"{split}_{kind}-00000-of-00001.parquet", rows)
    corpus = own(preferences=tmp_path / "data" / "*_prefs-*.parquet")
    assert [len(corpus.comparisons(split)) for split in SPLITS] == [29, 1, 30]
    assert len(own(preferences=tmp_path / "*" / "train_sft*").comparisons("train")) == 7
    with pytest.raises(FileNotFoundError, match=r"data.preferences: .*data has no file \*_rm\* that ends in .jsonl"):
        own(preferences=tmp_path / "data" / "*_rm*")


def test_folder_without_split_names_is_for_training(tmp_path):
    rows = [PAIRS["prompt, ranked"](i) for i in range(N)]
    write(tmp_path / "f" / "a.jsonl", rows[:30])
    write(tmp_path / "f" / "b.parquet", rows[30:])
    corpus = own(preferences=tmp_path / "f", hold_out=0.25)
    assert [len(corpus.comparisons(split)) for split in SPLITS] == [23, 7, 10]


def test_files_that_are_too_small_to_hold_out_rows_are_refused_with_the_numbers(tmp_path):
    rows = [{"prompt": f"P{i}", "ranked": [f" a{i}", f" b{i}"]} for i in range(3)]
    sentence = (
        "p.jsonl: 2 usable rows with 2 different prompts or texts are too few to hold out some for test and "
        "validation: at least 3 different ones are needed, one of them for training"
    )
    with pytest.raises(ValueError, match=sentence):
        own(preferences=write(tmp_path / "p.jsonl", rows[:2]))
    own(preferences=write(tmp_path / "p.jsonl", rows))
    with pytest.raises(ValueError, match=r"1 usable rows with 1 different prompts or texts are too few .* validation:"):
        own(preferences=write(tmp_path / "p.jsonl", rows), hold_out=0.7)
    with pytest.raises(ValueError, match=r"l.jsonl: 2 usable rows of label 0 with 2 different prompts or texts"):
        own(preferences=write(tmp_path / "l.jsonl", [row for row in labelled(8) if row["label"]] + labelled(3)))


def test_prompts_with_too_many_rows_to_hold_one_out_are_refused_with_the_numbers(tmp_path):
    rows = [{"prompt": f"P{i % 4}", "ranked": [f" a{i}", f" b{i}"]} for i in range(40)]
    sentence = (
        "p.jsonl: no rows can be held out for test: at most 2 of 40 may be (data.hold-out is 0.05), but every prompt "
        "has 10 rows or more, and rows of one prompt stay together"
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        own(preferences=write(tmp_path / "p.jsonl", rows))


def test_the_rows_of_every_split_are_reported_after_holding_out(tmp_path):
    pairs = write(tmp_path / "p.jsonl", [PAIRS["prompt, ranked"](i) for i in range(200)])
    shown = write(tmp_path / "d.jsonl", [{"prompt": prompt_of(i), "completion": f" x{i}"} for i in range(200)])
    corpus = own(preferences=pairs, demonstrations=shown, hold_out=0.1)
    assert corpus.report == {
        "demonstrations, train": {"rows read": 200, "left out: prompt held out": 38},
        "preferences, train": {"rows read": 200},
        "demonstrations after holding out": {"train": 160, "validation": 1, "test": 1},
        "comparisons after holding out": {"train": 162, "validation": 18, "test": 20},
        "different prompts": {"train": 162, "validation": 18, "test": 20},
    }
    for split in SPLITS:
        assert len(corpus.demonstrations(split)) == corpus.report["demonstrations after holding out"][split]
        assert len(corpus.comparisons(split)) == corpus.report["comparisons after holding out"][split]
    for limit in (0, 7):
        corpus = own(preferences=write(tmp_path / "l.jsonl", labelled(80)), limit=limit)
        assert corpus.report["comparisons after holding out"] == {
            split: len(corpus.comparisons(split)) for split in SPLITS
        }


@pytest.mark.parametrize("seed", range(5))
def test_a_prompt_that_most_rows_share_stays_in_training(tmp_path, seed):
    rows = [{"prompt": f"P{max(0, i - 90)}", "ranked": [f" a{i}", f" b{i}"]} for i in range(100)]
    corpus = own(seed, preferences=write(tmp_path / "p.jsonl", rows), hold_out=0.05)
    assert len(corpus.comparisons("test")) == 5
    assert "P0" in set(corpus.prompts("train"))


def test_a_held_out_prompt_is_nowhere_used_for_training(tmp_path):
    asked = write(tmp_path / "asked.jsonl", [{"prompt": f"P{i}"} for i in range(N)])
    pairs = [{"prompt": f"P{i % N + 3}", "ranked": [f" {i}", " no"]} for i in range(3 * N)]
    pairs = write(tmp_path / "pairs.jsonl", pairs)
    shown = write(tmp_path / "shown.jsonl", [{"prompt": f"P{i}", "completion": " so"} for i in range(N + 5)])
    corpus = own(prompts=asked, preferences=pairs, demonstrations=shown, hold_out=0.1)
    tested = {prompt for split in HELD_OUT for prompt in corpus.prompts(split)}
    tested |= {c.prompt for split in HELD_OUT for c in corpus.comparisons(split)}
    demonstrated = [d.prompt for d in demonstrations(corpus)]
    compared = [c.prompt for c in corpus.comparisons("train")]
    assert set(corpus.prompts("test")) != {c.prompt for c in corpus.comparisons("test")}
    assert len(corpus.prompts("test")) == len({c.prompt for c in corpus.comparisons("test")}) == 4
    assert not tested & {*demonstrated, *compared}
    of_held_out = sum(len(corpus.comparisons(split)) for split in HELD_OUT)
    assert corpus.report["demonstrations, train"] == {
        "rows read": N + 5,
        "left out: prompt held out": N + 5 - len(demonstrated),
    }
    assert corpus.report["preferences, train"] == {
        "rows read": 3 * N,
        "left out: prompt held out": 3 * N - of_held_out - len(compared),
    }
    assert len(demonstrated) == N + 5 - len(tested)
    assert not set(corpus.prompts("train")) & set(corpus.prompts("test"))
    of_pairs = own(preferences=pairs, demonstrations=shown, hold_out=0.1)
    for split in HELD_OUT:
        assert not {d.prompt for d in demonstrations(of_pairs)} & set(of_pairs.prompts(split))
    of_shown = own(demonstrations=shown, hold_out=0.1)
    assert {d.prompt for d in demonstrations(of_shown)} == set(of_shown.prompts("train"))
    assert len(of_shown.prompts("test")) == 4


def test_comparisons_of_different_splits_have_different_prompts(tmp_path):
    write(tmp_path / "f" / "train.jsonl", [PAIRS["prompt, ranked"](i) for i in range(30)])
    write(tmp_path / "f" / "test.jsonl", [PAIRS["prompt, ranked"](i) for i in range(20, 35)])
    corpus = own(preferences=tmp_path / "f")
    others = {c.prompt for split in ("train", "validation") for c in corpus.comparisons(split)}
    assert others == {prompt_of(i) for i in range(20)}
    assert len(corpus.comparisons("test")) == 15
    asked = write(tmp_path / "asked.jsonl", [{"prompt": f"P{i}"} for i in range(N)])
    write(tmp_path / "f" / "train.jsonl", [PAIRS["prompt, ranked"](i) for i in range(20, 30)])
    with pytest.raises(ValueError, match="f: the prompts of all 10 train rows are held out"):
        own(preferences=tmp_path / "f", prompts=asked)


@pytest.mark.parametrize(("empty", "full"), [("train", "test"), ("test", "train")])
def test_a_split_without_prompts_is_refused_if_another_has_prompts(tmp_path, empty, full):
    write(tmp_path / "f" / f"{empty}.jsonl", [{"chosen": f"a{i}", "rejected": f"b{i}"} for i in range(9)])
    for split in (full, "validation"):
        rows = [{"chosen": f"{split} {i} good", "rejected": f"{split} {i} bad"} for i in range(9)]
        write(tmp_path / "f" / f"{split}.jsonl", rows)
    with pytest.raises(ValueError, match=f"f: none of the 9 rows of '{empty}' has a prompt, but rows of .* have"):
        own(preferences=tmp_path / "f")


def test_limit_keeps_the_first_rows(tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [PAIRS["prompt, ranked"](i) for i in range(N)])
    whole = own(preferences=pairs)
    config = DataConfig(source="files", preferences=str(pairs), limit=7)
    assert list(OwnData(config, 1).comparisons("train")) == list(whole.comparisons("train"))[:7]
    assert len(OwnData(config, 1).prompts("train")) == len(whole.prompts("train"))


# ---------------------------------------------------------------------------------------------- wrong data

TEXT = "expected text or a list of turns"
TURN = "expected a 'role' and a text as 'content' (or 'from' and 'value')"
GOOD = json.dumps({"prompt": "P", "chosen": " a", "rejected": " b"})


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"prompt": "P", "chosen": 3, "rejected": "b"}', "column 'chosen' holds 3 (int), " + TEXT),
        ('{"prompt": "P", "chosen": null, "rejected": "b"}', "column 'chosen' holds null, " + TEXT),
        ('{"prompt": "P", "rejected": "b"}', "no column 'chosen', found 'prompt', 'rejected'"),
        ('{"prompt": "P", "chosen": "a"', "is not valid JSON: Expecting ',' delimiter (column 30)"),
        (
            "[" * 200_000,
            "is not valid JSON: maximum recursion depth exceeded while decoding a JSON array from a unicode string",
        ),
        (
            "9" * 5000,
            "is not valid JSON: Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; "
            "use sys.set_int_max_str_digits() to increase the limit",
        ),
        ('["P", "a", "b"]', 'should be an object, but is ["P", "a", "b"]'),
        ('{"prompt": "P", "chosen": ["a"], "rejected": "b"}', "column 'chosen' holds ['a'] (list), " + TEXT),
        ('{"prompt": "P", "chosen": [], "rejected": "b"}', "column 'chosen' holds [] (list), " + TEXT),
        (
            '{"prompt": [{"role": 3, "content": "a"}], "chosen": "a", "rejected": "b"}',
            "column 'prompt', turn 1 holds {'content': 'a', 'role': 3} (dict), " + TURN,
        ),
        (
            '{"prompt": [{"role": "user", "content": "a"}, {"content": "b"}], "chosen": "a", "rejected": "b"}',
            "column 'prompt', turn 2 holds {'content': 'b'} (dict), " + TURN,
        ),
    ],
)
def test_errors_name_file_line_and_column(tmp_path, line, sentence):
    path = tmp_path / "prefs.jsonl"
    path.write_text("\n".join([GOOD] * 15 + ["", line, GOOD]) + "\n")
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole sentence is compared
        own(preferences=path)
    separator = " " if sentence.startswith(("is not valid JSON", "should be")) else ": "
    assert str(error.value) == f"{path}, line 17{separator}{sentence}"


@pytest.mark.parametrize(
    ("kind", "rows", "place", "sentence"),
    [
        (
            "preferences",
            [{"text": "a", "label": 1}, {"text": "b", "label": 2}],
            1,
            "column 'label' holds 2 (int), expected 1 (preferred) or 0",
        ),
        (
            "preferences",
            [{"text": "a", "label": 0}, {"text": "b", "label": None}],
            1,
            "column 'label' holds null, expected 1 (preferred) or 0",
        ),
        (
            "preferences",
            [{"prompt": "P", "ranked": ["a"]}],
            0,
            "holds ['a'] (list), expected a list of at least two completions",
        ),
        ("preferences", [{"prompt": "P", "ranked": ["a", None]}], 0, "column 'ranked[1]' holds null, " + TEXT),
        ("prompts", [{"prompt": "P"}, {"prompt": None}], 1, "column 'prompt' holds null, " + TEXT),
        ("demonstrations", [{"text": "P"}, {"text": None}], 1, "column 'text' holds null, " + TEXT),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_errors_in_every_kind_of_value_name_the_line_or_row(tmp_path, kind, rows, place, sentence, suffix):
    path = write(tmp_path / f"own.{suffix}", rows)
    number = f"line {place + 1}" if suffix == "jsonl" else f"row {place}"
    with pytest.raises(ValueError, match=re.escape(f"{path}, {number}: ")) as error:
        own(**{kind: path})
    assert str(error.value).endswith(sentence)


@pytest.mark.parametrize("kind", ["p.jsonl", "p.parquet", "hub"])
def test_unknown_columns_are_refused_with_the_accepted_ones(laid_out, kind):
    name = laid_out([{"remark": "Q", "chosen": "A"} for _ in range(N)], kind)
    shown = "somebody/films:english train" if kind == "hub" else name
    for option, accepted in (
        ("preferences", "; or ".join(map(", ".join, LAYOUTS["preferences"]))),
        ("demonstrations", "prompt, completion; or messages; or text"),
        ("prompts", "prompt; or messages; or text"),
    ):
        sentence = f"{shown} has the columns remark, chosen, but {option} need {accepted} (docs/data.md)"
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            own(**{option: name})


def test_unreadable_files_are_refused_with_their_names(tmp_path, monkeypatch):
    for name, content, sentence in (
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz cannot be read: Not a gzipped file"),
        ("b.jsonl.gz", gzip.compress(GOOD.encode() * 99)[:-20], "b.jsonl.gz cannot be read: "),
        ("c.jsonl.bz2", b"no bzip", "c.jsonl.bz2 cannot be read: Invalid data stream"),
        ("d.parquet", b"no parquet at all", "d.parquet is not a Parquet file"),
        ("e.jsonl", b"", "e.jsonl has no rows"),
        ("f.jsonl", b"\n \n", "f.jsonl has no rows"),
        ("g.txt", b"prompt\nP\n", r"data.prompts: .*g.txt does not end in .jsonl, .json, .csv or .tsv .*, or .parquet"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=sentence):
            own(prompts=tmp_path / name)
    (tmp_path / "empty").mkdir()
    for path, sentence in (
        (tmp_path / "empty", r"data.prompts: .*empty has no file .* that ends in .jsonl"),
        (tmp_path / "none.jsonl", r"data.prompts: .*none.jsonl is not a file, a folder or the name of a hub dataset"),
        ("data/none.jsonl", r"data.prompts: data/none.jsonl is not a file"),
        ("one-word", r"data.prompts: one-word is not a file"),
    ):
        with pytest.raises(FileNotFoundError, match=sentence):
            own(prompts=path)

    def offline(name, subset):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        FileNotFoundError, match=r"the dataset some/body cannot be downloaded from the hub \(no network\)"
    ):
        own(prompts="some/body")


@pytest.mark.parametrize(
    "error", [ValueError("no config\nof this name"), RuntimeError("scripts are not supported"), KeyError("x")]
)
def test_errors_of_datasets_become_one_sentence(monkeypatch, error):
    def fail(name, subset):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match=r"^the dataset some/body cannot be read: .*[a-z'x]$") as raised:
        own(prompts="some/body")
    assert "\n" not in str(raised.value)


def test_a_corrupt_parquet_file_is_refused_with_its_name(tmp_path):
    path = write(tmp_path / "p.parquet", [{"prompt": f"P{i} " + "word " * 50} for i in range(N)])
    content = bytearray(path.read_bytes())
    content[60:100] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} cannot be read from row 0 on: .*orrupt"):
        own(prompts=path)


def test_a_duplicate_column_is_refused_if_it_is_needed(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    path, texts = tmp_path / "p.parquet", pa.array([f"P{i}" for i in range(N)])
    pa.parquet.write_table(pa.table([texts, texts], ["text", "text"]), path)
    with pytest.raises(ValueError, match=rf"^{path} has the column 'text' 2 times, expected once$"):
        own(prompts=path)
    pa.parquet.write_table(pa.table([texts, texts, texts], ["text", "id", "id"]), path)
    assert len(own(prompts=path).prompts("train")) == N - 3


def test_a_first_line_without_columns_is_not_an_empty_file(tmp_path):
    (tmp_path / "p.jsonl").write_text('{}\n{"prompt": "P"}\n')
    with pytest.raises(
        ValueError, match=r"p.jsonl has the columns \(none\), but prompts need prompt; or messages; or text "
    ):
        own(prompts=tmp_path / "p.jsonl")


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": f"P{i}"} for i in range(N)])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    corpus = own(prompts=path)
    assert set(prompts(corpus)) == {f"P{i}" for i in range(N)}


def test_hub_dataset_without_the_split_is_refused_with_its_splits(laid_out):
    name = laid_out([PAIRS["prompt, ranked"](i) for i in range(N)], "hub")
    with pytest.raises(ValueError, match=r"films:english has no split 'learn', only train, test .*data.train-split"):
        own(preferences=name, train_split="learn")
    corpus = own(preferences=name, test_split="dev")  # no split has this name, so a share is held out
    assert len(comparisons(corpus)) == N - 9


# ---------------------------------------------------------------------------------------------- unusable data

UNUSABLE = [
    (b'{"prompt": "P", "chosen": " a", "rejected": "  "}', "empty completion"),
    (b'{"prompt": "P", "chosen": " a", "rejected": " a"}', "identical completions"),
    (b'{"prompt": "P", "chosen": " \\ud83d", "rejected": " b"}', "unreadable characters"),
    (b'{"prompt": "P", "chosen": " caf\xe9", "rejected": " b"}', "unreadable characters"),
    (b'{"prompt": "P\xef\xbf\xbd", "chosen": " a", "rejected": " b"}', "unreadable characters"),
]


def test_unusable_rows_are_dropped_and_counted(tmp_path):
    path = tmp_path / "p.jsonl"
    good = [json.dumps(PAIRS["prompt, chosen, rejected"](i)).encode() for i in range(N)]
    path.write_bytes(b"\n".join([*good, *(line for line, _ in UNUSABLE)]))
    corpus = own(preferences=path)
    assert set(comparisons(corpus)) == SAME
    assert corpus.report["preferences, train"] == {
        "rows read": N + 5,
        "dropped: unreadable characters": 3,
        "dropped: empty completion": 1,
        "dropped: identical completions": 1,
    }


@pytest.mark.parametrize(("line", "problem"), UNUSABLE)
def test_refuse_names_the_first_unusable_row(tmp_path, line, problem):
    path = tmp_path / "p.jsonl"
    path.write_bytes(GOOD.encode() + b"\n" + line + b"\n" + line)
    with pytest.raises(ValueError, match=re.escape(f"{path}, line 2: {problem} (data.unusable is refuse)")):
        own(preferences=path, unusable="refuse")
    path.write_bytes(line)
    with pytest.raises(
        ValueError, match=re.escape(f"none of the 1 preferences is usable; the first is {path}, line 1: {problem}")
    ):
        own(preferences=path)


def test_unreadable_bytes_in_a_parquet_file_are_counted(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    texts = pa.array([f"P{i}".encode() for i in range(N)] + [b"caf\xe9"]).cast(pa.binary())
    column = pa.Array.from_buffers(pa.string(), len(texts), texts.buffers())
    pa.parquet.write_table(pa.table({"prompt": column}), tmp_path / "p.parquet")
    corpus = own(prompts=tmp_path / "p.parquet")
    assert corpus.report["prompts, train"] == {"rows read": N + 1, "dropped: unreadable characters": 1}


def test_empty_prompts_and_demonstrations_are_counted(tmp_path):
    rows = [{"prompt": text} for text in ("P", "Q", "R", " ", "")]
    assert own(prompts=write(tmp_path / "p.jsonl", rows), hold_out=0.4).report["prompts, train"] == {
        "rows read": 5, "dropped: empty prompt": 2,
    }  # fmt: skip
    rows = [{"prompt": "P", "completion": text} for text in ("a", "b", "\n")]
    rows += [{"prompt": prompt, "completion": "c"} for prompt in "QR"]
    report = own(demonstrations=write(tmp_path / "d.jsonl", rows)).report
    assert report["demonstrations, train"].items() >= {"rows read": 5, "dropped: empty completion": 1}.items()


# ---------------------------------------------------------------------------------------------- kept for the next time


def test_files_are_read_once_until_their_contents_change(tmp_path, monkeypatch):
    path, calls = tmp_path / "p.jsonl", itertools.count()
    rows = [PAIRS["prompt, ranked"](i) for i in range(N)]
    write(path, rows)
    old = path.stat()
    read = files._examples
    monkeypatch.setattr(files, "_examples", lambda *given: [next(calls), read(*given)][1])
    first = own(preferences=path).comparisons("train")
    again = own(preferences=path).comparisons("train")
    assert next(calls) == 1
    assert (list(again), again.fingerprint) == (list(first), first.fingerprint)
    write(path, [row | {"ranked": [text.replace("Good", "Fine") for text in row["ranked"]]} for row in rows])
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))  # same size and date as before
    assert path.stat().st_size == old.st_size
    changed = own(preferences=path).comparisons("train")
    assert changed.fingerprint != first.fingerprint
    assert all("Fine" in text for comparison in changed for text in comparison.ranked)


@pytest.mark.parametrize("damage", ["empty", "in a batch", "between two batches", "garbage"])
def test_cached_examples_that_are_not_whole_are_read_again(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "kept"))
    path = write(tmp_path / "p.jsonl", [{"prompt": f"P{i}"} for i in range(2500)])

    assert len(prompts(own(prompts=path))) == 2500
    (kept,) = (tmp_path / "kept").rglob("*.arrow")
    whole = kept.read_bytes()
    end = len(whole) - len(files.END_OF_ARROW)
    bad = {"empty": b"", "in a batch": whole[:-5000], "between two batches": whole[:end], "garbage": b"x" * len(whole)}
    kept.unlink()  # not overwritten: the corpora above have mapped it
    kept.write_bytes(bad[damage])
    assert len(prompts(own(prompts=path))) == 2500
    assert kept.read_bytes() == whole


def test_fingerprint_depends_on_contents_not_on_paths_and_dates(tmp_path):
    rows = [PAIRS["prompt, ranked"](i) for i in range(N)]
    asked = write(tmp_path / "asked.jsonl", [{"prompt": f"P{i}"} for i in range(N)])
    first = own(preferences=write(tmp_path / "a.jsonl", rows), prompts=asked).fingerprint
    moved = write(tmp_path / "elsewhere" / "b.jsonl", rows)
    os.utime(moved, (1, 1))
    assert own(preferences=moved, prompts=asked).fingerprint == first
    assert own(preferences=moved).fingerprint != first
    write(moved, [*rows[1:], rows[0]])
    assert own(preferences=moved, prompts=asked).fingerprint != first
    write(tmp_path / "f" / "train.jsonl", rows[:30])
    write(tmp_path / "f" / "test.jsonl", rows[30:])
    swapped = own(preferences=tmp_path / "f", train_split="test", test_split="train")
    assert own(preferences=tmp_path / "f").fingerprint != swapped.fingerprint


def test_another_seed_or_share_changes_the_fingerprints(tmp_path):
    path = write(tmp_path / "p.jsonl", [PAIRS["prompt, ranked"](i) for i in range(N)])
    corpora = [own(1, preferences=path), own(2, preferences=path), own(1, preferences=path, hold_out=0.5)]
    for split in SPLITS:
        assert len({corpus.comparisons(split).fingerprint for corpus in corpora}) == 3
        assert len({corpus.prompts(split).fingerprint for corpus in corpora}) == 3


def test_texts_stay_on_disk(tmp_path):
    path = write(tmp_path / "p.jsonl", [PAIRS["prompt, ranked"](i) for i in range(N)])
    rows = own(preferences=path)._preferences["train"]
    assert rows.cache_files
    assert Path(rows.cache_files[0]["filename"]).is_file()


def test_location_of_an_example_is_its_line(tmp_path):
    path = write(tmp_path / "p.jsonl", [PAIRS["prompt, ranked"](i) for i in range(N)])
    texts = own(preferences=path).comparisons("train")
    for number, comparison in enumerate(texts):
        line = next(i for i in range(N) if prompt_of(i) == comparison.prompt) + 1
        assert texts.location(number) == f"{path}, line {line}"


# ---------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"source": "files"}, "data.source files needs data.demonstrations, data.preferences or data.prompts"),
        ({"preferences": "p.jsonl"}, "data.preferences 'p.jsonl' needs data.source files, but data.source is reviews"),
        ({"hold_out": 0.0}, "data.hold-out must be above 0 and below 1, not 0.0"),
        ({"hold_out": 1.0}, "data.hold-out must be above 0 and below 1, not 1.0"),
        ({"train_split": "test"}, "must be three different names, not 'test', 'validation', 'test'"),
        ({"validation_split": "test"}, "must be three different names, not 'train', 'test', 'test'"),
        ({"test_split": ""}, "must be three different names, not 'train', 'validation', ''"),
    ],
)
def test_invalid_settings_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check(Config(data=DataConfig(**changes)))


def test_source_files_selects_the_corpus(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": f"P{i}"} for i in range(N)])
    corpus = load_corpus(Config(data=DataConfig(source="files", prompts=str(path))))
    assert corpus.judge is None
    assert len(demonstrations(corpus)) == len(comparisons(corpus)) == 0


def test_files_are_loaded_with_the_seed_of_the_run(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": f"P{i}"} for i in range(N)])
    data = DataConfig(source="files", prompts=str(path))
    for seed in (1, 2):
        assert prompts(load_corpus(Config(data=data, seed=seed))) == prompts(own(seed, prompts=path))
    assert prompts(own(1, prompts=path)) != prompts(own(2, prompts=path))


def test_the_seed_determines_the_order_of_demonstrations(tmp_path):
    path = write(tmp_path / "d.jsonl", [{"prompt": f"P{i}", "completion": f" c{i}"} for i in range(N)])
    asked = write(tmp_path / "asked.jsonl", [{"prompt": f"Q{i}"} for i in range(3)])
    orders = [demonstrations(own(seed, demonstrations=path, prompts=asked)) for seed in (1, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert orders[1] != orders[2] != orders[3] != orders[1]
