"""The three stages end to end on the bundled reviews, very small: what a run leaves, and what it promises."""

from __future__ import annotations

import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_ppo
import train_rm
from minippo import sft
from minippo.config import PPOConfig
from minippo.data import load_corpus
from minippo.runs import Checkpoints, load_config, load_run, metrics, read_metrics, run_report
from minippo.scoring import RewardScorer
from minippo.storage import seal
from minippo.tokenizer import load_tokenizer
from minippo.tools import generate, score
from minippo.weights import load_pretrained, load_reward_model
from tests.pipeline.tiny_run import command, contents, evaluation

SIZES = """
data: {limit: 60, query_length: 12, response_length: 10}
model:
  policy: {layers: 1, heads: 2, channels: 16, context: 48}
  reward: {layers: 1, heads: 2, channels: 16, context: 64}
sft:
  policy: {tokens: 6000, batch_tokens: 512}
  reward: {tokens: 3000, batch_tokens: 512}
rm: {epochs: 1, batch_size: 16, eval_comparisons: 24, eval_every: 3, normalisation_samples: 24, normalise_before: true}
ppo:
  num_iterations: 5
  rollout_batch_size: 8
  num_epochs: 2
  num_minibatches: 2
  microbatch_size: 2
  lr: 0.01
  kl_target: 0.5
  kl_horizon: 100
  min_new_tokens: 1
  temperature: 0.9
  missing_eos: replace
  stop_token: "."
  value_head: mlp
  ptx_coef: 0.1
  ptx_batch_size: 6
  max_ratio: 5
  max_approx_kl: 5
  save_every: 2
eval: {every: 2, prompts: 6, final_prompts: 8, samples: 2}
"""


class Killed(BaseException):
    """Stands for a kill: no code of ours may catch it."""


@pytest.fixture(scope="module")
def stage():
    """Run a stage as its command does."""

    def run(main, *arguments: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["command", *map(str, arguments)])
            main()

    return run


@pytest.fixture(scope="module")
def sizes(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sizes") / "sizes.yaml"
    path.write_text(SIZES)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, stage, sizes) -> Path:
    """A run of all three stages."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    for main in (sft.main, train_rm.main, train_ppo.main):
        stage(main, "--config", sizes, "--run-dir", folder, "--device", "cpu")
    return folder


@pytest.fixture
def ppo_from(finished, stage, sizes):
    """Run PPO in a folder of its own on the stages of the finished run."""

    def run(folder: Path, *arguments: object) -> Path:
        stage(
            train_ppo.main,
            "--config",
            sizes,
            "--run-dir",
            folder,
            "--init-from",
            finished,
            "--device",
            "cpu",
            *arguments,
        )
        return folder

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def ppo_lines(folder: Path) -> list[str]:
    return [line for line in (folder / "metrics.jsonl").read_text().splitlines() if '"stage": "ppo"' in line]


def same_tensors(first: Path, second: Path) -> bool:
    ours, theirs = load_file(first), load_file(second)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# ---------------------------------------------------------------------------------------------- what a run leaves


def test_run_leaves_its_settings_and_its_stages_and_nothing_unfinished(finished, sizes):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "config.yaml", "metrics.jsonl", "timing.jsonl", "summary.json", "samples.md",
        "tensorboard", "tokenizers", "sft", "rm", "ppo", ".lock",
    }  # fmt: skip
    stored, asked = yaml.safe_load((finished / "config.yaml").read_text()), yaml.safe_load(sizes.read_text())
    assert stored["ppo"] | asked["ppo"] == stored["ppo"]
    assert not list(finished.rglob("*partial*"))


def test_summary_tells_what_each_stage_found(finished):
    summary = json.loads((finished / "summary.json").read_text())
    for key in (
        "rm_accuracy", "rm_accuracy_limit", "score_before", "score_after", "gold_before", "gold_after", "kl",
        "win_rate", "eos_rate", "response_length", "sft_policy_loss", "sft_reward_loss",
    ):  # fmt: skip
        assert math.isfinite(summary[key]), key
    for key in ("rm_accuracy", "rm_accuracy_limit", "gold_before", "gold_after", "win_rate", "eos_rate"):
        assert 0 <= summary[key] <= 1, key
    assert 1 < summary["response_length"] <= 10
    assert set(summary["stage_seconds"]) == set(summary["peak_memory_mb"]) == {"sft", "rm", "ppo"}
    assert {"python", "torch"} <= set(summary["versions"])


def test_answers_hold_every_prompt_with_both_answers_and_agree_with_the_summary(finished):
    rows = [json.loads(line) for line in (finished / "ppo" / "answers.jsonl").open(encoding="utf-8")]
    summary = json.loads((finished / "summary.json").read_text())
    assert len(rows) == 8
    for row in rows:
        assert row["prompt"] == row["before"]["prompt"] == row["after"]["prompt"]
        assert row["before"]["kl"] == 0
    for key, side in (("score_before", "before"), ("score_after", "after")):
        assert summary[key] == pytest.approx(sum(row[side]["score"] for row in rows) / 8)
    assert summary["kl"] == pytest.approx(sum(row["after"]["kl"] for row in rows) / 8)


def test_metrics_hold_one_line_an_iteration_with_every_curve(finished):
    reference, *lines = read_metrics(finished, "ppo")
    assert reference["step"] == 0
    assert reference["eval/kl"] == 0
    assert reference["eval/win_rate"] == 0.5
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    curves = {
        "objective/kl", "objective/kl_k3", "objective/kl_coef", "objective/scores", "objective/scores_std",
        "objective/rlhf_reward", "objective/non_score_reward", "policy/approxkl", "policy/clipfrac", "policy/entropy",
        "policy/grad_norm", "loss/policy", "loss/value", "policy/ratio", "value/clipfrac", "value/mean",
        "value/explained_variance", "response/length", "response/eos_rate", "lr",
    }  # fmt: skip
    for line in lines:
        assert curves <= line.keys()
        assert all(math.isfinite(value) for value in line.values() if not isinstance(value, str))
    evaluated = [line["step"] for line in lines if "eval/score" in line]
    assert evaluated == [2, 4, 5]
    assert {"eval/kl", "eval/gold", "eval/win_rate"} <= lines[1].keys()
    assert {line["stage"] for line in map(json.loads, (finished / "metrics.jsonl").open())} == {
        "sft-policy", "sft-reward", "rm", "ppo",
    }  # fmt: skip
    timing = [json.loads(line) for line in (finished / "timing.jsonl").open()]
    assert {"seconds/rollout", "seconds/update", "tokens_per_second", "peak_memory_mb"} <= timing[-1].keys()


def test_speed_counts_the_tokens_of_the_responses(finished):
    _, *lines = read_metrics(finished, "ppo")
    timing = [line for line in map(json.loads, (finished / "timing.jsonl").open()) if line["stage"] == "ppo"]
    for line, timed in zip(lines, timing[-5:], strict=True):
        seconds = sum(value for key, value in timed.items() if key.startswith("seconds/"))
        assert timed["tokens_per_second"] * seconds == pytest.approx(8 * line["response/length"])


def test_first_iteration_starts_at_the_reference(finished):
    _, first, second = read_metrics(finished, "ppo")[:3]
    assert first["objective/kl"] == pytest.approx(0, abs=1e-5)
    assert abs(second["objective/kl"]) > 1e-4
    assert first["policy/approxkl"] > 0


def test_logged_coefficient_is_the_one_that_made_the_rewards(finished):
    _, *lines = read_metrics(finished, "ppo")
    coefficient = PPOConfig().kl_coef
    for line in lines:
        assert line["objective/kl_coef"] == pytest.approx(coefficient)
        penalty = -coefficient * line["objective/kl"]
        assert line["objective/non_score_reward"] == pytest.approx(penalty, abs=1e-7)
        error = max(-0.2, min(0.2, line["objective/kl"] / 0.5 - 1))
        coefficient *= 1 + error * 8 / 100


def test_tensorboard_shows_every_curve_of_every_stage(finished):
    for name, tags in {
        "ppo": {
            "objective/kl", "objective/scores", "policy/approxkl", "policy/clipfrac", "loss/policy", "loss/value",
            "policy/ratio", "eval/score",
        },
        "rm": {"loss/rm", "eval/accuracy"},
        "sft-policy": {"loss/lm", "eval/loss"},
        "sft-reward": {"loss/lm", "eval/loss"},
    }.items():  # fmt: skip
        events = EventAccumulator(str(finished / "tensorboard" / name)).Reload()
        assert tags <= set(events.Tags()["scalars"]), name
    events = EventAccumulator(str(finished / "tensorboard" / "ppo")).Reload()
    _, *lines = read_metrics(finished, "ppo")
    assert [event.step for event in events.Scalars("objective/kl")] == [1, 2, 3, 4, 5]
    assert [event.value for event in events.Scalars("loss/value")] == pytest.approx([r["loss/value"] for r in lines])


def test_samples_are_kept_of_every_evaluation(finished):
    text = (finished / "samples.md").read_text(encoding="utf-8")
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## After iteration 2", "## After iteration 4", "## After iteration 5"]
    assert text.count("- before (") == text.count("- after (") == 3 * 2


def test_two_newest_checkpoints_remain(finished):
    assert [path.name for path in Checkpoints(finished / "ppo").paths()] == ["step-000004", "step-000005"]
    policy = finished / "ppo" / "policy" / "model.safetensors"
    assert same_tensors(finished / "ppo" / "step-000005" / "model" / "model.safetensors", policy)
    assert not same_tensors(finished / "sft" / "policy" / "model.safetensors", policy)


# ---------------------------------------------------------------------------------------------- using a run again


def test_finished_stages_are_reused_with_a_message(finished, stage, sizes, capsys):
    before = files(finished)
    for main, message in (
        (sft.main, "reference policy already trained"),
        (train_rm.main, "reward model already trained"),
        (train_ppo.main, "policy already trained"),
    ):
        stage(main, "--config", sizes, "--run-dir", finished, "--device", "cpu")
        assert message in capsys.readouterr().out
    assert files(finished) == before


def table_of(text: str) -> dict[str, list[str]]:
    """The rows of the tables in a report but for their headings: title -> other cells."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    return {title: cells for title, *cells in rows if title.strip("-")}


def test_run_moved_elsewhere_evaluates_to_the_same(finished, stage, tmp_path, monkeypatch, capsys):
    moved = tmp_path / "deep" / "moved"
    shutil.copytree(finished, moved)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    before, found = files(moved), evaluation(moved)
    stored, printed = (
        table_of(text.split("greedy")[0]) for text in (run_report(load_run(moved)), capsys.readouterr().out)
    )
    assert stored.keys() < printed.keys()
    for title, columns in stored.items():
        assert [cell.partition(" [")[0] for cell in printed[title][:2]] == columns
    rows = [json.loads(line) for line in (finished / "ppo" / "answers.jsonl").open(encoding="utf-8")]
    assert ([row["before"] for row in rows], [row["after"] for row in rows]) == (found.before, found.after)
    assert found.summary == json.loads((finished / "summary.json").read_text())
    assert files(moved) == before


PROMPT = "A drama about a shy boxer. I came for the music."


def greedy_answer(folder: Path, prompt: str, num_tokens: int) -> str:
    """The likeliest continuation, without a cache: the whole text is read again for every token."""
    tokenizer = load_tokenizer(folder.parent.parent / "tokenizers" / "policy.tiktoken")
    gpt, ids = load_pretrained(folder).eval(), tokenizer.encode(prompt)
    start, stop = len(ids), tokenizer.encode(".")[0]
    with torch.no_grad():
        for step in range(num_tokens):
            logits = gpt(torch.tensor([ids]))[0, -1]
            if step < 1:  # ppo.min_new_tokens
                logits[[tokenizer.eos_id, stop]] = -torch.inf
            ids.append(int(logits.argmax()))
            if ids[-1] in (tokenizer.eos_id, stop):
                break
    return tokenizer.decode(ids[start:])


def test_generate_prints_the_answers_of_policy_and_reference(finished, stage, capsys):
    arguments = ("--run", finished, "--device", "cpu", "--prompt", PROMPT, "--max-new-tokens", 9)
    stage(generate.main, *arguments, "--reference", "--temperature", 0)
    expected = [
        f"[{name}] {PROMPT}" + greedy_answer(finished / stage_name / "policy", PROMPT, 9)
        for name, stage_name in (("policy", "ppo"), ("reference", "sft"))
    ]
    assert capsys.readouterr().out == "\n".join(expected) + "\n"


def test_generate_draws_n_answers_from_the_seed(finished, stage, capsys):
    def answers(*arguments: object) -> str:
        stage(generate.main, "--run", finished, "--device", "cpu", "--prompt", PROMPT, *arguments)
        return capsys.readouterr().out

    three = answers("--n", 3)
    assert all(three.count(f"[policy {number}] {PROMPT}") == 1 for number in (1, 2, 3))
    assert answers("--n", 3) == three
    assert answers("--n", 3, "--seed", 5) != three
    one = answers("--top-k", 1)
    assert one == answers("--temperature", 0) == answers("--top-p", 1e-9)


def test_generate_reads_prompts_to_the_end_and_passes_over_what_it_cannot_answer(finished, stage, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PROMPT}\n" + "far too long " * 50 + "\n\nA film.\n"))
    stage(generate.main, "--run", finished, "--device", "cpu", "--max-new-tokens", 2)
    out, err = capsys.readouterr()
    assert [line.split("] ")[1][:7] for line in out.splitlines() if line.startswith("[policy]")] == [
        "A drama",
        "A film.",
    ]
    assert "the policy's context of 48 has room for 46" in err


def test_score_prints_what_the_reward_model_scores(finished, stage, capsys, monkeypatch):
    scorer = RewardScorer(
        load_reward_model(finished / "rm"), load_tokenizer(finished / "tokenizers" / "reward.tiktoken")
    )
    texts = [" A fine film.", " A bore."]
    arguments = ("--run", finished, "--device", "cpu")
    expected = [
        f"{score:+.3f}\t{text}" for score, text in zip(scorer([PROMPT] * 2, texts).tolist(), texts, strict=True)
    ]
    stage(score.main, *arguments, "--prompt", PROMPT, *texts)
    assert capsys.readouterr().out.splitlines() == expected
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(texts) + "\n"))
    stage(score.main, *arguments, "--prompt", PROMPT, "--batch-size", 1)
    assert capsys.readouterr().out.splitlines() == expected


@pytest.mark.parametrize(
    ("main", "arguments", "part"),
    [
        (
            generate.main,
            ["--prompt", "word " * 60],
            "the policy's context of 48 has room for 38",
        ),
        (generate.main, ["--prompt", ""], "the prompt is empty"),
        (generate.main, ["--prompt", "x", "--n", "0"], "n must be at least 1, not 0"),
        (generate.main, ["--prompt", "x", "--top-p", "1.5"], "top-p must be from 0 to 1, not 1.5"),
        (generate.main, ["--prompt", "x", "--temperature", "-1"], "temperature must be at least 0, not -1.0"),
        (score.main, ["x", "--batch-size", "0"], "batch-size must be at least 1, not 0"),
    ],
)
def test_wrong_questions_to_a_finished_run_are_refused(finished, stage, capsys, main, arguments, part):
    with pytest.raises(SystemExit) as end:
        stage(main, "--run", finished, "--device", "cpu", *arguments)
    out, err = capsys.readouterr()
    assert (end.value.code, out) == (2, "")
    assert part in err


@pytest.mark.parametrize(("main", "part"), [(generate.main, "train the policy"), (score.main, "train the reward")])
def test_a_run_without_the_stage_is_refused(finished, stage, capsys, tmp_path, main, part):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("rm", "ppo"))
    with pytest.raises(SystemExit) as end:
        stage(main, "--run", tmp_path / "run", "--device", "cpu", "--prompt", "x")
    assert end.value.code == 2
    assert part in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- a reward of one's own


def own_scorer(prompts: list[str], responses: list[str]) -> torch.Tensor:
    return torch.tensor([float(len(response)) for response in responses])


def test_ppo_trains_on_a_function_without_a_reward_model(finished, stage, sizes, tmp_path, capsys):
    run, name = tmp_path / "own", f"{__name__}:own_scorer"
    shutil.copytree(finished, tmp_path / "source", ignore=shutil.ignore_patterns("rm", "ppo"))
    arguments = ("--config", sizes, "--device", "cpu", "--run-dir", run, "--ppo.scorer", name)
    stage(train_ppo.main, *arguments, "--init-from", tmp_path / "source")
    assert f"scores: {name}" in capsys.readouterr().out
    assert not (run / "rm").exists()
    rows = [
        json.loads(line) for line in (run / "ppo" / "answers.jsonl").read_text(encoding="utf-8").split("\n") if line
    ]
    assert len(rows) == 8
    for row in rows:
        assert row["after"]["score"] == len(row["after"]["response"])
    assert evaluation(run, "--scorer", name).after == [row["after"] for row in rows]
    capsys.readouterr()
    stage(score.main, "--run", run, "--device", "cpu", "--scorer", name, "four")
    assert capsys.readouterr().out == "+4.000\tfour\n"


def test_a_scorer_that_does_not_exist_is_refused_before_anything_is_written(finished, sizes, stage, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        stage(
            train_ppo.main, "--config", sizes, "--run-dir", tmp_path / "run", "--init-from", finished,
            "--ppo.scorer", "math:no_such",
        )  # fmt: skip
    assert end.value.code == 2
    assert "math has no function 'no_such'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- what it promises


def test_ppo_on_shared_stages_gives_the_same_run_bit_for_bit(finished, ppo_from, tmp_path):
    again = ppo_from(tmp_path / "again")
    assert ppo_lines(again) == ppo_lines(finished)
    for name in ("ppo/answers.jsonl", "samples.md", "ppo/policy/model.safetensors", "ppo/policy/heads.safetensors"):
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name
    summary = json.loads((again / "summary.json").read_text())
    assert summary["init_from"] == str(finished)
    assert summary["rm_accuracy"] == json.loads((finished / "summary.json").read_text())["rm_accuracy"]


def test_all_stages_with_the_same_seed_give_the_same_metrics_bit_for_bit(finished, stage, sizes, tmp_path):
    for main in (sft.main, train_rm.main):
        torch.manual_seed(1234)  # the state of the global generator does not matter
        stage(main, "--config", sizes, "--run-dir", tmp_path / "again", "--device", "cpu")
    ours = (tmp_path / "again" / "metrics.jsonl").read_text()
    theirs = (finished / "metrics.jsonl").read_text()
    assert ours
    assert theirs.startswith(ours)
    for name in ("sft/policy/model.safetensors", "sft/reward/model.safetensors", "rm/heads.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (finished / name).read_bytes()


def test_another_seed_gives_another_run(finished, ppo_from, tmp_path):
    assert ppo_lines(ppo_from(tmp_path / "other", "--seed", 2))[0] != ppo_lines(finished)[0]


def test_evaluation_does_not_disturb_training(finished, ppo_from, tmp_path):
    """Evaluated after each iteration, after every second one and only at the end: the same training."""

    def trained(folder):
        lines = read_metrics(folder, "ppo")
        return [{key: value for key, value in line.items() if not key.startswith("eval/")} for line in lines]

    often = ppo_from(tmp_path / "often", "--eval.every", 1)
    seldom = ppo_from(tmp_path / "seldom", "--eval.every", 100, "--eval.prompts", 3)
    assert sum("eval/score" in line for line in read_metrics(often, "ppo")) == 6
    assert sum("eval/score" in line for line in read_metrics(seldom, "ppo")) == 2
    assert trained(often) == trained(seldom) == trained(finished)
    assert same_tensors(often / "ppo/policy/model.safetensors", seldom / "ppo/policy/model.safetensors")


def test_evaluations_and_checkpoints_each_come_as_often_as_their_setting_says(ppo_from, tmp_path, monkeypatch):
    saved, save = [], Checkpoints.save

    def noted(checkpoints, state):
        saved.append(state.iteration)
        return save(checkpoints, state)

    monkeypatch.setattr(Checkpoints, "save", noted)
    run = ppo_from(tmp_path / "run", "--eval.every", 3)
    assert saved == [0, 2, 4, 5]  # save_every is 2
    assert [line["step"] for line in read_metrics(run, "ppo") if "eval/score" in line] == [0, 3, 5]


@pytest.mark.parametrize("when", ["update", "log", "save"])
def test_killed_and_resumed_run_ends_as_an_uninterrupted_one(finished, ppo_from, tmp_path, capsys, monkeypatch, when):
    """Killed in the fourth iteration, with a checkpoint of the second: in the update, before the line, after it."""
    owner, name = {
        "update": (train_ppo, "ppo_update"),
        "log": (metrics, "peak_memory_mb"),
        "save": (train_ppo.Checkpoints, "save"),
    }[when]
    calls, original = [], getattr(owner, name)
    references = []
    collect = train_ppo.collect_rollout

    def dies(*arguments):
        calls.append(1)
        if len(calls) == (3 if when == "save" else 4):
            raise Killed
        return original(*arguments)

    def watched(state, env, *rest):
        references.append({name: tensor.clone() for name, tensor in env.reference.gpt.state_dict().items()})
        return collect(state, env, *rest)

    monkeypatch.setattr(train_ppo, "collect_rollout", watched)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dies)
        with pytest.raises(Killed):
            ppo_from(tmp_path / "run")
    run = tmp_path / "run"
    assert not (run / "ppo").exists()
    assert [path.name for path in Checkpoints(run / "ppo.unfinished").paths()] == ["step-000000", "step-000002"]
    capsys.readouterr()
    ppo_from(run)
    assert "resuming after iteration 2" in capsys.readouterr().out
    assert ppo_lines(run) == ppo_lines(finished)
    for name in ("ppo/answers.jsonl", "samples.md", "ppo/policy/model.safetensors", "ppo/policy/heads.safetensors"):
        assert (run / name).read_bytes() == (finished / name).read_bytes(), name
    # The KL is to where the run started, before and after the resume.
    assert len(references) == 4 + 3
    first = references[0]
    assert all(torch.equal(other[name], first[name]) for other in references for name in first)
    start = load_file(finished / "sft" / "policy" / "model.safetensors")
    assert torch.equal(first["token_embedding.weight"], start["transformer.wte.weight"])
    events = EventAccumulator(str(run / "tensorboard" / "ppo")).Reload()
    assert [event.step for event in events.Scalars("objective/kl")] == [1, 2, 3, 4, 5]


def test_a_finished_run_trained_for_longer_is_one_that_was_never_finished(ppo_from, tmp_path, capsys):
    schedule = ("--ppo.schedule", "constant", "--ppo.warmup", 0)  # others depend on the number of iterations
    whole = ppo_from(tmp_path / "whole", *schedule)
    run = ppo_from(tmp_path / "run", *schedule, "--ppo.num-iterations", 3)
    assert [path.name for path in Checkpoints(run / "ppo").paths()] == ["step-000002", "step-000003"]
    capsys.readouterr()
    ppo_from(run, *schedule)
    assert "resuming after iteration 3 of 5" in capsys.readouterr().out
    lines = [
        [{k: x for k, x in line.items() if "eval/" not in k} for line in read_metrics(r, "ppo")] for r in (run, whole)
    ]
    assert lines[0] == lines[1]
    assert contents(run / "ppo") == contents(whole / "ppo")
    assert (run / "config.yaml").read_bytes() == (whole / "config.yaml").read_bytes()
    assert not (run / "ppo.unfinished").exists()


def test_killed_before_the_first_checkpoint_begins_again(finished, ppo_from, tmp_path, monkeypatch):
    calls, original = [], train_ppo.ppo_update

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_ppo, "ppo_update", dies)
        with pytest.raises(Killed):
            ppo_from(tmp_path / "run")
    assert len(ppo_lines(ppo_from(tmp_path / "run"))) == 6  # the reference's and those of five iterations
    assert ppo_lines(tmp_path / "run") == ppo_lines(finished)


def test_checkpoints_go_on_only_with_their_data(finished, ppo_from, tmp_path, monkeypatch, capsys):
    def dies(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train_ppo, "ppo_update", dies)
        with pytest.raises(Killed):
            ppo_from(tmp_path / "run")
    path = tmp_path / "run" / "ppo.unfinished" / "step-000000" / "state.json"
    rest = json.loads(path.read_text())
    assert rest["data"] == load_corpus(load_config(str(finished / "config.yaml"))).fingerprint
    path.write_text(json.dumps(rest | {"data": "other"}))
    seal(path.parent)
    with pytest.raises(SystemExit) as end:
        ppo_from(tmp_path / "run")
    assert end.value.code == 2
    assert "step-000000 was made with other data" in capsys.readouterr().err


def test_half_written_checkpoint_is_not_resumed_from(finished, ppo_from, tmp_path, monkeypatch):
    calls, original = [], train_ppo.ppo_update

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_ppo, "ppo_update", dies)
        with pytest.raises(Killed):
            ppo_from(tmp_path / "run")
    half = tmp_path / "run" / "ppo.unfinished" / "step-000003.partial"
    (half / "policy").mkdir(parents=True)
    (half / "state.json").write_text('{"iteration": 3')
    ppo_from(tmp_path / "run")
    assert ppo_lines(tmp_path / "run") == ppo_lines(finished)


def test_reference_and_reward_model_are_bit_equal_after_ppo(finished, ppo_from, tmp_path, monkeypatch):
    seen, original = [], train_ppo.collect_rollout

    def watched(state, env, *rest):
        if not seen:
            for model in (env.reference, env.scorer.reward_model):
                seen.append((model, {name: tensor.clone() for name, tensor in model.state_dict().items()}))
        assert not env.reference.training
        assert not env.scorer.reward_model.training
        return original(state, env, *rest)

    monkeypatch.setattr(train_ppo, "collect_rollout", watched)
    stages = {name: files(finished / name) for name in ("sft", "rm", "tokenizers")}
    run = ppo_from(tmp_path / "run")
    for model, before in seen:
        after = model.state_dict()
        assert all(torch.equal(after[name], before[name]) for name in before)
        assert all(parameter.grad is None for parameter in model.parameters())
    for name, content in stages.items():
        assert files(finished / name) == content
        assert contents(finished / name) == contents(run / name)


def test_a_broken_promise_ends_the_run_before_its_first_step(ppo_from, tmp_path, monkeypatch, capsys):
    original = train_ppo.collect_rollout

    def shifted(state, *rest):
        rollout = original(state, *rest)
        with torch.no_grad():
            state.policy.gpt.final_norm.weight.mul_(1.01)
        return rollout

    monkeypatch.setattr(train_ppo, "collect_rollout", shifted)
    with pytest.raises(SystemExit) as end:
        ppo_from(tmp_path / "run")
    assert end.value.code == 1
    assert "ppo, iteration 1: before the first update every ratio must be 1" in capsys.readouterr().err
    assert [line["step"] for line in read_metrics(tmp_path / "run", "ppo")] == [0]
    assert not (tmp_path / "run" / "ppo").exists()


def test_a_score_that_is_no_number_stops_the_run_and_names_the_last_good_checkpoint(
    ppo_from, tmp_path, monkeypatch, capsys
):
    original, calls = train_ppo.collect_rollout, []

    def broken(state, env, *rest):
        calls.append(1)
        if len(calls) == 4:
            env = replace(env, scorer=lambda p, r: torch.full((len(p),), math.nan))
        return original(state, env, *rest)

    monkeypatch.setattr(train_ppo, "collect_rollout", broken)
    with pytest.raises(SystemExit) as end:
        ppo_from(tmp_path / "run")
    assert end.value.code == 1
    said = capsys.readouterr().err
    last = max((tmp_path / "run" / "ppo.unfinished").glob("step-*"))
    assert "ppo, iteration 4: the scorer, response" in said
    assert f"score is nan. The last checkpoint is {last}" in said
    assert 0 < int(last.name.removeprefix("step-")) < 4


def test_other_settings_in_a_finished_runs_folder_are_refused(finished, stage, sizes, capsys):
    before = files(finished)
    with pytest.raises(SystemExit) as end:
        stage(train_ppo.main, "--config", sizes, "--run-dir", finished, "--device", "cpu", "--ppo.kl-coef", "0.9")
    assert end.value.code == 2
    assert f"was trained with other settings: ppo.kl_coef is {PPOConfig().kl_coef}, now 0.9" in capsys.readouterr().err
    assert files(finished) == before


def test_a_tokenizer_that_has_been_replaced_is_refused_where_training_would_go_on(tiny_runs, tmp_path, capsys):
    """The weights so far belong to its ids, and the file has the same name."""
    tiny_runs.settings("reviews")
    path, config = tmp_path / "mine.tiktoken", tiny_runs.folder / "reviews.yaml"
    shutil.copy(tiny_runs.folder / "policy.tiktoken", path)
    given = ["--config", config, "--run-dir", tmp_path / "run", "--device", "cpu", "--model.policy.tokenizer", path]
    command(sft.main, *given)
    command(sft.main, *given, "--sft.policy.tokens", 5000)
    shutil.copy(tiny_runs.folder / "other.tiktoken", path)
    with pytest.raises(SystemExit) as end:
        command(sft.main, *given, "--sft.policy.tokens", 9000)
    assert end.value.code == 2
    assert "was made with other data or another tokenizer" in capsys.readouterr().err
