"""What the benchmark computes from its measurements, and that what it measures is what it says."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import minippo.ppo
import minippo.rollout
from bench import gpu, measuring, planned, ppo, report, reward, rollout, scaling
from bench.__main__ import SECTIONS, main
from bench.machine import Rates, Work
from bench.measuring import Phases, Spread, alternate, exponent, ratios, spread
from bench.models import SIZES, TOY, S
from bench.report import BEGIN, END, Row, Section
from minippo.optim import CPUAdamW

aten = torch.ops.aten
REPOSITORY = report.REPOSITORY


def test_the_exponent_is_the_slope_of_the_logarithms():
    x = [16, 32, 64, 128, 512]
    assert exponent(x, [3 * value**1.7 for value in x]) == pytest.approx(1.7, abs=1e-12)
    y = [5.0, 9.0, 22.0, 31.0, 180.0]
    assert exponent(x, y) == pytest.approx(np.polyfit(np.log(x), np.log(y), 1)[0], abs=1e-12)


def test_ratios_are_taken_within_each_round():
    assert spread([3.0, 1.0, 8.0]) == (3, 1, 8)
    assert ratios([1, 10, 100], [1, 5, 200]) == (1, 0.5, 2)  # the ratio of the medians is 2


def test_programs_alternate_after_a_warm_up_that_does_not_count():
    calls = []

    def call(name):
        calls.append(name)
        return len(calls)

    results = alternate({"a": lambda: call("a"), "b": lambda: call("b")}, rounds=3)
    assert "".join(calls) == "ababbaab"
    assert results == {"a": [3, 6, 7], "b": [4, 5, 8]}


def test_phases_add_up_the_time_of_their_functions(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(measuring, "clock", lambda: now[0])

    def work(seconds, kind):
        now[0] += seconds
        return seconds, kind

    owner, phases = SimpleNamespace(work=work, other=work), Phases()
    phases.watch(owner, "work", lambda seconds, kind: f"phase {kind}")
    phases.watch(owner, "other", "other")
    assert owner.work(2, "a") == (2, "a")
    owner.work(3, "b")
    owner.work(5, "a")
    owner.other(7, kind="a")
    assert phases == {"phase a": 7, "phase b": 3, "other": 7}


def test_work_is_compared_with_the_rate_that_limits_it():
    rates = Rates(flops=100, bandwidth=10)
    assert Work(seconds=4, flops=100, moved=8).share(rates) == "25% of FLOP/s"
    assert Work(seconds=4, flops=100, moved=20).share(rates) == "50% of bandwidth"
    assert Rates(1, 20).best(Rates(3, 10)) == Rates(3, 10).best(Rates(1, 20)) == Rates(3, 20)


def test_a_section_replaces_its_rows_of_the_table_and_nothing_else(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(f"# Performance\n\n{BEGIN}\n| old |\n{END}\n\n## Memory\n")
    for name, ratio in (("b", 3.0), ("a", 1.0), ("b", 2.0)):
        row = Row(f"work {name}", "5 s", "peer 6", report.ratio_cell(Spread(ratio, 0.5, 4)), "1.8", Work(2, flops=1e9))
        section = Section([row, Row("a mean", "")], {"seconds": {"minippo": [2.0]}})
        record = report.record(name, section, Rates(1e9, 2e10), rounds=7)
        report.write(record, ("a", "b", "c"), tmp_path / "results", page)
    before, table, after = page.read_text().replace(END, BEGIN).split(BEGIN)
    assert (before, after) == ("# Performance\n\n", "\n\n## Memory\n")
    lines = table.strip().splitlines()
    assert lines[2:6] == [
        "| work a | 5 s | peer 6 | 1.00 (0.50 to 4.00) | 1.8 | 50% of FLOP/s |",
        "| a mean |  |  |  |  |  |",
        "| work b | 5 s | peer 6 | 2.00 (0.50 to 4.00) | 1.8 | 50% of FLOP/s |",
        "| a mean |  |  |  |  |  |",
    ]
    assert [line.split(":")[0] for line in lines[-2:]] == ["- `a`", "- `b`"]
    assert "1 GFLOP/s, 20 GB/s; 7 rounds; python 3" in lines[-1]
    assert f"torch {torch.__version__}" in lines[-1]


def test_the_page_must_have_both_markers():
    with pytest.raises(ValueError, match="must contain the lines"):
        report.replace_table(f"{BEGIN}\n", "| new |")


def test_the_documentation_has_a_place_for_the_table():
    assert "| new |" in report.replace_table(report.PAGE.read_text(encoding="utf-8"), "| new |")


def test_an_exponent_is_that_of_the_medians_with_the_range_of_the_rounds():
    rounds = [[1.0, 1.0, 2.0], [4.0, 2.0, 4.0]]  # at 1 and at 2
    assert scaling.exponent_over([1, 2], rounds) == pytest.approx(Spread(2, 1, 2))


def test_the_memory_of_activations_is_what_models_gradients_and_moments_do_not_take():
    # 100 for the libraries; policy, reference and reward model take 3 x 10, gradients and moments 3 x 10, activations 7
    turn = {"imported memory": 100, "loaded memory": 130, "peak memory": 167}
    assert scaling.activations(turn) == 7
    assert scaling.all_tensors(turn) == 67


@pytest.mark.parametrize("size", [TOY, S])
def test_the_work_of_a_model_is_what_pytorch_counts(size):
    gpt = size.gpt()
    matrices = [p for name, p in gpt.named_parameters() if p.dim() == 2 and "position" not in name]
    assert size.weights == sum(p.numel() for p in matrices)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        hidden = gpt.hidden(torch.zeros(3, 20, dtype=torch.long))
        gpt.logits(hidden[:, -7:])
    counts = counter.get_flop_counts()["Global"]
    products = sum(counts.get(product, 0) for product in (aten.addmm, aten.mm, aten.bmm))
    assert size.forward_flops(3 * 20, 3 * 7) == products


def test_random_ids_survive_the_way_through_text():
    tokenizer, prompts = TOY.tokenizer(), TOY.prompts(50, 10)
    assert [tokenizer.encode(tokenizer.decode(ids)) for ids in prompts] == prompts


def test_a_ppo_iteration_has_full_responses_and_all_phases(tmp_path, monkeypatch):
    for owner, name in (
        (minippo.rollout, "sample_responses"),
        (minippo.rollout, "logprobs_and_values"),
        (minippo.rollout, "score_texts"),
        (minippo.ppo, "ppo_update"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # restored after the test
    phases = ppo.watched_phases()
    iterate = ppo.iteration(TOY.save(tmp_path), TOY, batch=3, response_length=5)
    assert [iterate(), iterate()] == [15, 15]
    assert set(phases) == {"generate", "log-probabilities", "scoring", "update"}
    assert all(seconds > 0 for seconds in phases.values())


def test_the_phases_on_a_gpu_are_those_of_the_plan(monkeypatch):
    smaller = {"ppo.rollout_batch_size": 2, "ppo.microbatch_size": 1, "ppo.num_minibatches": 1}
    monkeypatch.setitem(planned.POLICIES, "toy", smaller)
    monkeypatch.setattr(gpu, "REWARD", TOY)
    allocated = iter(range(1, 1000))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: next(allocated))
    for owner, name in (
        (minippo.rollout, "sample_responses"),
        (minippo.rollout, "logprobs_and_values"),
        (minippo.rollout, "score_texts"),
        (minippo.ppo, "accumulate_gradient"),
        (CPUAdamW, "clip_gradients"),
        (CPUAdamW, "step"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    iterate, reference = gpu.iteration(TOY, "cpu")
    phases = gpu.watched_phases(reference)
    iterate()
    plan = planned.planned("toy")
    assert list(phases) == [phase for phase in plan if phase.startswith("ppo: ") and "answers" not in phase]
    # Four phases once each; then two epochs of an update, clipping, and a step: the largest counts.
    assert list(phases.peaks.values()) == [1, 2, 3, 4, 8, 10]
    update = "ppo: update"
    expected = plan[update].total("GPU")
    measured = [{update: seconds, f"{update}, bytes": expected * 1.5} for seconds in (1.0, 4.0, 3.0)]
    (row,) = gpu.rows(TOY, measured, plan)
    assert row.work == "toy, 10 + 128 tokens, batch 2, ppo: update"
    assert (row.minippo[:6], row.ratio) == ("3.00 s", "1.50 (1.50 to 1.50)")
    assert row.limited == Work(3.0, flops=2 * 3 * TOY.forward_flops(2 * 138, 2 * 128))


def test_the_large_models_have_their_sizes():
    """As published, 1.56, 1.32 and 2.65 billion parameters; here without biases, gains and position embeddings."""
    assert {name: round(SIZES[name].weights / 1e9, 2) for name in gpu.MODELS} == {
        "GPT-2 XL": 1.55,
        "OPT-1.3b": 1.31,
        "OPT-2.7b": 2.65,
    }


def test_a_rollout_has_full_responses(monkeypatch):
    masks = []
    generate = rollout.generate

    def recorded(*args, **kwargs):
        masks.append(generate(*args, **kwargs)[1])

    monkeypatch.setattr(rollout, "generate", recorded)
    rollout.minippo(replace(TOY, vocab=4), 2)()  # every fourth token would be the end
    assert masks[0].shape == (2, 128)
    assert masks[0].all()


def test_an_epoch_of_reward_training_sees_every_pair_once(tmp_path, monkeypatch):
    batches = []
    score_batch = reward.score_batch

    def recorded(model, rows, *args):
        batches.append(rows)
        return score_batch(model, rows, *args)

    monkeypatch.setattr(reward, "score_batch", recorded)
    monkeypatch.setattr(reward, "PAIRS", 16)
    pairs, folder = reward.make_pairs(TOY), TOY.save(tmp_path)
    for by_length in (True, False):
        batches.clear()
        reward.epoch(folder, TOY, by_length)()
        assert [len(batch) for batch in batches] == [8, 8]
        assert sorted(pair for batch in batches for pair in batch) == sorted(pairs)
        short, long = sorted([max(map(len, pair)) for pair in batch] for batch in batches)
        assert (max(short) <= min(long)) == by_length


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["speed"], "'speed' is not one of rollout"),
        (["ppo", "--models", "XXL"], "'XXL' is not one of toy"),
        (["optimizer", "gpu", "--profile"], "--profile shows operators on the CPU, and the section gpu measures a GPU"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(arguments, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.out == ""


SLOW = {"rollout": pytest.mark.slow, "ppo": pytest.mark.slow, "scaling": pytest.mark.slow}


@pytest.mark.parametrize(
    "section", [pytest.param(name, marks=SLOW.get(name, ())) for name in SECTIONS if name != "gpu"]
)
def test_the_profile_of_a_section_is_printed(section, monkeypatch, capsys):
    monkeypatch.setattr(reward, "PAIRS", 8)
    monkeypatch.setattr(sys, "argv", ["bench", section, "--profile", "--models", "toy"])
    main()
    printed = capsys.readouterr().out
    assert printed.startswith(f"{section}, toy\n")
    assert "aten::" in printed


@pytest.mark.slow
@pytest.mark.parametrize("section", ["rollout", "optimizer", "ppo", "reward"])
def test_a_section_runs(section):
    if section in ("ppo", "reward"):
        pytest.importorskip("trl")
    command = [sys.executable, "-m", "bench", section, "--models", "toy", "--rounds", "1"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 2
    assert all(line.count("|") == 7 for line in rows)
    assert done.stderr == ""
