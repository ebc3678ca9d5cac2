"""The draws of a run: independent of each other, of what is evaluated and saved, and of the batches."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import train_ppo
import train_rm
from minippo import sft
from minippo.masking import pad
from minippo.runs import load_config, load_run, load_run_scorer
from minippo.sampling import generate
from minippo.storage import seal
from minippo.streams import generator, response_uniforms, seed_global
from minippo.tokenizer import load_tokenizer
from minippo.tools import generate as generate_command
from minippo.weights import load_pretrained
from tests.pipeline.marked import bundled, replace_everywhere
from tests.pipeline.random_draws import PAGE, streams_of_table
from tests.pipeline.tiny_run import evaluation

R = 6  # data.response_length
B = 12  # ppo.rollout_batch_size


@dataclass
class Draws:
    """What a run has asked for and sampled."""

    streams: list[tuple] = field(default_factory=list)
    """Function, seed, name, position or step and indices, in order."""
    sampled: list[tuple] = field(default_factory=list)
    """Name and step of the uniforms, then queries, uniforms (B, R), responses, mask."""


def run_stage(main, *arguments) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["command", *map(str, arguments)])
        main()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    corpus = bundled(tmp_path_factory.mktemp("corpus"))
    text = (
        corpus.config.read_text()
        .replace("num_epochs: 1", "num_epochs: 2")
        .replace("num_iterations: 4", "num_iterations: 3")
    )
    corpus.config.write_text(text.replace("rm: {", "rm: {dropout: 0.2, token_dropout: 0.2, ") + "seed: 5\n")
    return corpus


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> tuple[Path, Draws]:
    """A run of all stages with every checkpoint kept that is needed, and its draws."""
    folder, draws = tmp_path_factory.mktemp("runs") / "run", Draws()

    def watched_uniforms(seed, name, step, indices, length):
        draws.streams.append(("response_uniforms", seed, name, (step, *indices)))
        return response_uniforms(seed, name, step, indices, length)

    def watched_generator(seed, name, *position):
        draws.streams.append(("generator", seed, name, position))
        return generator(seed, name, *position)

    def watched_seed_global(seed, name, *position):
        draws.streams.append(("seed_global", seed, name, position))
        seed_global(seed, name, *position)

    def watched_generate(model, queries, query_mask, **options):
        responses, mask = generate(model, queries, query_mask, **options)
        prompts = [row[real].tolist() for row, real in zip(queries, query_mask, strict=True)]
        *_, (_, _, name, (step, *_)) = (found for found in draws.streams if found[0] == "response_uniforms")
        draws.sampled.append((name, step, prompts, options["uniforms"], responses, mask))
        return responses, mask

    with pytest.MonkeyPatch.context() as patch:
        replace_everywhere(patch, response_uniforms, watched_uniforms)
        replace_everywhere(patch, generator, watched_generator)
        replace_everywhere(patch, seed_global, watched_seed_global)
        replace_everywhere(patch, generate, watched_generate)
        for main in (sft.main, train_rm.main, train_ppo.main):
            options = ("--ppo.save-every", 1, "--ppo.value-head", "mlp")
            run_stage(main, "--config", corpus.config, "--run-dir", folder, "--device", "cpu", *options)
    return folder, draws


def again(model_folder: Path, run: Path, prompts: list[list[int]], uniforms: torch.Tensor) -> list[list[int]]:
    """The responses to prompts, each without what follows its end."""
    config, tokenizer = load_config(str(run / "config.yaml")), load_tokenizer(run / "tokenizers" / "policy.tiktoken")
    queries, query_mask = pad(prompts, tokenizer.pad_id, "left")
    responses, mask = generate(
        load_pretrained(model_folder).eval(),
        queries,
        query_mask,
        max_new_tokens=uniforms.shape[1],
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        temperature=config.ppo.temperature,
        uniforms=uniforms,
    )
    return [row[real].tolist() for row, real in zip(responses, mask, strict=True)]


def policy_before(run: Path, iteration: int) -> Path:
    return run / "sft" / "policy" if iteration == 1 else run / "ppo" / f"step-{iteration - 1:06d}" / "model"


def rollouts(draws: Draws) -> dict[int, tuple]:
    return {step: rest for name, step, *rest in draws.sampled if name == "rollout"}


def test_every_stream_of_a_run_has_the_runs_seed_and_a_name_of_the_table(finished):
    _, draws = finished
    assert {seed for _, seed, _, _ in draws.streams} == {5}
    names = {name for _, _, name, _ in draws.streams}
    own_files = {name for name, file in streams_of_table().items() if file == "minippo/data/own.py"}
    of_commands = {"generate", "trace", "best of n", "frontier prompts", "frontier reward models"}
    assert names == set(streams_of_table()) - own_files - of_commands
    for name in names:  # one purpose, one kind
        assert len({function for function, _, other, _ in draws.streams if other == name}) == 1


def test_positions_count_epochs_iterations_and_rows_as_the_page_says(finished):
    folder, draws = finished
    position = {name: [p for _, _, other, p in draws.streams if other == name] for _, _, name, _ in draws.streams}
    assert position["minibatches"] == [(iteration, epoch) for iteration in (1, 2, 3) for epoch in (0, 1)]
    assert position["rollout"] == [(iteration, *range(B)) for iteration in (1, 2, 3)]
    assert position["rm batches"] == [(0,), (0,), (1,), (2,)]  # the first epoch is counted before it is trained on
    steps = [(step,) for step in range(1, len(training_lines(folder, "rm")) + 1)]
    assert position["rm hidden tokens"] == position["rm dropout"] == steps
    assert position["ppo prompts"] == [(0,), (1,), (2,)]  # 36 prompts drawn of 12
    for name in ("sft policy", "sft reward"):
        epochs = [epoch for (epoch,) in position[name]]
        assert epochs == [1, *range(1, len(epochs))]
        last = training_lines(folder, name.replace(" ", "-"))[-1]["step"]
        assert position[f"{name}: dropout"] == [(step,) for step in range(1, last + 1)]
    samples = [index for step, *indices in position["normalisation"] for index in indices]
    assert samples == 2 * list(range(100))  # more than there are prompts; before and after the training
    for name in ("normalisation", "validation answers", "test answers"):
        assert {step for step, *_ in position[name]} == {0}
    for name in ("validation answers", "test answers"):
        assert {tuple(indices) == tuple(range(len(indices))) for _, *indices in position[name]} == {True}


def test_normalisation_rollouts_and_evaluations_share_no_number(finished):
    _, draws = finished
    purposes: dict[tuple, torch.Tensor] = {}
    normalised = torch.cat([uniforms for name, _, _, uniforms, _, _ in draws.sampled if name == "normalisation"])
    assert torch.equal(normalised[:100], normalised[100:])  # before and after the training
    purposes["normalisation", 0] = normalised[:100]
    for name, step, _, uniforms, _, _ in draws.sampled:
        if name == "normalisation":
            continue
        if (name, step) in purposes:  # evaluated several times: the same numbers on purpose
            assert name != "rollout"
            assert torch.equal(purposes[name, step], uniforms)
        purposes[name, step] = uniforms
    assert len(purposes) == 3 + 3
    numbers = torch.cat([uniforms.flatten() for uniforms in purposes.values()])
    assert numbers.unique().numel() == numbers.numel()


def test_answers_of_different_purposes_to_one_prompt_have_uncorrelated_scores(finished):
    folder, draws = finished
    n, (prompts, *_) = 1000, rollouts(draws)[1]
    scorer = load_run_scorer(load_run(folder, "cpu"))
    tokenizer = load_tokenizer(folder / "tokenizers" / "policy.tiktoken")
    scores = []
    for name, step in (
        ("normalisation", 0),
        ("rollout", 1),
        ("rollout", 2),
        ("validation answers", 0),
        ("test answers", 0),
    ):
        uniforms = response_uniforms(5, name, step, range(n), R)
        answers = again(folder / "sft" / "policy", folder, [prompts[0]] * n, uniforms)
        scores.append(scorer([tokenizer.decode(prompts[0])] * n, [tokenizer.decode(ids) for ids in answers]).numpy())
    correlations = np.corrcoef(scores)[np.triu_indices(len(scores), k=1)]
    assert np.abs(correlations).max() < 4 / n**0.5


@pytest.mark.parametrize("iteration", [1, 3])
def test_a_response_of_a_rollout_depends_on_seed_iteration_and_row_alone(finished, iteration):
    folder, draws = finished
    prompts, uniforms, responses, mask = rollouts(draws)[iteration]
    expected = [row[real].tolist() for row, real in zip(responses, mask, strict=True)]
    assert len({tuple(row) for row in expected}) > B / 2
    assert torch.equal(uniforms, response_uniforms(5, "rollout", iteration, range(B), R))
    model = policy_before(folder, iteration)

    def sample(rows: list[int], neighbours: tuple[list[int], ...] = ()) -> list[list[int]]:
        numbers = response_uniforms(5, "rollout", iteration, [*rows, *range(100, 100 + len(neighbours))], R)
        return again(model, folder, [*(prompts[row] for row in rows), *neighbours], numbers)[: len(rows)]

    everything = list(range(B))
    assert sample(everything) == expected
    assert sample(everything[::-1]) == expected[::-1]
    assert sample(everything[:5]) + sample(everything[5:]) == expected
    assert [sample([row])[0] for row in everything] == expected
    long, short = prompts[0] * 4, prompts[1][:1]
    assert sample(everything[3:7], (long, short)) == expected[3:7]
    other = again(model, folder, prompts, response_uniforms(5, "rollout", iteration + 1, range(B), R))
    assert other != expected


def test_the_page_repeats_one_response(finished, monkeypatch, capsys):
    folder, draws = finished
    prompts, _, responses, mask = rollouts(draws)[3]
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL).group(1)
    code = code.replace('"runs/reviews"', repr(str(folder))).replace(", 43, 5", ", 3, 5")
    exec(compile(code, str(PAGE), "exec"), {})
    tokenizer = load_tokenizer(folder / "tokenizers" / "policy.tiktoken")
    expected = tokenizer.decode(prompts[5]) + tokenizer.decode(responses[5][mask[5]].tolist())
    assert capsys.readouterr().out == expected + "\n"


def final_weights(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    inner = folder / stage / "policy" if stage == "ppo" else folder / stage
    return load_file(inner / "model.safetensors") | load_file(inner / "heads.safetensors")


def training_lines(folder: Path, stage: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    kept = [{key: value for key, value in line.items() if not key.startswith("eval/")} for line in lines]
    return [line for line in kept if line["stage"] == stage and len(line) > 2]


@pytest.mark.parametrize(
    ("main", "stage", "options"),
    [
        (train_rm.main, "rm", ("--rm.eval-every", 1, "--rm.eval-comparisons", 2)),
        (train_rm.main, "rm", ("--rm.eval-every", 1000)),
        (train_ppo.main, "ppo", ("--eval.every", 3, "--eval.prompts", 2, "--eval.samples", 0, "--ppo.save-every", 3)),
        (train_ppo.main, "ppo", ("--eval.every", 2, "--eval.final-prompts", 1, "--ppo.save-every", 2)),
    ],
)
def test_evaluating_saving_and_logging_disturb_nothing(finished, corpus, tmp_path, main, stage, options):
    folder, _ = finished
    common = ("--config", corpus.config, "--run-dir", tmp_path / "run", "--init-from", folder, "--device", "cpu")
    run_stage(main, *common, "--ppo.value-head", "mlp", *options)
    ours, theirs = (final_weights(place, stage) for place in (tmp_path / "run", folder))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert training_lines(tmp_path / "run", stage) == training_lines(folder, stage)


def test_normalisation_does_not_depend_on_the_batch_size(finished, corpus, tmp_path):
    folder, _ = finished
    heads = []
    for size in (12, 5):
        run = tmp_path / f"by {size}"
        common = ("--config", corpus.config, "--run-dir", run, "--init-from", folder, "--device", "cpu")
        sizes = ("--ppo.rollout-batch-size", size, "--ppo.num-minibatches", 1, "--ppo.microbatch-size", size)
        run_stage(train_rm.main, *common, *sizes, "--rm.no-normalise-before")  # else training amplifies the rounding
        heads.append(load_file(run / "rm" / "heads.safetensors"))
    for name in ("gain", "bias"):
        assert float(heads[0][name]) == pytest.approx(float(heads[1][name]), rel=1e-5)


@pytest.fixture(scope="module")
def evaluated(finished, tmp_path_factory):
    """The answers of a copy of the run to other queries, before and after."""
    folder, _ = finished
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("copies") / "copy")

    def run(queries: list[list[int]]) -> list[dict]:
        answers = "".join(json.dumps({"query": query}) + "\n" for query in queries)
        (copy / "ppo" / "answers.jsonl").write_text(answers)
        seal(copy / "ppo")
        found = evaluation(copy)
        return [{"before": b, "after": a} for b, a in zip(found.before, found.after, strict=True)]

    return run


def test_batches_of_an_evaluation_do_not_reuse_each_others_draws(finished, evaluated):
    queries = [json.loads(line)["query"] for line in (finished[0] / "ppo" / "answers.jsonl").open(encoding="utf-8")]
    rows = evaluated([queries[0]] * 300)
    for side in ("before", "after"):
        responses = [row[side]["response"] for row in rows]
        scores = np.array([row[side]["score"] for row in rows])
        assert len(set(responses)) > 250
        for size in (1, 2, 12, 32, 64, 100, 128, 150):  # whatever the batches are
            assert abs(np.corrcoef(scores[:-size], scores[size:])[0, 1]) < 4 / (300 - size) ** 0.5, size


def test_an_answer_does_not_depend_on_how_many_others_are_asked_for(finished, evaluated):
    rows = [json.loads(line) for line in (finished[0] / "ppo" / "answers.jsonl").open(encoding="utf-8")]
    queries = [row["query"] for row in rows]
    more = evaluated(queries + 40 * [queries[1] * 3])  # several batches, other padding
    for row, other in zip(rows, more, strict=False):
        for side in ("before", "after"):
            assert row[side]["response"] == other[side]["response"]
            assert row[side]["score"] == pytest.approx(other[side]["score"], abs=1e-4)
    assert [row["after"]["response"] for row in evaluated(queries[:2])] == [
        row["after"]["response"] for row in rows[:2]
    ]


def test_generate_draws_an_answer_by_seed_and_number_alone(finished, capsys):
    folder, _ = finished

    def answers(*arguments) -> list[str]:
        capsys.readouterr()
        run_stage(generate_command.main, "--run", folder, "--device", "cpu", *arguments)
        return re.split(r"\[policy(?: \d+)?\] ", capsys.readouterr().out)[1:]

    three = answers("--prompt", "one:", "--n", 3)
    assert len(set(three)) == 3
    assert answers("--prompt", "one:", "--n", 1) == three[:1]
    assert answers("--prompt", "two:", "one:", "--n", 3)[3:] == three
    assert answers("--prompt", "one:", "--n", 3, "--seed", 2) != three
