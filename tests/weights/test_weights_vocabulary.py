"""Weights are only used with the tokenizer that they were trained with, under whatever names they are stored."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from minippo.config import BackboneConfig
from minippo.model import GPT, GPTConfig
from minippo.sft import make_backbone
from minippo.tokenizer import load_tokenizer, train_bpe
from minippo.weights import check_tokenizer, file_format, load_pretrained, save_pretrained, set_file_format

TOKENS = torch.arange(10).view(1, 10)


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(["some more and more words"], 264)


def make_gpt(rows, eos_id=None, family="gpt2"):
    torch.manual_seed(0)
    gpt = GPT(GPTConfig(rows, 12, layers=2, heads=2, channels=16)).eval()
    set_file_format(gpt, eos_id=eos_id, family=family)
    return gpt


def rename(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file({change(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")


# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("family", ["gpt2", "opt"])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "pretrained_model.",
        "module._orig_mod.",
        "_orig_mod.module.pretrained_model.",
        "policy.",
    ],
)
@torch.no_grad()
def test_names_with_prefixes_load(tmp_path, family, bare, prefix):
    gpt = make_gpt(29, family=family)
    save_pretrained(gpt, tmp_path)
    own = {"gpt2": "transformer.", "opt": "model."}[family]
    rename(tmp_path, lambda name: prefix + (name.removeprefix(own) if bare else name))
    assert torch.equal(load_pretrained(tmp_path)(TOKENS), gpt(TOKENS))


@torch.no_grad()
def test_prefixes_within_names_load(tmp_path):
    """torch.compile and FSDP may wrap every block; heads lie outside the transformer."""
    gpt = make_gpt(29)
    save_pretrained(gpt, tmp_path)
    rename(tmp_path, lambda name: "module." + name.replace(".h.0.", ".h.0._orig_mod.").replace(".mlp.", ".module.mlp."))
    tensors = load_file(tmp_path / "model.safetensors")
    tied = tensors["module.transformer.wte.weight"]
    save_file(tensors | {"module.lm_head.weight": tied.clone()}, tmp_path / "model.safetensors")
    loaded = load_pretrained(tmp_path)
    assert torch.equal(loaded(TOKENS), gpt(TOKENS))
    assert file_format(loaded).unused == ()


def test_unknown_names_are_named(tmp_path):
    save_pretrained(make_gpt(29), tmp_path)
    rename(tmp_path, lambda name: name.replace("wte", "embedding"))
    with pytest.raises(ValueError, match=r"no tensor 'wte\.weight', only transformer\..*, transformer\..* and 25 more"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("head", ["score.weight", "v_head.summary.weight", "value_head.weight"])
def test_a_trained_head_that_is_not_used_is_mentioned(tmp_path, capsys, tokenizer, head):
    save_pretrained(make_gpt(264, eos_id=tokenizer.eos_id), tmp_path)
    config = BackboneConfig("some", weights=str(tmp_path))
    make_backbone(config, tokenizer)
    assert capsys.readouterr().err == ""
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {head: torch.zeros(1, 16)}, tmp_path / "model.safetensors")
    make_backbone(config, tokenizer)
    assert capsys.readouterr().err == f"note: {tmp_path} has tensors that are not used: {head}\n"


# ---------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize("rows", [264, 272, 320, 384, 500, 512, 1000, 4096])
def test_padded_embeddings_load_and_their_rows_are_never_sampled(tmp_path, tokenizer, rows):
    save_pretrained(make_gpt(rows, eos_id=tokenizer.eos_id), tmp_path)
    gpt = make_backbone(BackboneConfig("some", weights=str(tmp_path)), tokenizer)
    assert gpt.config.suppress_tokens == tuple(range(264, rows))
    check_tokenizer(gpt, tokenizer, "the model")


@pytest.mark.parametrize(
    ("rows", "eos_id", "bos_id", "words"),
    [
        (263, 262, 262, r"it has 263 embeddings, but the tokenizer some has 264 ids$"),
        (264, 2, 2, r"end-of-text has the id 2 in its config\.json, but 263 in the tokenizer some$"),
        (270, 2, [2, 3], r"end-of-text has the id 2 in its config\.json, but 263 in the tokenizer some$"),
        (4096, [2, 5], None, r"end-of-text has the id 2 in its config\.json, but 263 in the tokenizer some$"),
        (392, None, None, r"it has 392 embeddings, but the tokenizer some has 264 ids, and no eos_token_id in its "),
    ],
)
def test_weights_of_another_tokenizer_are_refused(tmp_path, tokenizer, rows, eos_id, bos_id, words):
    save_pretrained(make_gpt(rows), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": eos_id, "bos_token_id": bos_id}))
    with pytest.raises(ValueError, match=words):
        make_backbone(BackboneConfig("some", weights=str(tmp_path)), tokenizer)


@pytest.mark.parametrize(
    ("rows", "eos_id", "bos_id"), [(391, None, None), (4096, [7, 263], None), (4096, None, 263), (270, 269, 269)]
)
def test_weights_that_may_belong_to_the_tokenizer_are_accepted(tmp_path, tokenizer, rows, eos_id, bos_id):
    save_pretrained(make_gpt(rows), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": eos_id, "bos_token_id": bos_id}))
    assert make_backbone(BackboneConfig("some", weights=str(tmp_path)), tokenizer).config.vocab_size == rows


def test_weights_and_tokenizer_of_one_name_belong_together(tmp_path, tokenizer):
    save_pretrained(make_gpt(700, eos_id=2), tmp_path)
    make_backbone(BackboneConfig(str(tmp_path), weights=str(tmp_path)), tokenizer)
    save_pretrained(make_gpt(263, eos_id=2), tmp_path)
    with pytest.raises(ValueError, match="263 embeddings"):
        make_backbone(BackboneConfig(str(tmp_path), weights=str(tmp_path)), tokenizer)


@pytest.mark.parametrize("special", [{}, {"<|mask|>": 270}])
@pytest.mark.parametrize("weights", [False, True])
def test_a_tokenizer_without_its_last_line_is_not_that_of_the_model(tmp_path, tokenizer, special, weights):
    """As a run finds it whose file was truncated; both with end-of-text in the file and with the default."""
    path = tmp_path / "policy.tiktoken"
    tokenizer.save(path)
    if special:
        rest = {"name": "some", "pattern": tokenizer.encoding._pat_str, "special_tokens": tokenizer.special_tokens}
        rest["special_tokens"] = special | {"<|endoftext|>": 263}
        path.with_name("policy.tiktoken.json").write_text(json.dumps(rest))
    whole = load_tokenizer(path)
    save_pretrained(make_gpt(280, eos_id=263), tmp_path / "public")
    gpt = make_backbone(BackboneConfig("some", weights=str(tmp_path / "public") if weights else ""), whole)
    save_pretrained(gpt, tmp_path / "model")
    gpt = load_pretrained(tmp_path / "model")
    check_tokenizer(gpt, whole, "the model")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(ValueError, match=r"the model was not trained with its tokenizer '.*', or that is damaged: "):
        check_tokenizer(gpt, load_tokenizer(path), "the model")


def test_other_tokenizers_are_not_that_of_the_model(tokenizer):
    gpt = make_backbone(BackboneConfig("some"), tokenizer)
    check_tokenizer(gpt, tokenizer, "the model")
    for size, words in ((257, "end-of-text has the id 263 in the model, 256 in"), (266, r"264 embeddings, .* 266 ids")):
        other = train_bpe(["some more and more words"], size)
        assert other.vocab_size == size
        with pytest.raises(ValueError, match=words):
            check_tokenizer(gpt, other, "the model")
