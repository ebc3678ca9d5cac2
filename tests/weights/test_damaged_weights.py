"""Every file of a stored model, damaged in every way: the model loads, or one sentence names the file."""

import json
import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from minippo.heads import ActorCritic, RewardModel
from minippo.model import GPT, GPTConfig
from minippo.weights import (
    load_actor_critic,
    load_pretrained,
    load_reward_model,
    load_weights,
    read_tensors,
    save_model,
    save_pretrained,
)
from tests.hostile import HOW, in_place, refusal, with_junk

WHOLE = ("config.json", "model.safetensors")
FILES = {
    "safetensors": WHOLE,
    "bin": ("config.json", "pytorch_model.bin"),
    "pieces": ("config.json", "pytorch_model.bin.index.json", "pytorch_model-0.bin", "pytorch_model-1.bin"),
    "reward": (*WHOLE, "heads.safetensors"),
    "critic": (*WHOLE, "heads.safetensors"),
}
LOAD = {"reward": load_reward_model, "critic": load_actor_critic}
EVERY_FILE = [(form, name) for form, names in FILES.items() for name in names]


def make_gpt():
    torch.manual_seed(0)
    return GPT(GPTConfig(29, 12, layers=1, heads=2, channels=16))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder with a model in every form."""
    root = tmp_path_factory.mktemp("stored")
    for form in ("safetensors", "bin", "pieces"):
        save_pretrained(make_gpt(), root / form)
    save_model(RewardModel(make_gpt()), root / "reward")
    save_model(ActorCritic(make_gpt(), "mlp"), root / "critic")
    for form, shards in (("bin", ["pytorch_model.bin"]), ("pieces", ["pytorch_model-0.bin", "pytorch_model-1.bin"])):
        tensors = load_file(root / form / "model.safetensors")
        (root / form / "model.safetensors").unlink()
        weight_map = {name: shards[number % len(shards)] for number, name in enumerate(tensors)}
        for shard in shards:
            torch.save({name: tensors[name] for name in tensors if weight_map[name] == shard}, root / form / shard)
        if shards[1:]:
            (root / form / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return root


@pytest.mark.parametrize(("form", "name"), EVERY_FILE)
def test_a_model_with_a_missing_or_other_file_is_refused_with_its_name(stored, tmp_path, form, name):
    for number, how in enumerate(HOW):
        if how == "unreadable" and os.access("/root", os.W_OK):
            continue  # the superuser reads every file
        folder = shutil.copytree(stored / form, tmp_path / str(number))
        in_place(folder / name, how)
        assert name in refusal(LOAD.get(form, load_pretrained), folder), how


@pytest.mark.parametrize(("form", "name"), EVERY_FILE)
@given(data=st.data())
@settings(max_examples=12, deadline=None, derandomize=True, database=None)
def test_a_truncated_or_altered_file_is_refused_with_its_name_or_loads(stored, tmp_path_factory, form, name, data):
    folder = tmp_path_factory.mktemp("damaged") / form
    shutil.copytree(stored / form, folder)
    content = bytearray((folder / name).read_bytes())
    # Most of a file is numbers, of which any may be valid; its beginning and its end say what they mean.
    positions = (
        st.integers(0, len(content) - 1) | st.integers(0, 400) | st.integers(len(content) - 400, len(content) - 1)
    )
    position = data.draw(positions) % len(content)
    cut = data.draw(st.booleans())
    if cut:
        del content[position:]
    else:
        content[position] ^= data.draw(st.integers(1, 255))
    (folder / name).write_bytes(content)
    try:
        LOAD.get(form, load_pretrained)(folder)
    except (ValueError, OSError) as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert len(sentence) < 700
        assert str(folder) in sentence
    else:
        assert not cut or (name.endswith(".json") and position == len(content)), "nothing that is truncated loads"


@pytest.mark.parametrize(("form", "name"), [("reward", "config.json"), ("pieces", "pytorch_model.bin.index.json")])
@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_anything_in_a_json_file_is_refused_or_loads(stored, tmp_path_factory, form, name, data):
    folder = shutil.copytree(stored / form, tmp_path_factory.mktemp("altered") / form)
    (folder / name).write_text(json.dumps(with_junk(json.loads((folder / name).read_text()), data)))
    try:
        LOAD.get(form, load_pretrained)(folder)
    except (ValueError, OSError) as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert str(folder) in sentence


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"value_head.2.bias": None}, r"heads\.safetensors lacks tensors, .*: value_head\.2\.bias$"),
        ({"gain": torch.ones(())}, r"heads\.safetensors lacks tensors, has unknown ones .*: gain$"),
        ({"value_head.0.weight": torch.zeros(16, 17)}, r"of another shape: value_head\.0\.weight$"),
        ({"value_head.2.bias": torch.tensor([float("nan")])}, r"'value_head\.2\.bias' contains NaN"),
        ({"value_head.2.bias": torch.tensor([1])}, r"'value_head\.2\.bias' contains NaN or infinite values, or no"),
    ],
)
def test_other_heads_are_refused(stored, tmp_path, changes, words):
    folder = shutil.copytree(stored / "critic", tmp_path / "critic")
    heads = load_file(folder / "heads.safetensors") | changes
    save_file({name: head for name, head in heads.items() if head is not None}, folder / "heads.safetensors")
    for load in (lambda: load_actor_critic(folder), lambda: load_weights(ActorCritic(make_gpt(), "mlp"), folder)):
        with pytest.raises(ValueError, match=words):
            load()


def test_weights_of_another_model_are_not_loaded_in_place(stored):
    other = ActorCritic(GPT(GPTConfig(30, 12, layers=1, heads=2, channels=16)), "mlp")
    with pytest.raises(ValueError, match=r"critic has weights of another model: size mismatch for token_embedding"):
        load_weights(other, stored / "critic")
    with pytest.raises(ValueError, match=r"heads\.safetensors lacks tensors"):
        load_weights(ActorCritic(make_gpt(), "linear"), stored / "critic")


def test_read_tensors_returns_copies(stored, tmp_path):
    path = tmp_path / "some.safetensors"
    save_file({"a": torch.arange(3.0)}, path)
    tensors = read_tensors(path)
    save_file({"a": torch.zeros(3)}, path)
    assert tensors["a"].tolist() == [0, 1, 2]
