"""A classifier as the reward model (`rm.objective` labels), from its training to the policy that it trained."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minippo.data import comparison_rows, load_corpus
from minippo.runs import load_reward_scorer, load_run, read_answers, read_metrics
from minippo.tools import evaluate, score
from tests.pipeline.tiny_run import command

LABELS = {"rm.objective": "labels", "rm.margin": 0.0, "rm.label_smoothing": 0.2, "rm.dropout": 0.0}
LABELS |= {"rm.token_dropout": 0.0, "rm.lr": 0.0, "rm.epochs": 1}


@pytest.fixture(scope="module")
def run(tiny_runs):
    """Its reward model keeps its initial weights, with which every logged loss can be computed again."""
    return tiny_runs.run("imdb", LABELS, ["rm", "ppo"])


@pytest.fixture(scope="module")
def classified(run):
    """Log-odds (pairs, 2) of the test comparisons, label 1 first."""
    loaded = load_run(run.folder, "cpu")
    scorer, corpus, config = load_reward_scorer(loaded), load_corpus(loaded.config), loaded.config
    context = scorer.reward_model.gpt.config.context
    rows, _, _ = comparison_rows(corpus.comparisons("test"), scorer.tokenizer, context, config.data)
    model = scorer.reward_model
    odds = [[model.score_head(model.gpt.hidden(torch.tensor([ids]))[0, -1]).item() for ids in row] for row in rows]
    return np.array(odds)[: config.rm.eval_comparisons]


def test_loss_is_that_of_single_texts(run):
    calls = run.recordings["rm"].of("score", with_gradient=True)
    lines = read_metrics(run.folder, "rm")
    model = load_reward_scorer(load_run(run.folder, "cpu")).reward_model
    assert len(calls) == len(lines) > 1
    for call, line in zip(calls, lines, strict=True):
        odds = model(call.tokens, call.mask).logit()
        targets = torch.tensor([0.8, 0.2]).repeat(len(odds) // 2)  # label 1 first, a fifth of the labels is wrong
        expected = torch.nn.functional.binary_cross_entropy_with_logits(odds, targets)
        assert line["loss/rm"] == pytest.approx(expected.item(), abs=1e-5)


def test_score_is_a_probability_that_nothing_has_normalised(run, capsys):
    heads = load_file(run.folder / "rm" / "heads.safetensors")
    assert {name: value.item() for name, value in heads.items()} == {"gain": 1, "bias": 0, "is_probability": 1}
    assert not run.recordings["rm"].of("generate")
    loaded, texts = load_run(run.folder, "cpu"), ["A lovely film.", "The plot is corny."]
    model = load_reward_scorer(loaded).reward_model
    expected = []
    for text in texts:
        ids = [*loaded.tokenizers()[1].encode(text), loaded.tokenizers()[1].eos_id]
        expected.append(model.score_head(model.gpt.hidden(torch.tensor([ids]))[0, -1]).sigmoid().item())
    capsys.readouterr()
    command(score.main, "--run", run.folder, "--device", "cpu", *texts)
    shown = [float(line.split("\t")[0]) for line in capsys.readouterr().out.splitlines()]
    assert shown == pytest.approx(expected, abs=6e-4)
    assert shown[0] != shown[1]
    assert all(0 < answer["after"]["score"] < 1 for answer in read_answers(loaded))
    for line in read_metrics(run.folder, "ppo"):
        assert 0 < line.get("objective/scores", 0.5) < 1


def test_accuracy_and_calibration_are_those_of_single_texts(run, classified, capsys, tmp_path):
    right = np.stack([classified[:, 0] > 0, classified[:, 1] < 0])
    confidence = 1 / (1 + np.exp(-np.abs(classified.T)))
    edges = np.minimum((confidence - 0.5) * 10, 4).astype(int)
    error = sum(abs((right - confidence)[edges == i].sum()) for i in range(5)) / right.size
    pairs = (classified[:, 0] > classified[:, 1]).mean()
    summary = json.loads((run.folder / "summary.json").read_text())
    expected = {"rm_accuracy": pairs, "rm_label_accuracy": right.mean(), "rm_calibration_error": error}
    assert {name: summary[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    assert 0.2 < right.mean() < 0.8
    assert right.mean() != pairs
    command(evaluate.main, "--run", run.folder, "--device", "cpu", "--out", tmp_path / "e.json")
    figures = json.loads((tmp_path / "e.json").read_text())["reward_model"]
    found = {f"rm_{name}": figures[name]["value"] for name in ("accuracy", "label_accuracy")}
    assert found | {"rm_calibration_error": figures["calibration_error"]} == pytest.approx(expected, abs=1e-5)
    deviation = right.std() / right.size**0.5  # texts are resampled, not pairs
    assert figures["label_accuracy"]["standard_error"] == pytest.approx(deviation, rel=0.1)
    apart = np.abs(np.diff(1 / (1 + np.exp(-classified)))).max()  # as probabilities
    assert figures["margin"][-1]["high"] == pytest.approx(apart, abs=1e-5)
    assert f"accuracy of the labels, at a probability of 0.5: {right.mean():.3f}" in capsys.readouterr().out
