"""The models of a run, exported and loaded by `transformers`."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minippo.config import Config, PPOConfig
from minippo.heads import ActorCritic, RewardModel
from minippo.masking import pad
from minippo.model import GPT, GPTConfig
from minippo.runs import Run
from minippo.runs.presets import dump_config
from minippo.sampling import generate
from minippo.tokenizer import load_tokenizer, reward_tokens
from minippo.tools import export
from minippo.weights import (
    load_actor_critic,
    load_pretrained,
    load_reward_model,
    save_model,
    save_pretrained,
    set_file_format,
)

transformers = pytest.importorskip("transformers")
TEXTS = [
    "A café, naïve.",
    " It's 12345 films!!  Two  spaces,\n\nlines \t",
    "映画は最高 😀😀",
    "ÿ þ ü",
    "don't DON'T",
    "",
]
ANY_TEXT = st.one_of(st.text(), st.lists(st.sampled_from([*"Theé 映画😀\n\t1ÿ", "film", "'s", "  "])).map("".join))
# cl100k_base's pattern, which is not built into the byte-level pre-tokenizer.
CL100K = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"""
    r"""|\s*[\r\n]|\s+(?!\S)|\s"""
)


def make_gpt(tokenizer, family, rows, seed):
    torch.manual_seed(seed)
    gpt = GPT(GPTConfig(rows, 32, layers=2, heads=2, channels=16))
    with torch.no_grad():
        for tensor in gpt.state_dict().values():
            if tensor.dim() == 2:
                tensor.normal_(std=1.0)
        gpt.token_embedding.weight[tokenizer.vocab_size :] *= 9  # would be the most likely, if not suppressed
    never = (*tokenizer.non_text_ids, *range(tokenizer.vocab_size, rows))
    gpt.set_suppress_tokens(never)
    set_file_format(gpt, family=family, eos_id=tokenizer.eos_id)
    return gpt


@pytest.fixture(params=["gpt2", "opt"])
def run(request, tokenizer, tmp_path):
    """A finished run with random weights; policy and reward model have different tokenizers."""
    run = Run(tmp_path / "run", Config(), "cpu")
    folder = run.begin("sft")
    reward_tokenizer = load_tokenizer("data/reward.tiktoken")
    run.save_tokenizers(tokenizer, reward_tokenizer)
    save_pretrained(make_gpt(tokenizer, request.param, tokenizer.vocab_size + 3, 0), folder / "policy")
    run.finish("sft", "data", 1.0, {}, {})
    model = RewardModel(make_gpt(reward_tokenizer, request.param, reward_tokenizer.vocab_size, 1))
    model.normalise(torch.tensor([1.0, 2.0, 9.0]))
    save_model(model, run.begin("rm"))
    run.finish("rm", "data", 1.0, {}, {})
    policy = ActorCritic(make_gpt(tokenizer, request.param, tokenizer.vocab_size + 3, 2), "mlp")
    save_model(policy, run.begin("ppo") / "policy")
    run.finish("ppo", "data", 1.0, {}, {})
    return run


@pytest.fixture
def exported(run, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["export", "--run", str(run.folder), "--out", str(tmp_path / "out" / "models")])
    export.main()
    return tmp_path / "out" / "models"


def loaded(class_, folder):
    """Load a model and check that no tensors are missing or unexpected."""
    model, info = class_.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    return model.eval()


def test_exported_language_models_answer_like_ours(run, exported):
    assert {path.name for path in exported.iterdir()} == {"policy", "reference", "reward_model"}
    for name, folder in (("policy", run.stage("ppo") / "policy"), ("reference", run.stage("sft") / "policy")):
        ours = load_pretrained(folder).eval()
        theirs = loaded(transformers.AutoModelForCausalLM, exported / name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(exported / name, padding_side="left")
        batch = tokenizer(TEXTS[:3], return_tensors="pt", padding=True, truncation=True, max_length=16)
        mask = batch["attention_mask"].bool()
        expected, _ = generate(
            ours, batch["input_ids"], mask, max_new_tokens=9, eos_id=tokenizer.eos_token_id,
            pad_id=tokenizer.pad_token_id, temperature=0.0,
        )  # fmt: skip
        found = theirs.generate(**batch, max_new_tokens=9, do_sample=False)[:, mask.shape[1] :]
        assert torch.equal(found, expected[:, : found.shape[1]])
        with torch.no_grad():
            logits = theirs(batch["input_ids"][:1]).logits
            kept = [i for i in range(logits.shape[-1]) if i not in ours.config.suppress_tokens]
            expected = ours(batch["input_ids"][:1])
        assert len(kept) == run.tokenizers()[0].vocab_size
        torch.testing.assert_close(logits[..., kept], expected[..., kept], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_classifier_gives_the_raw_scores_of_padded_texts(run, exported):
    model, tokenizer = load_reward_model(run.stage("rm")).eval(), run.tokenizers()[1]
    theirs = loaded(transformers.AutoModelForSequenceClassification, exported / "reward_model")
    theirs_tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "reward_model")
    rows = reward_tokens(tokenizer, ["The"] * len(TEXTS), TEXTS, 32)
    tokens, mask = pad(rows, tokenizer.pad_id, "right")
    raw = (model(tokens, mask) - model.bias) / model.gain
    batch = theirs_tokenizer(
        ["The" + text + theirs_tokenizer.eos_token for text in TEXTS], return_tensors="pt", padding=True
    )
    assert torch.equal(batch["attention_mask"].bool(), mask)
    found = theirs(**batch).logits.squeeze(1)
    torch.testing.assert_close(found, raw, rtol=1e-4, atol=1e-4)
    assert found.std() > 0.1


def test_exported_models_can_be_loaded_here(run, exported):
    reward, policy = load_reward_model(exported / "reward_model"), load_actor_critic(exported / "policy")
    for ours, theirs in (
        (reward, load_reward_model(run.stage("rm"))),
        (policy, load_actor_critic(run.stage("ppo") / "policy")),
    ):
        expected, found = theirs.state_dict(), ours.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["policy", "reward_model"])
def test_exported_tokenizers_give_the_same_ids(run, exported, name):
    ours = run.tokenizers()[name == "reward_model"]
    theirs = transformers.AutoTokenizer.from_pretrained(exported / name)
    assert theirs.eos_token_id == ours.eos_id
    assert len(theirs) == ours.vocab_size
    assert (theirs.pad_token_id == ours.eos_id) == (name == "policy")

    @given(ANY_TEXT)
    @settings(deadline=None, derandomize=True, max_examples=150)
    def same(text):
        ids = ours.encode(text)
        assert theirs(text)["input_ids"] == ids
        assert theirs.decode(ids) == ours.decode(ids)

    for text in TEXTS:
        assert theirs(text)["input_ids"] == ours.encode(text)
    same()


def test_exported_answers_end_at_the_stop_token(run, exported, tmp_path, monkeypatch):
    (run.folder / "config.yaml").write_text(dump_config(Config(ppo=PPOConfig(stop_token="."))))
    monkeypatch.setattr("sys.argv", ["export", "--run", str(run.folder), "--out", str(tmp_path / "stopped")])
    export.main()
    (dot,), eos_id = run.tokenizers()[0].encode("."), run.tokenizers()[0].eos_id
    for folder, ends in ((exported, [eos_id]), (tmp_path / "stopped", [eos_id, dot])):
        generation = transformers.GenerationConfig.from_pretrained(folder / "policy")
        assert generation.eos_token_id == ends
        assert json.loads((folder / "policy" / "config.json").read_text())["eos_token_id"] == eos_id


@torch.no_grad()
def test_exported_answers_have_the_minimum_length(run, exported, tmp_path, monkeypatch):
    (run.folder / "config.yaml").write_text(dump_config(Config(ppo=PPOConfig(min_new_tokens=6))))
    monkeypatch.setattr("sys.argv", ["export", "--run", str(run.folder), "--out", str(tmp_path / "long")])
    export.main()
    ours, queries = load_actor_critic(run.stage("ppo") / "policy").eval(), torch.arange(3, 60).view(19, 3)
    # An end token that is generated at once, unless it is too early.
    end = ours(queries)[0][:, -1].argmax(-1)[0].item()
    mask = torch.ones_like(queries, dtype=torch.bool)
    for folder, least in ((exported, 0), (tmp_path / "long", 6)):
        theirs = loaded(transformers.AutoModelForCausalLM, folder / "policy")
        options = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 1}
        found = theirs.generate(queries, attention_mask=mask.long(), eos_token_id=end, **options)[:, 3:]
        expected, real = generate(
            ours.gpt, queries, mask, max_new_tokens=9, eos_id=end, pad_id=1, temperature=0.0, min_new_tokens=least
        )
        assert torch.equal(found, expected[:, : found.shape[1]])
        assert real.sum(dim=1).min() >= max(1, least)
        assert (real.sum(dim=1).min() == 1) == (least == 0)


@pytest.mark.parametrize("run", ["gpt2"], indirect=True)
def test_an_unwritable_folder_is_refused_before_a_model_is_loaded(run, tmp_path, monkeypatch, capsys):
    def refused(place):
        monkeypatch.setattr("sys.argv", ["export", "--run", str(run.folder), "--out", str(place)])
        with pytest.raises(SystemExit) as end:
            export.main()
        assert end.value.code == 2
        return capsys.readouterr().err

    def mkdir(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(export, "load_model", None)
    assert "cannot be created (--out): No such file or directory" in refused("/proc/exported")
    monkeypatch.setattr(export.os, "access", lambda path, mode: False)
    assert "out cannot be written to (--out)" in refused(tmp_path / "out")
    monkeypatch.setattr(export.Path, "mkdir", mkdir)
    assert "new cannot be created (--out): Permission denied" in refused(tmp_path / "new")


def test_only_finished_stages_are_exported(run, tmp_path, monkeypatch, capsys):
    (run.stage("ppo")).rename(tmp_path / "ppo")
    (run.stage("rm")).rename(tmp_path / "rm")
    monkeypatch.setattr("sys.argv", ["export", "--run", str(run.folder), "--out", str(tmp_path / "out")])
    (tmp_path / "out").mkdir()
    export.main()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["reference"]
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'reference'}\n"


@pytest.mark.parametrize("run", ["gpt2"], indirect=True)
def test_wrong_input_is_refused_before_anything_is_written(run, make_tokenizer, tmp_path, monkeypatch, capsys):
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    odd = Run(tmp_path / "odd", Config(), "cpu")
    (odd.begin("sft") / "policy").mkdir()
    odd_tokenizer = make_tokenizer({"<|endoftext|>": 257}, [b"abc"])  # neither ab nor bc is a token
    odd.save_tokenizers(odd_tokenizer, odd_tokenizer)
    odd.finish("sft", "data", 1.0, {}, {})
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text(dump_config(Config()))
    for source, out, message in (
        (run.folder, full, "is not empty: it contains mine.txt; choose another --out"),
        (run.folder, full / "mine.txt", "mine.txt is a file, not a directory"),
        (run.folder, full / "mine.txt" / "deeper", "mine.txt is a file, not a directory"),
        (tmp_path / "empty", tmp_path / "out", "is not a run directory"),
        (tmp_path / "begun", tmp_path / "out", "no finished stage"),
        (tmp_path / "odd", tmp_path / "out", "cannot be expressed as merges: no merge results in the token 'abc'"),
    ):
        monkeypatch.setattr("sys.argv", ["export", "--run", str(source), "--out", str(out)])
        with pytest.raises(SystemExit) as end:
            export.main()
        assert end.value.code == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in full.iterdir()] == ["mine.txt"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("run", ["gpt2"], indirect=True)
def test_a_changed_model_is_refused_before_anything_is_written(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.nn.functional.gelu", lambda x, approximate: x.sigmoid() * x)
    monkeypatch.setattr("sys.argv", ["export", "--run", str(run.folder), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        export.main()
    assert end.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith(f"error: {run.folder}/ppo/policy cannot be exported: minippo/model.py has been changed")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("run", ["gpt2"], indirect=True)
def test_a_model_is_exported_whole_or_not_at_all(run, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["export", "--run", str(run.folder), "--out", str(tmp_path / "out")])
    monkeypatch.setattr(export, "save_pretrained", killed)  # used for the reference, after the policy
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        export.main()
    assert list((tmp_path / "out").iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr("sys.argv", ["export", "--run", str(run.folder), "--out", str(tmp_path / "out")])
    export.main()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["policy", "reference", "reward_model"]
    assert not list(tmp_path.rglob(".partial*"))


# ---------------------------------------------------------------------------------------------- tokenizers


@pytest.mark.parametrize("pattern", [CL100K, r"\s|\S+"])
def test_a_custom_pattern_and_gaps_between_ids_are_kept(make_tokenizer, tmp_path, pattern):
    more = [b" t", b"he", b" the", b"12", b"123", b"1234", "é".encode()]
    n = 256 + len(more)
    ours = make_tokenizer({"<|endoftext|>": n + 4, "<|mask|>": n + 1}, more, pattern)
    for name, text in ours.public_files(n + 1).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.eos_token_id, theirs.pad_token_id) == (n + 4, n + 1)
    assert theirs("<|mask|>")["input_ids"] == [n + 1]
    texts = [*TEXTS, "THE FILM'S  the 1234567 good!!\r\n\r\n  films\n"]
    for text in texts:
        assert theirs(text)["input_ids"] == ours.encode(text)
    usual = make_tokenizer({"<|endoftext|>": n}, more)
    assert ours.encode(texts[-1]) != usual.encode(texts[-1])


def test_the_spare_id_is_that_of_a_byte_in_no_text_and_no_longer_token(tokenizer, make_tokenizer):
    assert tokenizer.encoding.decode_single_token_bytes(tokenizer.spare_id) == b"\xff"

    def with_tokens(*tokens):
        return make_tokenizer({"<|endoftext|>": 256 + len(tokens)}, tokens)

    assert with_tokens(b"a\xff", b"\xfe\xfe").spare_id == 0xFD
    with pytest.raises(ValueError, match="no unused id for padding"):
        _ = with_tokens(*(bytes([65, byte]) for byte in range(256))).spare_id
