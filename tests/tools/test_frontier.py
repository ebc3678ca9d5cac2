"""`minippo frontier`: its statistics, its rows, its sentences, and the complete command on a tiny run."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
import yaml

from minippo.config import PPOConfig
from minippo.data import load_corpus, prompt_rows
from minippo.errors import TrainingError
from minippo.overoptimisation import Law, best_of_n, best_of_n_kl
from minippo.runs import load_run, open_run, options_text, override, parse_options, read_answers, read_metrics
from minippo.runs.presets import dump_config
from minippo.storage import REPOSITORY
from minippo.tools import frontier
from minippo.tools.frontier import measure, points, report, rows
from minippo.tools.frontier.figure import draw_points
from minippo.tools.frontier.points import Measured, Resamples, best_of_n_points, law_row, point_rows
from minippo.tools.frontier.rows import Row
from tests.pipeline.tiny_run import command

# ---------------------------------------------------------------------------------------------- statistics


def measured(method, setting, kl, value, fraction=1.0):
    """A point with the same score and gold score, from values (S, P)."""
    value = torch.as_tensor(value, dtype=torch.float64)
    kl = torch.full_like(value, kl) if isinstance(kl, float) else kl
    return Measured(method, setting, fraction, kl, value, value)


@pytest.fixture(scope="module")
def normal():
    return torch.randn(3, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_interval_of_one_reward_model_is_that_of_the_mean_over_prompts(normal):
    values = normal[:1]
    value, low, high = points.interval(float(values.mean()), Resamples(200).means(values))
    assert value == float(values.mean())
    half = 1.96 * float(values.std()) / 200**0.5
    assert (value - low, high - value) == pytest.approx((half, half), rel=0.1)


@pytest.mark.parametrize(("models", "tolerance"), [(2, 0.2), (3, 0.15), (5, 0.1), (40, 0.1)])
def test_interval_of_reward_models_that_agree_on_all_prompts_is_students(models, tolerance):
    values = torch.randn(models, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).expand(-1, 5)
    value, low, high = points.interval(float(values.mean()), Resamples(5).means(values))
    half = scipy.stats.t.ppf(0.975, models - 1) * float(values[:, 0].std()) / models**0.5
    assert (value - low, high - value) == pytest.approx((half, half), rel=tolerance)


@pytest.mark.parametrize("models", [2, 3, 5])
def test_19_of_20_intervals_contain_the_mean_however_few_the_reward_models(models):
    """Scores are a part of the reward model, one of the prompt, and one of both."""
    resamples, draw = Resamples(40), torch.Generator().manual_seed(5)
    covered = []
    for _ in range(400):
        values = sum(
            spread * torch.randn(*shape, dtype=torch.float64, generator=draw)
            for spread, shape in ((0.3, (models, 1)), (0.5, (1, 40)), (0.5, (models, 40)))
        )
        _, low, high = points.interval(float(values.mean()), resamples.means(values))
        covered.append(low < 0 < high)
    assert sum(covered) / 400 == pytest.approx(0.95, abs=0.025)


def test_prompts_are_drawn_together_for_all_points(normal):
    resamples = Resamples(200)
    torch.testing.assert_close(resamples.means(normal + 3), resamples.means(normal) + 3)


def test_best_of_n_points_choose_by_each_model_and_average_the_gold_score():
    scores = torch.randn(2, 3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gold = torch.randn(3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = best_of_n_points(scores, gold, 0.25)
    assert [(p.method, p.setting, p.fraction) for p in found] == [("best-of-n", n, 0.25) for n in (1, 2, 4, 8)]
    for point in found:
        n = point.setting
        torch.testing.assert_close(point.kl, torch.full((2, 3), best_of_n_kl(n), dtype=torch.float64))
        for model in range(2):
            torch.testing.assert_close(point.score[model], best_of_n(scores[model], scores[model], n))
            torch.testing.assert_close(point.gold[model], best_of_n(scores[model], gold, n))
    assert all(p.gold is None for p in best_of_n_points(scores, None, 1.0))


def test_points_are_compared_with_ppo_at_the_same_kl(normal):
    """PPO's curve, in d = sqrt(KL): 0 at d = 0, 2 at d = 2, 1 at d = 3, plus noise that all points share."""
    ppo = [measured("PPO", 0.1, 4.0, normal + 2), measured("PPO", 0.0, 9.0, normal + 1)]
    best = [measured("best-of-n", 1, 0.0, normal), measured("best-of-n", 2, 1.0, normal + 1.5)]
    others = [measured("GRPO", 0.1, 6.25, normal + 1.0), measured("RLOO", 0.1, 16.0, normal)]
    fewer = [measured("best-of-n", 2, 1.0, normal, fraction=0.25)]
    found = point_rows([*best, *fewer, *ppo, *others], Resamples(200))
    ahead = {(row["method"], row["setting"], row["fraction"]): row["ahead"] for row in found}
    assert ahead["best-of-n", 2, 1.0] == pytest.approx([0.5, 0.5, 0.5])
    assert ahead["GRPO", 0.1, 1.0] == pytest.approx([-0.5, -0.5, -0.5])
    assert ahead["RLOO", 0.1, 1.0] is None  # beyond PPO's largest KL
    assert {ahead[key] for key in [("best-of-n", 1, 1.0), ("PPO", 0.1, 1.0), ("best-of-n", 2, 0.25)]} == {None}
    assert [row["reward_models"] for row in found] == [3] * 7
    assert [row["far"] for row in found] == [False, True, *[False] * 5]  # 4 is more than 3 times the KL of best of 2
    assert found[1]["gold"][0] == pytest.approx(float(normal.mean()) + 1.5)


def test_comparison_between_points_of_ppo_that_are_far_apart_is_marked(normal):
    ppo = [measured("PPO", c, kl, normal) for c, kl in ((0.1, 4.0), (0.0, 13.0))]
    curve = [measured("best-of-n", 1, 0.0, normal), *ppo]
    others = [measured("RLOO", kl, kl, normal) for kl in (1.3, 1.4, 4.0, 4.1, 20.0)]
    others += [measured("best-of-n", 2, 1.3, normal, fraction=0.25)]
    found = {(row["setting"], row["fraction"]): row["far"] for row in point_rows([*curve, *others], Resamples(200))}
    assert [key for key, far in found.items() if far] == [(1.3, 1.0), (4.1, 1.0)]
    rows_at = points.equal_kl_rows([*curve, *others], (1.3, 1.4, 4.1, 20.0), Resamples(200))
    assert [row["far"] for row in rows_at if row["method"] == "PPO"] == [True, False, True, False]
    assert not any(row["far"] for row in rows_at if row["method"] == "RLOO")


def test_comparison_at_equal_kl_is_as_uncertain_as_the_kl(normal):
    kl = 4 + normal
    curve = [measured("best-of-n", 1, 0.0, 0 * normal), measured("PPO", 0.1, 9.0, 0 * normal + 3)]
    (*_, row) = point_rows([*curve, measured("GRPO", 0.1, kl, 0 * normal + 2)], Resamples(200))
    value, low, high = row["ahead"]
    assert value == pytest.approx(2 - float(kl.mean()) ** 0.5)
    means = Resamples(200).means(kl)
    expected = [2 - float(x) ** 0.5 for x in means.quantile(torch.tensor([0.975, 0.025], dtype=torch.float64))]
    assert [low, high] == pytest.approx(expected, abs=1e-6)


def test_interval_of_a_kl_begins_at_0_however_much_the_reward_models_vary(normal):
    kl = torch.tensor([[1.0], [1.0], [13.0]], dtype=torch.float64).expand(3, 200)  # standard error 4
    _, row = point_rows([measured("best-of-n", 1, 0.0, normal), measured("PPO", 0.1, kl, kl)], Resamples(200))
    half = scipy.stats.t.ppf(0.975, 2) * 4
    assert row["kl"] == [5.0, 0.0, pytest.approx(5 + half, rel=0.1)]
    assert row["score"][1] == pytest.approx(5 - half, rel=0.1)


def test_without_a_gold_score_points_are_compared_by_the_score(normal):
    given = [measured("best-of-n", 1, 0.0, normal), measured("PPO", 0.1, 4.0, normal + 2)]
    given = [replace(p, gold=None) for p in [*given, measured("GRPO", 0.1, 1.0, normal + 2)]]
    (*_, row) = point_rows(given, Resamples(200))
    assert row["gold"] is None
    assert row["ahead"] == pytest.approx([1, 1, 1])


def test_values_at_equal_kl_lie_between_the_points_of_each_method(normal):
    """PPO, in d = sqrt(KL): 0 at d = 0, 2 at d = 2, 3 at d = 4, plus noise that all points share."""
    given = [measured("best-of-n", 1, 0.0, normal), measured("best-of-n", 8, best_of_n_kl(8), normal + 1.0)]
    given += [measured("PPO", 0.0, 16.0, normal + 3), measured("PPO", 0.1, 4.0, normal + 2)]
    given += [measured("RLOO", 0.1, 4.0, normal + 1), measured("best-of-n", 16, 9.0, normal + 9, fraction=0.25)]
    resamples, noise = Resamples(200), float(normal.mean())
    found = points.equal_kl_rows(given, (1.0, 9.0), resamples)
    expected = {("best-of-n", 1): best_of_n_kl(8) ** -0.5, ("best-of-n", 9): None, ("PPO", 1): 1.0, ("PPO", 9): 2.5}
    expected |= {("RLOO", 1): 0.5, ("RLOO", 9): None}
    assert [(row["method"], row["kl"]) for row in found] == list(expected)
    for row, gain in zip(found, expected.values(), strict=True):
        if gain is None:
            assert row["value"] is None
        else:
            assert row["value"] == pytest.approx(points.interval(noise + gain, resamples.means(normal + gain)))
    assert [row["samples"] for row in found[:2]] == pytest.approx([6.305, 22025], rel=1e-4)
    assert "samples" not in found[2]


def test_values_at_equal_kl_are_as_uncertain_as_the_kl(normal):
    kl = 4 + normal
    given = [measured("best-of-n", 1, 0.0, 0 * normal), measured("PPO", 0.1, kl, 0 * normal + 3)]
    value, low, high = points.equal_kl_rows(given, (1.0,), Resamples(200))[1]["value"]
    ends = Resamples(200).means(kl).quantile(torch.tensor([0.975, 0.025], dtype=torch.float64)).tolist()
    assert value == pytest.approx(3 / float(kl.mean()) ** 0.5)
    assert [low, high] == pytest.approx([3 / x**0.5 for x in ends], abs=1e-6)
    (_, at_the_end) = points.equal_kl_rows(given, (4 + 10.0,), Resamples(200))
    assert at_the_end["value"] is None


def test_law_row_fits_all_models_together_and_each_alone():
    kls = [0.5, 1.0, 4.0, 9.0, 25.0]
    made = [Law("rl", 1.0, 0.4), Law("rl", 1.2, 0.8)]
    row = law_row("rl", 0.25, [(kls, [law.gain(kl) for kl in kls]) for law in made])
    assert row["alpha"] == pytest.approx([1.1, 1.0, 1.2])
    assert row["beta"] == pytest.approx([0.6, 0.4, 0.8])
    assert row["peak_kl"] == pytest.approx([points.law_of(row).peak_kl, *sorted(law.peak_kl for law in made)])
    assert row["peak_gain"] == pytest.approx(points.law_of(row).gain(row["peak_kl"][0]))
    gains = [sum(law.gain(kl) for law in made) / 2 for kl in kls]
    assert row["points"] == [pytest.approx(pair) for pair in zip(kls, gains, strict=True)]
    assert (row["observed_peak_kl"], row["observed_peak_gain"]) == (4.0, pytest.approx(max(gains)))
    assert (row["still_rising"], row["fraction"], row["reward_models"]) == (False, 0.25, 2)
    residuals = [law.gain(kl) - points.law_of(row).gain(kl) for law in made for kl in kls]
    assert row["root_mean_square_error"] == pytest.approx((sum(x * x for x in residuals) / 10) ** 0.5)


def test_law_row_of_gains_that_only_rise_has_no_peak():
    row = law_row("best-of-n", 1.0, [([1.0, 4.0, 9.0], [1.0, 2.2, 3.6])])
    assert (row["peak_kl"], row["peak_gain"], row["still_rising"]) == ([None] * 3, None, True)


def test_gains_of_best_of_n_are_those_over_the_reference_of_each_model():
    gold = {1: [[0.0, 2.0], [1.0, 1.0]], 4: [[3.0, 3.0], [1.0, 2.0]], 2: [[2.0, 2.0], [2.0, 1.0]]}
    curves = points.best_of_n_curves([measured("best-of-n", n, best_of_n_kl(n), value) for n, value in gold.items()])
    kls = [best_of_n_kl(2), best_of_n_kl(4)]
    assert curves == [(pytest.approx(kls), [1.0, 2.0]), (pytest.approx(kls), [0.5, 0.5])]


def test_laws_of_ppo_are_fitted_to_its_training_without_penalty():
    law, kls = Law("rl", 1.0, 0.4), [0.0, 1.0, 4.0, 9.0]
    gold = [0.7 + law.gain(kl) for kl in kls]
    curve = {"method": "PPO", "setting": 0.0, "fraction": 1.0, "kl": kls, "gold": gold}
    others = [curve | {"setting": 0.1, "gold": [0.0] * 4}, curve | {"fraction": 0.5}, curve | {"method": "GRPO"}]
    best = [measured("best-of-n", n, best_of_n_kl(n), [[float(n)]]) for n in (1, 2, 4)]
    sampled, trained = measure.laws(best, [*others[:1], curve, *others[1:]])
    assert (sampled["kind"], trained["kind"], trained["reward_models"]) == ("best-of-n", "rl", 1)
    assert [value[0] for value in (trained["alpha"], trained["beta"])] == pytest.approx([1.0, 0.4])
    unclear = [curve | {"seed": 2, "kl": [0.0, -0.1, 0.0, 0.2]}, curve]  # one distance is not enough for a fit
    assert [law["kind"] for law in measure.laws(best, unclear)] == ["best-of-n"]
    assert sampled["points"] == [[pytest.approx(best_of_n_kl(n)), n - 1.0] for n in (2, 4)]


def test_checkpoints_are_means_over_reward_models_at_the_same_iteration():
    key = {"method": "PPO", "setting": 0.1, "fraction": 1.0, "iteration": [0, 7]}
    curves = [key | {"kl": [0.0, kl], "score": [0.0, kl / 2], "gold": [-1.0, -kl]} for kl in (2.0, 4.0)]
    alone = key | {"method": "RLOO", "kl": [0.0, 5.0], "score": [0.0, 1.0], "gold": []}
    *_, second, _, last = measure.checkpoint_rows([*curves, alone])
    half = 12.7  # Student's t of two whose standard error is 1
    expected = {"kl": [3.0, 1], "score": [1.5, 0.5], "gold": [-3.0, 1]}
    intervals = {
        name: [value, pytest.approx(value - half * error, abs=2), pytest.approx(value + half * error, abs=2)]
        for name, (value, error) in expected.items()
    }
    intervals["kl"][1] = 0.0
    assert second == {"method": "PPO", "setting": 0.1, "fraction": 1.0, "iteration": 7} | intervals
    assert (last["method"], last["kl"], last["score"], last["gold"]) == ("RLOO", [5.0] * 3, [1.0] * 3, None)


# ---------------------------------------------------------------------------------------------- sentences


def exact(x):
    return [x, x - 0.1, x + 0.1]


def row_of(method, setting, kl, gold, ahead=None, fraction=1.0):
    numbers = {"kl": exact(kl), "score": exact(gold + 1), "gold": exact(gold), "ahead": ahead and exact(ahead)}
    numbers["far"] = False
    return {"method": method, "setting": setting, "fraction": fraction, "reward_models": 5} | numbers


@pytest.fixture
def data():
    best = [(1, 0.0, 0.0, None), (2, 0.2, 0.5, 0.3), (4, 0.6, 1.0, -0.05), (8, 1.2, 1.5, -0.2)]
    rows = [row_of("best-of-n", *numbers) for numbers in best]
    rows += [row_of("best-of-n", 8, 1.2, 9.0, fraction=0.25)]
    rows += [row_of("PPO", 0.1, 4.0, 1.2), row_of("PPO", 0.0, 100.0, -1.0), row_of("GRPO", 0.1, 3.0, 1.7, 0.6)]
    settings = {"prompts": 256, "samples": 8, "kl_coef": 0.1, "fraction": 1.0, "gold": True}
    return settings | {
        "episodes": 7168,
        "seconds": 61.2,
        "rm_accuracy": [[1.0, 0.75], [0.25, 0.7]],
        "points": rows,
        "laws": [],
        "equal_kl": [],
        "checkpoints": [],
    }


def test_findings_say_where_ppo_passes_best_of_n_and_what_it_costs(data):
    text = "\n".join(report.findings(data))
    assert (
        "256 test prompts, 5 reward models with a policy each. In brackets: 95 % intervals over prompts and r" in text
    )
    for row in data["points"]:
        row["reward_models"] = 1
    alone = (
        "256 test prompts, one reward model. In brackets: 95 % intervals over prompts; another reward model may give "
    )
    assert report.findings(data)[0].startswith(alone)
    assert "PPO has the higher gold score than best-of-n from 0.60 to 1.20 nats" in text
    assert "best of 8 minus PPO is -0.20 [-0.30, -0.10]" in text
    assert "best-of-n is higher for best of 2, lower for best of 8." in text
    assert "The smallest n that reaches the gold score of PPO with coefficient 0.1 (1.20 [1.10, 1.30] at 4.00" in text
    assert "is 8: 1.50 [1.40, 1.60] at 1.20 nats, for 8 scored samples per answer." in text
    assert "costs 7,168 scored samples and 61 s" in text
    assert "best of 8 is the better buy for up to 1,024 answers, PPO for more" in text
    assert "The highest gold score is that of GRPO with coefficient 0.1: 1.70 [1.60, 1.80] at 3.00 nats; its" in text
    assert "its interval overlaps with that of best of 8." in text  # [1.40, 1.60]
    assert "GRPO with coefficient 0.1: after as many episodes as PPO it ends at 3.00 nats with a score of 2.70" in text
    assert "(PPO: 1.20 [1.10, 1.30] at 4.00 nats; minus PPO at equal KL: +0.60 [+0.50, +0.70])" in text
    assert "Without the penalty, PPO ends at 100.0 nats with a score of 0.00 [-0.10, 0.10] and a gold score of" in text
    assert "accuracy of the reward models: 0.750 with all comparisons, 0.700 with 0.25 of the comparisons." in text
    assert "best of 8: 9.00" not in text  # of a reward model trained on fewer comparisons


def test_findings_if_ppo_never_passes_or_is_never_reached(data):
    for row in data["points"][1:4]:
        row["ahead"] = exact(0.05)
        row["gold"] = exact(1.0)
    text = "\n".join(report.findings(data))
    assert "best-of-n has the higher gold score at the largest KL compared, 1.20 nats (best of 8)" in text
    assert "best-of-n is higher for none, lower for none." in text
    assert "No n up to 8 reaches the gold score of PPO with coefficient 0.1" in text
    data["points"][5]["gold"] = exact(-0.5)
    assert "is not above the reference's, 0.00 [-0.10, 0.10]" in "\n".join(report.findings(data))


def test_every_point_that_may_be_as_high_as_the_highest_is_named(data):
    data["points"][6]["gold"] = [-1.0, -4.0, 1.61]  # PPO with coefficient 0
    text = "\n".join(report.findings(data))
    assert "its interval overlaps with that of best of 8, PPO with coefficient 0." in text
    data["points"][7]["gold"] = [1.7, 1.604, 1.8]  # printed as 1.60, like the end of best of 8
    assert "its interval overlaps with that of best of 8, PPO with coefficient 0." in "\n".join(report.findings(data))
    data["points"][7]["gold"] = [1.7, 1.62, 1.8]
    assert "its interval overlaps with that of no other point." in "\n".join(report.findings(data))


def test_comparisons_between_points_that_are_far_apart_are_marked_and_explained(data):
    data["laws"] = [law_row("rl", 1.0, [([1.0, 4.0, 9.0], [1.0, 1.5, 1.2])])]
    assert "(far)" not in report.tables_and_findings(data)
    for row in (data["points"][3], data["points"][-1]):
        row["far"] = True
    text = report.tables_and_findings(data)
    lines = text.splitlines()
    assert [line.split(" |")[0] for line in lines if line.endswith("] (far) |")] == [
        "| best of 8",
        "| GRPO with coefficient 0.1",
    ]
    assert "best of 8 minus PPO is -0.20 [-0.30, -0.10] (far). Where" in text
    assert "minus PPO at equal KL: +0.60 [+0.50, +0.70] (far))." in text
    assert lines[len(data["points"]) + 3].startswith("(far): interpolated between points whose KLs differ by")
    for row in data["points"]:
        row["far"] = False
    data["equal_kl"] = [{"method": "PPO", "kl": kl, "value": exact(0.9), "far": kl == 3.0} for kl in (3.0, 6.0)]
    *_, at_equal_kl, note, laws, _ = report.tables_and_findings(data).split("\n\n")
    assert at_equal_kl.endswith("| PPO | 0.90 [0.80, 1.00] (far) | 0.90 [0.80, 1.00] |")
    assert (note[:6], laws[:10]) == ("(far):", "|  | compa")


def test_findings_without_a_gold_score_say_so(data):
    data["gold"] = False
    data["points"] = [row | {"gold": None} for row in data["points"]]
    text = "\n".join(report.findings(data))
    assert "This corpus has no gold score." in text
    assert text.count("gold score") == 1
    assert "PPO has the higher score than best-of-n" in text
    assert "gold" not in report.table(data)


def test_table_compares_at_equal_kl_and_says_how_many_samples_that_takes(data):
    rows = [("best-of-n", 3.0, exact(1.7)), ("best-of-n", 6.0, None), ("PPO", 3.0, exact(0.9)), ("PPO", 6.0, exact(1))]
    data["equal_kl"] = [{"method": method, "kl": kl, "value": value, "far": False} for method, kl, value in rows]
    for row, samples in zip(data["equal_kl"], (53.58, 1095.6), strict=False):
        row["samples"] = samples
    lines = report.table(data).splitlines()[-4:]
    assert lines[0] == "| gold score, interpolated at a KL of | 3 nats | 6 nats |"
    assert lines[2] == "| best-of-n | 1.70 [1.60, 1.80] (n about 54) | - (n about 1,100) |"
    assert lines[3] == "| PPO | 0.90 [0.80, 1.00] | 1.00 [0.90, 1.10] |"


def test_findings_compare_other_methods_with_the_same_coefficient(data):
    data["points"].append(row_of("GRPO", 0.5, 1.0, 0.9))
    assert "\n".join(report.findings(data)).count("after as many episodes as PPO") == 1


def test_table_has_every_point_and_every_law(data):
    data["laws"] = [
        law_row("rl", 0.25, [([1.0, 4.0, 9.0], [1.0, 1.5, 1.2])]),
        law_row("best-of-n", 1.0, [([1.0, 4.0, 9.0], [1.0, 2.2, 3.6])]),
    ]
    lines = report.table(data).splitlines()
    assert len({line.count("|") for line in lines[:10]}) == 1
    assert lines[2].startswith("| reference | 1 | 5 | 0.00 [-0.10, 0.10] | 1.00 [0.90, 1.10] | 0.00 [-0.10, 0.10] |  |")
    assert lines[9].startswith("| GRPO with coefficient 0.1 | 1 | 5 | 3.00")
    assert lines[9].endswith("| +0.60 [+0.50, +0.70] |")
    assert "| PPO: d (alpha - beta log d) | 0.25 | 1 |" in lines[13]
    assert lines[13].endswith("| 1.50 at 4.00 |")
    assert lines[14].endswith("| none |  | 3.60 at 9.00, the last point |")
    text = "\n".join(report.findings(data))
    assert "PPO without the penalty with 0.25 of the comparisons (1 reward models): the fitted law has its peak" in text
    assert "the measured peak is +1.50 at 4.00 nats" in text
    assert "Best-of-n with all comparisons (1 reward models): the fitted law has no peak; the gain still" in text


def test_law_is_said_to_have_its_peak_beyond_the_data_or_not_to_describe_them():
    kls, law = [1.0, 4.0, 9.0], Law("best-of-n", 2.0, 0.25)  # peak at 16
    beyond, within = (law_row("best-of-n", 1.0, [(x, [law.gain(kl) for kl in x])]) for x in (kls, [*kls, 30.0]))
    assert "has its peak of +4.00 at 16.00 nats (beyond the data);" in report.law_sentence(beyond)
    assert "has its peak of +4.00 at 16.00 nats; the measured peak is" in report.law_sentence(within)
    for error, poor in ((0.9, False), (1.1, True)):
        row = beyond | {"observed_peak_gain": 4.0, "root_mean_square_error": error}
        said = report.law_sentence(row).partition("Root mean square error: ")[2]
        assert said == f"{error:.2f}." + " The law does not describe these points." * poor


@pytest.mark.parametrize("name", ["score", "gold"])
def test_figure_shows_points_and_evaluations_of_every_coefficient_with_their_intervals(data, name):
    figure = pytest.importorskip("matplotlib.figure")
    kls = {0.1: (0.5, 2.0, 3.0), 0.0: (0.5, *map(float, range(20, 36)))}
    data["checkpoints"] = [row_of("PPO", setting, kl, kl / 5) for setting in kls for kl in kls[setting]]
    data["checkpoints"] += [row_of("PPO", 0.0, 7.0, 7.0, fraction=0.25)]
    for row in [*data["points"], *data["checkpoints"]]:
        row["kl"] = [row["kl"][0], row["kl"][0] - 0.2, row["kl"][0] + 0.3]
    axis = figure.Figure().subplots()
    draw_points(axis, data, name)
    rows_of = {method: [r for r in data["points"][:4] + data["points"][5:] if r["method"] == method] for method in
               ("best-of-n", "PPO", "GRPO")}  # fmt: skip
    expected = [sorted(given, key=lambda row: row["kl"][0]) for given in rows_of.values()]
    expected += [[row for row in data["checkpoints"] if row["setting"] == c and row["fraction"] == 1] for c in kls]
    assert len(axis.containers) == len(expected)
    for (line, _, (across, up)), given in zip(axis.containers, expected, strict=True):
        assert line.get_xydata().tolist() == [[row["kl"][0], row[name][0]] for row in given]
        given = given[::2] if len(given) == 17 else given  # about eight bars
        ends = [[[row["kl"][end], row[name][0]] for end in (1, 2)] for row in given]
        assert across.get_segments() == [pytest.approx(np.array(each)) for each in ends]
        ends = [[[row["kl"][0], row[name][end]] for end in (1, 2)] for row in given]
        assert up.get_segments() == [pytest.approx(np.array(each)) for each in ends]
    colors = [container[0].get_color() for container in axis.containers]
    assert len(set(colors[:3])) == 3
    assert colors[3:] == [colors[1]] * 2


@pytest.mark.parametrize("gold", [True, False])
def test_figure_is_written(data, tmp_path, gold):
    pytest.importorskip("matplotlib")
    data["gold"] = gold
    trained = ((0.1, 1.0), (0.0, 1.0), (0.0, 0.25))
    data["checkpoints"] = [row_of("PPO", c, kl, kl, fraction=part) for c, part in trained for kl in (1.0, 5.0)]
    if not gold:
        data["points"], data["checkpoints"] = (
            [row | {"gold": None} for row in data[rows]] for rows in ("points", "checkpoints")
        )
    data["laws"] = [law_row(kind, 1.0, [([1.0, 4.0, 9.0], [1.0, 1.5, 1.2])]) for kind in ("rl", "best-of-n")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frontier.plot(data, tmp_path / "frontier.svg")
    assert (tmp_path / "frontier.svg").read_text().count('<g id="axes_') == (3 if gold else 1)


# ---------------------------------------------------------------------------------------------- rows


@pytest.fixture
def run(tiny_runs, tmp_path):
    """A copy of the tiny run, in which a frontier can be made."""
    shutil.copytree(tiny_runs.base().folder, tmp_path / "run")
    return load_run(tmp_path / "run", "cpu")


def planned(run, *arguments):
    options = frontier.FrontierOptions(runs=(run.folder,), device="cpu", **dict(arguments))
    return frontier.prepare(options)


def test_plan_has_a_reward_model_for_every_seed_and_policies_for_every_method(run):
    plan = planned(run, ("seeds", 3), ("coefficients", (0.5,)), ("fractions", (0.25,)), ("prompts", 5))
    folder, whole = run.folder / "frontier", run.config.rm.fraction
    assert [row.folder for row in plan.reward_models[whole]] == [
        run.folder,
        folder / f"rm-{whole:g}-seed-2",
        folder / f"rm-{whole:g}-seed-3",
    ]
    assert [row.folder.name for row in plan.reward_models[0.25]] == [f"rm-0.25-seed-{n}" for n in (1, 2, 3)]
    expected = [("PPO", c, whole, seed) for c in (0.5, 0.12, 0.0) for seed in (1, 2, 3)]
    expected += [(m, c, whole, seed) for m in ("GRPO", "RLOO") for c in (0.5, 0.12) for seed in (1, 2, 3)]
    expected += [("PPO", 0.0, 0.25, seed) for seed in (1, 2, 3)]
    assert [(*row.key, row.config.seed) for row in plan.policies] == expected
    reward_models = {(row.config.rm.fraction, row.config.seed): row.folder for row in plan.rows if row.stage == "rm"}
    for row in plan.policies:
        assert row.source == reward_models[row.config.rm.fraction, row.config.seed]
        assert row.config.eval.final_prompts == 5
        assert row.config.ppo.kl_target is None  # it would change the coefficient
        assert row.config.data.seed == (None if row.config.seed == 1 else 1)  # the splits of the run
    assert len({row.folder for row in plan.rows}) == len(plan.rows)
    assert plan.queries == [row["query"] for row in read_answers(run)][:5]
    assert plan.judge is not None


def test_default_coefficients_are_multiples_of_the_runs_own(run):
    assert rows.coefficients_of(run, "PPO", ()) == pytest.approx([0.48, 0.24, 0.12, 0.06, 0.03, 0.0])
    assert rows.coefficients_of(run, "PPO", (0.3, 0.12)) == [0.3, 0.12, 0.0]
    assert rows.coefficients_of(run, "GRPO", ()) == pytest.approx([1.92, 0.48, 0.12])
    assert rows.coefficients_of(run, "RLOO", ()) == [0.12]
    assert rows.coefficients_of(run, "GRPO", (0.3, 0.0)) == [0.3, 0.12, 0.0]


def test_default_fractions_are_parts_of_the_runs_own(run):
    assert run.config.rm.fraction == 0.92
    assert list(planned(run).reward_models) == pytest.approx([0.92, 0.23, 0.0575])


def test_command_of_a_row_has_its_settings_and_its_source(run):
    plan = planned(run, ("seeds", 2), ("coefficients", (0.5,)), ("fractions", ()), ("prompts", 5))
    (row,) = (r for r in plan.policies if r.key[:2] == ("PPO", 0.5) and r.config.seed == 2)
    words = row.command(run)
    assert words[:2] == [sys.executable, str(REPOSITORY / "train_ppo.py")]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given == {
        "--config": str(run.folder / "config.yaml"),
        "--run-dir": str(row.folder),
        "--init-from": str(plan.reward_models[run.config.rm.fraction][1].folder),
        "--device": "cpu",
        "--seed": "2",
        "--data.seed": "1",
        "--ppo.kl-coef": "0.5",
        "--ppo.kl-target": "None",
        "--ppo.samples-per-prompt": "1",  # what the run has of other methods
        "--ppo.kl-estimate": "k1",
        "--eval.final-prompts": "5",
    }
    reward_model = plan.reward_models[run.config.rm.fraction][1]
    assert reward_model.command(run)[1] == str(REPOSITORY / "train_rm.py")
    opened = open_run(parse_options("", reward_model.command(run)[2:], "rm"), "rm")
    assert (opened.folder, opened.config) == (reward_model.folder, reward_model.config)


@pytest.mark.parametrize(
    ("x", "sign", "text"),
    [(999.994, "", "999.99"), (1.5, "+", "+1.50"), (-1.5, "+", "-1.50"), (1.97e25, "+", "+1.97e+25")],
)
def test_a_peak_that_lies_far_away_is_a_short_number(x, sign, text):
    assert report.decimal(x, sign) == text


def test_ppo_is_ppo_whatever_the_run_is(tiny_runs):
    """The tiny run has two samples per prompt and k2 already."""
    changes = {"ppo.advantage": "batch", "ppo.kl_placement": "loss", "ppo.loss_normalisation": "sequence"}
    run = load_run(tiny_runs.run("reviews", changes, ["ppo"]).folder, "cpu")
    for method, other in (("PPO", {}), ("RLOO", {"samples_per_prompt": 4, "advantage": "leave-one-out"})):
        ppo = rows.policy_row(run, method, 0.1, 0.92, 1, 5).config.ppo
        expected = {"advantage": "gae", "samples_per_prompt": 1, "kl_placement": "reward", "kl_estimate": "k1"}
        expected |= {"loss_normalisation": "token", "whiten_advantages": method == "PPO"} | other
        assert {name: getattr(ppo, name) for name in expected} == expected


def test_other_methods_are_those_of_the_page_on_variants():
    page = (REPOSITORY / "docs" / "variants.md").read_text(encoding="utf-8")
    for method, own in (("GRPO", ""), ("RLOO", " --ppo.num-epochs 1 --ppo.num-minibatches 1")):
        (options,) = re.findall(rf"^\| {method} .*\| `(.*)` \|$", page, re.MULTILINE)
        assert options_text(rows.METHODS[method]) + own == options
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for sign, method in (("-", {}), ("+", rows.METHODS["GRPO"])):
        lines = [line[1:] for line in diff.splitlines() if line[0] in (" ", sign)]
        assert yaml.safe_load("\n".join(lines)) == {
            "ppo": {name.removeprefix("ppo."): value for name, value in (rows.PPO | method).items()}
        }
    assert all(getattr(PPOConfig(), name.removeprefix("ppo.")) == value for name, value in rows.PPO.items())


def test_settings_of_a_method_that_do_not_fit_are_refused(tiny_runs):
    """A rollout of 12 cannot consist of groups of 8."""
    changes = {"ppo.rollout_batch_size": 12, "ppo.num_minibatches": 1}
    run = load_run(tiny_runs.run("reviews", changes, ["ppo"]).folder, "cpu")
    with pytest.raises(ValueError, match="8 samples per prompt do not divide a rollout of 12"):
        planned(run)


def test_rows_of_all_seeds_have_the_test_prompts_of_the_run(tiny_runs):
    """Without `data.seed`, IMDB's prompts would be in another order for every seed."""
    base = tiny_runs.base("imdb")
    plan = planned(base, ("seeds", 2), ("fractions", ()), ("prompts", 5))
    assert plan.judge is None
    tokenizer = load_run(base.folder, "cpu").tokenizers()[0]
    for row in plan.rows:
        prompts, _ = prompt_rows(load_corpus(row.config).prompts, tokenizer, row.config.data)
        assert [*prompts["test"][:5]] == plan.queries


@pytest.fixture
def refused(capsys):
    def refuse(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            command(frontier.main, *arguments)
        out, err = capsys.readouterr()
        assert (end.value.code, out, err.count("\n")) == (2, "", 1)
        return err

    return refuse


def test_what_does_not_fit_is_refused_before_anything_is_trained(run, refused, monkeypatch):
    folder = run.folder
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "name one run directory" in refused()
    assert "name one run directory" in refused(folder, folder)
    assert "PyTorch finds no GPU" in refused(folder, "--device", "cuda", "--at", "-1")
    assert "KL coefficients must be at least 0, not -0.5" in refused(folder, "--coefficients", "0.1", "-0.5")
    assert "KL coefficients must be at least 0, not nan" in refused(folder, "--coefficients", "nan")
    assert "must be above 0 and below the run's own 0.92, not 0.92" in refused(folder, "--fractions", "0.92")
    assert "not -0.5 (--fractions)" in refused(folder, "--fractions", "0.5", "-0.5")
    assert "samples must be at least 4, not 3" in refused(folder, "--samples", "3")
    assert "must be above 0 and at most 500 nats, not -1.0 (--at)" in refused(folder, "--at", "3", "-1")
    (folder / "frontier" / "rm-0.92-seed-2").mkdir(parents=True)
    shutil.copy(folder / "config.yaml", folder / "frontier" / "rm-0.92-seed-2")
    assert "rm-0.92-seed-2 was trained with other settings: seed is 1, now 2." in refused(folder)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "the figure needs matplotlib" in refused(folder)
    shutil.rmtree(folder / "rm")
    assert "has no finished rm/" in refused(folder)
    assert not list(folder.glob("frontier/pool*"))


def test_run_with_a_scorer_of_ones_own_or_without_penalty_is_refused(tiny_runs, refused, tmp_path):
    scorer = {"ppo.scorer": "tests.pipeline.tiny_run:score_by_length"}
    assert "has no reward model: tests.pipeline.tiny_run:score_by_length" in refused(
        tiny_runs.run("reviews", scorer, ["ppo"]).folder
    )
    assert "name the coefficients" in refused(tiny_runs.run("reviews", {"ppo.kl_coef": 0.0}, ["ppo"]).folder)


@pytest.fixture
def fake_rows(tmp_path, monkeypatch):
    """Rows whose training is a few lines of Python, by name."""
    scripts = {}

    def script_of(self, base):
        made = f"import os, sys, time; folder = {str(self.folder / 'ppo')!r}\n"
        return [sys.executable, "-c", made + scripts[self.folder.name] + "\nos.makedirs(folder)"]

    def make(**given):
        scripts.update(given)
        return [Row(tmp_path / name, "ppo", tmp_path, None) for name in given]

    monkeypatch.setattr(Row, "command", script_of)
    return make


def test_rows_are_trained_two_at_a_time_and_never_again(fake_rows, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "threads_of", lambda jobs: 7 - jobs)
    wait = "open({0!r}, 'w'); \nwhile not os.path.exists({1!r}): time.sleep(0.01)"
    a, b = str(tmp_path / "a.begun"), str(tmp_path / "b.begun")
    made = fake_rows(a=wait.format(a, b), b=wait.format(b, a), c="print('threads', os.environ['OMP_NUM_THREADS'])")
    rows.train(made, None, 2)  # a and b wait for each other
    assert all(row.finished for row in made)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert {line.split()[3] for line in lines} == {"a,", "b,", "c,"}
    assert lines[-1].startswith("3 of 3: ")
    assert (tmp_path / "c.log").read_text() == "threads 5\n"
    rows.train(made, None, 2)
    assert capsys.readouterr().out == ""


def test_row_that_fails_is_named_and_the_others_end(fake_rows, tmp_path):
    begun = str(tmp_path / "begun")
    wait = f"\nwhile not os.path.exists({begun!r}): time.sleep(0.01)\nsys.exit('error: no disk\\n')"
    slow = f"import signal; signal.signal(15, lambda *_: sys.exit('stopped')); open({begun!r}, 'w'); time.sleep(10)"
    made = fake_rows(bad=wait, slow=slow, never="pass")
    with pytest.raises(TrainingError, match=r"bad: error: no disk \(.*bad.log\)"):
        rows.train(made, None, 2)
    assert (tmp_path / "slow.log").read_text() == "stopped\n"
    assert not any(row.finished for row in made)


def test_interruption_reaches_the_rows_once(fake_rows, tmp_path, monkeypatch):
    begun = tmp_path / "begun"
    (row,) = fake_rows(
        slow=f"import signal; signal.signal(15, lambda *_: print('signal')); open({str(begun)!r}, 'w'); time.sleep(1)"
    )

    def interrupt(seconds):
        if begun.exists():
            raise KeyboardInterrupt
        time.sleep(seconds)

    monkeypatch.setattr(rows, "time", SimpleNamespace(sleep=interrupt, perf_counter=time.perf_counter))
    with pytest.raises(KeyboardInterrupt):
        rows.train([row], None, 1)
    assert (tmp_path / "slow.log").read_text() == "signal\n"
    assert row.finished  # it was waited for


# ---------------------------------------------------------------------------------------------- the command

TOY = ("--seeds", 2, "--coefficients", 0.5, "--fractions", 0.5, "--samples", 8, "--prompts", 6, "--device", "cpu")


@pytest.fixture
def copied(monkeypatch):
    """Instead of training, rows are copies of a run; its policy and reward model are those of all.

    Returns the numbers of jobs that it has been asked for.
    """
    asked = []

    def train(given, run, jobs):
        asked.append(jobs)
        for row in given:
            if not row.finished:
                shutil.copytree(run.folder, row.folder, ignore=shutil.ignore_patterns("frontier"))
                (row.folder / "config.yaml").write_text(dump_config(row.config))

    monkeypatch.setattr(frontier, "train", train)
    return asked


def test_frontier_contains_what_its_rows_have_achieved(run, copied, capsys):
    command(frontier.main, run.folder, *TOY, "--jobs", 3)
    assert copied == [3, 3]  # of reward models, of policies
    folder = run.folder / "frontier"
    data = json.loads((folder / "frontier.json").read_text())
    out = capsys.readouterr().out
    text = (folder / "frontier.md").read_text()
    assert text == report.tables_and_findings(data) + "\n"  # of what was stored
    assert text in out + "\n"
    assert all(part in text for part in (report.table(data), *report.findings(data)))
    assert out.splitlines()[0].startswith(f"{folder}: 4 reward models and ")
    assert " to train, 3 at a time " in out.splitlines()[0]
    assert (folder / "frontier.svg").is_file()
    settings = {"prompts": 6, "samples": 8, "kl_coef": 0.12, "fraction": 0.92, "gold": True, "episodes": 32}
    assert {key: data[key] for key in settings} == settings
    assert data["seconds"] == pytest.approx(run.record("ppo")["stage_seconds"])
    accuracy = run.record("rm")["results"]["rm_accuracy"]
    assert data["rm_accuracy"] == [[0.92, pytest.approx(accuracy)], [0.5, pytest.approx(accuracy)]]

    judge = planned(run, ("prompts", 6)).judge
    answers = [row["after"] for row in read_answers(run)]
    gold = [judge.gold_score(a["prompt"], a["response"]) for a in answers]
    for row in data["points"]:
        if row["method"] == "PPO":
            assert row["kl"][0] == pytest.approx(sum(a["kl"] for a in answers) / 6)
            assert row["score"][0] == pytest.approx(sum(a["score"] for a in answers) / 6)
            assert row["gold"][0] == pytest.approx(sum(gold) / 6)
    lines = [line for line in read_metrics(run.folder, "ppo") if "eval/kl" in line]
    during = data["checkpoints"][:3]  # of two seeds, which are the same here
    assert [row["iteration"] for row in during] == [0, 2, 4]
    assert [[row[name][0] for row in during] for name in ("kl", "score", "gold")] == [
        pytest.approx([line[f"eval/{name}"] for line in lines]) for name in ("kl", "score", "gold_score")
    ]
    pool = [json.loads((folder / "pool-8" / f"prompt-{index:04}.json").read_text()) for index in range(6)]
    assert [row["prompt"] for row in pool] == [a["prompt"] for a in answers]
    (stored,) = (json.loads(path.read_text())["scores"] for path in (folder / "pool-8").glob("scores-*.json"))
    best = [row for row in data["points"] if row["method"] == "best-of-n" and row["fraction"] == 0.92]
    chosen = [max(zip(s, row["gold"], strict=True))[1] for s, row in zip(stored, pool, strict=True)]
    assert best[-1]["setting"] == 8
    assert best[-1]["score"][0] == pytest.approx(sum(map(max, stored)) / 6)
    assert best[-1]["gold"][0] == pytest.approx(sum(chosen) / 6)
    assert best[0]["gold"][0] == pytest.approx(sum(sum(row["gold"]) for row in pool) / 48)


def test_frontier_of_a_corpus_without_a_gold_score(tiny_runs, tmp_path, copied, capsys):
    shutil.copytree(tiny_runs.base("imdb").folder, tmp_path / "run")
    given = ("--coefficients", 0.5, "--samples", 8, "--prompts", 6, "--device", "cpu", "--at", 0.01, 500)
    command(frontier.main, tmp_path / "run", "--seeds", 1, "--fractions", 0, *given)
    data = json.loads((tmp_path / "run" / "frontier" / "frontier.json").read_text())
    assert (data["gold"], data["laws"]) == (False, [])
    assert {row["gold"] for row in data["points"]} == {None}
    assert {(row["fraction"], row["reward_models"]) for row in data["points"]} == {(0.92, 1)}
    assert {(row["method"], row["setting"]) for row in data["points"]} >= {("GRPO", 0.5), ("RLOO", 0.12)}
    assert [row["value"] is None for row in data["equal_kl"][:2]] == [False, True]
    assert [row["kl"] for row in data["equal_kl"]] == 4 * [0.01, 500]
    assert "This corpus has no gold score." in capsys.readouterr().out
    answers = [row["after"] for row in read_answers(load_run(tmp_path / "run", "cpu"))]
    ppo = next(row for row in data["points"] if row["method"] == "PPO")
    assert ppo["score"][0] == pytest.approx(sum(a["score"] for a in answers) / 6)


def test_pool_has_independent_samples_with_their_scores_and_is_kept(run, copied):
    plan = planned(run, ("seeds", 1), ("fractions", ()), ("samples", 20), ("prompts", 3))
    env = measure.load_environment(run)
    pool = measure.sample_pool(run, env, plan.queries, plan.judge, 20)
    assert len({tuple(texts) for texts in pool.responses}) == 3
    assert all(len(set(texts)) > 10 for texts in pool.responses)  # also beyond the first batch, which has 8
    scores = measure.pool_scores(pool, run, env.scorer)
    for prompt, texts, row, gold in zip(pool.prompts, pool.responses, scores, pool.gold, strict=True):
        torch.testing.assert_close(row, env.scorer([prompt] * 20, texts).double(), atol=1e-5, rtol=0)
        assert gold.tolist() == [plan.judge.gold_score(prompt, text) for text in texts]
    again = measure.sample_pool(run, replace(env, reference=None), plan.queries, plan.judge, 20)
    assert again.responses == pool.responses
    assert measure.pool_scores(again, run, scorer=None).tolist() == scores.tolist()  # nothing is computed again
    twice = measure.sample_pool(run, env, plan.queries[:1] * 2, None, 12)
    assert twice.responses[0] != twice.responses[1]
    assert twice.gold is None
    more = measure.sample_pool(run, env, planned(run, ("prompts", 5)).queries, plan.judge, 20)
    assert more.responses[:3] == pool.responses
    assert measure.pool_scores(more, run, env.scorer).shape == (5, 20)


def test_pool_of_another_reference_or_other_samples_is_refused(run, refused, copied):
    plan = planned(run, ("samples", 5), ("prompts", 1))
    measure.sample_pool(run, measure.load_environment(run), plan.queries, plan.judge, 5)
    planned(run, ("samples", 5), ("prompts", 1))  # the same
    settings = run.config
    for name, value, sentence in (
        ("ppo.temperature", 0.5, f"temperature was {settings.ppo.temperature}, now it is 0.5"),
        ("ppo.min_new_tokens", 1, f"min_new_tokens was {settings.ppo.min_new_tokens}, now it is 1"),
        ("data.response_length", 6, "max_new_tokens was 7, now it is 6"),
        ("seed", 9, "seed was 1, now it is 9"),
    ):
        (run.folder / "config.yaml").write_text(dump_config(override(settings, {name: value})))
        assert f"pool-5 has other samples than this run would draw: {sentence}. Rename" in refused(
            run.folder, "--samples", 5
        )
    (run.folder / "config.yaml").write_text(dump_config(settings))
    with (run.folder / "sft" / "manifest.json").open("a") as manifest:
        manifest.write("\n")
    assert "draw: reference was " in refused(run.folder, "--samples", 5)
    (run.folder / "frontier" / "pool-5" / "origin.json").unlink()  # as in earlier versions
    assert "draw: reference was not stored, now" in refused(run.folder, "--samples", 5)


def test_pool_of_other_prompts_is_refused(run, refused, copied):
    plan = planned(run, ("samples", 5), ("prompts", 3))
    env = measure.load_environment(run)
    measure.sample_pool(run, env, [plan.queries[i] for i in (0, 2)], plan.judge, 5)
    texts = [env.tokenizer.decode(plan.queries[i]) for i in (2, 1)]
    planned(run, ("samples", 5), ("prompts", 1))  # the first is the same
    said = (
        f"pool-5/prompt-0001.json has responses to another prompt than the data: {texts[0]!r}, now it is {texts[1]!r}"
    )
    assert said in refused(run.folder, "--samples", 5)


def test_answers_to_other_prompts_are_refused(run, copied):
    plan = planned(run, ("seeds", 1), ("fractions", ()), ("prompts", 5))
    frontier.train(plan.policies[:1], run, 1)
    with pytest.raises(ValueError, match="was evaluated on other test prompts"):
        measure.answers_of(plan.policies[0], plan)


@pytest.mark.slow
def test_interrupted_frontier_is_resumed_and_repeats_nothing(run):
    source = "from minippo.tools import frontier; import sys; sys.argv = ['frontier', *sys.argv[1:]]; frontier.main()"
    few = ("--seeds", 1, "--coefficients", 0, "--fractions", 0.5, "--samples", 8, "--prompts", 6, "--device", "cpu")
    start = {
        "args": [sys.executable, "-c", source, str(run.folder), *map(str, few)],
        "env": os.environ | {"PYTHONPATH": str(REPOSITORY)},
        "cwd": REPOSITORY,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    process, folder = subprocess.Popen(**start), run.folder / "frontier"
    deadline = time.monotonic() + 300
    while not list(folder.glob("ppo-*/ppo.unfinished/step-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err.splitlines()[-1]) == (143, "interrupted; the same command continues")
    trained = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/summary.json")}
    assert {path.parent.name for path in trained} >= {"rm"}
    assert not (folder / "frontier.json").exists()

    subprocess.run(**start, check=True)
    assert all(path.stat().st_mtime_ns == before for path, before in trained.items())
    data = json.loads((folder / "frontier.json").read_text())
    rows_of_ppo = [row for row in data["points"] if row["method"] == "PPO"]
    assert [(row["setting"], row["fraction"]) for row in rows_of_ppo] == [(0.12, 0.92), (0.0, 0.92), (0.0, 0.5)]
    for row, name in zip(rows_of_ppo, ("ppo-0.12-rm-0.92", "ppo-0-rm-0.92", "ppo-0-rm-0.5"), strict=True):
        runs = [load_run(path, "cpu") for path in folder.glob(f"{name}-seed-*/")]
        scores = [answer["after"]["score"] for each in runs for answer in read_answers(each)]
        assert row["score"][0] == pytest.approx(sum(scores) / len(scores))
        assert len(scores) == 6 * row["reward_models"]


def test_complete_command_needs_no_more_than_the_run(run):
    """Its reward models take stage 1 from the run, and nothing else is read."""
    plan = planned(run, ("seeds", 2), ("fractions", (0.5,)))
    sources = {row.source for row in plan.rows}
    assert sources == {run.folder} | {row.folder for row in plan.rows if row.stage == "rm"}
    assert all(Path(row.folder).is_relative_to(run.folder) for row in plan.rows)
