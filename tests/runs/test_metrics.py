"""What a run writes while it goes: exact figures, in order, none twice."""

from __future__ import annotations

import errno
import json
import math
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from minippo.config import Config
from minippo.errors import TrainingError
from minippo.interruption import Interruption
from minippo.runs import Checkpoints, Metrics, Run, metrics, read_metrics


def lines(folder, name="metrics"):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def curves(folder) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def begun(folder: Path) -> Run:
    """A run whose first stage has begun in `folder`."""
    run = Run(folder, Config(), "cpu")
    run.begin("sft")
    return run


def log_timed(metrics: Metrics, step: int, loss: float) -> None:
    with metrics.timer("step"):
        pass
    metrics.log(step, {"loss": loss})


def test_every_step_leaves_one_line_and_timing_stays_apart(tmp_path):
    metrics = Metrics(begun(tmp_path), "ppo")
    with metrics.timer("rollout"):
        time.sleep(0.01)
    metrics.log(1, {"objective/kl": 0.5}, num_tokens=5)
    metrics.log(2, {"objective/kl": 0.25, "eval/score": 1.0})
    metrics.close()
    assert lines(tmp_path) == [
        {"stage": "ppo", "step": 1, "objective/kl": 0.5},
        {"stage": "ppo", "step": 2, "objective/kl": 0.25, "eval/score": 1.0},
    ]
    (timing,) = lines(tmp_path, "timing")
    assert set(timing) == {"stage", "step", "seconds/rollout", "tokens_per_second", "peak_memory_mb"}
    assert 0.01 <= timing["seconds/rollout"] < 30
    assert timing["tokens_per_second"] == 5 / timing["seconds/rollout"]


@settings(max_examples=50, deadline=None)
@given(value=st.floats(allow_nan=False, allow_infinity=False, width=64))
def test_figures_are_written_bit_for_bit(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("figures")
    metrics = Metrics.__new__(Metrics)  # without TensorBoard, which is slow to open
    metrics.stage, metrics.paths = "ppo", {name: folder / f"{name}.jsonl" for name in ("metrics", "timing")}
    metrics.seconds, metrics.bar, metrics.pending, metrics.tensorboard_failed = {}, None, {}, False
    metrics.writer = type("Silent", (), {"add_scalar": lambda *_: None})()
    metrics.log(1, {"loss": value})
    (line,) = read_metrics(folder, "ppo")
    assert math.copysign(1, line["loss"]) == math.copysign(1, value)
    assert line["loss"] == value


def test_stages_are_read_apart(tmp_path):
    for stage in ("rm", "ppo"):
        metrics = Metrics(begun(tmp_path), stage)
        metrics.log(1, {"loss": 1.0 if stage == "rm" else 2.0})
        metrics.close()
    assert read_metrics(tmp_path, "rm") == [{"stage": "rm", "step": 1, "loss": 1.0}]
    assert read_metrics(tmp_path, "ppo") == [{"stage": "ppo", "step": 1, "loss": 2.0}]


def test_stage_that_starts_again_takes_its_own_later_lines_back(tmp_path):
    rm = Metrics(begun(tmp_path), "rm")
    log_timed(rm, 9, 1.0)
    rm.close()
    killed = Metrics(begun(tmp_path), "ppo", start=0)
    for step in (1, 2, 3):
        log_timed(killed, step, float(step))
    killed.close()
    resumed = Metrics(begun(tmp_path), "ppo", start=2)
    log_timed(resumed, 3, 33.0)
    resumed.close()
    for name in ("metrics", "timing"):
        assert [(line["stage"], line["step"]) for line in lines(tmp_path, name)] == [
            ("rm", 9),
            ("ppo", 1),
            ("ppo", 2),
            ("ppo", 3),
        ]
    assert [line["loss"] for line in read_metrics(tmp_path, "ppo")] == [1.0, 2.0, 33.0]


def test_stage_that_begins_anew_takes_all_its_lines_back(tmp_path):
    for loss in (1.0, 2.0):
        metrics = Metrics(begun(tmp_path), "ppo", start=0)
        metrics.log(0, {"loss": loss})
        metrics.close()
    assert read_metrics(tmp_path, "ppo") == [{"stage": "ppo", "step": 0, "loss": 2.0}]


def test_progress_counts_the_steps_that_are_left_and_tells_the_run_where_it_is(tmp_path):
    run = begun(tmp_path)
    metrics, positions = Metrics(run, "ppo"), []
    for step in metrics.progress(3, 5):
        positions.append((step, run.position))
    metrics.close()
    assert positions == [(step, f"ppo, iteration {step}") for step in (3, 4, 5)]
    assert run.position == "ppo, after iteration 5"  # an error after the last step is not of that step


def test_seconds_are_of_their_own_step_and_the_speed_is_of_all_of_them(tmp_path):
    metrics = Metrics(begun(tmp_path), "ppo")
    for step, names in ((1, ("rollout", "checks")), (2, ("rollout", "update"))):
        for name in names:
            with metrics.timer(name):
                time.sleep(0.01)
        metrics.log(step, {"loss": 1.0}, num_tokens=100 * step)
    metrics.close()
    first, second = lines(tmp_path, "timing")
    assert {key for key in first if "/" in key} == {"seconds/rollout", "seconds/checks"}
    assert {key for key in second if "/" in key} == {"seconds/rollout", "seconds/update"}
    for line, tokens in ((first, 100), (second, 200)):
        seconds = [value for key, value in line.items() if "/" in key]
        assert all(0.01 <= value < 30 for value in seconds)
        assert line["tokens_per_second"] == pytest.approx(tokens / sum(seconds))


def test_line_that_a_kill_cut_short_is_dropped(tmp_path):
    metrics = Metrics(begun(tmp_path), "ppo")
    metrics.log(1, {"loss": 1.0})
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "ppo", "st')
    resumed = Metrics(begun(tmp_path), "ppo", start=1)
    resumed.log(2, {"loss": 2.0})
    resumed.close()
    assert [line["step"] for line in read_metrics(tmp_path, "ppo")] == [1, 2]


def test_tensorboard_shows_the_same_curves(tmp_path):
    metrics = Metrics(begun(tmp_path), "ppo")
    with metrics.timer("rollout"):
        pass
    metrics.log(1, {"objective/kl": 0.5})
    metrics.log(2, {"objective/kl": 0.75})
    metrics.close()
    shown = curves(tmp_path / "tensorboard" / "ppo")
    assert shown["objective/kl"] == [(1, 0.5), (2, 0.75)]
    (timing,) = lines(tmp_path, "timing")
    for name in ("seconds/rollout", "peak_memory_mb"):
        assert shown[name] == [(1, pytest.approx(timing[name]))]


def test_tensorboard_forgets_what_a_resumed_or_restarted_stage_does_again(tmp_path):
    for stage, first in (("ppo", 1), ("rm", 0)):
        killed = Metrics(begun(tmp_path), stage)
        for step in (1, 2, 3):
            killed.log(step, {"loss": float(step)})
        killed.close()
        for path in (tmp_path / "tensorboard" / stage).iterdir():  # as if begun in an earlier second
            path.rename(path.with_name(path.name.replace("tfevents.", "tfevents.0")))
        again = Metrics(begun(tmp_path), stage, start=first)
        again.log(2, {"loss": 22.0})
        again.close()
    assert curves(tmp_path / "tensorboard" / "ppo")["loss"] == [(1, 1.0), (2, 22.0)]
    assert curves(tmp_path / "tensorboard" / "rm")["loss"] == [(2, 22.0)]


def test_samples_are_kept_of_every_evaluation_and_taken_back_with_the_lines(tmp_path):
    metrics = Metrics(begun(tmp_path), "ppo", start=0)
    for step in (2, 4, 12):
        metrics.log_samples(step, f"> prompt\n\n- answer {step}")
    metrics.close()
    resumed = Metrics(begun(tmp_path), "ppo", start=3)
    resumed.log_samples(4, "> prompt\n\n- another answer")
    resumed.close()
    text = (tmp_path / "samples.md").read_text()
    assert (
        text
        == "## After iteration 2\n\n> prompt\n\n- answer 2\n\n## After iteration 4\n\n> prompt\n\n- another answer\n\n"
    )


def test_the_progress_bar_keeps_the_newest_value_of_each_metric(tmp_path):
    metrics = Metrics(begun(tmp_path), "rm")
    for step in metrics.progress(1, 3):
        metrics.log(step, {"loss/rm": step / 8} | ({"eval/accuracy": 0.75} if step == 2 else {}))
    metrics.close()
    assert metrics.shown == {"loss": "0.375", "validation accuracy": "0.750"}


def test_a_damaged_file_is_named_with_the_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"stage": "rm", "step": 1}\n{"stage": "r')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is not valid JSON"):
        read_metrics(tmp_path, "rm")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_no_number_is_refused_with_its_name_and_not_written(tmp_path, value):
    log = Metrics(begun(tmp_path), "ppo")
    with pytest.raises(TrainingError, match=rf"^eval/score is {value}$"):
        log.log(1, {"objective/kl": 0.5, "eval/score": value})
    log.close()
    assert not (tmp_path / "metrics.jsonl").exists()


def test_lines_that_a_full_disk_refused_are_written_later_in_their_order(tmp_path, monkeypatch, capsys):
    def full(path, lines):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = Metrics(begun(tmp_path), "ppo")
    log.log(1, {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "append_lines", full)
        for step in (2, 3):
            log.log(step, {"loss": float(step)})
    assert [line["step"] for line in read_metrics(tmp_path, "ppo")] == [1]
    log.log(4, {"loss": 4.0})
    log.close()
    assert [line["loss"] for line in read_metrics(tmp_path, "ppo")] == [1.0, 2.0, 3.0, 4.0]
    sentence = f"warning: {tmp_path / 'metrics.jsonl'} cannot be written: No space left on device; its lines are kept"
    assert capsys.readouterr().err.count(sentence) == 1


def test_lines_are_written_when_the_stage_ends_or_counted_as_lost(tmp_path, monkeypatch, capsys):
    def full(path, lines):
        raise OSError(errno.ENOSPC, "No space left on device")

    for lost in (False, True):
        log = Metrics(begun(tmp_path / str(lost)), "ppo")
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "append_lines", full)
            log.log(1, {"loss": 1.0})
            log.log(2, {"loss": 2.0})
            if lost:
                log.close()
        log.close()
        path = tmp_path / str(lost) / "metrics.jsonl"
        sentence = f"warning: 2 lines of {path} could not be written and are lost"
        assert (sentence in capsys.readouterr().err) == lost
    assert [line["step"] for line in read_metrics(tmp_path / "False", "ppo")] == [1, 2]


def test_damaged_lines_of_an_interrupted_run_are_removed_and_counted(tmp_path, capsys):
    good = [json.dumps({"stage": "ppo", "step": step}) + "\n" for step in (1, 2)]
    damaged = ["{\n", '{"stage": "ppo"}\n', "[1]\n", '{"stage": "rm", "st']
    (tmp_path / "metrics.jsonl").write_text(good[0] + "".join(damaged[:3]) + good[1] + damaged[3])
    Metrics(begun(tmp_path), "ppo", start=2).close()
    assert (tmp_path / "metrics.jsonl").read_text() == "".join(good)
    assert f"warning: {tmp_path / 'metrics.jsonl'}: 3 unreadable lines removed" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_the_step_end_and_be_saved_and_no_other_begin(tmp_path, number):
    checkpoints, done, before = Checkpoints(tmp_path), [], signal.getsignal(number)
    log = Metrics(begun(tmp_path), "rm")

    def train() -> None:
        for step in log.progress(1, 9):
            if step == 3:
                signal.raise_signal(number)
            done.append((step, checkpoints.due(step, 5, 9)))

    with pytest.raises(KeyboardInterrupt, match=signal.Signals(number).name):
        train()
    log.close()
    assert done == [(1, False), (2, False), (3, True)]
    assert signal.getsignal(number) is before
    assert not checkpoints.due(3, 5, 9)  # the next training is not interrupted
    assert [step for step in range(1, 10) if checkpoints.due(step, 5, 9)] == [5, 9]


def test_a_signal_that_comes_after_the_step_was_saved_waits_for_the_next(tmp_path):
    """Otherwise the last step would be in no checkpoint."""
    log, saved = Metrics(begun(tmp_path), "ppo"), []

    def train() -> None:
        for step in log.progress(1, 9):
            if Checkpoints(tmp_path).due(step, 100, 9):
                saved.append(step)
            if step == 2:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interruption):
        train()
    assert saved == [3]


def test_samples_of_ppo_stay_if_another_stage_is_trained_later(tmp_path):
    """With a scorer of one's own, a reward model may come last."""
    log = Metrics(begun(tmp_path), "ppo")
    log.log_samples(1, "> One:")
    log.close()
    Metrics(Run(tmp_path, Config(), "cpu"), "rm").close()
    assert "> One:" in (tmp_path / "samples.md").read_text()
