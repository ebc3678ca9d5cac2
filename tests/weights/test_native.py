"""A model that no public format can express is saved under its own names and never exported as something else."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from minippo.heads import ActorCritic, RewardModel
from minippo.model import GPT, GPTConfig
from minippo.weights import (
    architecture,
    check_exportable,
    config_json,
    load_actor_critic,
    load_pretrained,
    load_reward_model,
    load_weights,
    pretrained_config,
    save_model,
    save_pretrained,
    set_file_format,
)

SIZES = {"vocab_size": 29, "context": 12, "layers": 2, "heads": 2, "channels": 16}
TOKENS = torch.arange(24).view(2, 12)


@dataclass(frozen=True)
class ChangedConfig(GPTConfig):
    window: int = 5
    kinds: tuple[str, ...] = ("a", "b")


class Changed(GPT):
    """A `GPT` with a scalar parameter, tied weights, and buffers of each kind."""

    def __init__(self, config):
        super().__init__(config)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.lm_head = nn.Linear(config.channels, config.vocab_size, bias=False)
        self.lm_head.weight = self.token_embedding.weight
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
        self.register_buffer("causal", torch.ones(3, 3, dtype=torch.bool).tril())
        self.register_buffer("angles", torch.arange(4.0), persistent=False)

    def logits(self, hidden):
        return super().logits(hidden * self.scale)


@pytest.fixture
def changed(monkeypatch):
    """`model.py` as if it had been changed."""
    monkeypatch.setattr(architecture, "GPT", Changed)
    monkeypatch.setattr(config_json, "GPTConfig", ChangedConfig)
    torch.manual_seed(0)
    gpt = Changed(ChangedConfig(**SIZES, suppress_tokens=(1, 28), kinds=("c",)))
    for parameter in gpt.parameters():
        nn.init.normal_(parameter, std=0.3)
    return gpt.eval()


def same_weights(ours, theirs):
    ours, theirs = ours.state_dict(), theirs.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@torch.no_grad()
def test_a_changed_model_comes_back_bit_for_bit(changed, tmp_path):
    save_pretrained(changed, tmp_path)
    state = torch.get_rng_state()
    loaded = load_pretrained(tmp_path).eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(loaded, Changed)
    assert loaded.config == changed.config == pretrained_config(tmp_path)
    assert same_weights(loaded, changed)
    assert loaded.lm_head.weight is loaded.token_embedding.weight
    assert torch.equal(loaded.angles, changed.angles)
    assert torch.equal(loaded(TOKENS), changed(TOKENS))
    assert load_pretrained(tmp_path, torch.bfloat16).scale.dtype == torch.bfloat16
    stored = load_file(tmp_path / "model.safetensors").keys()
    assert stored == changed.state_dict().keys() - {"lm_head.weight"}  # the second name of the embedding


def test_heads_of_a_changed_model_come_back(changed, tmp_path):
    reward, policy = RewardModel(changed), ActorCritic(changed, "mlp")
    reward.normalise(torch.tensor([1.0, 4.0]))
    save_model(reward, tmp_path / "reward")
    save_model(policy, tmp_path / "policy")
    assert same_weights(load_reward_model(tmp_path / "reward"), reward)
    assert same_weights(load_actor_critic(tmp_path / "policy"), policy)
    assert "score.weight" in load_file(tmp_path / "reward" / "model.safetensors")
    with pytest.raises(ValueError, match=r"no tensor 'score\.weight'"):
        load_reward_model(tmp_path / "policy")


def test_a_classifier_returns_probabilities_wherever_it_is_loaded(tmp_path):
    torch.manual_seed(0)
    model = RewardModel(GPT(GPTConfig(**SIZES))).eval()
    log_odds = model(TOKENS)
    model.to_probability()
    save_model(model, tmp_path)
    resumed = RewardModel(GPT(GPTConfig(**SIZES))).eval()
    load_weights(resumed, tmp_path)
    for loaded in (load_reward_model(tmp_path).eval(), resumed):
        torch.testing.assert_close(loaded(TOKENS), log_odds.sigmoid())
    heads = load_file(tmp_path / "heads.safetensors")
    del heads["is_probability"]  # as earlier versions have written it
    save_file(heads, tmp_path / "heads.safetensors")
    torch.testing.assert_close(load_reward_model(tmp_path).eval()(TOKENS), log_odds)


def test_a_changed_model_is_not_exported_and_does_not_load_public_weights(changed, tmp_path):
    save_pretrained(changed, tmp_path / "native")
    reasons = (
        r"the public format 'gpt2' cannot express the model: it has no name for scale, mask, causal; "
        r"it has no key for GPTConfig\.window, GPTConfig\.kinds"
    )
    with pytest.raises(ValueError, match=f"native cannot be exported: {reasons}"):
        check_exportable(tmp_path / "native")
    save_pretrained(GPT(GPTConfig(**SIZES)), tmp_path / "public")
    with pytest.raises(
        ValueError, match=r"public cannot be loaded: minippo/model\.py has been changed, and the public"
    ):
        load_pretrained(tmp_path / "public")


def narrower(gpt):
    for block in gpt.blocks:
        block.up, block.down = nn.Linear(16, 48), nn.Linear(48, 16)


def without_biases(gpt):
    for block in gpt.blocks:
        block.up.bias = block.down.bias = None


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (narrower, "it has another shape for blocks.0.up.weight, blocks.0.up.bias, blocks.0.down.weight and 3 more"),
        (without_biases, "it requires blocks.0.up.bias, blocks.0.down.bias, blocks.1.up.bias and 1 more"),
        (lambda gpt: gpt.blocks[1].register_buffer("decay", torch.ones(2)), "it has no name for blocks.1.decay"),
        (lambda gpt: setattr(gpt, "config", GPTConfig(**SIZES, activation="silu")), "it has no activation 'silu'"),
        (lambda gpt: setattr(gpt, "config", ChangedConfig(**SIZES)), "no key for GPTConfig.window, GPTConfig.kinds"),
    ],
)
def test_what_a_public_format_cannot_express_is_named_and_saved_natively(tmp_path, family, change, reason):
    gpt = GPT(GPTConfig(**SIZES))
    set_file_format(gpt, family=family)
    assert architecture.unsupported(gpt, family) == []
    change(gpt)
    (found,) = architecture.unsupported(gpt, family)
    assert found.endswith(reason)
    save_pretrained(gpt, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "minippo"


@pytest.mark.parametrize("family", ["gpt2", "opt"])
def test_an_unchanged_model_is_exported_unless_it_computes_something_else(tmp_path, monkeypatch, family):
    gpt = GPT(GPTConfig(**SIZES))
    set_file_format(gpt, family=family)
    save_pretrained(gpt, tmp_path)
    check_exportable(tmp_path)
    monkeypatch.setattr(F, "gelu", lambda x, approximate: F.silu(x))
    with pytest.raises(ValueError, match="has been changed and computes something else than a public model"):
        check_exportable(tmp_path)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
@torch.no_grad()
def test_the_logits_that_tell_are_those_of_transformers(tmp_path, activation):
    transformers = pytest.importorskip("transformers")
    assert architecture.computes_the_same()
    gpt = GPT(GPTConfig(vocab_size=5, context=4, layers=2, heads=2, channels=4, activation=activation))
    for index, (_, tensor) in enumerate(sorted(gpt.state_dict().items())):
        tensor.copy_(torch.sin(torch.arange(tensor.numel()) + index).view_as(tensor))
    save_pretrained(gpt, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    logits = theirs(torch.tensor([[1, 2, 3, 0]])).logits[0, -1]
    assert logits.tolist() == pytest.approx(architecture.PROBE_LOGITS[activation], abs=2e-5)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda stored: stored.pop("scale"), "it lacks scale"),
        (lambda stored: stored.update(old=torch.zeros(2)), "it has the unknown tensors old"),
        (lambda stored: stored.update(mask=torch.zeros(2, 3)), "'mask' should have the shape"),
        (lambda stored: stored["scale"].fill_(math.nan), "'scale' contains NaN or infinite values"),
    ],
)
def test_tensors_of_another_version_of_the_model_are_refused(changed, tmp_path, edit, words):
    save_pretrained(changed, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    edit(stored)
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=words):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"old": 3}, r"unknown fields \['old'\] and lacks the fields \[\]"),
        ({"layers": None}, r"unknown fields \[\] and lacks the fields \['layers'\]"),
        ({"layers": "2"}, 'layers should be an integer, but is "2"'),
    ],
)
def test_a_config_of_another_version_of_the_model_is_refused(changed, tmp_path, changes, words):
    save_pretrained(changed, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(ValueError, match=words):
        load_pretrained(tmp_path)
    config = {key: value for key, value in config.items() if key not in changes} | {"layers": 2}
    path.write_text(json.dumps({key: value for key, value in config.items() if key != "window"}))
    assert load_pretrained(tmp_path).config.window == 5  # older than a field with a default


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": 10**9}, "layers must be at most 1,000, not 1000000000"),
        ({"heads": 0}, "heads must be at least 1, not 0"),
        ({"heads": 3}, "channels 8 is not divisible by heads 3"),
        ({"channels": -8}, "channels must be at least 1, not -8"),
        ({"vocab_size": 10**12}, "vocab_size must be at most 10,000,000, not 1000000000000"),
        ({"context": 2.0}, "context should be an integer, but is 2.0"),
        ({"dropout": "0.1"}, "dropout should be a finite number, but is '0.1'"),
        ({"dropout": math.nan}, "dropout should be a finite number, but is nan"),
        ({"activation": "swish"}, "activation should be one of .*'relu'.*, but is 'swish'"),
        ({"suppress_tokens": [5]}, "suppress_tokens contains 5, but the largest id is 4"),
        ({"suppress_tokens": 5}, "suppress_tokens should be a list or null, but is 5"),
    ],
)
def test_absurd_values_of_a_config_are_refused(changes, words):
    config = GPTConfig(vocab_size=5, context=4, layers=2, heads=2, channels=8, suppress_tokens=(1,))
    native = json.loads(json.dumps(config_json.to_native(config)))
    assert config_json.from_native(native, "some") == config
    with pytest.raises(ValueError, match=f"the config.json of some: {words}"):
        config_json.from_native(native | changes, "some")


def test_a_config_of_a_larger_model_than_the_files_hold_is_refused(changed, tmp_path):
    save_pretrained(changed, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layers": 1000}))
    with pytest.raises(ValueError, match=r"has \d,\d+ numbers, too few for the 1000 blocks with 16 channels"):
        load_pretrained(tmp_path)
