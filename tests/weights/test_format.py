"""What only files need stays with a model, whatever happens to it between loading and saving."""

from __future__ import annotations

import copy
import json
import os
import stat

import pytest
import torch
from safetensors.torch import load_file

from minippo.heads import ActorCritic, RewardModel
from minippo.model import GPT, GPTConfig
from minippo.weights import (
    file_format,
    load_actor_critic,
    load_pretrained,
    load_reward_model,
    save_model,
    save_pretrained,
    set_file_format,
)

POSITIONS = "model.decoder.embed_positions.weight"


@pytest.fixture
def opt_folder(tmp_path):
    """An OPT whose unread rows of positions are not 0, and whose ids are not the defaults."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 29, "max_position_embeddings": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"hidden_size": 16, "ffn_dim": 64, "word_embed_proj_dim": 16}
    model = transformers.OPTForCausalLM(transformers.OPTConfig(**sizes, bos_token_id=2, eos_token_id=2, pad_token_id=1))
    torch.nn.init.normal_(model.model.decoder.embed_positions.weight)
    model.save_pretrained(tmp_path / "opt")
    return tmp_path / "opt"


def train(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=30.0)
    model(torch.arange(8).view(2, 4))[0].square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trained_opt_is_saved_as_opt_with_its_ids_and_unread_rows(opt_folder, tmp_path, dtype):
    before = load_file(opt_folder / "model.safetensors")[POSITIONS]
    policy = ActorCritic(load_pretrained(opt_folder))
    train(policy)
    save_model(policy, tmp_path / "checkpoint")
    policy = copy.deepcopy(load_actor_critic(tmp_path / "checkpoint")).to(dtype)
    train(policy)
    save_model(policy, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    ids = [config[f"{name}_token_id"] for name in ("bos", "eos", "pad")]
    assert (config["model_type"], *ids) == ("opt", 2, 2, 1)
    after = load_file(tmp_path / "saved" / "model.safetensors")[POSITIONS]
    assert after.dtype == dtype
    assert torch.equal(after[:2], before[:2].to(dtype))
    assert not torch.equal(after[2:6], before[2:6].to(dtype))  # the others are trained


def test_a_reward_model_keeps_the_format_too(opt_folder, tmp_path):
    save_model(RewardModel(load_pretrained(opt_folder)), tmp_path / "saved")
    assert file_format(load_reward_model(tmp_path / "saved").gpt) == file_format(load_pretrained(opt_folder))
    saved, loaded = (load_file(folder / "model.safetensors") for folder in (tmp_path / "saved", opt_folder))
    assert torch.equal(saved[POSITIONS], loaded[POSITIONS])


def test_models_do_not_share_a_format():
    first, second = (GPT(GPTConfig(9, 4, layers=1, heads=1, channels=4)) for _ in range(2))
    set_file_format(first, eos_id=3)
    set_file_format(first, pad_id=1)
    assert (file_format(first).eos_id, file_format(first).pad_id) == (3, 1)
    assert (file_format(second).eos_id, file_format(second).pad_id) == (None, None)
    assert "file_format" not in first.state_dict()


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_get_the_permissions_of_any_new_file(tmp_path, umask):
    gpt = GPT(GPTConfig(9, 4, layers=1, heads=1, channels=4))
    before = os.umask(umask)
    try:
        save_model(ActorCritic(gpt), tmp_path / "policy")
        save_pretrained(gpt, tmp_path / "policy")  # over the first
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "policy").iterdir()}
    assert modes == dict.fromkeys(("config.json", "heads.safetensors", "model.safetensors"), 0o666 & ~umask)
