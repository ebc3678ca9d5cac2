"""PPO's variants, from the command line to what a run leaves: no part of a critic anywhere, and the example of
docs/variants.md."""

from __future__ import annotations

import json
import re
from dataclasses import fields

import pytest
from safetensors.torch import load_file

import train_ppo
from minippo import advantages
from minippo.advantages import ESTIMATORS
from minippo.config import Config, MemoryConfig
from minippo.runs import parse_options
from minippo.runs.presets import differences
from minippo.runs.validation import check
from minippo.tools import export, generate, trace
from tests.doc_commands import blocks, read
from tests.pipeline.exact_effects import check_ppo
from tests.pipeline.tiny_run import TinyRun, command, contents, evaluation, options

GRPO = {
    "ppo.advantage": "group",
    "ppo.samples_per_prompt": 4,
    "ppo.kl_placement": "loss",
    "ppo.kl_estimate": "k3",
    "ppo.loss_normalisation": "sequence",
    "ppo.whiten_advantages": False,
}


@pytest.fixture(scope="module")
def grpo(tiny_runs) -> TinyRun:
    return tiny_runs.run("reviews", GRPO, ["ppo"])


def test_run_without_a_critic_stores_and_logs_nothing_of_one(grpo):
    check_ppo(grpo)
    lines = [json.loads(line) for line in (grpo.folder / "metrics.jsonl").read_text().splitlines()]
    names = {name for line in lines for name in line if line["stage"] == "ppo"}
    assert "loss/kl" in names
    assert not [name for name in names if "value" in name]
    for path in grpo.folder.glob("ppo/**/heads.safetensors"):
        assert not load_file(path)
    gpt = load_file(grpo.folder / "ppo" / "policy" / "model.safetensors")
    (path, *_) = grpo.folder.glob("ppo/step-*/optimizer.safetensors")
    assert len(load_file(path)) == 2 * len(gpt)  # two moments for each tensor of the transformer
    assert sum(map(len, (group["params"] for group in grpo.recordings["ppo"].optimizers[0].groups))) == len(gpt)


def test_run_without_a_critic_is_resumed_bit_for_bit(grpo, tiny_runs, monkeypatch):
    folder, calls, update = tiny_runs.folder / "resumed", [], train_ppo.ppo_update

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return update(*arguments)

    arguments = ["--config", tiny_runs.folder / "reviews.yaml", "--run-dir", folder, "--device", "cpu", *options(GRPO)]
    arguments += ["--init-from", tiny_runs.base().folder]
    with monkeypatch.context() as patch:
        patch.setattr(train_ppo, "ppo_update", dies)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            command(train_ppo.main, *arguments)
    assert not (folder / "ppo").exists()
    command(train_ppo.main, *arguments)
    assert contents(folder / "ppo" / "policy") == contents(grpo.folder / "ppo" / "policy")
    ours, theirs = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (folder, grpo.folder)
    )
    assert [line for line in ours if line["stage"] == "ppo"] == [line for line in theirs if line["stage"] == "ppo"]


def test_options_that_save_memory_change_nothing_without_a_critic(grpo, tiny_runs):
    memory = {f"memory.{field.name}": True for field in fields(MemoryConfig)}
    run = tiny_runs.run("reviews", GRPO | memory, ["ppo"])
    assert contents(run.folder / "ppo" / "policy") == contents(grpo.folder / "ppo" / "policy")


def test_commands_work_on_a_run_without_a_critic(grpo, tmp_path, capsys):
    command(generate.main, "--run", grpo.folder, "--prompt", "7: a short film on a cook.")
    assert capsys.readouterr().out.strip()
    command(trace.main, "--run", grpo.folder, "--prompt", "7: a film.", "--response-length", 4)
    traced = capsys.readouterr().out
    assert traced.count("## Response ") == 4  # to one prompt
    assert "\nkl_loss     = (exp(" in traced
    assert not re.search(r"^(values|delta|returns|new_values|value_loss) ", traced, re.MULTILINE)
    assert "changed code" not in traced
    command(export.main, "--run", grpo.folder, "--out", tmp_path / "exported")
    assert not load_file(tmp_path / "exported" / "policy" / "heads.safetensors")
    found = evaluation(grpo.folder)
    stored = json.loads((grpo.folder / "summary.json").read_text())
    assert found.summary["after"]["kl"] == pytest.approx(stored["after"]["kl"], abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"ppo.kl_estimate": "k1"},
        {"ppo.kl_estimate": "k3"},
        {"ppo.kl_placement": "loss", "ppo.whiten_advantages": False},
        {"ppo.advantage": "leave-one-out", "ppo.whiten_advantages": False},
    ],
)
def test_trace_gives_the_formulas_of_the_variant(tiny_runs, capsys, changes):
    run = tiny_runs.run("reviews", changes | {"ppo.kl_target": None, "ppo.whiten_rewards": False}, ["ppo"])
    capsys.readouterr()
    command(trace.main, "--run", run.folder, "--prompt", "7: a film.", "8: a new film.", "--response-length", 5)
    traced = capsys.readouterr().out
    assert "\nrewards     = " in traced
    assert "changed code" not in traced
    for line in traced.splitlines():
        if "; the score is " in line:
            total, score = (text.split()[-1] for text in line.split("; "))
            assert float(total.split()[-1]) == pytest.approx(float(score), abs=2e-4)


def test_methods_of_the_documentation_are_what_their_options_say():
    rows = re.findall(r"^\| (\w+) [^|]*\| `(--ppo[^`]*)` \|$", read("docs/variants.md"), re.MULTILINE)
    found = {name: parse_options("", words.split()).settings for name, words in rows}
    for settings in found.values():
        check(settings)
    grpo = {name: value for name, (value, _) in differences(found["GRPO"], Config()).items()}
    assert grpo == GRPO | {"ppo.samples_per_prompt": 8}
    assert [found[name].ppo.advantage for name in ("RLOO", "REINFORCE")] == ["leave-one-out", "batch"]
    (command_line,) = (block.text for block in blocks("docs/variants.md") if "train_ppo.py" in block.text)
    assert dict(rows)["GRPO"] in command_line


def test_example_of_the_documentation_is_all_that_a_new_estimator_takes(tiny_runs, monkeypatch):
    (example,) = (block.text for block in blocks("docs/variants.md") if block.language == "python")
    monkeypatch.setitem(ESTIMATORS, "best", None)  # removed again at the end
    exec(example, dict(vars(advantages)))
    changes = {"ppo.advantage": "best", "ppo.samples_per_prompt": 4, "ppo.whiten_advantages": False}
    run = tiny_runs.run("reviews", changes, ["ppo"])
    used = [call.advantages for call in run.recordings["ppo"].of("policy_loss")]
    assert {value for tensor in used for value in tensor.unique().tolist()} == {0.0, 1.0}
    assert not load_file(run.folder / "ppo" / "policy" / "heads.safetensors")
    with pytest.raises(SystemExit):  # the row says that it needs two
        tiny_runs.run("reviews", changes | {"ppo.samples_per_prompt": 1}, ["ppo"])
