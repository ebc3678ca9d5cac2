"""The results of a run, as files and as text."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from minippo.answers import Answer, answer_stats
from minippo.config import Config, EvalConfig, PPOConfig
from minippo.runs import (
    Run,
    language_model_line,
    read_answers,
    reward_model_line,
    run_report,
    stored_answers,
    write_answers,
)
from minippo.runs.results import table
from tests.stored import sealed_stage

BEFORE = [
    Answer("One:", " dull", -1.0, 0.0, 3, True, 0.0, -4.0),
    Answer("Two:", " bland", 0.25, 0.0, 5, False, 0.0, -6.5),
]
AFTER = [
    Answer("One:", " superb", 2.0, 1.5, 4, True, 1.25, -7.0),
    Answer("Two:", " lovely\u2028", 1.5, 2.5, 2, True, 2.25, -5.0),
]


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path, replace(Config(), eval=EvalConfig(samples=1)), "cpu")


def test_answers_are_read_as_they_were_written_with_the_reference_before_the_policy(run):
    evaluator = SimpleNamespace(queries=[[1, 2], [3]], reference_answers=BEFORE)
    run.begin("ppo")
    write_answers(run, evaluator, AFTER)
    run.finish("ppo", "data", 1.0, {}, {})
    assert read_answers(run) == [
        {"prompt": b.prompt, "query": query, "before": asdict(b), "after": asdict(a)}
        for query, b, a in zip([[1, 2], [3]], BEFORE, AFTER, strict=True)
    ]


def test_answers_of_an_earlier_version_are_refused_by_name(run):
    run.begin("ppo")
    write_answers(run, SimpleNamespace(queries=[[1], [2]], reference_answers=BEFORE), AFTER)
    path = run.results_folder("ppo") / "answers.jsonl"
    path.write_text(re.sub(r', "exact_kl": [^,}]+', "", path.read_text()))
    run.finish("ppo", "data", 1.0, {}, {})
    with pytest.raises(ValueError, match=r"answers.jsonl is from an earlier version and has no exact_kl; python -m"):
        stored_answers(run)


def test_line_of_the_reward_model_names_accuracy_limit_and_calibration(run):
    results = {"rm_accuracy": 0.71, "rm_accuracy_limit": 0.9, "rm_calibration_error": 0.05}
    sealed_stage(run.stage("rm"), results=results)
    line = "reward model: held-out accuracy 0.710, best possible 0.900, calibration error 0.050"
    assert reward_model_line(run) == line
    sealed_stage(run.stage("rm"), results=results | {"rm_accuracy_limit": None})  # the corpus has no judge
    assert reward_model_line(run) == "reward model: held-out accuracy 0.710, calibration error 0.050"
    sealed_stage(run.stage("rm"), results=results | {"rm_accuracy_limit": None, "rm_accuracy": 0.0})
    assert reward_model_line(run) == "reward model: held-out accuracy 0.000, calibration error 0.050"


def test_line_of_the_language_models_names_the_losses_of_those_that_were_trained(run):
    assert language_model_line(run) == "no demonstrations"
    sealed_stage(run.stage("sft"), results={"sft_reward_loss": 3.25})
    assert language_model_line(run) == "language models: held-out loss reward 3.250 nats per token"
    sealed_stage(run.stage("sft"), results={"sft_policy_loss": 2.5, "sft_reward_loss": 3.25})
    assert language_model_line(run) == "language models: held-out loss policy 2.500, reward 3.250 nats per token"


@pytest.mark.parametrize("scorer", ["", "mine:score"])
@pytest.mark.parametrize("judged", [True, False])
def test_report_has_the_figures_and_the_first_answers_before_and_after(run, scorer, judged):
    run.config = replace(run.config, ppo=PPOConfig(scorer=scorer))
    run.begin("ppo")
    write_answers(run, SimpleNamespace(queries=[[1], [2]], reference_answers=BEFORE), AFTER)
    before, after = answer_stats(BEFORE, None), answer_stats(AFTER, None)
    entries = {"gold_after": 1.0} if judged else {}
    sealed_stage(run.stage("rm"), results={"rm_accuracy": 0.71}, stage_seconds=4.0)
    run.finish("ppo", "data", 65.2, {}, {"before": before, "after": after, "win_rate": 0.75} | entries)
    judge = "the gold score" if judged else scorer or "the reward model"
    assert run_report(run).split("\n\n") == [
        f"{run.folder}: 2 held-out prompts (rm 4 s, ppo 65 s) (from 2 prompts only: fewer than 30 say little)",
        (f"scores: {scorer}" if scorer else "reward model: held-out accuracy 0.710")
        + f"\nwins against the reference's answer, by {judge}: 0.750 (from 2 prompts only: fewer than 30 say little)",
        table(before, after),
        "> One:",
        "- before (-1.00): dull\n- after (+2.00): superb",
    ]
    assert table(before, after).splitlines()[2].split("|")[2:4] == ["   -0.375 ", "    1.750 "]
