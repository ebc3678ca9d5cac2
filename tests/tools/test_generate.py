"""`generate` and `score`: decoding token by token, batches of texts, and invalid input."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minippo.memory import park
from minippo.scoring import FunctionScorer
from minippo.tools import evaluate, export, generate, score
from minippo.tools.generate import Stream
from minippo.tools.score import batches
from tests.pipeline.tiny_run import command
from tests.stored import edit_settings


@given(st.text(max_size=30))
def test_stream_gives_the_whole_text_and_never_an_incomplete_character(tokenizer, text):
    stream = Stream(tokenizer)
    parts = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(parts) + stream.rest() == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in part for part in parts)


def test_stream_shows_a_character_once_it_is_complete(tokenizer):
    euro = tokenizer.encode("€")  # three bytes, none of them merged
    assert len(euro) == 3
    stream = Stream(tokenizer)
    assert [stream.push(token) for token in euro] == ["", "", "€"]
    assert stream.rest() == ""


def test_stream_that_ends_within_a_character_shows_the_replacement_character(tokenizer):
    stream = Stream(tokenizer)
    assert [stream.push(token) for token in tokenizer.encode("€")[:2]] == ["", ""]
    assert stream.rest() == "\ufffd"


def test_stream_omits_the_end_of_text_token(tokenizer):
    stream = Stream(tokenizer)
    assert "".join(stream.push(token) for token in [*tokenizer.encode("The end."), tokenizer.eos_id]) == "The end."


@given(st.lists(st.integers(), max_size=20), st.integers(1, 7))
def test_batches_contain_all_texts_in_order(items, size):
    result = list(batches(map(str, items), size))
    assert [x for batch in result for x in batch] == list(map(str, items))
    assert all(len(batch) == size for batch in result[:-1])


def test_batches_do_not_wait_for_the_end_of_the_input():
    def endless():
        while True:
            yield "x"

    assert next(batches(endless(), 3)) == ["x"] * 3


@pytest.mark.parametrize("program", ["print('日本')", "[print('x', flush=True) for _ in range(100_000)]"])
def test_output_may_be_closed_early_and_may_lack_characters(program):
    """Runs in its own process, of whose output only the first line is read."""
    source = f"from minippo.runs import command_frame\nwith command_frame():\n    {program}\n"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    with subprocess.Popen(
        [sys.executable, "-c", source], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        first = process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == (first != b"??\n")


@pytest.fixture
def refused(capsys):
    """Run a command that must end with status 2; returns its one sentence."""

    def run(main, *arguments: object) -> str:
        capsys.readouterr()  # drop the output of training
        with pytest.raises(SystemExit) as end:
            command(main, *arguments)
        out, err = capsys.readouterr()
        assert (end.value.code, out, err.count("\n")) == (2, "", 1)
        return err.strip()

    return run


def test_parked_models_are_on_the_device_only_while_they_answer(tiny_runs, tmp_path, monkeypatch, capsys):
    folder, used = tmp_path / "run", []
    shutil.copytree(tiny_runs.base().folder, folder)
    given = ("--run", folder, "--device", "cpu", "--reference", "--prompt", "A short film.", "--n", 2)

    def parked(model, device):
        model.gpt.final_norm.register_forward_pre_hook(lambda *_: used.append((model, "parked_for" in vars(model))))
        return park(model, device)

    monkeypatch.setattr("minippo.runs.loading.park", parked)
    capsys.readouterr()
    command(generate.main, *given)
    expected = capsys.readouterr().out
    assert not used
    edit_settings(folder, "park_models: false", "park_models: true")
    command(generate.main, *given)
    assert capsys.readouterr().out == expected
    assert len({model for model, _ in used}) == 2
    assert not any(waiting for _, waiting in used)


@pytest.mark.parametrize("greedy", ["--temperature 0", "--top-k 1"])
def test_several_responses_without_randomness_are_refused(refused, tmp_path, greedy):
    said = refused(generate.main, "--run", tmp_path, "--n", 3, *greedy.split())
    assert said == f"error: {greedy} gives the same response every time, so --n must be 1, not 3"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--n", "0"], "n must be at least 1, not 0"),
        (["--max-new-tokens", "0"], "max-new-tokens must be at least 1, not 0"),
        (["--temperature", "-0.5"], "temperature must be at least 0, not -0.5"),
        (
            ["--temperature", "inf"],
            "temperature must be 0 or between 1e-30 and 1e+30 in size, not inf: training computes in float32",
        ),
        (["--top-k", "-1"], "top-k must be at least 0, not -1"),
        (["--top-p", "0"], "top-p must be above 0 and at most 1, not 0"),
        (["--top-p", "1.5"], "top-p must be from 0 to 1, not 1.5"),
        (["--seed", str(2**32)], "seed must be from 0 to 4294967295, not 4294967296"),
        (["--promt", "x"], "unknown option --promt; did you mean --prompt? (--help lists all)"),
    ],
)
def test_invalid_options_are_refused_before_the_run_is_read(refused, tmp_path, arguments, sentence):
    assert refused(generate.main, "--run", tmp_path, *arguments) == f"error: {sentence}"


@pytest.mark.parametrize(
    ("main", "more", "missing"),
    [
        (generate.main, ["--prompt", "A film."], "ppo/policy/config.json"),
        (generate.main, ["--prompt", "A film.", "--reference"], "sft/policy/config.json"),
        (generate.main, ["--prompt", "A film."], "tokenizers/policy.tiktoken"),
        (score.main, ["A film."], "rm/config.json"),
        (score.main, ["A film."], "tokenizers/reward.tiktoken"),
        (evaluate.main, [], "ppo/policy/config.json"),
        (evaluate.main, [], "rm/config.json"),
        (evaluate.main, [], "ppo/answers.jsonl"),
        (evaluate.main, [], "ppo/summary.json"),
        (evaluate.main, [], "rm/summary.json"),
    ],
)
def test_missing_files_of_a_run_are_not_looked_up_on_the_hub(tiny_runs, refused, tmp_path, main, more, missing):
    folder = tmp_path / "run"
    shutil.copytree(tiny_runs.base().folder, folder)
    (folder / missing).unlink()
    said = refused(main, "--run", folder, "--device", "cpu", *more)
    assert said == f"error: {folder / missing} is missing, although manifest.json lists it"


PIPED = b"\xef\xbb\xbfA film.\r\n\r\ncaf\xe9\nBad\0\n" + b" " * 1_000_000 + b"\n Another one.\n\xed\xa0\xbd\nThe last"


@pytest.mark.parametrize("main", [generate.main, score.main])
def test_piped_lines_are_read_like_a_file_and_those_that_cannot_be_read_are_named(tiny_runs, monkeypatch, capsys, main):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(PIPED), encoding="ascii"))
    folder = tiny_runs.base().folder
    capsys.readouterr()
    command(main, "--run", folder, "--device", "cpu")
    out, err = capsys.readouterr()
    texts = ["A film.", " Another one.", "The last"]
    if main is score.main:
        assert [line.partition("\t")[2] for line in out.splitlines()] == texts
    else:
        assert all(f"[policy] {text}" in out for text in texts)
    spaces = "more than 100,000 spaces in a row"
    problems = {3: "unreadable characters", 4: "unreadable characters", 5: spaces, 7: "unreadable characters"}
    assert err.splitlines() == [f"error: line {number} is skipped: {what}" for number, what in problems.items()]


@pytest.mark.parametrize("text", ["half \ud83d", "nul \0", "\n" * 200_000])
def test_texts_and_prompts_that_cannot_be_read_are_refused(tiny_runs, refused, text):
    folder = tiny_runs.base().folder
    for main, more in (
        (generate.main, ["--prompt", text]),
        (score.main, [text]),
        (score.main, ["x", "--prompt", text]),
    ):
        said = refused(main, "--run", folder, "--device", "cpu", *more)
        assert "unreadable characters" in said or "more than 100,000 spaces in a row" in said
        assert len(said) < 300


@pytest.mark.parametrize("stage", ["sft", "rm"])
def test_evaluation_without_a_stage_that_it_needs_is_refused(tiny_runs, refused, tmp_path, stage):
    folder = tmp_path / "run"
    shutil.copytree(tiny_runs.base().folder, folder)
    shutil.rmtree(folder / stage)
    assert f"{folder} has no finished {stage}/" in refused(evaluate.main, "--run", folder, "--device", "cpu")


def test_before_ppo_the_reward_model_is_evaluated_alone(tiny_runs, capsys, tmp_path):
    command(evaluate.main, "--run", tiny_runs.base().folder, "--device", "cpu", "--out", tmp_path / "all.json")
    folder = tmp_path / "run"
    shutil.copytree(tiny_runs.base().folder, folder)
    shutil.rmtree(folder / "ppo")
    shutil.rmtree(folder / "sft")
    capsys.readouterr()
    command(evaluate.main, "--run", folder, "--device", "cpu", "--out", tmp_path / "figures.json")
    assert capsys.readouterr().out.startswith(f"{folder}, reward model: 11 test comparisons, ")
    figures, both = (json.loads((tmp_path / name).read_text()) for name in ("figures.json", "all.json"))
    assert figures == {"run": str(folder), "split": "test", "reward_model": both["reward_model"]}


def test_evaluation_refuses_a_reward_model_of_unknown_scale(tiny_runs, refused, tmp_path):
    """Earlier versions normalised before the training and stored no gain."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_runs.base().folder, folder)
    edit_settings(folder, "normalise_before: false", "normalise_before: true")
    said = refused(evaluate.main, "--run", folder, "--device", "cpu")
    assert said.startswith(f"error: {folder / 'rm'} is from an earlier version and has no rm_training_gain, the scale")


@pytest.mark.parametrize("moved", ["data gone", "other data"])
def test_evaluation_says_what_it_cannot_do_without_the_data_of_the_run(tiny_runs, refused, capsys, tmp_path, moved):
    folder, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(tiny_runs.base().folder, folder)
    edit_settings(folder, f"folder: {tiny_runs.folder / 'reviews'}", f"folder: {data}")
    if moved == "other data":
        shutil.copytree(tiny_runs.folder / "other-reviews", data)
    capsys.readouterr()
    command(evaluate.main, "--run", folder, "--device", "cpu", "--prompts", 99)
    out, err = capsys.readouterr()
    if moved == "other data":
        notes = [f"note: {folder / stage} was trained on other data; rows that are held out" for stage in ("rm", "ppo")]
        assert [line.partition(" now")[0] for line in err.splitlines()] == notes
        return
    assert err.startswith("note: only the stored test prompts are evaluated, without the data: ")
    assert "sampled answers: 6 test prompts" in out
    assert "reward model: " not in out
    assert f"{data} has no" in refused(evaluate.main, "--run", folder, "--device", "cpu", "--split", "validation")
    shutil.rmtree(folder / "ppo")
    assert f"{data} has no" in refused(evaluate.main, "--run", folder, "--device", "cpu")


def test_evaluation_prints_any_text_to_any_terminal(tiny_runs, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(tiny_runs.base().folder, folder)
    terminal = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(terminal, encoding="ascii"))
    command(evaluate.main, "--run", folder, "--device", "cpu")
    assert b"?" in terminal.getvalue()  # responses of so small a model are rarely ASCII


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_a_blank_prompt_is_refused(tiny_runs, refused, blank):
    said = refused(generate.main, "--run", tiny_runs.base().folder, "--device", "cpu", "--prompt", blank)
    assert said == "error: the prompt is empty"


def test_export_of_a_run_whose_weights_cannot_be_loaded_is_refused(tiny_runs, refused, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_runs.base().folder, folder)
    (folder / "ppo" / "policy" / "model.safetensors").write_bytes(b"no weights")
    said = refused(export.main, "--run", folder, "--out", tmp_path / "out")
    assert "model.safetensors" in said


def test_a_score_that_is_not_finite_is_not_printed(tiny_runs, monkeypatch, capsys):
    broken = FunctionScorer("mine:f", lambda prompts, texts: torch.full((len(texts),), torch.nan))
    monkeypatch.setattr(score, "load_run_scorer", lambda run, named: broken)
    with pytest.raises(SystemExit) as end:
        command(score.main, "--run", tiny_runs.base().folder, "--device", "cpu", "A film.")
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert "A film." not in out
    assert "error: the scorer mine:f, response 'A film.' to '': score is nan" in err
