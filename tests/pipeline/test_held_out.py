"""Held-out rows stay held out: no stage trains on them in any way, and evaluations see nothing else."""

from __future__ import annotations

import bz2
import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import datasets
import pytest
import torch

from minippo.config import Config, DataConfig
from minippo.data import load_corpus, prompt_rows
from minippo.runs import load_config, read_metrics
from minippo.storage import REPOSITORY
from minippo.tokenizer import load_tokenizer
from minippo.tools import evaluate
from minippo.weights import load_pretrained
from tests.pipeline.marked import (
    CORPORA,
    SPLITS,
    Corpus,
    Phase,
    Record,
    Row,
    markers_in,
    phases,
    run_command,
    run_stages,
)

KINDS = ("demonstrations", "comparisons", "prompts")
HELD_OUT = ("validation", "test")
# The kind of a row in each stage is the first of these that it can be.
READ = {"sft": ("demonstrations",), "rm": ("comparisons", "prompts"), "ppo": ("demonstrations", "prompts")}


@dataclass
class Finished:
    """A run of all three stages on marked rows."""

    name: str
    corpus: Corpus
    folder: Path
    splits: dict[str, dict[str, set[str]]]
    records: dict[str, Record]

    def phases(self, stage: str) -> list[Phase]:
        return phases(self.records[stage], self.corpus.markers, self.splits, READ[stage])

    def read(self, stage: str, what: str, split: str = "") -> set[str]:
        """All markers that a stage has learned from, or looked at, in rows of a split or of all."""
        found = [step.markers for step in self.phases(stage) if step.what == what and split in ("", step.split)]
        return set().union(*found)

    def held_out(self, *kinds: str) -> set[str]:
        return set().union(*(self.splits[kind][split] for kind in kinds for split in HELD_OUT))


@pytest.fixture(scope="module", params=list(CORPORA))
def finished(request, tmp_path_factory) -> Finished:
    folder = tmp_path_factory.mktemp(request.param)
    corpus = CORPORA[request.param](folder)
    return Finished(request.param, corpus, folder / "run", corpus.splits(), run_stages(corpus, folder / "run"))


# ---------------------------------------------------------------------------------------------- the splits


def test_every_split_of_every_kind_has_rows_and_no_two_share_a_row(finished):
    for kind in KINDS:
        for split in SPLITS:
            assert finished.splits[kind][split], (kind, split)
        for one, other in itertools.combinations(SPLITS, 2):
            assert not finished.splits[kind][one] & finished.splits[kind][other], (kind, one, other)


def test_a_row_is_in_the_split_that_its_file_names(finished):
    for row in finished.corpus.rows:
        if row.split is not None and not is_left_out(finished, row):
            assert (set(row.texts) or {row.prompt}) <= finished.splits[row.kind][row.split], row


def test_a_row_is_left_out_exactly_if_its_prompt_is_held_out_elsewhere(finished):
    used = {kind: set().union(*finished.splits[kind].values()) for kind in KINDS}
    left_out = [row for row in finished.corpus.rows if is_left_out(finished, row)]
    for row in finished.corpus.rows:
        marks = set(row.texts) or {row.prompt}
        if finished.name != "imdb" or row.kind != "comparisons":  # there some reviews find no partner
            assert marks & used[row.kind] == (set() if row in left_out else marks), row
    if finished.name == "files_of_all_splits":
        assert len(left_out) == 2 + 1 + 2


def is_left_out(finished: Finished, row: Row) -> bool:
    """By the rule of docs/data.md: a demonstration, or a comparison or prompt for training, whose prompt is held out; a
    comparison for validation whose prompt is one for testing."""
    if not row.prompt or finished.name == "bundled":  # there no training row has a held-out prompt
        return False
    if row.kind == "prompts":
        return row.prompt in finished.held_out("compared prompts") - finished.held_out("prompts")
    comparisons, compared = finished.splits["comparisons"], finished.splits["compared prompts"]
    if row.kind == "demonstrations":
        return row.prompt in finished.held_out("prompts", "compared prompts")
    if comparisons["test"] & set(row.texts):
        return False
    if comparisons["validation"] & set(row.texts) or row.split == "validation":
        return row.prompt in compared["test"]
    return row.prompt in finished.held_out("prompts", "compared prompts")


# ---------------------------------------------------------------------------------------------- the stages


def test_stages_learn_from_training_rows_and_look_at_held_out_rows_only_to_evaluate(finished):
    steps = {stage: [(step.what, step.split) for step in finished.phases(stage)] for stage in READ}
    learn, validate, test = ("learn", "train"), ("look", "validation"), ("look", "test")
    sample = ("look", "train")
    assert steps["sft"] == 2 * [learn, validate, test]
    normalise = [sample, ("normalise", "")]
    rounds = (len(steps["rm"]) - 5) // 2
    assert rounds > 1
    assert steps["rm"] == [*normalise, *(rounds * [learn, validate]), test, *normalise]
    assert steps["ppo"] == [validate, *(4 * [sample, learn, validate]), test]


def test_no_gradient_comes_from_a_held_out_row(finished):
    sft, rm, ppo = (finished.read(stage, "learn") for stage in READ)
    assert not sft & finished.held_out("demonstrations", "comparisons", "compared prompts", "prompts")
    assert not rm & finished.held_out("comparisons", "compared prompts", "prompts")
    assert not ppo & finished.held_out("demonstrations", "comparisons", "compared prompts", "prompts")


def test_every_training_row_is_learned_from_and_every_held_out_row_is_evaluated_on(finished):
    splits = finished.splits
    demonstrations = set().union(*splits["demonstrations"].values())
    comparisons = set().union(*splits["comparisons"].values())
    prompts = set().union(*splits["prompts"].values())
    for stage, rows, kind in (("sft", demonstrations, "demonstrations"), ("rm", comparisons, "comparisons")):
        assert finished.read(stage, "learn") & rows == splits[kind]["train"], stage
        for split in HELD_OUT:
            assert finished.read(stage, "look", split) & rows == splits[kind][split], (stage, split)
    assert finished.read("ppo", "learn") & prompts >= splits["prompts"]["train"]  # rollouts
    assert finished.read("ppo", "learn") & demonstrations == splits["demonstrations"]["train"]  # pretraining term
    for step in finished.phases("ppo"):
        if step.split in HELD_OUT:
            assert step.markers == splits["prompts"][step.split]


def test_labelled_texts_are_compared_with_others_in_every_epoch(finished):
    if finished.name not in ("imdb", "labelled_texts"):
        return  # their comparisons are given
    pairs, known = set(), finished.corpus.markers
    for learns, _, rows in finished.records["rm"].texts:
        found = [marker for text in rows if learns for marker in markers_in(text, known)]
        pairs |= set(zip(found[::2], found[1::2], strict=True))
    in_an_epoch = len(finished.splits["comparisons"]["train"]) // 2
    assert 2 * in_an_epoch < len(pairs) <= 3 * in_an_epoch


def test_scores_are_normalised_on_answers_to_all_training_prompts_and_no_others(finished):
    steps = finished.phases("rm")
    places = [place for place, step in enumerate(steps) if step.what == "normalise"]
    for place in places:
        assert steps[place - 1].markers == finished.splits["prompts"]["train"]
    # Before and after the training. There are fewer prompts than samples, so each is asked several times.
    assert len(finished.splits["prompts"]["train"]) < 100
    assert finished.records["rm"].scores_normalised == [100, 100]


def test_tokenizers_are_trained_on_the_training_demonstrations_and_no_others(finished):
    texts = finished.records["sft"].tokenizer_texts
    found = markers_in("\n".join(texts), finished.corpus.markers)
    demonstrations = set().union(*finished.splits["demonstrations"].values())
    assert found & demonstrations == finished.splits["demonstrations"]["train"]
    assert not found & finished.held_out("comparisons", "compared prompts", "prompts")
    assert not finished.records["rm"].tokenizer_texts + finished.records["ppo"].tokenizer_texts


def test_samples_are_of_validation_prompts_and_final_answers_of_test_prompts(finished):
    known = finished.corpus.markers
    quoted = [line for line in (finished.folder / "samples.md").read_text().splitlines() if line.startswith("> ")]
    assert markers_in("\n".join(quoted), known) == finished.splits["prompts"]["validation"]
    answers = [json.loads(line) for line in (finished.folder / "ppo" / "answers.jsonl").open(encoding="utf-8")]
    asked = [markers_in(answer["prompt"], known) for answer in answers]
    assert set().union(*asked) == finished.splits["prompts"]["test"]
    assert len(asked) == len(finished.splits["prompts"]["test"])  # each once


def test_logged_loss_is_of_validation_demonstrations_and_reported_loss_of_test_demonstrations(finished):
    corpus = load_corpus(load_config(str(finished.corpus.config)))
    summary = json.loads((finished.folder / "summary.json").read_text())
    for name in ("policy", "reward"):
        gpt = load_pretrained(finished.folder / "sft" / name)
        tokenizer = load_tokenizer(finished.folder / "tokenizers" / f"{name}.tiktoken")
        losses = {}
        for split in HELD_OUT:
            sums, count = 0.0, 0
            for demonstration in corpus.demonstrations(split):
                prompt = tokenizer.encode(demonstration.prompt)
                ids = torch.tensor([*prompt, *tokenizer.encode(demonstration.completion), tokenizer.eos_id])
                first = max(1, len(prompt)) if name == "policy" else 1  # the other predicts prompts, too
                with torch.no_grad():
                    logprobs = gpt(ids[None])[0].double().log_softmax(dim=-1)
                sums -= float(logprobs[torch.arange(first - 1, len(ids) - 1), ids[first:]].sum())
                count += len(ids) - first
            losses[split] = sums / count
        assert losses["validation"] != pytest.approx(losses["test"], abs=1e-4)
        logged = [line["eval/loss"] for line in read_metrics(finished.folder, f"sft-{name}") if "eval/loss" in line]
        assert logged == [pytest.approx(losses["validation"], abs=1e-5)]
        assert summary[f"sft_{name}_loss"] == pytest.approx(losses["test"], abs=1e-5)


@pytest.mark.parametrize("options", [["--split", "validation"], ["--split", "test", "--prompts", 10**6], []])
def test_evaluate_looks_at_all_rows_of_its_split_and_at_no_others(finished, options, tmp_path):
    """Also if it reads the prompts again, because more are asked for than the run has answered."""
    path, split = tmp_path / "figures.json", options[1] if options else "test"
    record = run_command(evaluate.main, finished.folder, "--run", finished.folder, "--out", path, *options)
    kinds = (
        "demonstrations",
        "comparisons",
        "prompts",
    )  # demonstrations may be preferred texts, divided in another way
    (step,) = phases(record, finished.corpus.markers, finished.splits, kinds)
    assert (step.what, step.split) == ("look", split)
    demonstrated, compared, asked = (finished.splits[kind][split] for kind in kinds)
    assert step.markers >= asked | compared
    figures = json.loads(path.read_text())
    assert figures["split"] == split
    assert figures["sampled"]["prompts"] == figures["greedy"]["prompts"] == len(asked)
    if figures["texts"]["texts"] < len(asked):
        assert step.markers >= demonstrated
    completions = sum(len(c.ranked) for c in load_corpus(load_config(str(finished.corpus.config))).comparisons(split))
    assert figures["reward_model"]["comparisons"] < completions <= 2 * len(compared)
    summary = json.loads((finished.folder / "summary.json").read_text())
    if split == "test":  # the calibration, too, although scores were normalised before and after the training
        found = figures["reward_model"]
        assert found["accuracy"]["value"] == pytest.approx(summary["rm_accuracy"])
        assert found["calibration_error"] == pytest.approx(summary["rm_calibration_error"], abs=1e-5)
        assert figures["sampled"]["win_rate"]["value"] == pytest.approx(summary["win_rate"])


# ---------------------------------------------------------------------------------------------- corpora by themselves


def test_bundled_files_share_no_prompt_between_splits_as_texts_or_as_tokens():
    asked: dict[str, set[str]] = {split: set() for split in SPLITS}
    for path in (REPOSITORY / "data").glob("*.jsonl.bz2"):
        rows = [json.loads(line) for line in bz2.decompress(path.read_bytes()).decode().splitlines()]
        split = path.name.split(".")[0].partition("-")[2] or "train"  # demonstrations are of one prompt or another
        asked[split] |= {row["prompt"] for row in rows}
        if path.name.startswith("demonstrations"):
            assert len({row["prompt"] + row["completion"] for row in rows}) == len(rows) == 20_000
    assert {split: len(prompts) > 4000 for split, prompts in asked.items()} == dict.fromkeys(SPLITS, True)
    for one, other in itertools.combinations(SPLITS, 2):
        assert not asked[one] & asked[other], (one, other)
    config = Config()
    corpus = load_corpus(config)
    rows, report = prompt_rows(corpus.prompts, load_tokenizer(config.model.policy.tokenizer), config.data)
    tokens = [tuple(row) for split in SPLITS for row in rows[split]]
    assert len(set(tokens)) == len(tokens) == 4000 + 512 + 512
    assert not report


@pytest.fixture(scope="module")
def repeated_reviews(tmp_path_factory) -> Path:
    """IMDB's layout: 150 beginnings of 12 words, each of 2 test reviews that go on differently."""
    folder = tmp_path_factory.mktemp("repeated")
    reviews = [
        f"the {number:03d} film " + "has its moments " * 3 + f"and part {end}"
        for number in range(150)
        for end in (1, 2)
    ]
    for name, texts in (("train", ["bad one", "good one"]), ("unsupervised", ["one more"]), ("test", reviews)):
        labels = [-1 if name == "unsupervised" else row % 2 for row in range(len(texts))]
        datasets.Dataset.from_dict({"text": texts, "label": labels}).to_parquet(folder / f"{name}.parquet")
    return folder


@pytest.mark.parametrize("seed", [1, 2])
def test_imdb_prompts_that_are_cut_to_the_same_tokens_are_asked_once_and_in_one_split(
    repeated_reviews, tokenizer, seed
):
    # Cut by words, the first 20 would differ in their ends; 20 tokens hold the beginning and nothing else.
    config = DataConfig(source="imdb", imdb_path=str(repeated_reviews), query_length=20)
    corpus = load_corpus(Config(data=config, seed=seed))
    texts = [text for split in SPLITS for text in corpus.prompts(split)]
    assert len(set(texts)) == len(texts) == 300
    rows, report = prompt_rows(corpus.prompts, tokenizer, config)
    tokens = [tuple(row) for split in SPLITS for row in rows[split]]
    assert len(set(tokens)) == len(tokens) == 150
    for split in SPLITS:  # what the corpus gives is in no order, so neither are these
        assert [row[:4] for row in rows[split]] != sorted(row[:4] for row in rows[split])
    left_out = sum(report[f"prompts, {split}"]["left out: the same tokens as another prompt"] for split in SPLITS)
    assert left_out == 150
    test = {tuple(row) for row in rows["test"]}
    assert test == {tuple(tokenizer.encode(text)[:20]) for text in corpus.prompts("test")}  # the test split keeps all


def test_imdb_test_file_is_divided_alike_by_every_seed_and_in_every_order(repeated_reviews, tmp_path):
    def divided(folder: Path, seed: int) -> list[set[str]]:
        corpus = load_corpus(Config(data=DataConfig(source="imdb", imdb_path=str(folder), query_length=99), seed=seed))
        return [set(corpus.prompts(split)) for split in SPLITS]

    expected = divided(repeated_reviews, 1)
    shares = [len(split) / 300 for split in expected]
    assert shares == pytest.approx([0.4, 0.2, 0.4], abs=0.08)
    assert divided(repeated_reviews, 2) == expected
    for name in ("train", "test", "unsupervised"):
        rows = datasets.Dataset.from_parquet(str(repeated_reviews / f"{name}.parquet"))
        rows.select(range(len(rows) - 1, -1, -1)).to_parquet(tmp_path / f"{name}.parquet")
    assert divided(tmp_path, 1) == expected
