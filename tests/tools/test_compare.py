"""Tables and plots of several runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from minippo.config import Config, PPOConfig
from minippo.runs.presets import dump_config
from minippo.storage import REPOSITORY
from minippo.tools import compare, curves
from tests.pipeline.tiny_run import command
from tests.stored import sealed_stage


@pytest.fixture
def make_run(tmp_path):
    """A run directory with these settings, results and metrics of PPO."""

    def make(name, *, config=Config(), metrics=(), **summary):  # noqa: B008
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(dump_config(config))
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
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_table_has_settings_that_differ_and_results_even_if_runs_have_different_ones(make_run, capsys):
    """As a run with the bundled reviews and one with a scorer and data of the user's own."""
    a = make_run("a", before={"score": 0.1, "gold": 0.4}, after={"score": 1.25, "gold": 0.9}, rm_accuracy=0.75)
    ppo = PPOConfig(kl_coef=0.0, scorer="mine:score")
    b = make_run("b", config=replace(Config(), ppo=ppo), before={"score": 0.2}, after={"score": 2.0}, win_rate=0.875)
    command(compare.main, a, b)
    assert cells(capsys.readouterr().out) == {
        "": [str(a), str(b)],
        "---": ["---", "---"],
        "ppo.kl_coef": [str(PPOConfig().kl_coef), "0.0"],
        "ppo.scorer": ["", "mine:score"],
        "rm_accuracy": ["0.75", ""],
        "win_rate": ["0.5", "0.875"],
        "score, before": ["0.1", "0.2"],
        "gold, before": ["0.4", ""],
        "score, after": ["1.25", "2"],
        "gold, after": ["0.9", ""],
        "stage_seconds": ["2", "2"],
        "peak_memory_mb": ["9", "9"],
    }


def test_mean_and_range_are_those_of_the_runs(make_run, capsys):
    runs = [
        make_run(f"seed-{seed}", config=Config(seed=seed), before={"score": 0.0}, after={"score": float(seed)})
        for seed in (1, 2, 6)
    ]
    command(compare.main, "--mean", *runs)
    rows = cells(capsys.readouterr().out)
    assert rows["seed"] == ["1", "2", "6", "", ""]
    assert rows["score, after"] == ["1", "2", "6", "3", "1 to 6"]


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
