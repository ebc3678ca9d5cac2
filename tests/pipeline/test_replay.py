"""The training of the three stages, replayed by `tests/independent_training.py` from the weights that it starts with.

Final weights and every logged figure must agree, so a setting that is ignored, left at its default or passed to the
wrong place anywhere in a stage shows as a difference. Where training starts from is taken from runs that do not train
(no tokens in stage 1, learning rate 0 in stage 2) and from PPO's first checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import train_ppo
import train_rm
from minippo import sft
from minippo.tools import export
from tests.pipeline import independent as second
from tests.pipeline import independent_training as training

# Every setting differs from its default, and from those with which it could be confused. The contexts cut some
# demonstrations into windows and are too short for some comparisons and prompts. The policy has no ReLU: where one is
# almost 0, rounding decides whether its unit has a gradient.
SIZES = """
seed: 11
data: {limit: 50, query_length: 16, response_length: 10}
model:
  policy: {layers: 2, heads: 2, channels: 24, context: 40, activation: gelu_new}
  reward: {layers: 2, heads: 4, channels: 16, context: 50}
sft:
  policy:
    {tokens: 5000, batch_tokens: 250, lr: 0.006, warmup: 0.3, schedule: cosine, weight_decay: 0.08, max_grad_norm: 0.9}
  reward:
    {tokens: 3000, batch_tokens: 350, lr: 0.004, warmup: 0.1, schedule: linear, weight_decay: 0.04, max_grad_norm: 0.6}
rm:
  epochs: 3
  batch_size: 6
  lr: 0.003
  warmup: 0.2
  schedule: cosine
  weight_decay: 0.06
  max_grad_norm: 1.3
  token_dropout: 0.05
  averaging: 0.9
  margin: 0.3
  label_smoothing: 0.1
  eval_comparisons: 40
  eval_every: 7
  normalisation_samples: 20
  normalise_before: true
ppo: {temperature: 0.9, min_new_tokens: 2, stop_token: ".", rollout_batch_size: 16, microbatch_size: 4}
eval: {prompts: 4, final_prompts: 4}
"""
PLAIN_SAMPLING = {"temperature": 1.0, "min_new_tokens": 0, "stop_token": ""}

# Three iterations in five configurations, which together have every option of stage 3 on and off.
CONFIGURATIONS = {
    "everything": {
        "num_epochs": 3, "num_minibatches": 2, "lr": 0.004, "warmup": 0.5, "schedule": "linear", "weight_decay": 0.05,
        "adam_beta2": 0.93, "adam_eps": 1e-4, "tensorflow_eps": True, "max_grad_norm": 0.4, "kl_coef": 0.07,
        "kl_target": 0.4, "kl_horizon": 60, "gamma": 0.95, "lam": 0.8, "whiten_advantages": True,
        "whiten_rewards": True, "clip_low": 0.05, "clip_high": 0.12, "value_clip": 0.03, "value_coef": 0.7,
        "entropy_coef": 0.02, "value_head": "mlp", "ptx_coef": 0.3, "ptx_batch_size": 7, "missing_eos": "subtract",
        "missing_eos_score": 0.6, "score_clip": 0.8,
    },
    "plain": PLAIN_SAMPLING | {
        "num_epochs": 2, "num_minibatches": 4, "lr": 0.01, "warmup": 0.0, "schedule": "cosine", "weight_decay": 0.0,
        "adam_beta2": 0.97, "adam_eps": 1e-3, "tensorflow_eps": False, "max_grad_norm": 3.0, "kl_coef": 0.3,
        "kl_target": None, "gamma": 1.0, "lam": 0.6, "whiten_advantages": False, "whiten_rewards": False,
        "clip_low": 0.3, "clip_high": 0.1, "value_clip": None, "value_coef": 0.2, "entropy_coef": 0.0,
        "value_head": "linear", "ptx_coef": 0.0, "missing_eos": "off", "score_clip": None,
    },
    "limited steps": {
        "num_epochs": 2, "num_minibatches": 4, "lr": 0.003, "warmup": 0.0, "schedule": "constant",
        "weight_decay": 0.03, "adam_beta2": 0.9, "adam_eps": 1e-4, "tensorflow_eps": False, "max_grad_norm": 0.7,
        "kl_coef": 0.2, "kl_target": 0.02, "kl_horizon": 5, "gamma": 0.9, "lam": 0.98, "whiten_advantages": True,
        "whiten_rewards": False, "clip_low": 0.1, "clip_high": 0.2, "value_clip": 0.05, "value_coef": 0.4,
        "entropy_coef": 0.0, "value_head": "linear", "ptx_coef": 0.2, "ptx_batch_size": 5, "missing_eos": "replace",
        "missing_eos_score": -0.9, "score_clip": 0.5, "max_ratio": 1.02, "max_approx_kl": 0.0125,
    },
    "grpo": PLAIN_SAMPLING | {
        "advantage": "group", "samples_per_prompt": 4, "kl_placement": "loss", "kl_estimate": "k3", "kl_coef": 0.4,
        "loss_normalisation": "sequence", "whiten_advantages": False, "num_epochs": 2, "num_minibatches": 2,
        "lr": 0.004, "adam_eps": 1e-4, "kl_target": 0.05, "kl_horizon": 20, "entropy_coef": 0.03, "value_coef": 0.7,
        "gamma": 0.5,
    },
    "rloo": {
        "advantage": "leave-one-out", "samples_per_prompt": 2, "kl_estimate": "k2", "kl_coef": 0.3,
        "whiten_advantages": True, "num_epochs": 2, "num_minibatches": 4, "lr": 0.004, "adam_eps": 1e-4,
    },
}  # fmt: skip


def command(main, *arguments: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["command", *map(str, arguments)])
        main()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """`untrained` as stage 1 begins, `trained` with stages 1 and 2, `still` with the reward model as stage 2 begins."""
    folder = tmp_path_factory.mktemp("replay")
    second.shorten(folder / "data", 70)
    settings = yaml.safe_load(SIZES)
    settings["data"]["folder"] = str(folder / "data")
    (folder / "sizes.yaml").write_text(yaml.safe_dump(settings))
    common = ("--config", folder / "sizes.yaml", "--device", "cpu", "--run-dir")
    command(sft.main, *common, folder / "untrained", "--sft.policy.tokens", 0, "--sft.reward.tokens", 0)
    command(sft.main, *common, folder / "trained")
    command(train_rm.main, *common, folder / "trained")
    sampling = [part for name, value in PLAIN_SAMPLING.items() for part in (f"--ppo.{name.replace('_', '-')}", value)]
    command(
        train_rm.main, *common, folder / "still", "--init-from", folder / "trained", "--rm.lr", 0, *sampling
    )  # fmt: skip
    for name in ("trained", "still"):
        command(export.main, "--run", folder / name, "--out", folder / "exported" / name)
    return folder


@pytest.fixture(scope="module")
def settings(runs):
    return second.settings_of(runs / "trained")


@pytest.fixture(scope="module")
def tokenizer(runs) -> second.Tokenizer:
    """The policy's."""
    return second.Tokenizer(runs / "exported/trained/reference")


def lines_of(run: Path, stage: str) -> list[dict]:
    """What a stage logged, without its evaluations' answers."""
    with (run / "metrics.jsonl").open(encoding="utf-8") as file:
        return [line for line in map(json.loads, file) if line["stage"] == stage]


def assert_same_lines(ours: list[dict], theirs: list[dict]) -> None:
    """All figures agree. In float32 a mean of some hundred numbers is exact to about 1e-6 of their size."""
    for expected, line in zip(ours, theirs, strict=True):
        found = {name: value for name, value in line.items() if name != "stage"}
        assert found == {name: pytest.approx(value, rel=1e-4, abs=5e-6) for name, value in expected.items()}


@torch.no_grad()
def assert_same_weights(ours: nn.Module, theirs: nn.Module, start: nn.Module, share: float, left_out: str = "") -> None:
    """No weight differs by more than `share` of the way that the weights of its tensor have gone.

    The bias of the keys is left out: it changes no attention, so its gradient is rounding, and Adam makes steps of it.
    """
    begun, expected, found = (dict(model.named_parameters()) for model in (start, ours, theirs))
    assert found.keys() == expected.keys() == begun.keys()
    for name, weight in found.items():
        difference, way = (weight - expected[name]).abs(), (expected[name] - begun[name]).abs()
        if name.endswith("c_attn.bias"):
            C = len(weight) // 3
            difference[C : 2 * C] = 0
        if name != left_out:
            assert way.max() > 1e-3, name
            assert difference.max() <= share * way.max(), name


@pytest.mark.parametrize("name", ["policy", "reward"])
def test_language_models_are_trained_as_the_settings_say(runs, settings, tokenizer, name):
    if name == "reward":
        tokenizer = second.Tokenizer(runs / "exported/trained/reward_model")
    rows = {
        split: [second.demonstration_ids(tokenizer, name, *texts) for texts in demonstrations]
        for split, demonstrations in second.demonstrations(settings).items()
    }
    start, ours = (second.Policy(runs / "untrained/sft" / name) for _ in range(2))
    assert max(map(len, rows["train"])) > ours.context
    lines = training.train_language_model(ours, rows, getattr(settings.sft, name), settings.seed, name)
    assert_same_lines(lines, lines_of(runs / "trained", f"sft-{name}"))
    # Adam's epsilon of 1e-8 turns rounding into steps where gradients are small; measured: up to 5e-5.
    assert_same_weights(ours, second.Policy(runs / "trained/sft" / name), start, share=5e-4)


def test_reward_model_is_trained_as_the_settings_say(runs, settings, tokenizer):
    start, ours = (second.RewardModel(runs / "exported/still/reward_model") for _ in range(2))
    theirs = second.RewardModel(runs / "exported/trained/reward_model")
    ours.gain, ours.bias = 1.0, 0.0
    reference = second.Policy(runs / "trained/sft/policy")
    queries = second.prompts(settings, tokenizer)["train"][: settings.rm.normalisation_samples]
    rows = {split: second.compared(ours, second.comparisons(settings, split))[0] for split in second.SPLITS}
    held_out = {split: rows[split][: settings.rm.eval_comparisons] for split in ("validation", "test")}
    training.normalise(ours, reference, queries, settings, tokenizer)  # normalise_before
    lines = training.train_reward_model(ours, rows["train"], held_out["validation"], settings.rm, settings.seed)
    assert sum("eval/accuracy" in line for line in lines) >= 4
    assert_same_lines(lines, lines_of(runs / "trained", "rm"))
    # Only differences of scores are trained, so the last bias is moved by rounding alone. Measured: up to 6e-4.
    assert_same_weights(ours, theirs, start, share=5e-3, left_out="model.transformer.ln_f.bias")
    summary = json.loads((runs / "trained/summary.json").read_text())
    differences = second.pairs(second.compared_scores(ours, held_out["test"]))  # on the scale of the training
    assert summary["rm_accuracy"] == pytest.approx((differences > 0).mean())
    bins = second.calibration(differences)
    assert summary["rm_calibration"] == [{key: pytest.approx(x, abs=1e-4) for key, x in b.items()} for b in bins]
    training.normalise(ours, reference, queries, settings, tokenizer)
    assert theirs.gain == pytest.approx(ours.gain, rel=1e-4)
    scores = [second.compared_scores(model, held_out["test"]) for model in (ours, theirs)]
    assert scores[1] == [pytest.approx(row, abs=1e-3) for row in scores[0]]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_policy_is_trained_as_the_settings_say(runs, tokenizer, tmp_path, name):
    source = "still" if name in ("plain", "grpo") else "trained"  # the reward model for sampling as here
    settings = yaml.safe_load((runs / "sizes.yaml").read_text())
    settings["ppo"] |= CONFIGURATIONS[name] | {"num_iterations": 3, "save_every": 3}
    (tmp_path / "ppo.yaml").write_text(yaml.safe_dump(settings))
    run = tmp_path / "run"
    command(
        train_ppo.main, "--config", tmp_path / "ppo.yaml", "--run-dir", run, "--device", "cpu",
        "--init-from", runs / source,
    )  # fmt: skip
    settings = second.settings_of(run)
    start, ours = (second.Policy(run / "ppo/step-000000/model") for _ in range(2))
    prompts = second.prompts(settings, tokenizer)["train"]
    if settings.ppo.samples_per_prompt == 1:
        assert len(prompts) < 48  # they are gone through a second time, in another order
    texts = second.demonstrations(settings)["train"]
    lines = training.train_ppo(
        ours,
        second.Policy(runs / "trained/sft/policy"),
        second.RewardModel(runs / "exported" / source / "reward_model"),
        prompts,
        [second.demonstration_ids(tokenizer, "policy", *pair) for pair in texts],
        settings,
        tokenizer,
    )
    _, *logged = lines_of(run, "ppo")
    trained = [{key: x for key, x in line.items() if not key.startswith("eval/")} for line in logged]
    assert_same_lines(list(lines), trained)
    # Measured: up to 1e-4.
    assert_same_weights(ours, second.Policy(run / "ppo/policy"), start, share=1e-3)
