"""The presets `imdb` and `imdb-rl4lms` from end to end: folders in the public formats stand in for the hub's, tiny and
random."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch

import train_ppo
import train_rm
from minippo import sft
from minippo.tokenizer import Tokenizer, train_bpe
from minippo.tokenizer.vocab_json import END_OF_TEXT
from minippo.tools import export

datasets = pytest.importorskip("datasets")
transformers = pytest.importorskip("transformers")
SIZES = {"query-length": 6, "response-length": 8, "crop-words": 8, "limit": 40}
LANGUAGE_MODEL = {
    "imdb": ["--sft.policy.tokens", 2000, "--sft.policy.batch-tokens", 512],
    "imdb-rl4lms": [],  # the public weights as they are
}
SMALL = [
    "--rm.eval-comparisons", 20, "--rm.eval-every", 5,
    "--rm.normalisation-samples", 8, "--ppo.num-iterations", 2, "--ppo.rollout-batch-size", 8, "--ppo.num-minibatches",
    2, "--ppo.microbatch-size", 4, "--ppo.min-new-tokens", 8, "--eval.every", 2, "--eval.prompts", 4,
    "--eval.final-prompts", 6, "--device", "cpu",
]  # fmt: skip


def review(split: str, label: int, number: int) -> str:
    return (
        f"{split} film {number} was {['bad', 'good', 'long'][label]} and <br /><br />the café number {number} closed."
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """IMDB's three files; a GPT-2 and an OPT as `transformers` writes them, with their tokenizers."""
    folder = tmp_path_factory.mktemp("public")
    texts = []
    for split, labels in (("train", (0, 1)), ("test", (0, 1)), ("unsupervised", (2,))):
        rows = [(review(split, label, number), label) for label in labels for number in range(60)]
        texts += [text for text, _ in rows]
        columns = {"text": [text for text, _ in rows], "label": [-1 if label == 2 else label for _, label in rows]}
        (folder / "imdb").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(columns).to_parquet(folder / "imdb" / f"{split}.parquet")
    bpe = train_bpe(texts, 320)
    ids = list(range(4, 4 + len(bpe.encoding._mergeable_ranks)))
    random.Random(0).shuffle(ids)  # OPT's ids are in no order of the merges, behind four special tokens
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "madeupword0000": 4 + len(ids)}
    opt = Tokenizer(bpe.encoding, special, ids=ids, eos="</s>", pad="<pad>")
    gpt2 = Tokenizer(bpe.encoding, {END_OF_TEXT: len(ids)})
    torch.manual_seed(0)
    size = {"vocab_size": gpt2.vocab_size, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**size)).save_pretrained(folder / "gpt2")
    size = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 64, "num_hidden_layers": 1}
    size |= {"num_attention_heads": 2, "vocab_size": opt.vocab_size + 3, "max_position_embeddings": 64}
    transformers.OPTForCausalLM(transformers.OPTConfig(**size)).save_pretrained(folder / "opt")
    for name, tokenizer in (("gpt2", gpt2), ("opt", opt)):
        for file, text in tokenizer.public_files().items():
            (folder / name / file).write_text(text, encoding="utf-8")
    return folder


def same_weights(kind, folder: Path, other: Path) -> bool:
    """Whether `transformers` reads the same weights from two folders."""
    ours, theirs = (kind.from_pretrained(each).state_dict() for each in (folder, other))
    assert ours.keys() == theirs.keys()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("preset", LANGUAGE_MODEL)
def test_gpt2_learns_from_a_reward_model_that_was_an_opt(folders, tmp_path, monkeypatch, preset):
    run = tmp_path / "run"
    places = {
        "data.imdb-path": folders / "imdb",
        "model.policy.weights": folders / "gpt2",
        "model.policy.tokenizer": folders / "gpt2",
        "model.reward.weights": folders / "opt",
        "model.reward.tokenizer": folders / "opt",
    }
    options = [part for name, value in places.items() for part in (f"--{name}", value)]
    options += [part for name, value in SIZES.items() for part in (f"--data.{name}", value)]
    command = ["command", "--config", preset, "--run-dir", run, *options, *LANGUAGE_MODEL[preset], *SMALL]
    monkeypatch.setattr("sys.argv", [str(part) for part in command])
    for main in (sft.main, train_rm.main, train_ppo.main):
        main()
    summary = json.loads((run / "summary.json").read_text())
    for key in ("sft_policy_loss", "rm_accuracy", "score_before", "score_after", "kl", "win_rate"):
        assert math.isfinite(summary[key]), key
    assert summary["response_length"] == 8  # min_new_tokens forbids an earlier end
    # No step was taken for the reward model's language model: what stage 2 started from is the public OPT.
    assert same_weights(transformers.OPTForCausalLM, folders / "opt", run / "sft" / "reward")
    zero_shot, classifier = preset == "imdb-rl4lms", "rm_label_accuracy" in summary
    assert same_weights(transformers.GPT2LMHeadModel, folders / "gpt2", run / "sft" / "policy") == zero_shot
    assert classifier == zero_shot
    assert all(0 < summary[name] < 1 for name in ("score_before", "score_after")) or not classifier
    answers = [json.loads(line) for line in (run / "ppo" / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(answers) == 6
    assert all("test film" in answer["prompt"] for answer in answers)

    monkeypatch.setattr("sys.argv", ["export", "--run", str(run), "--out", str(tmp_path / "out")])
    export.main()
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "policy").config.model_type == "gpt2"
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "reward_model")
    assert classifier.config.model_type == "opt"
