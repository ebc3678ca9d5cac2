"""The three stages on files of one's own, very small: what each needs, and what is refused first."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

import train_ppo
import train_rm
from docs import kitchen_data
from minippo import sft
from minippo.data import cache, load_corpus
from minippo.runs import load_config
from minippo.runs.validation import check
from minippo.sft import check_demonstrations
from minippo.storage import REPOSITORY
from minippo.tools import score
from tests.pipeline.tiny_run import evaluation
from tests.stored import edit_settings

SIZES = """
data: {source: files, hold_out: 0.1, query_length: 16, response_length: 8}
model:
  policy: {tokenizer: "train:300", layers: 1, heads: 2, channels: 16, context: 48}
  reward: {tokenizer: "train:290", layers: 1, heads: 2, channels: 16, context: 48}
sft:
  policy: {tokens: 3000, batch_tokens: 512}
  reward: {tokens: 1500, batch_tokens: 512}
rm: {epochs: 2, batch_size: 16, eval_comparisons: 10, eval_every: 5, normalisation_samples: 16}
ppo: {num_iterations: 2, rollout_batch_size: 8, num_epochs: 1, num_minibatches: 1, microbatch_size: 8, ptx_coef: 0.1}
eval: {every: 2, prompts: 4, final_prompts: 5, samples: 1}
"""
MAINS = (sft.main, train_rm.main, train_ppo.main)


@pytest.fixture(scope="module")
def stage():
    """Run a stage as its command does."""

    def run(main, *arguments: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["command", *map(str, arguments)])
            main()

    return run


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Demonstrations, preferences with two unusable rows and one too long, and the sizes."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "sizes.yaml").write_text(SIZES)
    write(folder / "shown.jsonl", [{"prompt": f"Film {i}:", "completion": f" a fine {i} film."} for i in range(120)])
    rows = [{"prompt": f"Film {i}:", "chosen": f" fine {i}.", "rejected": f" poor {i}."} for i in range(100)]
    rows += [{"prompt": "Film:", "chosen": " x", "rejected": " x"}, {"prompt": "Film:", "chosen": " x", "rejected": ""}]
    rows += [{"prompt": "Film:", "chosen": " on and on" * 30, "rejected": " short"}]
    write(folder / "prefs.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def finished(folder, stage) -> Path:
    for main in MAINS:
        stage(main, *arguments(folder), "--run-dir", folder / "run")
    return folder / "run"


def arguments(folder: Path) -> list[object]:
    names = ("demonstrations", folder / "shown.jsonl"), ("preferences", folder / "prefs.jsonl")
    options = [part for name, path in names for part in (f"--data.{name}", path)]
    return ["--config", folder / "sizes.yaml", "--device", "cpu", *options]


def test_three_stages_train_on_files(finished):
    summary = json.loads((finished / "summary.json").read_text())
    for key in ("sft_policy_loss", "sft_reward_loss", "rm_accuracy", "score_after", "kl", "win_rate"):
        assert math.isfinite(summary[key]), key
    assert summary["rm_accuracy_limit"] is None
    answers = [json.loads(line) for line in (finished / "ppo" / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 5
    assert all(answer["prompt"].startswith("Film") for answer in answers)


def test_summary_tells_how_much_data_there_was_and_what_was_left_out(finished):
    report = json.loads((finished / "summary.json").read_text())["data_report"]
    read = {
        "demonstrations, train": {"rows read": 120, "left out: prompt held out": 18},
        "preferences, train": {"rows read": 103, "dropped: empty completion": 1, "dropped: identical completions": 1},
        "demonstrations after holding out": {"train": 100, "validation": 1, "test": 1},
        "comparisons after holding out": {"train": 82, "validation": 9, "test": 10},
        "different prompts": {"train": 82, "validation": 9, "test": 10},
    }
    assert report["sft"] == read
    assert report["rm"].items() >= read.items()
    (longer,) = (counts for name, counts in report["rm"].items() if name.startswith("comparisons, "))
    assert longer["dropped: longer than the reward model's context"] == 1
    assert report["ppo"] == read


def test_stages_tell_what_was_left_out_and_finished_ones_can_be_evaluated(finished, folder, stage, capsys):
    (folder / "prefs.jsonl").rename(folder / "gone.jsonl")  # it can be moved to where its data are not
    found = evaluation(finished)
    (folder / "gone.jsonl").rename(folder / "prefs.jsonl")
    rows = [json.loads(line) for line in (finished / "ppo" / "answers.jsonl").open(encoding="utf-8")]
    assert ([row["before"] for row in rows], [row["after"] for row in rows]) == (found.before, found.after)
    capsys.readouterr()
    stage(sft.main, *arguments(folder), "--run-dir", folder / "again", "--sft.policy.tokens", 100)
    assert (
        "data: preferences, train: 103 rows read, 1 dropped: empty completion, 1 dropped: identical"
        in capsys.readouterr().out
    )


def test_the_same_files_give_the_same_run_whether_the_cache_is_there_or_not(
    finished, folder, stage, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for main in MAINS:
        stage(main, *arguments(folder), "--run-dir", tmp_path / "run")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert any(cache.cache_folder().iterdir())


@pytest.fixture
def refused(stage, tmp_path, capsys):
    """Run a stage that must end with a sentence and status 2, having written nothing."""

    def run(main, *given: object) -> str:
        with pytest.raises(SystemExit) as end:
            stage(main, *given, "--run-dir", tmp_path / "never")
        shown = capsys.readouterr()
        assert (end.value.code, shown.out) == (2, "")
        assert not (tmp_path / "never").exists()
        return shown.err

    return run


def test_wrong_preferences_are_refused_before_the_first_stage_begins(folder, refused, tmp_path):
    bad = write(tmp_path / "bad.jsonl", [{"prompt": "P", "chosen": 3, "rejected": "b"}])
    given = [*arguments(folder), "--data.preferences", bad]
    assert refused(sft.main, *given) == (
        f"error: {bad}, line 1: column 'chosen' holds 3 (int), expected text or a list of turns\n"
    )


def test_too_long_and_unusable_data_is_refused_before_the_stage_that_reads_it(folder, finished, refused, tmp_path):
    refuse = ["--data.unusable", "refuse"]
    said = refused(sft.main, *arguments(folder), *refuse)
    assert f"{folder / 'prefs.jsonl'}, line 101: identical completions (data.unusable is refuse)" in said
    long = write(
        tmp_path / "long.jsonl",
        [{"prompt": f"P{i}", "chosen": " a" * (300 if i == 7 else 1), "rejected": " b"} for i in range(40)],
    )
    given = [*arguments(folder), "--data.preferences", long, "--init-from", tmp_path / "source"]
    shutil.copytree(finished, tmp_path / "source")
    edit_settings(tmp_path / "source", "unusable: drop", "unusable: refuse")
    said = refused(train_rm.main, *given, *refuse)
    assert f"{long}, line 8 has " in said
    assert "more than the reward model's context of 48 (data.unusable is refuse)" in said


@pytest.mark.parametrize(
    ("missing", "main", "part"),
    [
        (("demonstrations", "preferences"), sft.main, "tokenizer is train:300, but there are only 0 usable"),
        (("preferences",), train_rm.main, "there are no preferences to train a reward model on (data.preferences)"),
        (("demonstrations", "preferences"), train_ppo.main, "ppo.ptx-coef is 0.1, but there are no demonstrations"),
    ],
)  # fmt: skip
def test_what_a_stage_needs_and_has_not_is_named(folder, finished, refused, tmp_path, missing, main, part):
    write(tmp_path / "prompts.jsonl", [{"prompt": f"Film {i}:"} for i in range(60)])
    given = [*arguments(folder), "--data.prompts", tmp_path / "prompts.jsonl"]
    given += [part for name in missing for part in (f"--data.{name}", "")]
    assert part in refused(main, *given, *([] if main is sft.main else ["--init-from", finished]))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--data.query-length", 1], "rows are too long: "),
        (
            ["--data.response-length", 2, "--data.query-length", 5, "--model.reward.context", 8],
            "reward model's context of 8",
        ),
        (["--ppo.stop-token", "two words"], "the stop token 'two words' must be one token"),
        (["--ppo.scorer", "math:sqrt"], "raised TypeError: math.sqrt() takes exactly one argument (2 given)"),
    ],
)
def test_what_later_stages_would_refuse_is_refused_before_the_first(folder, refused, options, part):
    assert part in refused(sft.main, *arguments(folder), *options)


def test_preferences_alone_suffice_for_all_stages(folder, stage, tmp_path, capsys):
    options = ["--config", folder / "sizes.yaml", "--data.preferences", folder / "prefs.jsonl", "--device", "cpu"]
    for main in MAINS:
        stage(main, *options, "--run-dir", tmp_path / "run")
        shown = capsys.readouterr().out
        assert "data: demonstrations: 82 preferred completions, because data.demonstrations is empty" in shown
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert math.isfinite(summary["sft_policy_loss"] + summary["win_rate"])


def test_texts_beyond_the_reward_models_context_are_counted_wherever_they_are_scored(folder, stage, tmp_path, capsys):
    """The reward model reads bytes, so the policy's responses, not too long in its tokens, are too long for it."""
    options = [*arguments(folder), "--model.reward.tokenizer", "train:257", "--model.reward.context", 25]
    for main in MAINS:
        stage(main, *options, "--run-dir", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    answers = [json.loads(line) for line in (tmp_path / "run" / "ppo" / "answers.jsonl").read_text().splitlines()]
    cut = sum(len((a["prompt"] + a[when]["response"]).encode()) > 24 for a in answers for when in ("before", "after"))
    assert (summary["answers_cut"], cut > 0) == (cut, True)
    assert 0 < summary["rm_samples_cut"] <= 16
    assert all(0 < line["response/cut"] <= 8 for line in lines if line["stage"] == "ppo" and line["step"] > 0)
    shown = capsys.readouterr().out
    for count, what in ((summary["rm_samples_cut"], "samples"), (cut, "answers")):
        assert f"({count} {what}, longer than the reward model's context, were scored without their end)" in shown
    capsys.readouterr()
    texts = ("Film 1: fine.", "Film 2: so fine that it goes on and on")
    stage(score.main, "--run", tmp_path / "run", "--device", "cpu", *texts)
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == 2
    assert shown.err.splitlines() == [
        "note: text 2 is longer than the reward model's context and was scored without its end"
    ]


def test_a_single_prompt_is_sampled_as_often_as_several_to_normalise_the_scores(
    folder, finished, stage, tmp_path, monkeypatch, capsys
):
    for split in ("train", "validation", "test"):
        rows = [{"prompt": f"Film {split}:", "chosen": f" fine {i}.", "rejected": f" poor {i}."} for i in range(9)]
        (tmp_path / "few").mkdir(exist_ok=True)
        write(tmp_path / "few" / f"{split}.jsonl", rows)
    sampled, original = [], train_rm.sample_responses

    def recorded(*given):
        batch = original(*given)
        sampled.extend(zip(batch.prompt_texts, batch.response_texts, strict=True))
        return batch

    monkeypatch.setattr(train_rm, "sample_responses", recorded)
    given = [*arguments(folder), "--data.preferences", tmp_path / "few", "--init-from", finished]
    stage(train_rm.main, *given, "--run-dir", tmp_path / "run")
    assert [prompt for prompt, _ in sampled] == ["Film train:"] * 16
    assert len(set(sampled)) > 8
    assert "(from 9 held-out pairs only: fewer than 30 say little)" in capsys.readouterr().out


def test_without_prompts_anywhere_the_last_stages_are_refused(folder, finished, refused, tmp_path):
    shown = write(tmp_path / "shown.jsonl", [{"text": f"Film {i}"} for i in range(40)])
    texts = write(tmp_path / "labels.jsonl", [{"text": f"Film {i}", "label": i % 2} for i in range(40)])
    given = [*arguments(folder), "--data.demonstrations", shown, "--data.preferences", texts, "--init-from", finished]
    for main in (train_rm.main, train_ppo.main):
        assert "there are no prompts: give data.prompts" in refused(main, *given)


def test_no_demonstrations_are_needed_where_nothing_is_trained_on_them(folder, finished, stage, tmp_path):
    """Weights and tokenizers are given, a function scores: prompts are enough."""
    write(tmp_path / "prompts.jsonl", [{"prompt": f"Film {i}:"} for i in range(60)])
    (tmp_path / "rule.py").write_text(
        "import torch\ndef short(p, r):\n    return torch.tensor([-float(len(x)) for x in r])\n"
    )
    options = ["--config", folder / "sizes.yaml", "--device", "cpu", "--data.prompts", tmp_path / "prompts.jsonl"]
    for name in ("policy", "reward"):
        options += [f"--model.{name}.weights", finished / "sft" / name, f"--sft.{name}.tokens", 0]
        options += [f"--model.{name}.tokenizer", finished / "tokenizers" / f"{name}.tiktoken"]
    options += ["--ppo.ptx-coef", 0, "--ppo.scorer", "rule:short", "--run-dir", tmp_path / "run"]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        stage(sft.main, *options)
        stage(train_ppo.main, *options)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert "sft_policy_loss" not in summary
    assert math.isfinite(summary["score_after"])
    for name in ("policy", "reward"):
        trained, given = (root / name / "model.safetensors" for root in (tmp_path / "run" / "sft", finished / "sft"))
        assert trained.read_bytes() == given.read_bytes()


def test_two_demonstrations_are_not_enough_for_any_use(folder):
    config = load_config(str(folder / "sizes.yaml"))
    check_demonstrations(config, 3)
    with pytest.raises(ValueError, match="but there are only 2 usable demonstrations; at least 3 are needed"):
        check_demonstrations(config, 2)


def test_example_of_the_page_writes_its_files_and_its_settings_are_in_order(tmp_path, monkeypatch):
    page = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8")
    (tmp_path / "kitchen.yaml").write_text(page.split("```yaml\n")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    kitchen_data.main(Path("kitchen"))
    config = load_config("kitchen.yaml")
    check(config)
    assert load_corpus(config).report == {
        "demonstrations, train": {"rows read": 400, "left out: prompt held out": 108},
        "preferences, train": {"rows read": 401, "dropped: identical completions": 1},
        "demonstrations after holding out": {"train": 288, "validation": 2, "test": 2},
        "comparisons after holding out": {"train": 292, "validation": 48, "test": 60},
        "different prompts": {"train": 28, "validation": 6, "test": 6},
    }
    assert "data: different prompts: 28 train, 6 validation, 6 test" in page


def test_a_run_goes_on_with_its_own_data_alone(finished, folder, stage, capsys, monkeypatch, tmp_path):
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("ppo"))
    shutil.copytree(finished / "ppo", tmp_path / "run" / "ppo.unfinished")
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    other = write(tmp_path / "prompts.jsonl", [{"prompt": f"Song {i}:"} for i in range(40)])
    with pytest.raises(SystemExit) as end:
        stage(train_ppo.main, *arguments(folder), "--run-dir", tmp_path / "run", "--data.prompts", other)
    assert end.value.code == 2
    assert "was made with other data" in capsys.readouterr().err
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    stage(train_ppo.main, *arguments(folder), "--run-dir", tmp_path / "run")
    assert (tmp_path / "run" / "ppo" / "policy").is_dir()
