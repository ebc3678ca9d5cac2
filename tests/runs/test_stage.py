"""What the three stages have in common, with a stage that trains nothing."""

from __future__ import annotations

import errno
import io
import json
import math
import signal
import time
from types import SimpleNamespace

import pytest

from minippo import storage
from minippo.config import Config
from minippo.errors import TrainingError
from minippo.runs import Run, due, run_stage
from minippo.runs import run as run_module
from tests.stored import sealed_stage

REPORT = {"prompts": {"rows read": 1200, "rows too long": 3}}


class Killed(BaseException):
    """Stands for a kill: no code of ours may catch it."""


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Run stage 1 as a command with functions that note what there is when they are called; they may be replaced."""
    folder, calls = tmp_path / "run", []

    def prepare(run: Run) -> SimpleNamespace:
        calls.append(("prepare", folder.exists()))
        return SimpleNamespace(report=REPORT, data="data")

    def train(run: Run, inputs: SimpleNamespace) -> dict[str, object]:
        assert inputs.report is REPORT
        calls.append(("train", run.unfinished("sft").is_dir()))
        (run.unfinished("sft") / "weights").write_text("trained")
        return {"loss": 2.5}

    def show(run: Run) -> str:
        calls.append(("show", run.is_finished("sft")))
        return f"loss {run.summary()['loss']}"

    def command(data: str = "data", **functions) -> None:
        monkeypatch.setattr("minippo.runs.stage.load_corpus", lambda config: SimpleNamespace(fingerprint=data))
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
    assert json.loads((stage.folder / "sft" / "summary.json").read_text())["data"] == "data"
    assert 0.2 <= summary["stage_seconds"]["sft"] < 60


@pytest.mark.parametrize(("function", "again"), [("seal", 2), ("publish_folder", 2), ("_sync", 1)])
def test_a_stage_killed_while_it_is_completed_is_whole_or_not_finished(stage, monkeypatch, function, again):
    """Before its results are stored, before its folder has its name, and after that."""

    def killed(*arguments) -> None:
        if function != "_sync" or (arguments == (stage.folder,) and (stage.folder / "sft").is_dir()):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(storage if function == "_sync" else run_module, function, killed)
        with pytest.raises(Killed):
            stage.command()
    assert (stage.folder / "sft").exists() == (function == "_sync")
    stage.command()
    assert [name for name, _ in stage.calls] == ["prepare", "train"] * again + ["show"]
    assert Run(stage.folder, Config(), "cpu").summary()["loss"] == 2.5


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


@pytest.mark.parametrize(
    "folders", [(), ("step-000002", "step-000004"), ("policy/step-000004",), ("reward/step-000004",)]
)
def test_a_failed_training_ends_with_status_1_and_says_where_what_and_what_is_left(stage, capsys, folders):
    def failing(run: Run, inputs: SimpleNamespace) -> dict[str, object]:
        for folder in folders:
            (run.unfinished("sft") / folder).mkdir(parents=True)
        run.position = "sft, step 5"
        raise TrainingError("loss is nan")

    with pytest.raises(SystemExit) as end:
        stage.command(train=failing)
    assert end.value.code == 1
    latest = f". The last checkpoint is {stage.folder / 'sft.unfinished' / folders[-1]}" if folders else ""
    assert capsys.readouterr().err == f"error: sft, step 5: loss is nan{latest}\n"
    assert not (stage.folder / "sft").exists()
    assert not (stage.folder / "summary.json").exists()


def test_a_result_that_is_no_number_and_a_full_disk_end_with_a_sentence_and_status_1(stage, capsys):
    def full(run: Run, inputs: SimpleNamespace) -> dict[str, object]:
        raise OSError(errno.ENOSPC, "No space left on device", str(run.unfinished("sft") / "weights"))

    for train, sentence in (
        (lambda run, inputs: {"loss": math.nan}, "sft, results: loss is nan"),
        (full, f"{stage.folder / 'sft.unfinished' / 'weights'}: No space left on device"),
    ):
        with pytest.raises(SystemExit) as end:
            stage.command(train=train)
        assert end.value.code == 1
        assert capsys.readouterr().err == f"error: {sentence}\n"
        assert not (stage.folder / "sft").exists()


def test_a_finished_stage_is_not_shown_as_that_of_other_data(stage, capsys):
    stage.command()
    del stage.calls[:]
    with pytest.raises(SystemExit) as end:
        stage.command(data="other data")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert f"error: {stage.folder / 'sft'} was trained on other data than the present files and options give" in said
    assert "python -m minippo sft" in said
    assert not stage.calls


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_stage_ends_with_the_signal_s_status_and_the_command_that_resumes(stage, capsys, number, status):
    def interrupted(run: Run, inputs: SimpleNamespace) -> dict[str, object]:
        run.position = "sft, step 5"
        (run.unfinished("sft") / "step-000004").mkdir()
        signal.raise_signal(number)
        return {}

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as end:
        stage.command(train=interrupted)
    assert end.value.code == status
    assert signal.getsignal(number) is before
    command = f"python -m minippo sft --config {stage.folder / 'config.yaml'} --run-dir {stage.folder}"
    last = stage.folder / "sft.unfinished" / "step-000004"
    assert capsys.readouterr().err == f"\ninterrupted (sft, step 5); to resume from {last}: {command}\n"
    assert not (stage.folder / "sft").exists()


def test_a_stage_interrupted_before_it_trains_says_so(stage, capsys):
    def interrupted(run: Run) -> SimpleNamespace:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        stage.command(prepare=interrupted)
    assert end.value.code == 130
    assert capsys.readouterr().err == "\ninterrupted before training began\n"
    assert not stage.folder.exists()


def test_something_is_due_every_so_many_iterations_and_after_the_last_one():
    assert [n for n in range(1, 8) if due(n, 3, 7)] == [3, 6, 7]
    assert [n for n in range(1, 8) if due(n, 100, 7)] == [7]


def test_a_stage_that_another_process_has_finished_in_the_meantime_is_kept(stage, capsys):
    """Both have seen that it was not finished; the second gets the lock after the first has released it."""

    def overtaken(run: Run) -> SimpleNamespace:
        (stage.folder / "sft").mkdir(parents=True)
        (stage.folder / "sft" / "weights").write_text("the other's")
        sealed_stage(stage.folder / "sft")
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


def test_a_summary_that_a_killed_process_did_not_write_is_written_the_next_time(stage):
    stage.command()
    path = stage.folder / "summary.json"
    text = path.read_text()
    path.unlink()
    stage.command()
    assert path.read_text() == text
    path.write_text("{}")
    stage.command()
    assert path.read_text() == text
