"""Every option of the commands has an effect, and so have the stages' options that are not fields of the
configuration. Those of `frontier` and `trace` have tests in tests/tools.

The options are those of the dataclasses: a new one without a test in `TESTS` fails.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minippo import sft
from minippo.config import Config
from minippo.data import load_corpus, prompt_rows
from minippo.runs import Options, read_answers
from minippo.splits import HELD_OUT
from minippo.storage import seal
from minippo.tools import compare, curves, evaluate, export, generate, score
from tests.pipeline.recording import Call, recorded
from tests.pipeline.test_every_field import differences
from tests.pipeline.tiny_run import STAGES, TinyRun, command, contents, evaluation, outcome, tokenizers_of

PROMPT, TEXT = "7: a short film on a cook.", " The plot is superb."
TESTS: dict[tuple[type, str], list[Callable[..., Any]]] = {}
"""Which tests show what an option does."""


def shows(options: type, *names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a test as one of these options."""

    def mark(test: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            TESTS.setdefault((options, name), []).append(test)
        return test

    return mark


@pytest.fixture(scope="module")
def run(tiny_runs) -> TinyRun:
    return tiny_runs.base()


@pytest.fixture(scope="module")
def other(tiny_runs) -> TinyRun:
    """A run that has nothing in common with it but the tokenizers."""
    return tiny_runs.run("reviews", {"seed": 2, "ppo.temperature": 0.7}, list(STAGES))


@pytest.fixture
def output(capsys) -> Callable[..., str]:
    """What a command prints."""

    def printed(main: Any, *arguments: object) -> str:
        capsys.readouterr()
        command(main, *arguments)
        return capsys.readouterr().out

    return printed


@pytest.fixture
def answers(run, output) -> Callable[..., tuple[str, list[Call]]]:
    """What `generate` prints, and its calls of the sampler."""

    def generated(*arguments: object, folder: Path | None = None, prompts: tuple = (PROMPT,)) -> tuple[str, list[Call]]:
        given = ["--run", folder or run.folder, "--prompt", *prompts, "--device", "cpu", *arguments]
        with recorded() as recording:
            return output(generate.main, *given), recording.of("generate")

    return generated


# ---------------------------------------------------------------------------------------------- generate


@shows(generate.GenerateOptions, "run")
def test_generate_answers_with_the_policy_and_the_settings_of_the_run(run, other, answers):
    said = []
    for each in (run, other):
        text, (call,) = answers(folder=each.folder)
        said.append(text)
        assert torch.equal(call.model.token_embedding.weight, embedding(each.folder / "ppo" / "policy"))
        assert call.temperature == each.config.ppo.temperature
        assert call.max_new_tokens == each.config.data.response_length
        assert call.min_new_tokens == each.config.ppo.min_new_tokens
        assert list(call.stop_ids) == tokenizers_of(each).policy.encode(each.config.ppo.stop_token)
        assert (call.top_k, call.top_p) == (0, 1.0)
    assert said[0] != said[1]


def embedding(folder: Path) -> torch.Tensor:
    weights = load_file(folder / "model.safetensors")
    (found,) = (tensor for name, tensor in weights.items() if name.endswith("wte.weight"))
    return found


@shows(generate.GenerateOptions, "prompt")
def test_generate_answers_these_prompts_in_this_order(run, answers):
    tokenizer = tokenizers_of(run).policy
    first, second = PROMPT, "8: an old film on a king."
    text, calls = answers(prompts=(first, second))
    assert [tokenizer.decode(call.queries[0].tolist()) for call in calls] == [first, second]
    lines = text.splitlines()
    assert [line[: len(f"[policy] {p}")] for line, p in zip(lines, (first, second), strict=True)] == [
        f"[policy] {first}",
        f"[policy] {second}",
    ]


@shows(generate.GenerateOptions, "reference")
def test_generate_shows_the_reference_too(run, answers):
    alone, _ = answers()
    both, (_, call) = answers("--reference")
    assert both.startswith(alone)
    assert both.removeprefix(alone).startswith(f"[reference] {PROMPT}")
    assert torch.equal(call.model.token_embedding.weight, embedding(run.folder / "sft" / "policy"))


@shows(generate.GenerateOptions, "n")
def test_generate_gives_n_different_answers(answers):
    one, _ = answers()
    three, calls = answers("--n", 3)
    lines = three.splitlines()
    assert len(calls) == len(lines) == 3
    assert lines[0] == one.strip().replace("[policy]", "[policy 1]")
    assert len({line.partition("]")[2] for line in lines}) == 3


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("--max-new-tokens", 4, "max_new_tokens"),
        ("--temperature", 3.0, "temperature"),
        ("--top-k", 2, "top_k"),
        ("--top-p", 0.3, "top_p"),
    ],
)
@shows(generate.GenerateOptions, "max_new_tokens", "temperature", "top_k", "top_p")
def test_generate_gives_the_sampler_its_options(answers, option, value, name):
    before, (usual,) = answers("--n", 1)
    text, (call,) = answers(option, value)
    assert text != before
    settings = ("max_new_tokens", "temperature", "top_k", "top_p", "min_new_tokens", "eos_id", "stop_ids", "pad_id")
    assert {key: getattr(call, key) for key in settings} == {key: getattr(usual, key) for key in settings} | {
        name: value
    }
    assert torch.equal(call.uniforms, usual.uniforms[:, : call.max_new_tokens])


@shows(generate.GenerateOptions, "max_new_tokens")
def test_generate_asks_for_no_longer_answers_than_may_be_given(answers):
    _, (call,) = answers("--max-new-tokens", 1)
    assert call.min_new_tokens == 1  # the run's ppo.min_new_tokens is 2


@shows(generate.GenerateOptions, "seed")
def test_generate_draws_by_its_seed(answers):
    assert answers("--seed", 5)[0] == answers("--seed", 5)[0] != answers("--seed", 6)[0]
    assert answers("--seed", 1)[0] == answers()[0]
    greedy = ("--temperature", 0, "--seed")
    assert answers(*greedy, 5)[0] == answers(*greedy, 6)[0]


# ---------------------------------------------------------------------------------------------- score


@pytest.fixture
def scored(run, output) -> Callable[..., tuple[str, list[Call]]]:
    """What `score` prints, and the passes of the reward model."""

    def printed(*arguments: object, folder: Path | None = None) -> tuple[str, list[Call]]:
        with recorded() as recording:
            return output(score.main, "--run", folder or run.folder, "--device", "cpu", *arguments), recording.of(
                "score"
            )

    return printed


@shows(score.ScoreOptions, "run")
def test_score_asks_the_reward_model_of_the_run(run, other, scored):
    for each in (run, other):
        text, (call,) = scored(TEXT, folder=each.folder)
        heads = load_file(each.folder / "rm" / "heads.safetensors")
        hidden_score = float(call.result)
        assert text == f"{hidden_score:+.3f}\t{TEXT}\n"
        raw = raw_score(each, TEXT)
        assert hidden_score == pytest.approx(float(heads["gain"]) * raw + float(heads["bias"]), abs=1e-4)


def raw_score(run: TinyRun, text: str) -> float:
    """The reward model's, before it was scaled, of a text alone."""
    from minippo.weights import load_reward_model

    model, tokenizer = load_reward_model(run.folder / "rm").eval(), tokenizers_of(run).reward
    ids = torch.tensor([[*tokenizer.encode(text), tokenizer.eos_id]])
    with torch.no_grad():
        return float(model.score_head(model.gpt.hidden(ids)[:, -1]))


@shows(score.ScoreOptions, "texts")
def test_score_takes_texts_or_lines(scored, monkeypatch):
    texts = [TEXT, " The music is shrill.", TEXT + TEXT]
    given, _ = scored(*texts)
    assert [line.partition("\t")[2] for line in given.splitlines()] == texts
    assert len({line.partition("\t")[0] for line in given.splitlines()}) == 3
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(texts)))
    assert scored()[0] == given


@shows(score.ScoreOptions, "prompt")
def test_score_reads_the_prompt_before_the_text(run, scored):
    tokenizer = tokenizers_of(run).reward
    text, (call,) = scored("--prompt", PROMPT, TEXT)
    *ids, end = call.tokens[0].tolist()
    assert (tokenizer.decode(ids), end) == (PROMPT + TEXT, tokenizer.eos_id)
    alone, _ = scored(TEXT)
    assert text.partition("\t")[2] == alone.partition("\t")[2]
    assert text.partition("\t")[0] != alone.partition("\t")[0]


@shows(score.ScoreOptions, "batch_size")
def test_score_gives_the_same_in_batches_of_any_size(scored):
    texts = [TEXT, " The music is shrill.", TEXT + TEXT, " The hero is dull."]
    outputs = set()
    for size in (1, 3, 64):
        text, calls = scored("--batch-size", size, *texts)
        outputs.add(text)
        assert [len(call.tokens) for call in calls] == [min(size, 4 - n) for n in range(0, 4, size)]
    assert len(outputs) == 1


# ---------------------------------------------------------------------------------------------- evaluate and export


@pytest.mark.parametrize(
    ("model", "sides"), [("ppo/policy", {"after"}), ("sft/policy", {"before"}), ("rm", {"before", "after"})]
)
@shows(evaluate.EvaluateOptions, "run_dir")
def test_evaluate_answers_anew_with_the_models_that_are_there(run, tmp_path, model, sides):
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    stored, again = read_answers(load(run.folder)), evaluation(folder)
    assert ([row["before"] for row in stored], [row["after"] for row in stored]) == (again.before, again.after)
    assert again.summary == load(run.folder).summary()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files  # it only prints
    path = folder / model / "model.safetensors"
    weights = {name: tensor.flip(0) if "ln_f" in name else tensor for name, tensor in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    seal(folder / model.split("/")[0])
    found = evaluation(folder)
    values = ("response", "score") if model != "rm" else ("score",)
    for side in ("before", "after"):
        for value in values:
            same = [row[side][value] for row in stored] == [row[value] for row in vars(found)[side]]
            assert same == (side not in sides), (side, value)
        mean = sum(row["score"] for row in vars(found)[side]) / len(stored)
        assert found.summary[side]["score"] == pytest.approx(mean)


@shows(evaluate.EvaluateOptions, "split", "prompts", "samples", "out")
def test_evaluate_asks_this_many_prompts_of_this_split_and_shows_and_writes_what_it_is_told(run, output, tmp_path):
    corpus, tokenizer = load_corpus(run.config), tokenizers_of(run).policy
    prompts = {split: prompt_rows(corpus.prompts, tokenizer, run.config.data)[0][split] for split in HELD_OUT}
    assert [len(rows) for rows in prompts.values()] == [11, 14]
    for split, count, asked in (("validation", 0, 6), ("validation", 9, 9), ("test", 0, 6), ("test", 4, 4),
                                ("test", 14, 14), ("test", 99, 14)):  # fmt: skip
        found = evaluation(run.folder, "--split", split, "--prompts", str(count))
        texts = [tokenizer.decode(ids) for ids in prompts[split][:asked]]
        assert [row["prompt"] for row in found.before] == [row["prompt"] for row in found.after] == texts
    given = ("--run", run.folder, "--device", "cpu", "--prompts", 4)
    for samples in (0, 2, 9):
        out = tmp_path / f"{samples}.json"
        said = output(evaluate.main, *given, "--samples", samples, "--out", out)
        assert len([line for line in said.splitlines() if line.startswith("> ")]) == min(samples, 4)
        assert json.loads(out.read_text())["sampled"]["prompts"] == 4
    assert "4 validation prompts" in output(evaluate.main, *given, "--split", "validation")


@shows(score.ScoreOptions, "scorer")
@shows(evaluate.EvaluateOptions, "scorer")
def test_a_function_that_a_run_was_trained_on_is_called_only_if_it_is_named_again(tiny_runs, output, capsys):
    name = "tests.pipeline.tiny_run:score_by_length"
    run = tiny_runs.run("reviews", {"ppo.scorer": name}, ["ppo"])
    given = ("--run", run.folder, "--device", "cpu")
    assert output(score.main, *given, "--scorer", name, TEXT) == f"{len(TEXT) / 10:+.3f}\t{TEXT}\n"
    assert evaluation(run.folder, "--scorer", name).after == [row["after"] for row in read_answers(load(run.folder))]
    for main, more in ((score.main, [TEXT]), (evaluate.main, [])):
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            command(main, *given, *more)
        assert end.value.code == 2
        assert f"name it again: --scorer {name}" in capsys.readouterr().err


def load(folder: Path) -> Any:
    from minippo.runs import load_run

    return load_run(folder, "cpu")


@shows(export.ExportOptions, "run", "out")
def test_export_takes_the_models_of_this_run_to_this_folder(run, other, output, tmp_path):
    for each, name in ((run, "one"), (other, "two")):
        said = output(export.main, "--run", each.folder, "--out", tmp_path / name)
        folders = {"policy": "ppo/policy", "reference": "sft/policy", "reward_model": "rm"}
        assert said.split() == [str(tmp_path / name / part) for part in folders]
        for part, place in folders.items():
            ours, theirs = (load_file(f / "model.safetensors") for f in (tmp_path / name / part, each.folder / place))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert differences(contents(tmp_path / "one"), contents(tmp_path / "two"))


# ---------------------------------------------------------------------------------------------- compare, curves


@shows(compare.CompareOptions, "runs", "mean", "out")
def test_compare_prints_these_runs_and_plots_them_into_this_file(run, other, output, tmp_path, monkeypatch):
    plotted = []
    monkeypatch.setattr(compare, "plot_runs", lambda *arguments: plotted.append(arguments))
    rows = output(compare.main, run.folder, other.folder).splitlines()
    folders = [str(run.folder), str(other.folder)]
    assert [cell.strip() for cell in rows[0].split("|")] == ["", "", *folders, " - ".join(reversed(folders)), ""]
    assert [cell.strip() for cell in rows[3].split("|")] == ["", "seed", "1", "2", "", ""]
    assert not plotted
    means = output(compare.main, *folders, "--mean", "--out", tmp_path / "a.png").splitlines()
    assert [cell.strip() for cell in means[0].split("|")][-5:-1] == [
        f"{kind} of 1 like {folder}" for folder in folders for kind in ("mean", "range")
    ]
    assert plotted == [((run.folder, other.folder), tmp_path / "a.png")]


@shows(curves.CurvesOptions, "runs", "out")
def test_curves_plots_these_runs_into_this_file(run, other, output, tmp_path, monkeypatch):
    plotted = []
    monkeypatch.setattr(curves, "plot", lambda rows, path: plotted.append((list(rows), path)))
    assert output(curves.main, run.folder, other.folder, "--out", tmp_path / "a.png") == f"{tmp_path / 'a.png'}\n"
    assert plotted == [([str(run.folder), str(other.folder)], tmp_path / "a.png")]


# ---------------------------------------------------------------------------------------------- the stages


@shows(Options, "config", "run_dir")
def test_stage_starts_from_the_settings_of_the_file_and_writes_to_its_folder(run, tmp_path, tiny_runs):
    text = (tiny_runs.folder / "reviews.yaml").read_text()
    (tmp_path / "other.yaml").write_text(text + "seed: 7\n")
    command(sft.main, "--config", tmp_path / "other.yaml", "--run-dir", tmp_path / "run", "--device", "cpu")
    by_option = tiny_runs.run("reviews", {"seed": 7}, ["sft"])
    by_file = outcome(TinyRun(tmp_path / "run", by_option.config), ["sft"])
    assert not differences(by_file, outcome(by_option, ["sft"]))
    assert differences(by_file, outcome(run, ["sft"]))


@shows(Options, "init_from")
def test_stage_builds_on_the_run_that_it_is_told(run, other, tmp_path, tiny_runs):
    found = []
    for number, source in enumerate((run, other)):
        folder = tmp_path / str(number)
        given = ["--config", tiny_runs.folder / "reviews.yaml", "--run-dir", folder, "--init-from", source.folder]
        command(STAGES["rm"], *given, "--device", "cpu")
        assert contents(folder / "sft") == contents(source.folder / "sft")
        assert contents(folder / "tokenizers") == contents(source.folder / "tokenizers")
        found.append(contents(folder / "rm"))
    assert found[0] == contents(run.folder / "rm") != found[1]


@shows(Options, "plan")
def test_plan_trains_nothing(run, output, tmp_path):
    for main in STAGES.values():
        given = ("--config", run.folder / "config.yaml", "--run-dir", tmp_path / "run", "--plan")
        assert "Planned memory" in output(main, *given)
        assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- device, and the list


@pytest.fixture
def arguments(run, tmp_path, tiny_runs) -> dict[str, list[object]]:
    """A whole command line of each command that has the option `--device`."""
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    return {
        "generate": ["--run", folder, "--prompt", PROMPT],
        "score": ["--run", folder, TEXT],
        "evaluate": ["--run-dir", folder],
        "sft": ["--config", tiny_runs.folder / "reviews.yaml", "--run-dir", folder],
    }


@pytest.mark.parametrize("name", ["generate", "score", "evaluate", "sft"])
@shows(generate.GenerateOptions, "device")
@shows(score.ScoreOptions, "device")
@shows(evaluate.EvaluateOptions, "device")
@shows(Options, "device")
def test_device_is_the_one_asked_for(arguments, output, capsys, monkeypatch, name):
    main = {"generate": generate, "score": score, "evaluate": evaluate, "sft": sft}[name].main
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    on_cpu = output(main, *arguments[name], "--device", "cpu")
    assert on_cpu == output(main, *arguments[name], "--device", "auto")
    with pytest.raises(SystemExit) as end:
        command(main, *arguments[name], "--device", "cuda")
    assert end.value.code == 2
    assert "--device cuda: PyTorch finds no GPU" in capsys.readouterr().err


def all_options() -> Iterator[Any]:
    """Every option of the commands tested here, the fields of the configuration apart."""
    commands = (
        generate.GenerateOptions,
        score.ScoreOptions,
        evaluate.EvaluateOptions,
        export.ExportOptions,
        compare.CompareOptions,
        curves.CurvesOptions,
        Options,
    )
    configured = {field.name for field in fields(Config)}
    for options in commands:
        for field in fields(options):
            if options is not Options or field.name not in configured:
                yield pytest.param(options, field.name, id=f"{options.__name__}.{field.name}")


@pytest.mark.parametrize(("options", "name"), all_options())
def test_option_has_a_test(options, name):
    assert TESTS.get((options, name)), (
        f"{options.__name__}.{name} has no test: write one in {__name__}.py that shows what the option changes, and "
        f"mark it with @shows({options.__name__}, {name!r})"
    )
    assert all(getattr(sys.modules[__name__], test.__name__) is test for test in TESTS[options, name])
