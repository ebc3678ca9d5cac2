"""A run whose transformers are bfloat16: all stages and commands, and resumed bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minippo.model import GPT
from minippo.runs import Run, read_answers
from minippo.tools import export, generate, score
from tests.pipeline.test_every_field import CHECKS, differences
from tests.pipeline.test_every_option import load
from tests.pipeline.tiny_run import STAGES, TinyRun, changed, command, evaluation, outcome

MODELS = {"policy": "ppo/policy", "reference": "sft/policy", "reward_model": "rm"}
DTYPES = {"model.policy.dtype": "bfloat16", "model.reward.dtype": "bfloat16"}


@pytest.fixture(scope="module")
def run(tiny_runs) -> TinyRun:
    """Also asserts that every forward pass computes in bfloat16, and that no model is another one's float32 copy."""
    hidden, dtypes = GPT.hidden, set()

    def watched(self, *inputs, **more):
        result = hidden(self, *inputs, **more)
        dtypes.add(result.dtype)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GPT, "hidden", watched)
        made = tiny_runs.run("reviews", DTYPES, list(STAGES))
    assert dtypes == {torch.bfloat16}
    return made


def dtypes(path: Path) -> set[torch.dtype]:
    return {tensor.dtype for tensor in load_file(path).values()}


def test_every_stage_did_what_its_fields_say_and_stores_what_the_model_computes_with(run, tiny_runs):
    for exact in CHECKS.values():
        exact(run)
    for folder in ("sft/policy", "sft/reward", "ppo/policy"):
        assert dtypes(run.folder / folder / "model.safetensors") == {torch.bfloat16}
    weights = load_file(run.folder / "rm" / "model.safetensors")
    assert weights.pop("score.weight").dtype == torch.float32  # heads are float32
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    for folder in ("rm", "ppo/policy"):
        assert dtypes(run.folder / folder / "heads.safetensors") == {torch.float32}
    lines = {stage: outcome(run, [stage]) for stage in STAGES}
    for name, stage in (("sft policy loss", "sft"), ("sft reward loss", "sft")):
        base = outcome(tiny_runs.base(), [stage])[name]
        assert lines[stage][name] != base
        assert lines[stage][name] == pytest.approx(base, rel=0.02)


@pytest.mark.parametrize("stage", list(STAGES))
def test_resumed_stage_ends_as_the_uninterrupted_one_bit_for_bit(run, tmp_path, stage, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    for later in list(STAGES)[list(STAGES).index(stage) + 1 :]:
        shutil.rmtree(folder / later)
    (folder / stage).rename(folder / f"{stage}.unfinished")
    removed = {path.parent: path for path in sorted((folder / f"{stage}.unfinished").rglob("step-*"))}
    for path in removed.values():  # the newest
        optimizer = path / "optimizer.safetensors"
        assert dtypes(optimizer) == {torch.float32}
        assert any(name.endswith(".master") for name in load_file(optimizer))
        shutil.rmtree(path)
    config = folder / "config.yaml"
    command(STAGES[stage], "--config", config, "--run-dir", folder, "--device", "cpu")
    assert capsys.readouterr().out.count("resuming after") == len(removed)
    again = TinyRun(folder, run.config)
    assert differences(outcome(again, [stage]), outcome(run, [stage])) == set()


def test_commands_compute_with_the_models_as_they_were_trained(run, tmp_path, capsys, monkeypatch):
    again, stored = evaluation(run.folder), read_answers(load(run.folder))
    assert ([row["before"] for row in stored], [row["after"] for row in stored]) == (again.before, again.after)
    given = ("--run", run.folder)
    # A tiny policy may end a response within a character, and `score` refuses text that is not readable.
    answer = next(row["after"] for row in stored if "\ufffd" not in row["after"]["response"])
    capsys.readouterr()
    command(score.main, *given, "--device", "cpu", "--prompt", answer["prompt"], answer["response"])
    assert float(capsys.readouterr().out.split("\t")[0]) == pytest.approx(answer["score"], abs=0.05)
    command(generate.main, *given, "--device", "cpu", "--prompt", answer["prompt"], "--reference")
    assert capsys.readouterr().out.startswith(f"[policy] {answer['prompt']}")
    command(export.main, *given, "--out", tmp_path / "out")
    for name, folder in MODELS.items():
        ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / "out" / name, run.folder / folder))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in ours)


def test_exported_bfloat16_models_are_those_of_transformers(run, tmp_path):
    from transformers import AutoModelForCausalLM

    from minippo.weights import load_actor_critic

    command(export.main, "--run", run.folder, "--out", tmp_path / "out")
    tokens = torch.arange(3, 15).view(2, 6)
    policy = load_actor_critic(tmp_path / "out" / "policy", torch.bfloat16).eval()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "policy", dtype=torch.bfloat16).eval()
    with torch.no_grad():
        expected, logits = theirs(tokens).logits, policy(tokens)[0]
        usable = expected > -1e4
        torch.testing.assert_close(logits[usable], expected[usable], rtol=0.03, atol=0.03)
    assert expected.dtype == torch.bfloat16


def test_exported_models_have_dtypes_of_their_own(run):
    mixed = Run(run.folder, changed(run.config, {"model.reward.dtype": "float32"}), "cpu")
    found = {}
    for name in MODELS:
        model = export.load_model(mixed, name)
        found[name] = getattr(model, "gpt", model).token_embedding.weight.dtype
    assert found == {"policy": torch.bfloat16, "reference": torch.bfloat16, "reward_model": torch.float32}
