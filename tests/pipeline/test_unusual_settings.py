"""Settings that nobody would choose, but that are valid: all three stages run with them.

Absurd ones are refused, or end training with one sentence.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from typing import Any

import pytest
from safetensors.torch import load_file

from minippo.config import Config
from minippo.runs.presets import field_names
from tests.pipeline.tiny_run import STAGES, command, options


def optimizer(draw: random.Random) -> dict[str, Any]:
    return {
        "lr": draw.choice([0, 1e-30, 1e-12, 1e-3, 0.1]),
        "warmup": draw.choice([0, 1e-9, 0.5, 1]),
        "schedule": draw.choice(["linear", "cosine", "constant"]),
        "weight_decay": draw.choice([0, 1e-20, 0.3, 1]),
        "max_grad_norm": draw.choice([1e-20, 1e-3, 1, 1e20]),
    }


def unusual(draw: random.Random) -> dict[str, Any]:
    """A valid configuration with most fields at or near the edges of their ranges."""
    changes: dict[str, Any] = {"seed": draw.choice([0, 2**32 - 1, draw.randrange(2**32)])}
    data = {"query_length": draw.choice([18, 25, 40]), "response_length": draw.choice([1, 2, 5, 9])}
    data |= {"limit": draw.choice([3, 4]), "crop_words": draw.choice([1, 10**15])}
    changes |= {f"data.{name}": value for name, value in data.items()}
    longest = data["query_length"] + data["response_length"]
    for name, end, shortest in (("policy", 0, 1), ("reward", 1, 66)):  # the longest comparison has 65 tokens
        heads = draw.choice([1, 2, 3, 5])
        width = draw.choice([1, 2, 7] if name == "policy" else [7, 8])  # a layer norm maps one channel to 0
        sizes = {"layers": draw.choice([1, 2, 3]), "heads": heads, "channels": heads * width}
        sizes |= {
            "context": draw.choice([max(longest + end, shortest), 300]),
            "activation": draw.choice(["relu", "gelu_new"]),
        }
        changes |= {f"model.{name}.{key}": value for key, value in sizes.items()}
        training = {"tokens": draw.choice([0, 1, 60]), "batch_tokens": draw.choice([1, 40, 10**12])}
        changes |= {f"sft.{name}.{key}": value for key, value in (optimizer(draw) | training).items()}
    rm = {
        "epochs": 1,
        "batch_size": draw.choice([1, 3, 10**9]),
        "dropout": draw.choice([0, 1e-9, 0.9]),
        "token_dropout": draw.choice([0, 1e-9, 0.9]),
        "margin": draw.choice([-100, 0, 1e-20, 100]),
        "label_smoothing": draw.choice([0, 1e-20, 0.5]),
        "eval_comparisons": draw.choice([1, 2, 10**15]),
        "eval_every": draw.choice([1, 10**15]),
        "normalisation_samples": draw.choice([2, 3, 20]),
        "normalise_before": draw.random() < 0.5,
    }
    changes |= {f"rm.{name}": value for name, value in (optimizer(draw) | rm).items()}
    microbatch, per_minibatch, minibatches = (draw.choice([1, 2]) for _ in range(3))
    ppo = {
        "num_iterations": 1,
        "rollout_batch_size": microbatch * per_minibatch * minibatches,
        "num_minibatches": minibatches,
        "microbatch_size": microbatch,
        "num_epochs": draw.choice([1, 2]),
        "adam_beta2": draw.choice([0, 0.9, 0.999999]),
        "adam_eps": draw.choice([1e-8, 1e-5, 1, 1e20]),
        "tensorflow_eps": draw.random() < 0.5,
        "kl_coef": draw.choice([0, 1e-20, 0.1, 100]),
        "kl_target": draw.choice([None, 1e-20, 1, 1e20]),
        "kl_horizon": draw.choice([1e-20, 1, 1e20]),
        "gamma": draw.choice([0, 1e-20, 0.5, 1]),
        "lam": draw.choice([0, 1e-20, 0.5, 1]),
        "whiten_advantages": draw.random() < 0.5,
        "whiten_rewards": draw.random() < 0.5,
        "clip_low": draw.choice([0, 1e-20, 1]),
        "clip_high": draw.choice([0, 1e-20, 1e20]),
        "value_clip": draw.choice([None, 1e-20, 1e20]),
        "value_coef": draw.choice([0, 1e-20, 100]),
        "entropy_coef": draw.choice([0, 1e-20, 100]),
        "value_head": draw.choice(["linear", "mlp"]),
        "max_approx_kl": draw.choice([None, 1e-20, 1e20]),
        "max_ratio": draw.choice([None, 1e-20, 1e20]),
        "ptx_coef": draw.choice([0, 1e-20, 1]),
        "ptx_batch_size": draw.choice([1, 50]),
        "temperature": draw.choice([0.01, 0.3, 1, 1e20]),
        "min_new_tokens": draw.choice([0, 1, data["response_length"]]),
        "stop_token": draw.choice(["", ".", " "]),
        "missing_eos": draw.choice(["off", "replace", "subtract"]),
        "missing_eos_score": draw.choice([0, 1e-20, 1e6]),
        "score_clip": draw.choice([None, 1e-20, 1e20]),
        "save_every": draw.choice([1, 10**15]),
    }
    K = ppo["samples_per_prompt"] = draw.choice([1, ppo["rollout_batch_size"]])
    ppo["advantage"] = draw.choice(["gae", "batch"] if K == 1 else ["gae", "group", "leave-one-out", "batch"])
    ppo["kl_estimate"] = draw.choice(["k1", "k2"])  # k3 grows like q / p, beyond any number at some temperatures
    ppo["kl_placement"] = draw.choice(["reward", "loss"] if ppo["kl_estimate"] == "k2" else ["reward"])
    ppo["loss_normalisation"] = draw.choice(["token", "sequence"])
    changes |= {f"ppo.{name}": value for name, value in (optimizer(draw) | ppo).items()}
    evaluation = {"every": [1, 10**15], "prompts": [1, 10**15], "final_prompts": [1, 10**15], "samples": [0, 10**15]}
    return changes | {f"eval.{name}": draw.choice(values) for name, values in evaluation.items()}


def check_results(folder) -> None:
    """All results and weights are finite."""
    json.loads(
        (folder / "summary.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in summary.json")
    )
    for path in folder.rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values()), path


@pytest.mark.slow
def test_every_valid_configuration_trains(tiny_runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    tiny_runs.settings("reviews")
    draw = random.Random(2)
    for number in range(200):
        folder, changes = tmp_path / "run", unusual(draw)
        words = options(changes)
        for main in STAGES.values():
            try:
                command(
                    main, "--config", tiny_runs.folder / "reviews.yaml", "--run-dir", folder, "--device", "cpu", *words
                )
            except BaseException as error:
                error.add_note(f"configuration {number}: {' '.join(words)}: {capsys.readouterr().err[-1000:]}")
                raise
        check_results(folder)
        shutil.rmtree(folder)


FOREVER = ("ppo.num_iterations", "ppo.num_epochs", "rm.epochs", "sft.policy.tokens", "sft.reward.tokens")


@pytest.mark.slow
@pytest.mark.parametrize("value", [1e30, 1e-30, 10**15])
def test_an_absurd_number_is_refused_or_ends_training_with_one_sentence(
    tiny_runs, tmp_path, monkeypatch, capsys, value
):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    base, ends = tiny_runs.base().folder, {0: 0, 1: 0, 2: 0}
    capsys.readouterr()
    for name in field_names(Config()):
        default = value_of(Config(), name)
        kind = int if isinstance(default, int) else float
        if isinstance(default, bool | str) or kind is not type(value) or name in FOREVER:
            continue
        stage = {"rm": "rm", "ppo": "ppo", "eval": "ppo"}.get(name.partition(".")[0], "sft")
        arguments = ["--config", base / "config.yaml", "--run-dir", tmp_path / name, "--device", "cpu"]
        arguments += options({"ppo.num_iterations": 2, name: value}) + ["--init-from", base] * (stage != "sft")
        status = 0
        try:
            command(STAGES[stage], *arguments)
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr().err
        ends[status] += 1
        errors = [line for line in said.splitlines() if "error:" in line]
        assert len(errors) == (status != 0), (name, said)
        if errors:
            assert errors[0].startswith("error: "), (name, said)  # on a line of its own, after the progress bar
            assert said.endswith(f"{errors[0]}\n"), (name, said)
        else:
            check_results(tmp_path / name)
    assert min(ends.values()) > 0 or not math.isclose(value, 1e30), ends


def value_of(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = getattr(config, part)
    return config
