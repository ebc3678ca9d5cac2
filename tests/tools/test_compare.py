"""Tables and plots of several runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest

from minippo.answers import Answer
from minippo.config import Config, DataConfig, PPOConfig
from minippo.runs.presets import dump_config
from minippo.storage import REPOSITORY
from minippo.tools import compare, curves
from tests.pipeline.tiny_run import command
from tests.stored import sealed_stage


@pytest.fixture
def make_run(tmp_path):
    """A run directory with these settings, results, answers and metrics of PPO, and a reward model of this name."""

    def make(name, *, config=Config(), metrics=(), answers=None, rewards="", policy="", **summary):  # noqa: B008
        folder = tmp_path / name
        (folder / "ppo").mkdir(parents=True)
        (folder / "config.yaml").write_text(dump_config(config))
        rows = [{"before": asdict(said("dull")), "after": asdict(a)} for a in answers or [said("fine")]]
        (folder / "ppo" / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for stage, weights in (("sft", policy), ("rm", rewards)):
            (folder / stage).mkdir()
            (folder / stage / "model.safetensors").write_text(weights)
            sealed_stage(folder / stage, stage_seconds=0.0)
        sealed_stage(folder / "ppo", results={"win_rate": 0.5} | summary, stage_seconds=2.0)
        lines = [json.dumps({"stage": "ppo", "step": step} | row) + "\n" for step, row in enumerate(metrics, 1)]
        (folder / "metrics.jsonl").write_text("".join(lines))
        return folder

    return make


@pytest.fixture
def refused(capsys):
    def run(main, *arguments: object) -> str:
        with pytest.raises(SystemExit) as end:
            command(main, *arguments)
        out, err = capsys.readouterr()
        assert (end.value.code, out, err.count("\n")) == (2, "", 1)
        return err.strip()

    return run


def cells(out: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.split("\n\n")[0].splitlines()]
    return {row[0]: row[1:] for row in rows}


def said(response: str, score=0.0, prompt="P:", **numbers) -> Answer:
    given = {"kl": 0.0, "length": 2, "ended": True, "exact_kl": 0.0, "ref_logprob": -2.0} | numbers
    return Answer(prompt, response, score, **given)


def without_intervals(row: list[str]) -> list[str]:
    return [cell.partition(" [")[0] for cell in row]


def test_table_has_settings_that_differ_and_results_even_if_runs_have_different_ones(make_run, capsys):
    """As a run with the bundled reviews and one with a scorer and data of the user's own."""
    answers = [said("I loved it.", 1.25)]
    before, after = {"score": 0.1, "gold": 0.4}, {"score": 1.25, "gold": 1.0}
    a = make_run("a", before=before, after=after, rm_accuracy=0.75, answers=answers, win_rate=1.0)
    ppo = PPOConfig(kl_coef=0.0, scorer="mine:score")
    config = Config(data=DataConfig(source="imdb"), ppo=ppo)
    b = make_run(
        "b", config=config, before={"score": 0.2}, after={"score": 2.0}, answers=[said("x", 2.0)], win_rate=1.0
    )
    command(compare.main, a, b)
    found = cells(capsys.readouterr().out)
    assert {name: without_intervals(row) for name, row in found.items()} == {
        "": [str(a), str(b), f"{b} - {a}"],
        "---": ["---"] * 3,
        "data.source": ["reviews", "imdb", ""],
        "ppo.kl_coef": [str(PPOConfig().kl_coef), "0.0", ""],
        "ppo.scorer": ["", "mine:score", ""],
        "rm_accuracy": ["0.75", "", ""],
        "win_rate": ["1.000", "1.000", ""],  # by the gold score, and by the scorer
        "score, before": ["0.1", "0.2", ""],
        "gold, before": ["0.4", "", ""],
        "score, after": ["1.250", "2.000", ""],  # of different scorers
        "gold, after": ["1.000", "", ""],
        "stage_seconds": ["2", "2", ""],
        "peak_memory_mb": ["9", "9", ""],
    }
    command(compare.main, b, a)
    assert row_of(capsys.readouterr().out, "win_rate")[-1] == ""


def test_mean_and_range_are_those_of_the_runs(make_run, capsys):
    runs = [
        make_run(f"seed-{seed}", config=Config(seed=seed), before={"score": 0.0}, after={"score": float(seed)})
        for seed in (1, 2, 6)
    ]
    command(compare.main, "--mean", *runs)
    rows = cells(capsys.readouterr().out)
    assert rows[""][3:] == ["mean", "range"]
    assert rows["seed"] == ["1", "2", "6", "", ""]
    assert rows["score, after"] == ["1", "2", "6", "3", "1 to 6"]


def test_means_are_those_of_runs_that_differ_only_in_their_seed(make_run, capsys):
    runs = [
        make_run(
            f"{kl_coef}-{seed}",
            config=Config(seed=seed, ppo=PPOConfig(kl_coef=kl_coef)),
            before={"score": 0.0},
            after={"score": 10 * kl_coef + seed},
        )
        for kl_coef, seed in ((0.1, 1), (0.2, 1), (0.1, 5), (0.2, 3))
    ]
    command(compare.main, "--mean", *runs)
    rows = cells(capsys.readouterr().out)
    assert rows[""][4:] == [f"{what} of 2 like {run}" for run in runs[:2] for what in ("mean", "range")]
    assert rows["score, after"] == ["2", "3", "6", "5", "4", "2 to 6", "4", "3 to 5"]


# ---------------------------------------------------------------------------------------------- differences


def row_of(out: str, name: str) -> list[str]:
    return cells(out)[name]


def answers_of(draw: np.random.Generator, count: int, shift: float, first: int = 0) -> list[Answer]:
    """Answers whose scores depend on their prompt, which two runs have in common, and on little else."""
    easy = np.random.default_rng(0).normal(size=first + count)[first:]
    scores = easy + 0.1 * draw.normal(size=count) + shift
    return [said("x", float(score), f"{first + i}:") for i, score in enumerate(scores)]


@pytest.mark.parametrize("same", [True, False])
def test_differences_are_paired_by_prompt_if_the_prompts_are_the_same(make_run, capsys, same):
    draw = np.random.default_rng(1)
    ours, theirs = answers_of(draw, 60, 0.5), answers_of(draw, 60, 0.0, first=0 if same else 1)
    means = [sum(a.score for a in answers) / 60 for answers in (ours, theirs)]
    a, b = (
        make_run(name, before={"score": 0.0}, after={"score": mean}, answers=answers)
        for name, mean, answers in zip("ab", means, (ours, theirs), strict=True)
    )
    command(compare.main, a, b)
    out = capsys.readouterr().out
    *_, cell = row_of(out, "score, after")
    value, low, high = map(float, re.findall(r"-?[\d.]+", cell))
    assert value == pytest.approx(means[1] - means[0], abs=6e-4)
    x, y = (np.array([answer.score for answer in answers]) for answers in (ours, theirs))
    error = (y - x).std() / 60**0.5 if same else np.hypot(x.std(), y.std()) / 60**0.5
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)
    said = "paired by prompt" if same else "not paired, because the prompts differ"
    assert out.rstrip().split("\n\n")[1:] == [f"{b} - {a}: {said}"]


def test_scores_of_different_reward_models_are_not_subtracted(make_run, capsys):
    after = {"before": {"score": 0.0}, "after": {"score": 0.0, "kl": 0.0}}
    a, b, c = (make_run(name, rewards=rewards, **after) for name, rewards in (("a", "1"), ("b", "2"), ("c", "1")))
    command(compare.main, a, b, c)
    out = capsys.readouterr().out
    assert row_of(out, "score, after")[3:] == ["", "0.000 [0.000, 0.000]"]
    for name in ("kl, after", "win_rate"):  # the judge is the same
        assert row_of(out, name)[3:] == ["0.000 [0.000, 0.000]"] * 2
    few = " (from 1 prompts only: fewer than 30 say little)"
    assert out.rstrip().split("\n\n")[1:] == [
        f"{b} - {a}: paired by prompt; no difference of the scores, which are from different scorers{few}",
        f"{c} - {a}: paired by prompt{few}",
    ]


@pytest.mark.parametrize("other", [{"policy": "2"}, {"config": Config(ppo=PPOConfig(temperature=0.9))}])
def test_kl_and_perplexity_to_different_references_are_not_subtracted(make_run, capsys, other):
    after = {"before": {"score": 0.0}, "after": {"kl": 0.0, "exact_kl": 0.0, "perplexity": 0.0, "distinct_2": 0.0}}
    a, b, c = make_run("a", **after), make_run("b", **after | other), make_run("c", **after)
    command(compare.main, a, b, c)
    out = capsys.readouterr().out
    for name in ("kl, after", "exact_kl, after", "perplexity, after"):
        different, same = row_of(out, name)[-2:]
        assert different == ""
        assert same == "0.000 [0.000, 0.000]"
    assert row_of(out, "win_rate")[-2:] == ["", "0.000 [0.000, 0.000]"]
    assert row_of(out, "distinct_2, after")[-2] != ""
    assert (
        f"{b} - {a}: paired by prompt; no difference of KL and perplexity, which are to different references; no "
        "difference of the win rates, which are over different references or judged differently"
    ) in out
    assert f"{c} - {a}: paired by prompt (" in out


def test_win_rates_without_a_judge_are_not_subtracted_if_the_scorers_differ(make_run, capsys):
    summary = {"before": {"score": 0.0}, "after": {"score": 0.0}, "config": Config(data=DataConfig(source="imdb"))}
    a, b, c = (make_run(name, rewards=rewards, **summary) for name, rewards in (("a", "1"), ("b", "2"), ("c", "1")))
    command(compare.main, a, b, c)
    out = capsys.readouterr().out
    assert row_of(out, "win_rate")[3:] == ["", "0.000 [0.000, 0.000]"]
    said = out.rstrip().split("\n\n")[1:]
    assert ["no difference of the win rates" in line for line in said] == [True, False]


def test_runs_that_cannot_be_compared_are_refused(make_run, refused, tmp_path):
    assert "name the run directories" in refused(compare.main)
    assert f"error: {tmp_path} is no" in refused(compare.main, tmp_path)
    begun = make_run("begun")
    assert f"{begun} has no results: its policy is not trained yet" in refused(compare.main, begun)


def test_panels_have_the_curves_of_the_runs_that_have_the_metric(make_run, monkeypatch, capsys):
    """A run with --init-from has no metrics of the reward model, and one with the user's data no gold score."""
    first = make_run("first", metrics=[{"loss/policy": 0.5, "eval/score": 1.0, "eval/kl": 3.0}, {"loss/policy": 0.25}])
    second = make_run("second", metrics=[{"loss/policy": 0.75}])
    shown = {}
    monkeypatch.setattr(curves, "plot", lambda rows, path: shown.update(panels=curves.panels(rows), path=path))
    command(curves.main, first, second)
    assert shown["panels"] == [
        ("PPO: policy loss", "iteration", {str(first): [(1, 0.5), (2, 0.25)], str(second): [(1, 0.75)]}),
        ("PPO: validation score", "iteration", {str(first): [(1, 1.0)]}),
        ("PPO: validation score", "KL to the reference, nats per sequence", {str(first): [(3.0, 1.0)]}),
    ]
    assert shown["path"] == first / "curves.png"
    assert capsys.readouterr().out == f"{first / 'curves.png'}\n"


def test_every_panel_shows_a_metric_that_runs_have(tiny_runs):
    rows = {"run": {stage: curves.read_metrics(tiny_runs.base().folder, stage) for stage in ("rm", "ppo")}}
    assert len(curves.panels(rows)) == len(curves.PANELS)


def test_moving_average_is_over_the_last_values():
    assert curves.moving_average([1.0, 3.0, 8.0, 4.0], 2) == [1.0, 2.0, 5.5, 6.0]


def test_plot_is_written(make_run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    runs = [make_run(name, metrics=[{"loss/policy": 0.1}] * 200) for name in ("a", "b")]
    command(curves.main, *runs, "--out", tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_plotted_is_refused(make_run, refused, monkeypatch, tmp_path):
    assert "name a run directory" in refused(curves.main)
    assert f"error: {tmp_path} is no" in refused(curves.main, tmp_path)
    begun, run = make_run("begun"), make_run("run", metrics=[{"loss/policy": 0.1}])
    assert "has no metrics of the reward model or PPO yet" in refused(curves.main, begun)
    (begun / "metrics.jsonl").unlink()
    assert "has no metrics.jsonl" in refused(curves.main, begun)
    for name in ("plot.xyz", "plot"):
        said = refused(curves.main, run, "--out", tmp_path / name)
        assert "the name of the image must end in .png, .pdf, .svg (--out), not" in said
        assert not list(tmp_path.glob("plot*"))
    assert "cannot be written (--out)" in refused(curves.main, run, "--out", run / "config.yaml" / "plot.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "plots need matplotlib: run pip install matplotlib" in refused(curves.main, run)


@pytest.mark.slow
def test_curves_do_not_depend_on_what_lies_in_the_working_directory_or_on_names(make_run, monkeypatch, tmp_path):
    """A file matplotlibrc of the working directory may ask for LaTeX, and $ in a name begins a formula."""
    rows = [{"loss/policy": 0.1}]
    first, second = make_run(r"a$\frac{$", metrics=rows), make_run("b", metrics=rows)
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nsavefig.format: pdf\n")
    source = "from minippo.tools import curves; import sys; sys.argv = ['curves', *sys.argv[1:]]; curves.main()"
    arguments = [sys.executable, "-c", source, str(first), str(second), "--out", "plot.png"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "plot.png\n"), done.stderr
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
