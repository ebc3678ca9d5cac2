"""What the three stages have in common, with a stage that trains nothing."""

from __future__ import annotations

import io
import json
import time
from types import SimpleNamespace

import pytest

from minippo.errors import TrainingError
from minippo.runs import Run, due, run_stage

REPORT = {"prompts": {"rows read": 1200, "rows too long": 3}}


class Killed(BaseException):
    """Stands for a kill: no code of ours may catch it."""


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Run stage 1 as a command with functions that note what there is when they are called; they may be replaced."""
    folder, calls = tmp_path / "run", []

    def prepare(run: Run) -> SimpleNamespace:
        calls.append(("prepare", folder.exists()))
        return SimpleNamespace(report=REPORT)

    def train(run: Run, inputs: SimpleNamespace) -> dict[str, object]:
        assert inputs.report is REPORT
        calls.append(("train", run.unfinished("sft").is_dir()))
        (run.unfinished("sft") / "weights").write_text("trained")
        return {"loss": 2.5}

    def show(run: Run) -> str:
        calls.append(("show", run.is_finished("sft")))
        return f"loss {run.summary()['loss']}"

    def command(**functions) -> None:
        monkeypatch.setattr("sys.argv", ["sft", "--run-dir", str(folder), "--device", "cpu"])
        chosen = {"prepare": prepare, "train": train, "show": show} | functions
        run_stage("sft", "A stage.", **chosen)

    return SimpleNamespace(folder=folder, calls=calls, command=command, prepare=prepare)


def test_a_stage_is_prepared_before_anything_is_written_and_shown_when_it_is_finished(stage, capsys):
    stage.command()
    assert stage.calls == [("prepare", False), ("train", True), ("show", True)]
    assert (stage.folder / "sft" / "weights").read_text() == "trained"
    assert not (stage.folder / "sft.unfinished").exists()
    assert capsys.readouterr().out == "data: prompts: 1,200 rows read, 3 rows too long\nloss 2.5\n"


def test_the_summary_gets_the_entries_of_the_stage_its_data_and_its_duration_from_the_start(stage):
    def slow(run: Run) -> SimpleNamespace:
        time.sleep(0.2)
        return stage.prepare(run)

    stage.command(prepare=slow)
    summary = json.loads((stage.folder / "summary.json").read_text())
    assert summary["loss"] == 2.5
    assert summary["data_report"] == {"sft": REPORT}
    assert 0.2 <= summary["stage_seconds"]["sft"] < 60


def test_a_stage_killed_while_the_summary_is_written_is_not_finished(stage, monkeypatch):
    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "add_to_summary", killed)
        with pytest.raises(Killed):
            stage.command()
    assert not (stage.folder / "sft").exists()
    stage.command()
    assert [name for name, _ in stage.calls] == ["prepare", "train"] * 2 + ["show"]
    assert json.loads((stage.folder / "summary.json").read_text())["loss"] == 2.5


def test_a_finished_stage_is_shown_and_not_repeated(stage, capsys):
    stage.command()
    del stage.calls[:]
    capsys.readouterr()
    stage.command()
    assert stage.calls == [("show", True)]
    hint = "if the code has changed: another --run-dir"
    assert capsys.readouterr().out == f"reference policy already trained: {stage.folder / 'sft'} ({hint})\n\nloss 2.5\n"


def test_wrong_input_ends_with_status_2_before_anything_is_written(stage, capsys):
    def wrong(run: Run) -> SimpleNamespace:
        raise ValueError("there are no demonstrations")

    with pytest.raises(SystemExit) as end:
        stage.command(prepare=wrong)
    assert end.value.code == 2
    assert "there are no demonstrations" in capsys.readouterr().err
    assert not stage.folder.exists()


@pytest.mark.parametrize("steps", [(), (2, 4)])
def test_a_failed_training_ends_with_status_1_and_says_where_what_and_what_is_left(stage, capsys, steps):
    def failing(run: Run, inputs: SimpleNamespace) -> dict[str, object]:
        for step in steps:
            (run.unfinished("sft") / f"step-{step:06d}").mkdir()
        run.position = "sft, step 5"
        raise TrainingError("loss is nan")

    with pytest.raises(SystemExit) as end:
        stage.command(train=failing)
    assert end.value.code == 1
    latest = f". The last checkpoint is {stage.folder / 'sft.unfinished' / 'step-000004'}" if steps else ""
    assert capsys.readouterr().err == f"error: sft, step 5: loss is nan{latest}\n"
    assert not (stage.folder / "sft").exists()
    assert not (stage.folder / "summary.json").exists()


def test_something_is_due_every_so_many_iterations_and_after_the_last_one():
    assert [n for n in range(1, 8) if due(n, 3, 7)] == [3, 6, 7]
    assert [n for n in range(1, 8) if due(n, 100, 7)] == [7]


def test_a_stage_that_another_process_has_finished_in_the_meantime_is_kept(stage, capsys):
    """Both have seen that it was not finished; the second gets the lock after the first has released it."""

    def overtaken(run: Run) -> SimpleNamespace:
        (stage.folder / "sft").mkdir(parents=True)
        (stage.folder / "sft" / "weights").write_text("the other's")
        return stage.prepare(run)

    with pytest.raises(SystemExit) as end:
        stage.command(prepare=overtaken)
    assert end.value.code == 2
    assert "another process has finished" in capsys.readouterr().err
    assert (stage.folder / "sft" / "weights").read_text() == "the other's"


def test_a_file_that_the_report_of_a_finished_stage_needs_is_named(stage, capsys):
    stage.command()

    def show(run: Run) -> str:
        return (run.folder / "answers.jsonl").read_text()

    with pytest.raises(SystemExit) as end:
        stage.command(show=show)
    assert end.value.code == 2
    assert "answers.jsonl" in capsys.readouterr().err


def test_a_report_of_any_text_is_printed_on_any_terminal(stage, monkeypatch):
    terminal = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(terminal, encoding="ascii"))
    stage.command(show=lambda run: "caf\u00e9")
    assert terminal.getvalue().endswith(b"caf?\n")
