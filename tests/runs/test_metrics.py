"""What a run writes while it goes: exact figures, in order, none twice."""

from __future__ import annotations

import json
import math

from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from minippo.runs import Metrics, read_metrics


def lines(folder, name="metrics"):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def curves(folder) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_every_step_leaves_one_line_and_timing_stays_apart(tmp_path):
    metrics = Metrics(tmp_path, "ppo")
    metrics.log(1, {"objective/kl": 0.5}, {"seconds": 2.0})
    metrics.log(2, {"objective/kl": 0.25, "eval/score": 1.0})
    metrics.close()
    assert lines(tmp_path) == [
        {"stage": "ppo", "step": 1, "objective/kl": 0.5},
        {"stage": "ppo", "step": 2, "objective/kl": 0.25, "eval/score": 1.0},
    ]
    assert lines(tmp_path, "timing") == [{"stage": "ppo", "step": 1, "seconds": 2.0}]


@settings(max_examples=50, deadline=None)
@given(value=st.floats(allow_nan=False, width=64))
def test_figures_are_written_bit_for_bit(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("figures")
    metrics = Metrics.__new__(Metrics)  # without TensorBoard, which is slow to open
    metrics.stage, metrics.paths = "ppo", {name: folder / f"{name}.jsonl" for name in ("metrics", "timing")}
    metrics.writer = type("Silent", (), {"add_scalar": lambda *_: None})()
    metrics.log(1, {"loss": value})
    (line,) = read_metrics(folder, "ppo")
    assert math.copysign(1, line["loss"]) == math.copysign(1, value)
    assert line["loss"] == value


def test_stages_are_read_apart(tmp_path):
    for stage in ("rm", "ppo"):
        metrics = Metrics(tmp_path, stage)
        metrics.log(1, {"loss": 1.0 if stage == "rm" else 2.0})
        metrics.close()
    assert read_metrics(tmp_path, "rm") == [{"stage": "rm", "step": 1, "loss": 1.0}]
    assert read_metrics(tmp_path, "ppo") == [{"stage": "ppo", "step": 1, "loss": 2.0}]


def test_stage_that_starts_again_takes_its_own_later_lines_back(tmp_path):
    rm = Metrics(tmp_path, "rm")
    rm.log(9, {"loss": 1.0}, {"seconds": 1.0})
    rm.close()
    killed = Metrics(tmp_path, "ppo", first_step=1)
    for step in (1, 2, 3):
        killed.log(step, {"loss": float(step)}, {"seconds": 1.0})
    killed.close()
    resumed = Metrics(tmp_path, "ppo", first_step=3)
    resumed.log(3, {"loss": 33.0}, {"seconds": 1.0})
    resumed.close()
    for name in ("metrics", "timing"):
        assert [(line["stage"], line["step"]) for line in lines(tmp_path, name)] == [
            ("rm", 9),
            ("ppo", 1),
            ("ppo", 2),
            ("ppo", 3),
        ]
    assert [line["loss"] for line in read_metrics(tmp_path, "ppo")] == [1.0, 2.0, 33.0]


def test_line_that_a_kill_cut_short_is_dropped(tmp_path):
    metrics = Metrics(tmp_path, "ppo")
    metrics.log(1, {"loss": 1.0})
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "ppo", "st')
    resumed = Metrics(tmp_path, "ppo", first_step=2)
    resumed.log(2, {"loss": 2.0})
    resumed.close()
    assert [line["step"] for line in read_metrics(tmp_path, "ppo")] == [1, 2]


def test_tensorboard_shows_the_same_curves(tmp_path):
    metrics = Metrics(tmp_path, "ppo")
    metrics.log(1, {"objective/kl": 0.5}, {"seconds/rollout": 3.0})
    metrics.log(2, {"objective/kl": 0.75})
    metrics.close()
    assert curves(tmp_path / "tensorboard" / "ppo") == {
        "objective/kl": [(1, 0.5), (2, 0.75)],
        "seconds/rollout": [(1, 3.0)],
    }


def test_tensorboard_forgets_what_a_resumed_or_restarted_stage_does_again(tmp_path):
    for stage, first in (("ppo", 2), ("rm", 0)):
        killed = Metrics(tmp_path, stage)
        for step in (1, 2, 3):
            killed.log(step, {"loss": float(step)})
        killed.close()
        for path in (tmp_path / "tensorboard" / stage).iterdir():  # as if begun in an earlier second
            path.rename(path.with_name(path.name.replace("tfevents.", "tfevents.0")))
        again = Metrics(tmp_path, stage, first_step=first)
        again.log(2, {"loss": 22.0})
        again.close()
    assert curves(tmp_path / "tensorboard" / "ppo")["loss"] == [(1, 1.0), (2, 22.0)]
    assert curves(tmp_path / "tensorboard" / "rm")["loss"] == [(2, 22.0)]


def test_samples_are_kept_of_every_evaluation_and_taken_back_with_the_lines(tmp_path):
    metrics = Metrics(tmp_path, "ppo", first_step=1)
    for step in (2, 4, 12):
        metrics.samples(step, f"> prompt\n\n- answer {step}")
    metrics.close()
    resumed = Metrics(tmp_path, "ppo", first_step=4)
    resumed.samples(4, "> prompt\n\n- another answer")
    resumed.close()
    text = (tmp_path / "samples.md").read_text()
    assert (
        text
        == "## After iteration 2\n\n> prompt\n\n- answer 2\n\n## After iteration 4\n\n> prompt\n\n- another answer\n\n"
    )
