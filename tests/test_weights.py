"""Weights go to `transformers` and come from there; what cannot be loaded rightly is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from minippo.heads import ActorCritic, RewardModel
from minippo.model import GPT, GPTConfig
from minippo.weights import load_pretrained, save_pretrained

SHAPE = {"vocab_size": 29, "context": 12, "layers": 2, "heads": 2, "channels": 16}
TOKENS = torch.arange(24).view(2, 12)


def make_gpt(**changes):
    gpt = GPT(GPTConfig(**(SHAPE | changes))).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return gpt


def public_model(**changes):
    transformers = pytest.importorskip("transformers")
    config = {
        "vocab_size": 29,
        "n_positions": 12,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 16,
        "bos_token_id": 28,
        "eos_token_id": 28,
    }
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**(config | changes))).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
@torch.no_grad()
def test_what_transformers_saved_computes_the_same(tmp_path, activation):
    theirs = public_model(activation_function=activation)
    theirs.save_pretrained(tmp_path)
    torch.testing.assert_close(load_pretrained(tmp_path)(TOKENS), theirs(TOKENS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
@torch.no_grad()
def test_what_is_saved_here_computes_the_same_in_transformers(tmp_path, activation):
    transformers = pytest.importorskip("transformers")
    ours = make_gpt(activation=activation)
    save_pretrained(ours, tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert theirs.dtype == torch.float32
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (28, 28)
    torch.testing.assert_close(theirs(TOKENS).logits, ours(TOKENS), rtol=1e-5, atol=1e-5)


def test_tensors_named_as_on_the_hub_load_and_the_old_causal_masks_do_not_matter(tmp_path):
    theirs = public_model()
    theirs.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    # "gpt2" itself has no prefix, and holds the causal mask of every block.
    stored = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    stored |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 12, 12) for layer in range(2)}
    save_file(stored, tmp_path / "model.safetensors")
    torch.testing.assert_close(load_pretrained(tmp_path)(TOKENS), theirs(TOKENS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("changes", [{}, {"activation": "relu"}, {"vocab_size": 32, "unpadded_vocab_size": 29}])
def test_saved_and_loaded_is_bit_equal(tmp_path, dtype, changes):
    gpt = make_gpt(**changes).to(dtype)
    save_pretrained(gpt, tmp_path / "made" / "on" / "the" / "way")
    loaded = load_pretrained(tmp_path / "made" / "on" / "the" / "way", dtype)
    assert loaded.config == gpt.config
    expected, found = gpt.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor), name


def test_loaded_weights_have_the_asked_dtype_and_can_be_trained(tmp_path):
    save_pretrained(make_gpt(), tmp_path)
    gpt = load_pretrained(tmp_path, torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 and p.requires_grad and p.device.type == "cpu" for p in gpt.parameters())
    gpt = load_pretrained(tmp_path)
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in gpt.parameters())
    gpt(TOKENS).sum().backward()
    assert all(p.grad is not None for p in gpt.parameters())


@pytest.mark.parametrize("wrap", [ActorCritic, RewardModel])
def test_of_a_model_with_heads_the_trunk_is_written(tmp_path, wrap):
    model = wrap(make_gpt())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_pretrained(model, tmp_path)
    assert torch.equal(load_pretrained(tmp_path)(TOKENS), model.gpt(TOKENS))
    assert all(name.startswith("transformer.") for name in load_file(tmp_path / "model.safetensors"))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_its_files_is_refused(tmp_path, missing):
    save_pretrained(make_gpt(), tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        load_pretrained(tmp_path)


def test_a_file_without_a_tensor_is_refused_with_its_name(tmp_path):
    save_pretrained(make_gpt(), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    del stored["transformer.h.1.mlp.c_fc.bias"]
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"no tensor 'h\.1\.mlp\.c_fc\.bias'"):
        load_pretrained(tmp_path)


def test_a_model_of_another_family_is_refused(tmp_path):
    save_pretrained(make_gpt(), tmp_path)
    change_config(tmp_path, model_type="llama")
    with pytest.raises(ValueError, match="'llama'"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "gelu"},
        {"layer_norm_epsilon": 1e-6},
        {"tie_word_embeddings": False},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
    ],
)
def test_a_gpt2_that_would_compute_something_else_is_refused(tmp_path, changes):
    save_pretrained(make_gpt(), tmp_path)
    change_config(tmp_path, **changes)
    (name,) = changes
    with pytest.raises(ValueError, match=name):
        load_pretrained(tmp_path)


def test_the_other_name_of_gpt2s_activation_is_known(tmp_path):
    theirs = public_model(activation_function="gelu_pytorch_tanh")
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load_pretrained(tmp_path)(TOKENS), theirs(TOKENS).logits, rtol=1e-5, atol=1e-5)
