"""A run with another architecture in model.py: all stages save and load it under its own parameter names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from minippo.storage import REPOSITORY

# Old text -> new text: RMSNorm instead of LayerNorm, rotary instead of learned positions, no biases.
EDITS = (
    ("nn.LayerNorm(", "RMSNorm("),
    ("3 * config.channels)", "3 * config.channels, bias=False)"),
    ("nn.Linear(config.channels, config.channels)", "nn.Linear(config.channels, config.channels, bias=False)"),
    ("nn.Linear(config.channels, 4 * config.channels)", "nn.Linear(config.channels, 4 * config.channels, bias=False)"),
    ("nn.Linear(4 * config.channels, config.channels)", "nn.Linear(4 * config.channels, config.channels, bias=False)"),
    ("        if isinstance(module, nn.Linear):\n            nn.init.zeros_(module.bias)\n", ""),
    ("    suppress_tokens: tuple", "    rope_base: float = 5000.0\n    suppress_tokens: tuple"),
    ("        self.position_embedding = nn.Embedding(config.context, config.channels)\n", ""),
    ("self.token_embedding(tokens) + self.position_embedding(positions)", "self.token_embedding(tokens)"),
    ("        return x, allowed\n", "        return x, (allowed, positions)\n"),
    (
        "        self.heads = config.heads\n",
        "        self.heads, D = config.heads, config.channels // config.heads\n"
        "        frequencies = config.rope_base ** -(torch.arange(0, D, 2) / D)  # (D / 2,)\n"
        "        self.register_buffer('frequencies', frequencies, persistent=False)\n",
    ),
    (
        "        if cache is not None:\n            key, value",
        "        allowed, positions = allowed\n"
        "        query, key = rotate(query, positions, self.frequencies), rotate(key, positions, self.frequencies)\n"
        "        if cache is not None:\n            key, value",
    ),
    (
        "        x, allowed = self.embed(tokens, attention_mask, None, None)",
        "        return take(self.hidden(tokens, attention_mask), index).squeeze(1)\n"
        "        x, allowed = self.embed(tokens, attention_mask, None, None)",
    ),
    (
        "class Attention(nn.Module):",
        """class RMSNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.scale)


def rotate(x, positions, frequencies):
    angles = positions[:, None, :, None] * frequencies  # (B or 1, 1, T, D / 2)
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Attention(nn.Module):""",
    ),
)

CONFIG = """
data: {source: files, hold_out: 0.1, query_length: 16, response_length: 8}
model:
  policy: {tokenizer: "train:300", layers: 2, heads: 2, channels: 16, context: 48}
  reward: {tokenizer: "train:290", layers: 2, heads: 2, channels: 16, context: 48}
sft:
  policy: {tokens: 3000, batch_tokens: 512}
  reward: {tokens: 1500, batch_tokens: 512}
rm: {epochs: 1, batch_size: 16, eval_comparisons: 10, eval_every: 5, normalisation_samples: 16, dropout: 0.1}
ppo:
  num_iterations: 3
  rollout_batch_size: 8
  num_epochs: 1
  num_minibatches: 1
  microbatch_size: 8
  save_every: 1
  value_head: mlp
eval: {every: 2, prompts: 4, final_prompts: 5, samples: 1}
"""

# Each stage as its command runs it, in one process; the arguments are the run's.
DRIVER = """
import shutil, sys
from pathlib import Path

import train_ppo, train_rm
from minippo import sft
from minippo.tools import evaluate, export, generate

def command(main, *arguments):
    sys.argv = ["command", *arguments]
    main()

options = sys.argv[1:]
run = Path(options[-1])
for main in (sft.main, train_rm.main, train_ppo.main):
    command(main, *options)
whole = (run / "ppo/policy/model.safetensors").read_bytes()
(run / "ppo").rename(run / "ppo.unfinished")  # as if it had been interrupted after the second iteration
shutil.rmtree(run / "ppo.unfinished/policy")
shutil.rmtree(run / "ppo.unfinished/step-000003")
command(train_ppo.main, *options)
assert (run / "ppo/policy/model.safetensors").read_bytes() == whole
command(evaluate.main, "--run-dir", str(run), "--device", "cpu")
command(generate.main, "--run-dir", str(run), "--device", "cpu", "--reference", "--prompt", "Film 7:")
print("exporting", file=sys.stderr)
command(export.main, "--run-dir", str(run), "--out", str(run.parent / "exported"))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A copy of the repository with a changed model, a run of all stages in it, and what they printed."""
    folder = tmp_path_factory.mktemp("changed")
    shutil.copytree(REPOSITORY / "minippo", folder / "minippo", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train_rm.py", "train_ppo.py"):
        shutil.copy(REPOSITORY / name, folder)
    model = folder / "minippo" / "model.py"
    source = model.read_text(encoding="utf-8")
    for old, new in EDITS:
        assert old in source, old
        source = source.replace(old, new)
    model.write_text(source, encoding="utf-8")
    (folder / "config.yaml").write_text(CONFIG)
    rows = [{"prompt": f"Film {i}:", "completion": f" a fine {i} film."} for i in range(120)]
    (folder / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"prompt": f"Film {i}:", "chosen": f" fine {i}.", "rejected": f" poor {i}."} for i in range(100)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["--data.demonstrations", folder / "shown.jsonl", "--data.preferences", folder / "pairs.jsonl"]
    options = ["--config", folder / "config.yaml", "--device", "cpu", *data, "--run-dir", folder / "run"]
    return folder, subprocess.run(
        [sys.executable, "-c", DRIVER, *map(str, options)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_all_stages_resuming_evaluation_and_generation_work_and_export_is_refused(finished):
    folder, process = finished
    _, _, errors = process.stderr.partition("exporting\n")
    assert process.returncode == 2, process.stderr[-2000:]
    assert errors.startswith(f"error: {folder}/run/ppo/policy cannot be exported: the public format 'gpt2' cannot")
    for part in (
        "it has no name for blocks.0.attention_norm.scale, blocks.0.mlp_norm.scale, blocks.1.attention_norm.scale and",
        "it requires final_norm.weight, final_norm.bias, position_embedding.weight and 1",
        "it has no key for GPTConfig.rope_base",
    ):
        assert part in errors
    assert len(errors.splitlines()) == 1
    assert not (folder / "exported").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft/policy", "sft/reward", "rm", "ppo/policy", "ppo/step-000002/model"])
def test_files_have_the_models_own_names_and_every_field(finished, name):
    folder = finished[0] / "run" / name
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "minippo"
    assert (config["layers"], config["context"], config["rope_base"]) == (2, 48, 5000.0)
    block = {"attention.qkv.weight", "attention.out.weight", "up.weight", "down.weight"}
    block |= {"attention_norm.scale", "mlp_norm.scale"}
    expected = {f"blocks.{layer}.{part}" for layer in range(2) for part in block}
    expected |= {"token_embedding.weight", "final_norm.scale"} | ({"score.weight"} if name == "rm" else set())
    assert load_file(folder / "model.safetensors").keys() == expected
