"""`trace`: it names every tensor, its arithmetic is right, and its terms are those of a real second epoch."""

from __future__ import annotations

import os
import re
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from importlib import import_module
from math import exp, sqrt

import pytest
import torch

from minippo import equations
from minippo.config import PPOConfig
from minippo.ppo import ppo_update
from minippo.rollout import Environment, Responses, Rollout
from minippo.tokenizer import Tokenizer
from minippo.tools import trace
from minippo.tools.trace import printing
from tests.doc_commands import read
from tests.pipeline.tiny_run import command

B, R, P, T = 2, 7, 9, 15
SHAPES = {
    "prompt_texts": (B,),
    "response_texts": (B,),
    "queries": (B, P),
    "query_mask": (B, P),
    "query_responses": (B, T),
    "is_response": (B, T),
    "has_eos": (B,),
    "raw_scores": (B,),
    "scores": (B,),
    "sampling": None,
}
"""All other tensors are (B, R)."""
NUMBER = r"-?\d+\.\d{4}"


@dataclass(frozen=True)
class Trace:
    """The printed text, parsed."""

    text: str
    shapes: dict[str, tuple[int, ...] | None]
    tables: list[dict[str, list[str]]]
    """For each response: name of a row -> its cells."""
    formulas: dict[int, dict[str, tuple[str, str, str]]]
    """For each explained token of response 0: name -> formula, formula with numbers, result."""


def parsed(text: str) -> Trace:
    head, *responses = re.split(r"\n## Response \d+, to ", text.split("\n## Formulas")[0])
    shapes = {
        name: eval(shape) if shape.strip() else None
        for name, shape in re.findall(r"^(\w+) +((?:\(.*?\))?) +[a-zA-Z]\w+\.\w+", head, re.MULTILINE)
    }
    tables = [
        {name: cells.split() for name, cells in re.findall(rf"^(\w+) +((?:{NUMBER}|yes|no| )+)$", table, re.MULTILINE)}
        for table in responses
    ]
    formulas = {}
    for section in text.split("\n## Formulas of response 0, token ")[1:]:
        flat = re.sub(r"\n +", " ", section)
        parts = re.findall(r"^(\w+) += (.*) = (.*) = (.*)$", flat, re.MULTILINE)
        formulas[int(section.split()[0])] = {name: rest for name, *rest in parts}
    return Trace(text, shapes, tables, formulas)


@pytest.fixture
def printed(capsys):
    """Run the command; returns what it prints."""

    def run(*arguments: object) -> str:
        command(trace.main, *arguments)
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return run


@pytest.fixture
def traced(printed) -> Trace:
    return parsed(printed())


def clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


def test_every_field_is_named_with_its_shape(traced):
    names = {field.name for field in fields(Rollout)}
    assert {field.name for field in fields(Responses)} < names
    update = {"whitened", "new_logprobs", "new_values", "ratio", "clipped", "policy_loss", "value_loss"}
    assert traced.shapes == {name: SHAPES.get(name, (B, R)) for name in names | update | {"delta"}}


def test_the_functions_that_create_the_tensors_exist():
    names = {field.name for field in fields(Rollout)}
    assert names <= set(" ".join(printing.CREATED_BY).split())
    for origin in printing.CREATED_BY.values():
        owner, _, name = re.match(r"[\w.]+", origin)[0].partition(".")
        if owner == "Environment":
            assert name in {field.name for field in fields(Environment)}
        else:
            assert hasattr(Tokenizer if owner == "Tokenizer" else import_module(f"minippo.{owner}"), name)


def test_every_tensor_of_the_tables_has_a_number_for_each_token(traced):
    assert [len(table["logprobs"]) for table in traced.tables] == [6, 7]
    for table in traced.tables:
        assert {len(cells) for cells in table.values()} == {len(table["logprobs"])}
        assert {"rewards", "advantages", "ratio", "policy_loss"} < table.keys()


def test_the_formulas_give_the_printed_results(traced):
    assert len(traced.formulas) == 2
    for t, formulas in traced.formulas.items():
        assert formulas.keys() == printing.FORMULAS.keys()
        for name, (_, numbers, result) in formulas.items():
            names = {"exp": exp, "sqrt": sqrt, "clip": clip, "max": max}
            assert eval(numbers, names) == pytest.approx(float(result), rel=1e-3, abs=5e-4), name  # of rounded numbers
            assert result == traced.tables[0][name][t]


def test_the_numbers_of_a_formula_are_those_of_its_token(traced):
    table, config = traced.tables[0], PPOConfig()
    for t, formulas in traced.formulas.items():
        for formula, numbers, _ in formulas.values():
            words = [word for word in re.findall(r"[a-z_]+", formula) if word in table]
            for word in words:
                x = table[word][t]
                assert (f"({x})" if x.startswith("-") else x) in numbers
            for name in ("gamma", "lam", "kl_coef", "clip_low", "value_clip"):
                assert (name not in formula) or f"{getattr(config, name):.4f}" in numbers
        following = {name: [*table[name], "0.0000"][t + 1] for name in ("values", "advantages")}
        assert following["values"].strip("-") in formulas["delta"][1]
        assert following["advantages"].strip("-") in formulas["advantages"][1]
        assert ("scores" in formulas["rewards"][0]) == (t == len(table["rewards"]) - 1)


def test_rewards_without_the_penalty_sum_to_the_score(traced):
    scores = re.search(rf"^scores .*\n +({NUMBER[:-3]}\d+)\n +({NUMBER[:-3]}\d+)", traced.text, re.MULTILINE)
    assert len(traced.tables) == B
    for b, table in enumerate(traced.tables):
        rewards, kl = (sum(map(float, table[name])) for name in ("rewards", "kl"))
        said, score = re.findall(rf"sum to ({NUMBER}); the score is ({NUMBER})", traced.text)[b]
        assert said == score
        assert float(score) == pytest.approx(rewards + PPOConfig().kl_coef * kl, abs=1e-3)
        assert float(score) == pytest.approx(float(scores[b + 1]), abs=1e-4)


def test_an_adaptive_coefficient_is_that_of_the_rollout(monkeypatch, printed):
    monkeypatch.setattr(trace, "PPOConfig", lambda **settings: PPOConfig(**settings, kl_target=0.01, kl_horizon=1))
    sums = re.findall(rf"sum to ({NUMBER}); the score is ({NUMBER})", printed())
    assert len(sums) == B
    for total, score in sums:
        assert float(total) == pytest.approx(float(score), abs=2e-4)


def test_losses_are_the_means_of_the_tables(traced):
    (losses,) = re.findall(r"^epoch 2: (.*)$", traced.text, re.MULTILINE)
    losses = {name: float(value) for name, value in re.findall(r"([\w/]+) ([\d.-]+)", losses)}
    for metric, row in {"loss/policy": "policy_loss", "loss/value": "value_loss", "policy/ratio": "ratio"}.items():
        values = [float(cell) for table in traced.tables for cell in table[row]]
        assert losses[metric] == pytest.approx(sum(values) / len(values), abs=2e-4)
    clipped = [cell == "yes" for table in traced.tables for cell in table["clipped"]]
    assert losses["policy/clipfrac"] == pytest.approx(sum(clipped) / len(clipped), abs=1e-4)
    assert 0 < sum(clipped) < len(clipped)


def test_the_terms_are_those_of_a_real_second_epoch(monkeypatch, printed):
    """`ppo_update` with two epochs, from the same state, calls the losses with the tensors that are printed."""
    calls, policy_loss = [], equations.policy_loss

    def also_with_two_epochs(state, rollout, config):
        if state.iteration == 2:
            with monkeypatch.context() as patch:
                patch.setattr(equations, "policy_loss", lambda *a, **k: calls.append(a) or policy_loss(*a, **k))
                ppo_update(deepcopy(state), rollout, replace(config, num_epochs=2))
        return ppo_update(state, rollout, config)

    monkeypatch.setattr(printing, "ppo_update", also_with_two_epochs)
    tables = {len(table["ratio"]): table for table in parsed(printed()).tables}
    _, (new_logprobs, _, whitened, mask) = calls
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        for name, tensor in {"new_logprobs": new_logprobs, "whitened": whitened}.items():
            cells = [float(cell) for cell in tables[length][name]]
            assert cells == pytest.approx(tensor[row, :length].tolist(), abs=1e-4)


def test_the_first_iteration_is_checked(monkeypatch, printed):
    checked = []
    monkeypatch.setattr(trace, "check_first_rollout", lambda state, *_: checked.append(state.iteration))
    assert "## Iteration 3" in printed()
    assert checked == [0]


def test_output_is_repeatable_narrow_and_depends_on_the_seed(printed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    first = printed()
    assert printed() == first
    other = printed("--seed", 3)
    assert other != first
    assert max(map(len, (first + other).splitlines())) <= 120
    assert os.listdir(tmp_path) == []


def test_prompts_may_be_any(printed):
    one = parsed(printed("--prompt", "A film.", "--response-length", 1))
    assert "to 'A film.'" in one.text
    assert one.formulas.keys() == {0}
    assert one.shapes["logprobs"] == (1, 1)


def test_a_run_is_traced_with_its_policy_and_reference(tiny_runs, printed, capsys):
    run = tiny_runs.base()
    capsys.readouterr()
    before = sorted((path, path.stat().st_mtime_ns) for path in run.folder.rglob("*"))
    text = printed("--run", run.folder, "--prompt", "A film.", "The plot of a very long film", "--response-length", 5)
    assert "## Iteration 1:" in text
    assert max(map(len, text.splitlines())) <= 120
    result = parsed(text)
    assert any(float(cell) != 0 for table in result.tables for cell in table["kl"])
    assert sorted((path, path.stat().st_mtime_ns) for path in run.folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--prompt", ""], "a prompt is empty"),
        (["--prompt", "x y" * 60], "a prompt of 120 tokens and a response of 8 tokens"),
        (["--response-length", 9], "response-length must be from 1 to 8, not 9"),
        (["--run", "nowhere"], "nowhere is no"),
    ],
)
def test_invalid_options_are_refused(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as end:
        command(trace.main, *arguments)
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {sentence}")


def test_a_run_without_a_policy_is_refused(tiny_runs, capsys, tmp_path):
    (tmp_path / "config.yaml").write_bytes((tiny_runs.base().folder / "config.yaml").read_bytes())
    with pytest.raises(SystemExit):
        command(trace.main, "--run", tmp_path)
    assert "has no finished ppo/" in capsys.readouterr().err


def test_excerpt_in_the_readme_has_lines_of_the_output(printed):
    def blank(line: str) -> str:
        return re.sub(r"[-\d.() ]+", " ", line)

    _, block, _ = re.split("<!-- /?trace -->", read("README.md"))
    lines = {blank(line) for line in printed().splitlines()}
    excerpt = block.strip().splitlines()[2:-1]  # without the fence and the tokens
    assert len(excerpt) > 10
    assert {blank(line) for line in excerpt} <= lines


def test_a_formula_that_the_code_does_not_compute_any_more_is_marked(capsys):
    numbers = {"logprobs": torch.tensor(-1.0), "ref_logprobs": torch.tensor(-1.5), "kl": torch.tensor(0.5)}
    printing.print_formula("kl", "logprobs - ref_logprobs", numbers)
    assert capsys.readouterr().out.endswith("= 0.5000\n")
    printing.print_formula("kl", "logprobs - ref_logprobs", numbers | {"kl": torch.tensor(0.25)})
    assert capsys.readouterr().out.endswith("= 0.2500   (changed code: this is not what the formula gives)\n")
