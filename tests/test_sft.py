"""Language-model training: what the rows are, how they are weighed, and that it can learn at all."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import tiktoken
import torch
from safetensors.torch import load_file, save_file

from minippo import language_model, sft
from minippo.config import BackboneConfig, Config, LMTrainConfig, SFTConfig
from minippo.data import Demonstration, TokenRows, policy_rows, reward_rows
from minippo.errors import TrainingError
from minippo.language_model import backward_in_chunks, held_out_loss
from minippo.masking import pad
from minippo.model import GPT, GPTConfig
from minippo.optim import Gradients
from minippo.runs import Checkpoints, Run, read_metrics
from minippo.sft import Backbone, make_backbone, train_language_model
from minippo.splits import SPLITS, Split, split_texts
from minippo.tokenizer import Tokenizer, load_tokenizer, train_bpe
from minippo.tokenizer.bpe import GPT2_SPLIT
from minippo.weights import check_public_tokenizer, file_format, save_pretrained, set_file_format
from tests.in_memory import texts_of


def by_split(rows: TokenRows) -> dict[Split, TokenRows]:
    """The first row for testing, the second for validation, the others for training."""
    return {split: split_texts(rows, split) for split in SPLITS}


DEMONSTRATIONS = texts_of(
    [Demonstration(f"Film {i}:", f" The café scene {i} is lovely.") for i in range(8)], "eight of test_sft"
)


@pytest.fixture
def trained(tokenizer, tmp_path):
    """Train on these rows with these settings of the policy; returns the loss on the held-out ones."""

    def train(gpt: GPT, rows: TokenRows, **settings) -> float:
        run = Run(tmp_path, Config(sft=SFTConfig(policy=LMTrainConfig(**settings))), "cpu")
        checkpoints = Checkpoints(tmp_path / "checkpoints", "data")
        return train_language_model(run, "policy", Backbone(gpt, tokenizer, by_split(rows)), checkpoints)

    return train


@pytest.fixture
def gpt(tokenizer):
    torch.manual_seed(0)
    return GPT(GPTConfig(tokenizer.vocab_size, 48, layers=1, heads=2, channels=32))


def test_policy_rows_are_prompt_and_completion_encoded_apart_then_the_end(tokenizer):
    """Apart, as in a rollout: no token may span the border that the prompt is cut at."""
    for demonstration, row in zip(DEMONSTRATIONS, policy_rows(DEMONSTRATIONS, tokenizer), strict=True):
        prompt, completion = tokenizer.encode(demonstration.prompt), tokenizer.encode(demonstration.completion)
        assert row == [*prompt, *completion, tokenizer.eos_id]
    rows = policy_rows(DEMONSTRATIONS, tokenizer)
    assert rows.prompt_lengths.tolist() == [len(tokenizer.encode(d.prompt)) for d in DEMONSTRATIONS]
    (row,) = policy_rows(texts_of([Demonstration("<|endoftext|>", "")], "spelled"), tokenizer)
    assert row.count(tokenizer.eos_id) == 1  # text that spells the token stays text


def test_reward_rows_are_the_joined_text_then_the_end(tokenizer):
    for demonstration, row in zip(DEMONSTRATIONS, reward_rows(DEMONSTRATIONS, tokenizer), strict=True):
        assert row == [*tokenizer.encode(demonstration.prompt + demonstration.completion), tokenizer.eos_id]
    assert not reward_rows(DEMONSTRATIONS, tokenizer).prompt_lengths.any()


@pytest.mark.parametrize("prompt_length", [0, 1, 2])
@pytest.mark.parametrize("logit_tokens", [1, 7, 1000])
def test_held_out_loss_weighs_every_predicted_token_alike(
    gpt, tokenizer, token_rows, monkeypatch, logit_tokens, prompt_length
):
    rows = policy_rows(DEMONSTRATIONS, tokenizer)
    pieces = [row[: 3 + 2 * place] for place, row in enumerate(rows)]
    prompt_lengths = np.array([prompt_length * (place % 3) for place in range(len(pieces))]).clip(0, 2)
    total = count = 0
    with torch.no_grad():
        for piece, prompt_length in zip(pieces, prompt_lengths, strict=True):
            logprobs = torch.log_softmax(gpt(torch.tensor([piece]))[0].double(), dim=-1)
            predicted = range(max(1, prompt_length), len(piece))  # the first token has no predecessor
            total -= sum(logprobs[t - 1, piece[t]].item() for t in predicted)
            count += len(predicted)
    gpt.set_dropout(0.5)
    gpt.train()
    sizes, logits = [], GPT.logits
    monkeypatch.setattr(GPT, "logits", lambda self, hidden: sizes.append(len(hidden)) or logits(self, hidden))
    monkeypatch.setattr(language_model, "LOGIT_TOKENS", logit_tokens)
    for batch_tokens in (1, 50, 10_000):
        loss = held_out_loss(gpt, token_rows(pieces), prompt_lengths, tokenizer.pad_id, batch_tokens)
        assert loss == pytest.approx(total / count, abs=1e-5)
        assert sum(sizes) == count
        assert max(sizes) <= logit_tokens
        sizes.clear()


def test_language_model_overfits_one_batch(gpt, tokenizer, trained, tmp_path):
    rows = policy_rows(DEMONSTRATIONS, tokenizer)
    trained(gpt, rows, tokens=200 * sum(map(len, rows[2:])), batch_tokens=10_000, lr=1e-2)
    lines = read_metrics(tmp_path, "sft-policy")
    assert lines[0]["loss/lm"] > 1.5
    assert lines[-1]["loss/lm"] < 0.06  # which film it is, the prompt tells


@pytest.mark.parametrize("chunk_tokens", [1, 7, 1000])
def test_backward_in_chunks_gives_the_loss_and_gradients_of_the_whole_batch(gpt, tokenizer, chunk_tokens):
    rows = [row[: 4 + 2 * place] for place, row in enumerate(policy_rows(DEMONSTRATIONS, tokenizer))]
    tokens, mask = pad(rows, tokenizer.pad_id, "right")
    exact = copy.deepcopy(gpt).double()
    logprobs = torch.log_softmax(exact(tokens)[:, :-1], dim=-1)
    losses = -logprobs.gather(-1, tokens[:, 1:, None]).squeeze(-1)[mask[:, 1:]]
    losses.mean().backward()
    loss = backward_in_chunks(gpt, tokens, mask, chunk_tokens)
    assert loss.item() == pytest.approx(losses.mean().item(), abs=1e-6)
    for ours, theirs in zip(gpt.parameters(), exact.parameters(), strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-7)


def test_training_goes_through_so_many_tokens_and_no_more(gpt, tokenizer, trained, tmp_path, monkeypatch):
    rows = policy_rows(texts_of(list(DEMONSTRATIONS) * 10, "eighty of test_sft"), tokenizer)
    num_tokens = sum(map(len, rows[2:]))
    seen, hidden = [], GPT.hidden

    def counted(self, tokens, *rest):
        if self.training:
            seen.append(tokens.shape)
        return hidden(self, tokens, *rest)

    monkeypatch.setattr(GPT, "hidden", counted)
    trained(gpt, rows, tokens=round(2.5 * num_tokens), batch_tokens=300)
    assert all(B * T <= 300 for B, T in seen)
    assert sum(B * T for B, T in seen) == pytest.approx(2.5 * num_tokens, rel=0.1)
    assert read_metrics(tmp_path, "sft-policy")[-1]["step"] == len(seen)


def test_gradient_of_the_embedding_table_moves_once_a_step(gpt, tokenizer, trained, tmp_path, monkeypatch):
    events, backward = [], sft.backward_in_chunks

    @contextmanager
    def together(self: Gradients, parameters: list[torch.Tensor]):
        assert [parameter is gpt.token_embedding.weight for parameter in parameters] == [True]
        events.append("begin")
        yield
        events.append("end")

    monkeypatch.setattr(Gradients, "together", together)
    monkeypatch.setattr(sft, "backward_in_chunks", lambda *given: events.append("backward") or backward(*given))
    trained(gpt, policy_rows(DEMONSTRATIONS, tokenizer), tokens=300)
    steps = read_metrics(tmp_path, "sft-policy")[-1]["step"]
    assert steps > 1
    assert events == ["begin", "backward", "end"] * steps


def test_held_out_loss_is_measured_without_gradients(gpt, tokenizer, trained, monkeypatch):
    measured = []

    def checked(model: GPT, *rest) -> float:
        measured.append(all(parameter.grad is None for parameter in model.parameters()))
        return 0.0

    monkeypatch.setattr(sft, "held_out_loss", checked)
    trained(gpt, policy_rows(DEMONSTRATIONS, tokenizer), tokens=300)
    assert measured == [True, True]  # on the validation and on the test rows


def test_no_tokens_leave_the_weights_alone(gpt, tokenizer, trained):
    before = {name: parameter.clone() for name, parameter in gpt.named_parameters()}
    rows = policy_rows(DEMONSTRATIONS, tokenizer)
    loss = trained(gpt, rows, tokens=0)
    assert all(torch.equal(parameter, before[name]) for name, parameter in gpt.named_parameters())
    assert loss == pytest.approx(held_out_loss(gpt, rows[:1], rows[:1].prompt_lengths, tokenizer.pad_id, 999))


def test_learning_rate_rises_over_the_warm_up_and_falls_to_nothing(gpt, tokenizer, trained, tmp_path):
    rows = policy_rows(DEMONSTRATIONS, tokenizer)
    trained(gpt, rows, tokens=100 * sum(map(len, rows[2:])), batch_tokens=10_000, lr=1e-2, warmup=0.4)
    lr = {line["step"]: line["lr"] for line in read_metrics(tmp_path, "sft-policy") if "lr" in line}
    assert lr[10] == pytest.approx(1e-2 * 10 / 40)
    assert lr[40] == pytest.approx(1e-2)
    assert lr[70] == pytest.approx(1e-2 * 31 / 60)
    assert lr[100] == pytest.approx(1e-2 / 60)


def test_backbone_from_scratch_has_the_configured_sizes(tokenizer):
    gpt = make_backbone(BackboneConfig("gpt2", layers=3, heads=2, channels=8, context=20), tokenizer)
    assert (gpt.config.layers, gpt.config.heads, gpt.config.channels, gpt.config.context) == (3, 2, 8, 20)
    assert gpt.config.vocab_size == tokenizer.vocab_size


def test_backbone_from_weights_is_those_weights_and_must_cover_the_tokenizer(gpt, tokenizer, tmp_path):
    save_pretrained(gpt, tmp_path)
    loaded = make_backbone(BackboneConfig("gpt2", weights=str(tmp_path)), tokenizer)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loaded.parameters(), gpt.parameters(), strict=True))
    public = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(public | {"vocab_size": 290}))
    stored = load_file(tmp_path / "model.safetensors")
    stored["transformer.wte.weight"] = stored["transformer.wte.weight"][:290].clone()
    save_file(stored, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"290 embeddings, but the tokenizer gpt2 has {tokenizer.vocab_size} ids"):
        make_backbone(replace(BackboneConfig("gpt2"), weights=str(tmp_path)), tokenizer)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_backbone_from_weights_of_any_dtype_has_the_configured_dtype(gpt, tokenizer, tmp_path, stored, dtype):
    weights = copy.deepcopy(gpt).to(stored)
    save_pretrained(weights, tmp_path)
    expected = getattr(torch, dtype)
    loaded = make_backbone(BackboneConfig("gpt2", weights=str(tmp_path), dtype=dtype), tokenizer)
    for ours, theirs in zip(loaded.parameters(), weights.parameters(), strict=True):
        assert ours.dtype == expected
        assert torch.equal(ours, theirs.to(expected))  # the nearest number, or the same


def test_backbone_from_scratch_is_rounded_to_the_configured_dtype(tokenizer):
    torch.manual_seed(0)
    rounded = make_backbone(BackboneConfig("gpt2", layers=1, heads=2, channels=8, dtype="bfloat16"), tokenizer)
    torch.manual_seed(0)
    exact = make_backbone(BackboneConfig("gpt2", layers=1, heads=2, channels=8), tokenizer)
    for ours, theirs in zip(rounded.parameters(), exact.parameters(), strict=True):
        assert torch.equal(ours, theirs.bfloat16())


def test_backbone_never_samples_what_its_tokenizer_never_says_and_knows_its_end(tokenizer, make_tokenizer, tmp_path):
    """Rows beyond the tokenizer's ids, and ids within that no text has; from scratch and from weights."""
    gaps = make_tokenizer({"<|endoftext|>": 258, "<|mask|>": 257, "<|prompt|>": 260})  # 256, 259 stand for nothing
    stored = GPT(GPTConfig(264, 48, layers=1, heads=2, channels=8))
    set_file_format(stored, eos_id=258)
    save_pretrained(stored, tmp_path)
    for config, textless in (
        (BackboneConfig("gaps", channels=8), {256, 257, 259, 260}),
        (BackboneConfig("gaps", weights=str(tmp_path)), {256, 257, 259, 260, 261, 262, 263}),
    ):
        gpt = make_backbone(config, gaps)
        assert set(gpt.config.suppress_tokens) == textless
        assert file_format(gpt).eos_id == 258
    assert make_backbone(BackboneConfig("gpt2"), tokenizer).config.suppress_tokens == ()


def test_context_is_that_of_the_weights_and_too_small_a_one_is_refused_before_all_else(tmp_path, monkeypatch, capsys):
    save_pretrained(GPT(GPTConfig(1280, 87, layers=1, heads=2, channels=8)), tmp_path / "weights")
    run, weights = tmp_path / "run", str(tmp_path / "weights")
    arguments = ["sft", "--run-dir", str(run), "--model.policy.weights", weights, "--model.policy.context", "5"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as end:
        sft.main()
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert "prompts of 24 tokens and responses of 64 do not fit the policy's context of 87" in err
    assert f"model.policy.weights {weights}" in err
    assert not run.exists()
    save_pretrained(GPT(GPTConfig(1280, 88, layers=1, heads=2, channels=8)), tmp_path / "weights")
    policy = replace(Config().model.policy, weights=weights, context=5)
    sft.check_weights(replace(Config(), model=replace(Config().model, policy=policy)))


@pytest.mark.parametrize("model", ["policy", "reward"])
def test_a_new_tokenizer_for_public_weights_is_refused_before_all_else(tmp_path, monkeypatch, capsys, model):
    run = tmp_path / "run"
    arguments = [f"--model.{model}.weights", "gpt2", f"--model.{model}.tokenizer", "train:300"]
    monkeypatch.setattr("sys.argv", ["sft", "--run-dir", str(run), *arguments])
    with pytest.raises(SystemExit) as end:
        sft.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        f"error: model.{model}.weights gpt2 needs the tokenizer that it was trained with, not a new one: "
        f"model.{model}.tokenizer is train:300\n"
    )
    assert not run.exists()


@pytest.mark.parametrize("model", ["policy", "reward"])
def test_weights_that_are_not_there_are_refused_before_anything_is_written(tmp_path, monkeypatch, capsys, model):
    monkeypatch.setattr(
        "sys.argv", ["sft", "--run-dir", str(tmp_path / "run"), f"--model.{model}.weights", str(tmp_path / "none")]
    )
    with pytest.raises(SystemExit) as end:
        sft.main()
    assert end.value.code == 2
    assert "none is neither a folder nor a model on the hub" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_step(gpt, tokenizer, tmp_path):
    rows = policy_rows(DEMONSTRATIONS, tokenizer)
    with torch.no_grad():
        gpt.final_norm.weight[0] = math.nan
    config = LMTrainConfig(tokens=10 * sum(map(len, rows[2:])), batch_tokens=10_000)
    run = Run(tmp_path, Config(sft=SFTConfig(policy=config)), "cpu")
    with pytest.raises(TrainingError, match="loss/lm is nan"):
        train_language_model(run, "policy", Backbone(gpt, tokenizer, by_split(rows)), Checkpoints(tmp_path / "steps"))
    assert run.position == "sft-policy, step 1"  # which the message of the stage begins with
    assert not (tmp_path / "steps").exists()


@pytest.mark.parametrize("killed_at", [3, 8, 15])
def test_killed_and_resumed_training_ends_as_an_uninterrupted_one(
    gpt, tokenizer, trained, tmp_path, monkeypatch, capsys, killed_at
):
    """With dropout, in the middle of an epoch of three batches, whatever the global generator's state is."""
    rows = policy_rows(texts_of(list(DEMONSTRATIONS) * 3, "twenty-four of test_sft"), tokenizer)
    num_tokens, original = sum(map(len, rows[2:])), sft.backward_in_chunks
    settings = {"tokens": 6 * num_tokens, "batch_tokens": 0.4 * num_tokens, "lr": 0.01, "schedule": "cosine"}
    settings |= {"save_every": 4, "weight_decay": 0.1, "warmup": 0.2}
    gpt.set_dropout(0.2)
    whole, cut, resumed = (copy.deepcopy(gpt) for _ in range(3))
    expected = trained(whole, rows, **settings)
    lines = (tmp_path / "metrics.jsonl").read_text()
    assert len(read_metrics(tmp_path, "sft-policy")) > 1
    for place in tmp_path.iterdir():
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    calls = []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(sft, "backward_in_chunks", dies)
        with pytest.raises(KeyboardInterrupt):
            trained(cut, rows, **settings)
    torch.manual_seed(99)
    capsys.readouterr()
    assert trained(resumed, rows, **settings) == expected
    last = (killed_at - 1) // 4 * 4
    assert (f"resuming after step {last} of" in capsys.readouterr().out) == (last > 0)
    assert (tmp_path / "metrics.jsonl").read_text() == lines
    for (name, ours), theirs in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_each_backbone_is_trained_on_rows_as_its_model_will_read_them(tmp_path, monkeypatch):
    """The policy reads a prompt and then its own tokens, so they are encoded apart; the reward model reads one text."""
    demonstrations = tmp_path / "demonstrations.jsonl"
    rows = [{"prompt": f"Film {i} was love", "completion": f"ly, said critic {i}."} for i in range(30)]
    demonstrations.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [row["prompt"] + row["completion"] for row in rows]
    train_bpe(texts, 300).save(tmp_path / "small.tiktoken")
    tokenizer, seen, hidden = load_tokenizer(tmp_path / "small.tiktoken"), [], GPT.hidden

    def recorded(gpt, tokens, *rest):
        if torch.is_grad_enabled():
            seen.append((gpt.config.channels, tokens.tolist()))
        return hidden(gpt, tokens, *rest)

    monkeypatch.setattr(GPT, "hidden", recorded)
    options = {
        "data.source": "files",
        "data.demonstrations": demonstrations,
        "device": "cpu",
        "run-dir": tmp_path / "run",
    }
    for name, channels in (("policy", 8), ("reward", 16)):
        options |= {f"model.{name}.tokenizer": tmp_path / "small.tiktoken", f"model.{name}.channels": channels}
        options |= {f"model.{name}.layers": 1, f"sft.{name}.tokens": 500}
    monkeypatch.setattr(
        "sys.argv", ["sft", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]
    )
    sft.main()
    apart = {(*tokenizer.encode(row["prompt"]), *tokenizer.encode(row["completion"])) for row in rows}
    together = {tuple(tokenizer.encode(text)) for text in texts}
    assert not apart & together
    for channels, expected in ((8, apart), (16, together)):
        trained = {tuple(row[: row.index(tokenizer.eos_id)]) for c, batch in seen if c == channels for row in batch}
        assert len(trained) > 20
        assert trained <= expected


def test_a_tokenizer_of_other_weights_is_refused_although_it_has_as_many_ids(make_tokenizer, tmp_path):
    """By the id of end-of-text in config.json, or by the tokenizer whose files are next to the weights."""
    own, moved = make_tokenizer({"<|endoftext|>": 256}), make_tokenizer({"<|endoftext|>": 257, "<|pad|>": 256})
    config = BackboneConfig("given", weights=str(tmp_path))
    gpt = GPT(GPTConfig(258, 48, layers=1, heads=2, channels=8))
    set_file_format(gpt, eos_id=256)
    save_pretrained(gpt, tmp_path)
    make_backbone(config, own)
    sentence = "end-of-text has the id 256 in its config.json, but 257 in the tokenizer given"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_public_tokenizer(config.weights, moved, config.tokenizer)
    for name, text in own.public_files().items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    make_backbone(config, own)
    ranks, special = {bytes([byte]): 255 - byte for byte in range(256)}, {"<|endoftext|>": 256}
    encoding = tiktoken.Encoding("other", pat_str=GPT2_SPLIT, mergeable_ranks=ranks, special_tokens={})
    other = Tokenizer(encoding, special)
    with pytest.raises(ValueError, match="its folder has another one than given"):
        make_backbone(config, other)
