"""Weights of both families are exchanged with `transformers`; files that cannot be loaded correctly are refused."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file

from minippo.errors import TrainingError
from minippo.heads import ActorCritic, RewardModel
from minippo.model import GPT, GPTConfig
from minippo.sampling import generate
from minippo.weights import file_format, load_pretrained, pretrained_config, save_pretrained, set_file_format
from minippo.weights.shards import StoredTensors, finder

SHAPE = {"vocab_size": 29, "context": 12, "layers": 2, "heads": 2, "channels": 16}
TOKENS = torch.arange(24).view(2, 12)
FAMILIES = ("gpt2", "opt")
EOS = {"gpt2": 28, "opt": 2}


def fill(model):
    """Random values in every floating-point tensor, norms and biases included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.4 * torch.randn(tensor.shape, generator=generator))
    return model.eval()


def make_gpt(family="gpt2", eos_id=None, pad_id=None, **changes):
    gpt = fill(GPT(GPTConfig(**(SHAPE | changes))))
    unread = torch.randn(2, 16, generator=torch.Generator().manual_seed(1)) if family == "opt" else None
    set_file_format(gpt, family=family, eos_id=eos_id, pad_id=pad_id, unread_positions=unread)
    return gpt


def public_model(family="gpt2", head="LMHead", **changes):
    transformers = pytest.importorskip("transformers")
    ids = {"bos_token_id": EOS[family], "eos_token_id": EOS[family]}
    if family == "gpt2":
        sizes = {"vocab_size": 29, "n_positions": 12, "n_layer": 2, "n_head": 2, "n_embd": 16}
        config = transformers.GPT2Config(**(sizes | ids | changes))
        return fill(transformers.GPT2LMHeadModel(config))
    sizes = {"vocab_size": 29, "max_position_embeddings": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"hidden_size": 16, "ffn_dim": 64, "word_embed_proj_dim": 16}
    return fill(transformers.OPTForCausalLM(transformers.OPTConfig(**(sizes | ids | changes))))


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def same_tensors(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


# ---------------------------------------------------------------------------------------------- in


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
@torch.no_grad()
def test_a_model_saved_by_transformers_computes_the_same(tmp_path, family, activation):
    theirs = public_model(family, activation_function=activation)
    theirs.save_pretrained(tmp_path)
    torch.testing.assert_close(load_pretrained(tmp_path)(TOKENS), theirs(TOKENS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_left_padded_logits_equal_those_of_transformers(tmp_path, family):
    theirs = public_model(family)
    theirs.save_pretrained(tmp_path)
    mask = torch.arange(12) >= torch.tensor([[0], [5]])
    positions = {} if family == "opt" else {"position_ids": (mask.long().cumsum(1) - 1).clamp(min=0)}
    expected = theirs(TOKENS, attention_mask=mask.long(), **positions).logits
    torch.testing.assert_close(load_pretrained(tmp_path)(TOKENS, mask)[mask], expected[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_greedy_generation_equals_that_of_transformers(tmp_path, family):
    theirs = public_model(family)
    with torch.no_grad():  # otherwise, the same two tokens are always the most likely
        for parameter in theirs.parameters():
            parameter.mul_(3 if parameter.dim() == 2 else 0.1)
        final_norm = theirs.transformer.ln_f if family == "gpt2" else theirs.model.decoder.final_layer_norm
        final_norm.weight.fill_(1)
    theirs.save_pretrained(tmp_path)
    queries = torch.randint(3, 28, (16, 5), generator=torch.Generator().manual_seed(3))
    mask = torch.arange(5) >= torch.tensor([0, 3, 1, 2] * 4).unsqueeze(1)

    def continued(eos_id):
        ids = {"eos_token_id": eos_id, "pad_token_id": 1}
        return theirs.generate(queries, attention_mask=mask.long(), max_new_tokens=7, do_sample=False, **ids)[:, 5:]

    eos_id = int(continued(None)[0, 3])  # a token that is generated
    expected = continued(eos_id)
    found, real = generate(
        load_pretrained(tmp_path), queries, mask, max_new_tokens=7, eos_id=eos_id, pad_id=1, temperature=0.0
    )
    assert torch.equal(found[:, : expected.shape[1]], expected)
    assert len(expected.unique()) > 3
    assert len(real.sum(dim=1).unique()) > 1


def test_names_without_prefix_load_and_causal_masks_are_ignored(tmp_path):
    theirs = public_model()
    theirs.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    # On the hub, the file of "gpt2" has no prefix and contains the causal mask of every block.
    stored = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
    stored |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 12, 12) for layer in range(2)}
    save_file(stored, tmp_path / "model.safetensors")
    torch.testing.assert_close(load_pretrained(tmp_path)(TOKENS), theirs(TOKENS).logits, rtol=1e-5, atol=1e-5)


def as_bin(folder, pieces):
    """Rewrite model.safetensors as pytorch_model.bin with the tied head, in the same memory, as in OPT's."""
    stored = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    embedding = next(name for name in stored if name.endswith(("wte.weight", "embed_tokens.weight")))
    stored["lm_head.weight"] = stored[embedding]
    if pieces == 1:
        torch.save(stored, folder / "pytorch_model.bin")
        return
    weight_map = {name: f"pytorch_model-{number % pieces}.bin" for number, name in enumerate(stored)}
    for file in set(weight_map.values()):
        torch.save({name: stored[name] for name in stored if weight_map[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("release", [0.0, 1.0])
@pytest.mark.parametrize("form", ["safetensors in pieces", "bin", "bin in pieces"])
def test_sharded_and_bin_files_give_the_same_model(tmp_path, monkeypatch, family, release, form):
    theirs = public_model(family)
    theirs.save_pretrained(tmp_path / "plain")
    expected = load_pretrained(tmp_path / "plain").state_dict()
    monkeypatch.setattr(StoredTensors, "RELEASE", release)  # reopen the file for every tensor, or never
    theirs.save_pretrained(tmp_path / "other", **({"max_shard_size": "6KB"} if "safetensors" in form else {}))
    if "bin" in form:
        as_bin(tmp_path / "other", pieces=3 if "pieces" in form else 1)
    else:
        assert len(list((tmp_path / "other").glob("*.safetensors"))) > 2
    same_tensors(load_pretrained(tmp_path / "other").state_dict(), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_weights_have_the_requested_dtype_and_can_be_trained(tmp_path, family):
    save_pretrained(make_gpt(family=family), tmp_path)
    gpt = load_pretrained(tmp_path, torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 and p.requires_grad and p.device.type == "cpu" for p in gpt.parameters())
    gpt = load_pretrained(tmp_path)
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in gpt.parameters())
    gpt(TOKENS).sum().backward()
    assert all(p.grad is not None for p in gpt.parameters())
    before = load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.fill_(1)
    same_tensors(load_file(tmp_path / "model.safetensors"), before)  # training does not change the file


def test_both_names_of_gpt2s_activation_are_accepted(tmp_path):
    theirs = public_model(activation_function="gelu_pytorch_tanh")
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(load_pretrained(tmp_path)(TOKENS), theirs(TOKENS).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "family", "dtype", "loaded", "share"),
    [
        ("model.safetensors", "gpt2", "float32", 1.0, 1.1),
        ("pytorch_model.bin", "opt", "float32", 1.0, 1.1),
        ("model.safetensors", "opt", "bfloat16", 0.5, 0.65),
    ],
)
def test_loading_takes_a_tenth_more_memory_than_the_file_or_the_result(tmp_path, form, family, dtype, loaded, share):
    script = Path(__file__).resolve().parents[2] / "bench" / "load_memory.py"
    gpt = GPT(GPTConfig(30_000, 512, layers=8, heads=8, channels=512))
    set_file_format(gpt, family=family)
    save_pretrained(gpt, tmp_path)
    if "bin" in form:
        as_bin(tmp_path, pieces=1)
    environment = os.environ | {"PYTHONPATH": str(script.parents[1])}
    command = [sys.executable, str(script), "--measure", str(tmp_path), "--dtype", dtype]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    size = (tmp_path / form).stat().st_size
    assert size > 150e6
    assert found["loaded"] == pytest.approx(loaded * size, rel=0.01)
    assert found["peak"] <= share * size


# ---------------------------------------------------------------------------------------------- out


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
@torch.no_grad()
def test_a_saved_model_computes_the_same_in_transformers(tmp_path, family, activation):
    transformers = pytest.importorskip("transformers")
    ours = make_gpt(activation=activation, family=family)
    save_pretrained(ours, tmp_path)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert theirs.dtype == torch.float32
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (28, 28)
    torch.testing.assert_close(theirs.eval()(TOKENS).logits, ours(TOKENS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_public_model_comes_back_bit_for_bit(tmp_path, family, dtype):
    theirs = public_model(family).to(dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    save_pretrained(load_pretrained(tmp_path / "theirs", dtype), tmp_path / "ours")
    same_tensors(load_file(tmp_path / "ours" / "model.safetensors"), load_file(tmp_path / "theirs/model.safetensors"))
    for key in ("vocab_size", "model_type", "architectures", "activation_function", "eos_token_id", "pad_token_id"):
        configs = [json.loads((tmp_path / who / "config.json").read_text())[key] for who in ("ours", "theirs")]
        assert configs[0] == configs[1], key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes", [{}, {"activation": "relu"}, {"suppress_tokens": (0, 27, 28), "pad_id": 1}, {"family": "opt"}]
)
def test_saving_and_loading_is_bit_exact(tmp_path, dtype, changes):
    gpt = make_gpt(eos_id=5, **changes).to(dtype)
    save_pretrained(gpt, tmp_path / "made" / "on" / "the" / "way")
    loaded = load_pretrained(tmp_path / "made" / "on" / "the" / "way", dtype)
    assert (loaded.config, file_format(loaded)) == (gpt.config, file_format(gpt))
    same_tensors(loaded.state_dict(), gpt.state_dict())
    assert torch.equal(loaded(TOKENS), gpt(TOKENS))


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_in_transformers_is_applied_where_ours_is(tmp_path, family):
    """GPT-2's default is 0.1, also in the attention, where we have no dropout."""
    transformers = pytest.importorskip("transformers")
    save_pretrained(make_gpt(family=family, dropout=0.0), tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs.eval()(TOKENS).logits
        torch.testing.assert_close(theirs.train()(TOKENS).logits, expected, rtol=1e-5, atol=1e-5)
    save_pretrained(make_gpt(family=family, dropout=0.3), tmp_path)
    public = json.loads((tmp_path / "config.json").read_text())
    assert {key: value for key, value in public.items() if "drop" in key} == (
        {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.0}
        if family == "gpt2"
        else {"dropout": 0.3, "attention_dropout": 0.0, "layerdrop": 0.0}
    )


@torch.no_grad()
def test_saving_a_policy_writes_its_language_model(tmp_path):
    model = ActorCritic(make_gpt())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_pretrained(model, tmp_path)
    assert torch.equal(load_pretrained(tmp_path)(TOKENS), model.gpt(TOKENS))
    assert all(name.startswith("transformer.") for name in load_file(tmp_path / "model.safetensors"))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ids", [{"eos_id": 28}, {"eos_id": 0}, {"eos_id": 2, "pad_id": 1}, {"eos_id": 2, "pad_id": 2}])
@torch.no_grad()
def test_raw_scores_in_transformers_equal_ours_with_and_without_padding(tmp_path, family, ids):
    transformers = pytest.importorskip("transformers")
    model = RewardModel(make_gpt(family=family, **ids)).eval()
    model.gain.fill_(3.0)
    model.bias.fill_(-1.0)
    save_pretrained(model, tmp_path)
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert theirs.config.num_labels == 1
    pad_id, eos_id = theirs.config.pad_token_id, theirs.config.eos_token_id
    assert eos_id == ids["eos_id"]
    rows = [[5, pad_id, 7, pad_id, 9], [pad_id], [3, 4], [], [8, 6, pad_id]]  # the pad also occurs as a real token
    rows = [[*row, eos_id] for row in rows]
    for side in ("right", "left"):
        pads = [[pad_id] * (6 - len(row)) for row in rows]
        padded = zip(rows, pads, strict=True)
        tokens = torch.tensor([row + pad if side == "right" else pad + row for row, pad in padded])
        place = torch.arange(6)
        lengths = torch.tensor([len(row) for row in rows]).unsqueeze(1)
        mask = place < lengths if side == "right" else place >= 6 - lengths
        positions = {} if family == "opt" else {"position_ids": (mask.long().cumsum(1) - 1).clamp(min=0)}
        logits = theirs.eval()(tokens, attention_mask=mask.long(), **positions).logits  # (B, 1)
        raw = (model(tokens, mask) - model.bias) / model.gain
        torch.testing.assert_close(logits.squeeze(1), raw, rtol=1e-5, atol=1e-5)
    for row, expected in zip(rows, logits, strict=True):
        torch.testing.assert_close(theirs(torch.tensor([row])).logits[0], expected, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_its_files_is_refused(tmp_path, missing):
    save_pretrained(make_gpt(), tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        load_pretrained(tmp_path)


def test_a_missing_shard_is_refused_with_its_name(tmp_path):
    public_model().save_pretrained(tmp_path, max_shard_size="6KB")
    (tmp_path / "model-00002-of-00006.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00006\.safetensors"):
        load_pretrained(tmp_path)


def test_a_file_without_a_tensor_is_refused_with_its_name(tmp_path):
    save_pretrained(make_gpt(), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    del stored["transformer.h.1.mlp.c_fc.bias"]
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"no tensor 'h\.1\.mlp\.c_fc\.bias'"):
        load_pretrained(tmp_path)


def test_an_index_that_lists_a_missing_tensor_is_refused(tmp_path):
    public_model().save_pretrained(tmp_path, max_shard_size="6KB")
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["transformer.wpe.weight"] = "model-00006-of-00006.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"model-00006-of-00006\.safetensors has no tensor 'transformer\.wpe\.weight'"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(("name", "shape"), [("wpe.weight", (1, 16)), ("h.0.mlp.c_fc.weight", (64, 16))])
def test_a_tensor_of_another_shape_is_refused_with_both_shapes(tmp_path, name, shape):
    save_pretrained(make_gpt(), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored[f"transformer.{name}"] = torch.zeros(shape)  # could be broadcast, or transposed
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=name.replace(".", r"\.") + r"' should have the shape"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "llama"}, "'llama'; only 'gpt2' and 'opt' can be loaded"),
        ({"model_type": ["gpt2"]}, r"model_type should be a string or null, but is \[\"gpt2\"\]"),
        ({"n_positions": None}, "n_positions should be an integer, but is null"),
        ({"n_embd": "16"}, 'n_embd should be an integer, but is "16"'),
        ({"n_layer": True}, "n_layer should be an integer, but is true"),
        ({"n_head": 0}, "n_head must be at least 1, not 0"),
        ({"vocab_size": -1}, "vocab_size must be at least 1, not -1"),
        ({"n_head": 3}, "n_embd 16 is not divisible by n_head 3"),
        ({"never_sampled": {}}, "never_sampled should be a list or null, but is {}"),
        ({"never_sampled": ["a"]}, 'an id in never_sampled should be an integer, but is "a"'),
        ({"never_sampled": [28, 29]}, "never_sampled contains 29, but the largest id is 28"),
        ({"never_sampled": [-1]}, "never_sampled contains -1, but the largest id is 28"),
        ({"eos_token_id": []}, "the first eos_token_id should be an integer, but is null"),
        ({"eos_token_id": "28"}, 'eos_token_id should be an integer or a list or null, but is "28"'),
        ({"pad_token_id": [1]}, r"pad_token_id should be an integer or null, but is \[1\]"),
    ],
)
def test_a_malformed_config_is_refused_in_one_sentence(tmp_path, changes, words):
    save_pretrained(make_gpt(), tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=words) as refusal:
        pretrained_config(tmp_path)
    assert str(tmp_path) in str(refusal.value)


@pytest.mark.parametrize("key", ["vocab_size", "n_positions", "n_layer", "n_head", "n_embd", "model_type"])
def test_a_config_without_a_key_is_refused_with_the_key(tmp_path, key):
    save_pretrained(make_gpt(), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({k: value for k, value in json.loads(path.read_text()).items() if k != key}))
    with pytest.raises(ValueError, match=f"has no '{key}'|has the model type None"):
        pretrained_config(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("[]", r"should be an object, but is \[\]"), ("{", "is not valid JSON"), ("\x80", "is not valid UTF-8")],
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_a_file_that_is_not_a_json_object_is_refused_with_its_name(tmp_path, name, text, words):
    save_pretrained(make_gpt(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=f"{name} {words}"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({}, "index.json has no 'weight_map'"),
        ({"weight_map": []}, r"weight_map should be an object, but is \[\]"),
        ({"weight_map": {"a": 1}}, "index.json: the file of 'a' should be a string, but is 1"),
    ],
)
def test_an_index_without_files_is_refused(tmp_path, index, words):
    save_pretrained(make_gpt(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=words):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(("family", "key"), [("gpt2", "n_layer"), ("opt", "num_hidden_layers")])
def test_more_blocks_than_the_config_has_are_refused(tmp_path, family, key):
    save_pretrained(make_gpt(family=family), tmp_path)
    change_config(tmp_path, **{key: 1})
    with pytest.raises(ValueError, match=r"with 1 blocks, does not use: (decoder\.layers|h)\.1\..* and \d+ more"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("family", "name"),
    [("gpt2", "transformer.h.1.crossattention.c_attn.weight"), ("opt", "model.decoder.project_in.weight")],
)
def test_unknown_tensors_of_the_transformer_are_refused_but_unknown_heads_are_ignored(tmp_path, family, name):
    save_pretrained(make_gpt(family=family), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    if family == "opt":
        stored["model.decoder.version"] = torch.tensor([3.0])
    save_file(stored | {"v_head.summary.weight": torch.zeros(1, 16)}, tmp_path / "model.safetensors")
    load_pretrained(tmp_path)
    save_file(stored | {name: torch.zeros(16, 16)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"does not use: {name.split('.', 1)[1]}"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_weights_are_refused_with_the_tensors_name(tmp_path, monkeypatch, number, dtype):
    gpt = make_gpt().to(dtype)
    with torch.no_grad():
        gpt.blocks[1].up.weight[3, 5] = number
    with pytest.raises(TrainingError, match=r"^the weights blocks\.1\.up\.weight contain NaN or infinite values$"):
        save_pretrained(gpt, tmp_path)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("minippo.weights.pretrained.require_finite_weights", lambda model: None)
        save_pretrained(gpt, tmp_path)
    with pytest.raises(ValueError, match=r"'transformer\.h\.1\.mlp\.c_fc\.weight' contains NaN or infinite values"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {"activation_function": "gelu"}),
        ("gpt2", {"layer_norm_epsilon": 1e-6}),
        ("gpt2", {"tie_word_embeddings": False}),
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt2", {"n_inner": 32}),
        ("opt", {"activation_function": "gelu"}),
        ("opt", {"tie_word_embeddings": False}),
        ("opt", {"word_embed_proj_dim": 8}),
        ("opt", {"ffn_dim": 32}),
        ("opt", {"enable_bias": False}),
        ("opt", {"_remove_final_layer_norm": True}),
    ],
)
def test_an_architecture_that_computes_something_else_is_refused(tmp_path, family, changes):
    save_pretrained(make_gpt(family=family), tmp_path)
    change_config(tmp_path, **changes)
    (name,) = changes
    with pytest.raises(ValueError, match=name):
        load_pretrained(tmp_path)


def test_opt_350m_is_refused_with_the_differences(tmp_path):
    public_model("opt", do_layer_norm_before=False, word_embed_proj_dim=8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"norms after attention .* projection between embeddings and blocks"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untied_output_embedding_is_refused_even_if_the_config_ties_it(tmp_path, family):
    save_pretrained(make_gpt(family=family), tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    save_file(stored | {"lm_head.weight": torch.zeros(29, 16)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="output and input embedding differ"):
        load_pretrained(tmp_path)


class Touches:
    """A pickled object that runs a command when it is loaded carelessly."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_file_that_would_run_code_is_refused_without_running_it(tmp_path):
    save_pretrained(make_gpt(), tmp_path)
    as_bin(tmp_path, pieces=1)
    torch.save({"transformer.wte.weight": Touches(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="could run code"):
        load_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_is_refused(tmp_path, file):
    save_pretrained(make_gpt(), tmp_path)
    if "bin" in file:
        as_bin(tmp_path, pieces=1)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-5000])
    with pytest.raises(ValueError, match=f"{file} is truncated or not a"):
        load_pretrained(tmp_path)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 548105171\n"


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(("content", "words"), [(b"", "is empty"), (POINTER, "is a Git LFS pointer")])
def test_an_empty_file_and_a_git_lfs_pointer_are_refused(tmp_path, file, content, words):
    save_pretrained(make_gpt(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{file} {words}"):
        load_pretrained(tmp_path)


def test_old_checkpoints_and_other_files_are_distinguished(tmp_path):
    save_pretrained(make_gpt(), tmp_path)
    path = tmp_path / "pytorch_model.bin"
    torch.save(load_file(tmp_path / "model.safetensors"), path, _use_new_zipfile_serialization=False)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model\.bin has PyTorch's format from before version 1\.6"):
        load_pretrained(tmp_path)
    path.write_text("<!DOCTYPE html>")
    with pytest.raises(
        ValueError, match=r"pytorch_model\.bin is not a PyTorch checkpoint: it begins with b'<!DOCTYPE html>'"
    ):
        load_pretrained(tmp_path)
    torch.save({3: torch.zeros(2), "transformer.wte.weight": "none"}, path)
    with pytest.raises(ValueError, match="has no tensor"):
        load_pretrained(tmp_path)


def test_a_file_of_another_type_is_refused(tmp_path):
    save_pretrained(make_gpt(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save([torch.zeros(2)], tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="contains a list instead of a dict"):
        load_pretrained(tmp_path)


# ---------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with the repositories in `tmp_path`. Returns the list of files downloaded from it."""
    fetched = []

    def hf_hub_download(repo_id, filename):
        if not (tmp_path / repo_id).is_dir():
            response = type("Response", (), {"headers": {}, "request": None, "status_code": 404})()
            raise RepositoryNotFoundError("404", response=response)
        if not (tmp_path / repo_id / filename).is_file():
            raise LocalEntryNotFoundError(filename)
        fetched.append(filename)
        return str(tmp_path / repo_id / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return fetched


def test_only_the_needed_files_are_downloaded(tmp_path, hub):
    theirs = public_model("opt")
    theirs.save_pretrained(tmp_path / "plain")
    theirs.save_pretrained(tmp_path / "both")
    as_bin(tmp_path / "both", pieces=2)
    torch.save({}, tmp_path / "plain" / "pytorch_model.bin")  # less preferred than safetensors
    expected = theirs.state_dict()["model.decoder.embed_tokens.weight"]
    assert torch.equal(load_pretrained("plain").token_embedding.weight, expected)
    assert set(hub) == {"config.json", "model.safetensors"}
    hub.clear()
    assert torch.equal(load_pretrained("both").token_embedding.weight, expected)
    assert set(hub) == {
        "config.json", "pytorch_model.bin.index.json", "pytorch_model-0.bin", "pytorch_model-1.bin",
    }  # fmt: skip
    hub.clear()
    assert pretrained_config("plain").context == 12
    assert hub == ["config.json"]


def test_an_unsupported_model_is_refused_before_its_weights_are_downloaded(tmp_path, hub):
    public_model("opt", do_layer_norm_before=False).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="other has an architecture that cannot be loaded"):
        load_pretrained("other")
    assert hub == ["config.json"]


def test_a_name_that_the_hub_does_not_have_is_refused_in_one_sentence(tmp_path, hub):
    with pytest.raises(ValueError, match="gpt3 is neither a folder nor a model on the hub"):
        load_pretrained("gpt3")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty has no config\.json"):
        load_pretrained("empty")


def test_a_path_that_cannot_be_a_name_on_the_hub_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither a folder nor a model on the hub"):
        load_pretrained(tmp_path / "no such folder")


def test_a_stored_tensor_is_found_without_its_prefix(tmp_path):
    save_pretrained(make_gpt(), tmp_path)
    stored = StoredTensors(finder(tmp_path), tmp_path, "transformer.", "wte.weight")
    assert "wte.weight" in stored
    assert "lm_head.weight" not in stored
    assert torch.equal(stored.read("wpe.weight"), load_file(tmp_path / "model.safetensors")["transformer.wpe.weight"])


def test_pretrained_config_is_the_config_that_was_saved(tmp_path):
    gpt = make_gpt(family="opt", eos_id=2, suppress_tokens=(0, 1))
    save_pretrained(gpt, tmp_path)
    assert pretrained_config(tmp_path) == gpt.config == replace(gpt.config, context=12)
