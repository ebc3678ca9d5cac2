"""The corpora that come with their own class: the bundled reviews and IMDB."""

from __future__ import annotations

import bz2
import itertools
import json
import os
import shutil

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minippo import storage
from minippo.config import Config, DataConfig
from minippo.data import load_corpus
from minippo.data.bundled import BundledReviews
from minippo.data.encode import query_ids
from minippo.data.imdb import IMDB, clean
from minippo.data.labelled import crop
from minippo.splits import SPLITS
from minippo.storage import bundled

ROWS = 40  # reviews of each label in a split


def review(split: str, label: int, number: int) -> str:
    """A review of at least 16 words that contain its origin."""
    sort = ("bad", "good", "unlabelled")[label]
    return " ".join(f"{sort}{number}{split}{word}" for word in range(16 + number % 5)) + "<br /><br />the end"


@pytest.fixture(scope="module")
def imdb_folder(tmp_path_factory):
    """The layout of the public dataset: sorted by label, negative reviews first; -1 if unlabelled. The first review of
    each file occurs twice."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("imdb")
    for split in ("train", "test", "unsupervised"):
        labels = [2] * ROWS if split == "unsupervised" else [0] * ROWS + [1] * ROWS
        texts = [review(split, label, row % ROWS) for row, label in enumerate(labels)]
        labels = [-1 if label == 2 else label for label in labels]
        rows = {"text": [texts[0], *texts], "label": [labels[0], *labels]}
        datasets.Dataset.from_dict(rows).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture
def imdb(imdb_folder):
    def load(seed=1, **changes) -> IMDB:
        defaults = {"imdb_path": str(imdb_folder), "query_length": 4, "crop_words": 7}
        return IMDB(DataConfig(source="imdb", **{**defaults, **changes}), seed)

    return load


# ---------------------------------------------------------------------------------------------- IMDB


def test_imdb_language_model_reads_training_and_unlabelled_reviews_without_line_break_tags(imdb):
    texts = [demonstration.completion for split in SPLITS for demonstration in imdb().demonstrations(split)]
    assert len(texts) == (2 * ROWS + 1) + (ROWS + 1)
    assert sum("unlabelled" in text for text in texts) == ROWS + 1
    assert not any("test" in text for text in texts)
    assert not any("<br" in text for text in texts)
    assert all(text.endswith(" the end") for text in texts)
    assert all(demonstration.prompt == "" for demonstration in imdb().demonstrations("train"))
    assert {"unlabelled" in text for text in texts[:20]} == {True, False}  # shuffled: the first ones are held out


def test_imdb_reviews_that_occur_verbatim_in_the_test_file_are_left_out_of_training(imdb, imdb_folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = shutil.copytree(imdb_folder, tmp_path / "leaky")
    for file, label, copied in (("train", 1, "good3test0 "), ("unsupervised", -1, "bad5test0 ")):
        rows = datasets.Dataset.from_parquet(str(folder / f"{file}.parquet"))
        texts = datasets.Dataset.from_parquet(str(folder / "test.parquet"))["text"]
        leaked = next(text for text in texts if text.startswith(copied)).replace("<br /><br />", "<br />\n ")
        columns = {"text": [leaked, *rows["text"]], "label": [label, *rows["label"]]}
        datasets.Dataset.from_dict(columns).to_parquet(folder / f"{file}.parquet")
    corpus = imdb(imdb_path=str(folder), crop_words=99)
    assert corpus.report["train reviews"] == {"rows": 2 * ROWS + 2, "left out: also in the test file": 1}
    assert corpus.report["unsupervised reviews"] == {"rows": ROWS + 2, "left out: also in the test file": 1}
    texts = [d.completion for split in SPLITS for d in corpus.demonstrations(split)]
    texts += [text for comparison in corpus.comparisons("train") for text in comparison.ranked]
    assert len(texts) == (2 * ROWS + 1) + (ROWS + 1) + 2 * ROWS
    assert not any("test" in text for text in texts)


def test_imdb_limit_keeps_the_first_demonstrations_and_comparisons(imdb):
    def first_five(corpus):
        return [d for split in ("test", "validation", "train") for d in corpus.demonstrations(split)][:5]

    assert first_five(imdb(limit=5)) == first_five(imdb())
    assert [len(imdb(limit=5).demonstrations(split)) for split in SPLITS] == [3, 1, 1]
    assert list(imdb(limit=5).comparisons("train")) == list(imdb().comparisons("train"))[:5]


def test_imdb_seed_determines_the_order_of_demonstrations(imdb):
    orders = [[d.completion for d in imdb(seed).demonstrations("train")] for seed in (1, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert orders[1] != orders[2] != orders[3] != orders[1]


@pytest.mark.parametrize(("split", "file"), [("train", "train"), ("validation", "test"), ("test", "test")])
def test_imdb_pairs_are_positive_first_from_their_own_file_and_use_each_review_once(imdb, split, file):
    comparisons = imdb().comparisons(split)
    assert len(comparisons) == ROWS if split == "train" else 3 <= len(comparisons) <= ROWS
    for place, word in ((0, "good"), (1, "bad")):
        texts = [comparison.ranked[place] for comparison in comparisons]
        assert all(file in text and text.count(word) == text.count(file) > 0 for text in texts)
        sources = [text.split(file)[0] for text in texts]
        assert len(set(sources)) >= len(sources) - 1  # one negative review occurs twice


def test_imdb_crops_have_crop_words_consecutive_words(imdb):
    for comparison in imdb(crop_words=7).comparisons("train"):
        for text in comparison.ranked:
            words = text.split(" ")
            assert len(words) == 7
            numbers = [int(word.split("train")[1]) for word in words if "train" in word]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    starts = {c.ranked[0].split(" ")[0].split("train")[1] for c in imdb().comparisons("train")}
    assert len(starts) > 3  # not always at the beginning


def test_imdb_crops_for_training_can_have_random_lengths(imdb):
    corpus = imdb(crop_words=9, min_crop_words=4)
    lengths, ends = set(), 0
    for epoch in range(6):
        for comparison in corpus.comparisons("train", epoch):
            for text in comparison.ranked:
                words = text.split(" ")
                lengths.add(len(words))
                ends += words[-1] == "end" and len(words) == 4
                numbers = [int(word.split("train")[1]) for word in words if "train" in word]
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert lengths == {4, 5, 6, 7, 8, 9}
    assert ends > 0  # short crops come from everywhere in a review
    for split in ("validation", "test"):
        assert {len(text.split(" ")) for c in corpus.comparisons(split) for text in c.ranked} == {9}


def test_imdb_crops_leave_shorter_reviews_whole(imdb):
    texts = {comparison.ranked[0] for comparison in imdb(crop_words=100).comparisons("train")}
    assert texts == {clean(review("train", 1, number)) for number in range(ROWS)}


def test_imdb_pairs_and_crops_differ_between_epochs_and_are_reproducible(imdb):
    def partners(epoch):
        return {
            (c.ranked[0].split("train")[0], c.ranked[1].split("train")[0]) for c in imdb().comparisons("train", epoch)
        }

    assert list(imdb().comparisons("train", 1)) == list(imdb().comparisons("train", 1))
    assert len(partners(0) & partners(1)) < ROWS / 2
    assert list(imdb(seed=2).comparisons("train")) != list(imdb(seed=1).comparisons("train"))


def test_imdb_prompts_of_all_splits_have_both_sentiments_and_do_not_overlap(imdb):
    prompts = {split: list(imdb().prompts(split)) for split in SPLITS}
    together = [prompt for split in SPLITS for prompt in prompts[split]]
    assert len(set(together)) == len(together) == 2 * ROWS  # the repeated review is one prompt
    assert len(prompts["test"]) == pytest.approx(2 * ROWS * 2 / 5, abs=12)
    assert len(prompts["validation"]) == pytest.approx(2 * ROWS / 5, abs=12)
    for split in SPLITS:
        assert {prompt[:3] for prompt in prompts[split][:10]} == {"bad", "goo"}
        assert list(imdb().prompts(split)) == prompts[split]
        assert set(imdb(seed=2).prompts(split)) == set(prompts[split])  # the same prompts in another order
    assert all("test" in prompt for prompt in together)


def test_imdb_prompts_have_query_length_tokens(imdb, tokenizer):
    for prompt in imdb(query_length=4).prompts("train"):
        whole = tokenizer.encode(
            clean(review("test", prompt.startswith("good"), int(prompt.split("test")[0].lstrip("badgo"))))
        )
        assert query_ids(tokenizer, [prompt], 4) == [whole[:4]]


def test_imdb_is_loaded_with_the_seed_of_the_run(imdb, imdb_folder):
    data = DataConfig(source="imdb", imdb_path=str(imdb_folder), query_length=4, crop_words=7)
    for seed in (1, 2):
        assert list(load_corpus(Config(data=data, seed=seed)).prompts("test")) == list(imdb(seed).prompts("test"))
    assert list(imdb(1).prompts("test")) != list(imdb(2).prompts("test"))


@pytest.mark.parametrize("data_seed", [0, 2])
def test_data_seed_replaces_the_seed_of_the_run(imdb, imdb_folder, data_seed):
    data = DataConfig(source="imdb", imdb_path=str(imdb_folder), query_length=4, crop_words=7, seed=data_seed)
    assert list(load_corpus(Config(data=data, seed=1)).prompts("test")) == list(imdb(data_seed).prompts("test"))


def test_imdb_has_no_judge(imdb):
    assert imdb().judge is None


def test_imdb_fingerprint_depends_on_contents_not_on_paths_and_dates(imdb, imdb_folder, tmp_path):
    shutil.copytree(imdb_folder, tmp_path / "moved")
    os.utime(tmp_path / "moved" / "train.parquet", (1, 1))
    moved = str(tmp_path / "moved")
    assert imdb(imdb_path=moved).fingerprint == imdb().fingerprint
    for split in ("train", "test", "unsupervised"):
        path = tmp_path / "moved" / f"{split}.parquet"
        whole, other = path.read_bytes(), {"text": ["Another one."] * 2, "label": [0, 1]}
        pytest.importorskip("datasets").Dataset.from_dict(other).to_parquet(path)
        assert imdb(imdb_path=moved).fingerprint != imdb().fingerprint
        path.write_bytes(whole)


def test_imdb_folder_with_missing_files_is_refused_with_their_names(imdb_folder, tmp_path):
    (tmp_path / "train.parquet").write_bytes((imdb_folder / "train.parquet").read_bytes())
    config = DataConfig(source="imdb", imdb_path=str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"is not an IMDB folder: .*test.parquet.*unsupervised.parquet not found"
    ):
        IMDB(config, 1)


def test_imdb_path_that_is_neither_a_folder_nor_a_hub_name_is_refused_without_network_access(tmp_path):
    for path in (str(tmp_path / "nothing"), "./no/imdb", "imdb"):
        with pytest.raises(FileNotFoundError, match=r"the IMDB folder .* does not exist .*data.imdb-path"):
            IMDB(DataConfig(source="imdb", imdb_path=path), 1)


def test_tags_and_runs_of_white_space_become_single_spaces():
    assert clean("Fine.<br /><br />Really  fine.\n\tYes<br />") == "Fine. Really fine. Yes"


@given(num_words=st.integers(1, 12), length=st.integers(1, 20), start=st.integers(0, 19))
def test_crop_returns_consecutive_words(num_words, length, start):
    words = [str(word) for word in range(length)]
    assert crop(" ".join(words), start, num_words).split() == words[start : start + num_words]


def test_crops_start_at_every_position_including_the_last(imdb):
    corpus = imdb(crop_words=16)  # the shortest reviews have 17 words, of which "end" is the last
    crops = [text for epoch in range(9) for pair in corpus.comparisons("train", epoch) for text in pair.ranked]
    assert {text.split(" ")[-1] == "end" for text in crops} == {True, False}
    assert {text.split(" ")[0].endswith("train0") for text in crops} == {True, False}


# ---------------------------------------------------------------------------------------------- bundled reviews


@pytest.fixture
def folder(tmp_path):
    """A folder with the files of the bundled reviews, three rows each."""

    def put(name, rows):
        with bz2.open(tmp_path / f"{name}.jsonl.bz2", "wt", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))

    put("demonstrations", [{"prompt": f"P{i}:", "completion": f" c{i}"} for i in range(3)])
    for split in SPLITS:
        put(
            f"preferences-{split}",
            [{"prompt": f"{split}{i}", "chosen": f" good{i}", "rejected": f" bad{i}"} for i in range(3)],
        )
        put(f"rankings-{split}", [{"prompt": f"{split}{i}", "ranked": [" a", " b", " c"]} for i in range(3)])
        put(f"prompts-{split}", [{"prompt": f"{split}{i}"} for i in range(3)])
    return tmp_path


def test_bundled_comparisons_are_pairs_and_rankings_best_first(folder):
    corpus = BundledReviews(DataConfig(folder=str(folder)))
    comparisons = corpus.comparisons("test")
    assert [(c.prompt, c.ranked) for c in (comparisons[0], comparisons[-1])] == [
        ("test0", (" good0", " bad0")),
        ("test2", (" a", " b", " c")),
    ]
    assert len(comparisons) == 6
    assert list(corpus.comparisons("train", 0)) == list(corpus.comparisons("train", 1))


def test_bundled_limit_does_not_apply_to_prompts(folder):
    corpus = BundledReviews(DataConfig(folder=str(folder), limit=2))
    assert [d.completion for split in ("test", "validation") for d in corpus.demonstrations(split)] == [" c0", " c1"]
    assert len(corpus.demonstrations("train")) == 0
    assert len(corpus.comparisons("train")) == 4  # two pairs and two rankings
    assert len(corpus.prompts("train")) == 3


def test_bundled_rows_with_another_limit_have_another_fingerprint(folder):
    """The fingerprint is part of the cache key: rows cached for one limit must not be used for another."""

    def fingerprints(limit):
        corpus = BundledReviews(DataConfig(folder=str(folder), limit=limit))
        return {corpus.comparisons("train").fingerprint, corpus.demonstrations("test").fingerprint}

    assert not fingerprints(0) & fingerprints(2)


@pytest.mark.parametrize("name", ["demonstrations", "preferences-test", "rankings-train", "prompts-test"])
def test_bundled_folder_with_a_missing_file_is_refused_with_its_name(folder, name):
    (folder / f"{name}.jsonl.bz2").unlink()
    with pytest.raises(FileNotFoundError, match=f"{folder} has no {name}.jsonl.bz2"):
        BundledReviews(DataConfig(folder=str(folder)))


def test_bundled_fingerprint_depends_on_contents_not_on_paths(folder):
    def fingerprint(folder):
        return BundledReviews(DataConfig(folder=str(folder))).fingerprint

    moved = shutil.copytree(folder, folder / "moved")
    assert fingerprint(moved) == fingerprint(folder)
    for path in sorted(moved.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(bz2.compress(b"{}"))
        assert fingerprint(moved) != fingerprint(folder)
        path.write_bytes(whole)


def test_bundled_prompts_of_the_splits_do_not_overlap():
    prompts = {split: set(load_corpus(Config()).prompts(split)) for split in SPLITS}
    assert all(prompts.values())
    assert not any(prompts[a] & prompts[b] for a, b in itertools.combinations(SPLITS, 2))


def test_bundled_files_are_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_corpus(Config()).prompts("test")
    assert bundled("data") == storage.REPOSITORY / "data"
    (tmp_path / "data").mkdir()
    with pytest.raises(FileNotFoundError, match="has no demonstrations"):  # an existing folder takes precedence
        load_corpus(Config())


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"review": ["a"], "label": [1]}, "train has no column 'text'"),
        ({"text": [1, 2], "label": [0, 1]}, "train: the column 'text' must hold string values and no null"),
        ({"text": ["a", None], "label": [0, 1]}, "train: the column 'text' must hold string values and no null"),
        ({"text": ["a", "b"], "label": [0, None]}, "train: the column 'label' must hold int values and no null"),
        (None, "cannot be read: "),
    ],
)
def test_imdb_files_that_hold_something_else_are_refused_with_one_sentence(tmp_path, table, sentence):
    for split in ("train", "test", "unsupervised"):
        path = tmp_path / f"{split}.parquet"
        datasets.Dataset.from_dict(table).to_parquet(path) if table else path.write_bytes(b"PAR1" * 9)
    with pytest.raises(ValueError, match=sentence) as error:
        IMDB(DataConfig(source="imdb", imdb_path=str(tmp_path)), 1)
    assert "\n" not in str(error.value)
