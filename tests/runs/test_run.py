"""The folder of a run: what it holds, what it refuses, and what it takes over from another."""

from __future__ import annotations

import errno
import json
import math
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from minippo import storage
from minippo.config import Config, DataConfig, PPOConfig, RMConfig, SFTConfig
from minippo.errors import TrainingError
from minippo.runs import Options, Run, load_config, load_run, open_run
from minippo.runs.presets import dump_config
from minippo.runs.run import STAGES
from minippo.storage import seal, write_text
from tests.stored import sealed_stage


def options(folder: Path, **changes) -> Options:
    return Options(**{"device": "cpu", "run_dir": folder, **changes})


RESULTS = {
    "sft": {"sft_policy_loss": 2.5},
    "rm": {"rm_accuracy": 0.8, "rm_accuracy_limit": 0.9},
    "ppo": {"score_after": 1.5},
}


def stored(folder: Path, *stages: str, config: Config | None = None, data: str = "data") -> Path:
    """A run with these finished stages, or unfinished ones."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(config or Config()))
    for number, name in enumerate(("tokenizers", *stages)):
        (folder / name).mkdir()
        (folder / name / "content").write_text(f"{name} of {folder.name}")
        if name in RESULTS:
            measured = {"stage_seconds": float(number), "peak_memory_mb": 10.0 * number}
            report = {"prompts": {"rows": 9}} if name == "sft" else {}
            sealed_stage(folder / name, results=RESULTS[name], data=data, data_report=report, **measured)
    seal(folder / "tokenizers")
    return folder


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def refused(tmp_path):
    """Opening must fail without touching a thing; returns the sentence."""

    def sentence(opened: Options, stage: str) -> str:
        before = everything(tmp_path)
        with pytest.raises(ValueError) as error:  # noqa: PT011, the sentence is returned
            open_run(opened, stage)
        assert everything(tmp_path) == before
        return str(error.value)

    return sentence


# ---------------------------------------------------------------------------------------------- stages


def test_stage_is_there_only_when_it_is_whole(tmp_path):
    run = open_run(options(tmp_path / "run"), "sft")
    assert not (tmp_path / "run").exists()
    folder = run.begin("sft")
    (folder / "weights").write_text("half")
    assert not run.is_finished("sft")
    assert run.begin("sft") == folder  # a killed run begins again with what it left
    assert (folder / "weights").read_text() == "half"
    run.finish("sft", "data", 1.0, {}, {})
    assert run.is_finished("sft")
    assert (run.stage("sft") / "weights").read_text() == "half"
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [".lock", "config.yaml", "sft", "summary.json"]
    assert sorted(path.name for path in run.stage("sft").iterdir()) == ["manifest.json", "summary.json", "weights"]


def test_beginning_stores_the_whole_configuration(tmp_path):
    run = open_run(options(tmp_path / "deep" / "run", seed=5, ppo=PPOConfig(lr=0.25)), "sft")
    run.begin("sft")
    assert load_run(tmp_path / "deep" / "run").config == Config(seed=5, ppo=PPOConfig(lr=0.25))


@pytest.mark.parametrize(("stage", "name"), [("rm", "reference policy"), ("ppo", "reference policy")])
def test_missing_first_stage_is_named(tmp_path, refused, stage, name):
    assert refused(options(tmp_path / "run"), stage).startswith(
        f"train the {name} first: {tmp_path / 'run'} has no sft/"
    )


def test_missing_second_stage_is_named_with_its_command(tmp_path, refused):
    folder = stored(tmp_path / "run", "sft")
    said = refused(options(folder), "ppo")
    assert said.startswith(f"train the reward model first: {folder} has no rm/")
    assert f"python train_rm.py --config reviews --run-dir {folder}" in said


# ---------------------------------------------------------------------------------------------- another run's folder


def test_folder_that_is_a_file_is_refused(tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    assert refused(options(tmp_path / "file"), "sft") == f"{tmp_path / 'file'} is a file, not a directory (--run-dir)"


def test_folder_beneath_a_file_is_refused(tmp_path, refused):
    (tmp_path / "file").write_text("mine")
    assert refused(options(tmp_path / "file" / "run"), "sft").startswith(f"{tmp_path / 'file'} is a file")


def test_folder_of_something_else_is_refused(tmp_path, refused):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    assert "is not a run directory (it has files but no config.yaml)" in refused(options(tmp_path / "thesis"), "sft")


def test_empty_folder_is_welcome(tmp_path):
    (tmp_path / "run").mkdir()
    assert open_run(options(tmp_path / "run"), "sft").folder == tmp_path / "run"


@pytest.mark.parametrize(
    ("finished", "stage", "changes", "sentence"),
    [
        (("sft",), "sft", {"seed": 2}, "seed is 1, now 2"),
        (("sft",), "rm", {"data": DataConfig(limit=9)}, "data.limit is 0, now 9"),
        (("sft", "rm"), "rm", {"rm": RMConfig(lr=0.5)}, f"rm.lr is {RMConfig().lr}, now 0.5"),
        (("sft", "rm"), "ppo", {"rm": RMConfig(lr=0.5)}, f"rm.lr is {RMConfig().lr}, now 0.5"),
        (
            ("sft", "rm", "ppo"),
            "ppo",
            {"ppo": PPOConfig(kl_coef=0.5)},
            f"ppo.kl_coef is {PPOConfig().kl_coef}, now 0.5",
        ),
        (
            ("sft", "rm", "ppo.unfinished"),
            "ppo",
            {"ppo": PPOConfig(kl_coef=0.5)},
            f"ppo.kl_coef is {PPOConfig().kl_coef}, now 0.5",
        ),
        (("sft.unfinished",), "sft", {"seed": 2}, "seed is 1, now 2"),
    ],
)
def test_run_made_with_other_settings_is_refused_with_both_values(
    tmp_path, refused, finished, stage, changes, sentence
):
    folder = stored(tmp_path / "run", *finished)
    said = refused(options(folder, **changes), stage)
    assert said.startswith(
        f"{folder} was trained with other settings: {sentence}. To train with the new settings elsewhere"
    )


@pytest.mark.parametrize(
    ("finished", "stage", "changes"),
    [
        (("sft",), "rm", {"rm": RMConfig(lr=0.5), "ppo": PPOConfig(lr=0.5)}),
        (("sft", "rm"), "ppo", {"ppo": PPOConfig(lr=0.5)}),
        (("sft", "rm", "ppo"), "ppo", {"data": DataConfig(folder="moved/data", imdb_path="moved/imdb")}),
    ],
)
def test_settings_of_stages_to_come_and_places_of_files_may_change(tmp_path, finished, stage, changes):
    folder = stored(tmp_path / "run", *finished)
    opened = open_run(options(folder, **changes), stage)
    assert opened.config == replace(Config(), **changes)


def test_run_is_loaded_from_its_folder_alone(tmp_path):
    folder = stored(tmp_path / "run", "sft", config=Config(seed=8))
    folder.rename(tmp_path / "elsewhere")
    assert load_run(tmp_path / "elsewhere").config.seed == 8
    with pytest.raises(ValueError, match=r"run is not a run directory \(no config\.yaml\)"):
        load_run(folder)


# ---------------------------------------------------------------------------------------------- --init-from


def test_init_from_copies_the_earlier_stages_and_their_settings(tmp_path):
    source = stored(tmp_path / "source", "sft", "rm", "ppo", config=Config(seed=4, rm=RMConfig(lr=0.5)))
    before = everything(source)
    ours = options(tmp_path / "run", init_from=source, ppo=PPOConfig(kl_coef=0.7), seed=9)
    run = open_run(ours, "ppo")
    assert not (tmp_path / "run").exists()
    run.begin("ppo")
    assert load_config(str(run.folder / "config.yaml")) == Config(
        seed=9, rm=RMConfig(lr=0.5), ppo=PPOConfig(kl_coef=0.7)
    )
    assert everything(source) == before
    shutil.rmtree(source)  # copies, not links
    for name in ("tokenizers", "sft", "rm"):
        assert (run.folder / name / "content").read_text() == f"{name} of source"
    assert not run.is_finished("ppo")
    assert run.summary() == {
        "sft_policy_loss": 2.5,
        "rm_accuracy": 0.8,
        "rm_accuracy_limit": 0.9,
        "init_from": str(source),
        "versions": {},
        "stage_seconds": {"sft": 1.0, "rm": 2.0},
        "peak_memory_mb": {"sft": 10.0, "rm": 20.0},
        "data_report": {"sft": {"prompts": {"rows": 9}}, "rm": {}},
    }


def test_init_from_for_the_second_stage_takes_the_first_alone(tmp_path):
    source = stored(tmp_path / "source", "sft", "rm")
    run = open_run(options(tmp_path / "run", init_from=source, rm=RMConfig(lr=0.5)), "rm")
    run.begin("rm")
    assert run.config.rm.lr == 0.5
    assert run.is_finished("sft")
    assert not run.is_finished("rm")


@pytest.mark.parametrize(
    ("source", "theirs", "ours", "splits"),
    [
        ("imdb", {"seed": 4}, {"seed": 5}, (4, 5)),
        ("files", {"seed": 4, "data_seed": 0}, {"seed": 4}, (0, 4)),
        ("files", {"seed": 4}, {"seed": 5, "data_seed": 4}, ()),
        ("reviews", {"seed": 4}, {"seed": 5}, ()),  # whose splits are fixed
    ],
)
def test_init_from_a_run_with_other_splits_says_so_and_how_to_have_the_same(
    tmp_path, capsys, source, theirs, ours, splits
):
    configs = []
    for given in (theirs, ours):
        data = DataConfig(source=source, seed=given.get("data_seed"), preferences="p" if source == "files" else "")
        configs.append(Config(data=data, seed=given["seed"]))
    folder = stored(tmp_path / "source", "sft", config=configs[0])
    open_run(options(tmp_path / "run", init_from=folder, **vars(configs[1])), "rm")
    note = (
        f"note: --init-from {folder}: its data was split with seed {splits[0]}, here with {splits[1]}; rows that are "
        f"held out now may have been training rows of its stages. For the same splits: --data.seed {splits[0]}\n"
        if splits
        else ""
    )
    assert capsys.readouterr().err == note


def test_interrupted_run_opens_again_with_the_same_init_from(tmp_path):
    source = stored(tmp_path / "source", "sft", "rm", config=Config(rm=RMConfig(lr=0.5)))
    first = open_run(options(tmp_path / "run", init_from=source), "ppo")
    (first.begin("ppo") / "step-000001").mkdir()
    (first.stage("sft") / "content").write_text("ours already")
    sealed_stage(first.stage("sft"), copied_from=str(source))
    again = open_run(options(tmp_path / "run", init_from=source), "ppo")
    assert again.config == first.config
    assert (again.begin("ppo") / "step-000001").is_dir()
    assert (again.stage("sft") / "content").read_text() == "ours already"


def test_init_from_the_run_itself_or_from_no_run_is_refused(tmp_path, refused):
    folder = stored(tmp_path / "run", "sft", "rm")
    assert "is the run directory itself" in refused(options(folder, init_from=tmp_path / "other" / ".." / "run"), "ppo")
    new = tmp_path / "new"
    assert "nothing is not a run" in refused(options(new, init_from=tmp_path / "nothing"), "ppo")
    (tmp_path / "file").write_text("")
    assert "file is not a run" in refused(options(new, init_from=tmp_path / "file"), "ppo")


def test_init_from_a_run_without_the_stage_is_refused(tmp_path, refused):
    source = stored(tmp_path / "source", "sft")
    said = refused(options(tmp_path / "run", init_from=source), "ppo")
    assert said == f"--init-from {source}: this run has no finished rm/"


def test_init_from_a_run_on_other_data_is_refused_with_both_values(tmp_path, refused):
    source = stored(tmp_path / "source", "sft", "rm", config=Config(data=DataConfig(query_length=20, folder="theirs")))
    said = refused(options(tmp_path / "run", init_from=source), "ppo")
    assert "its stages were trained with other settings: data.query_length is 20, here 24. Use its settings" in said


@pytest.mark.parametrize("changes", [{"temperature": 0.8}, {"min_new_tokens": 3}, {"stop_token": "."}])
def test_sampling_otherwise_than_when_scores_were_normalised_is_refused(tmp_path, refused, changes):
    (name,) = changes
    folder = stored(tmp_path / "run", "sft", "rm")
    assert f"ppo.{name} is " in refused(options(folder, ppo=PPOConfig(**changes)), "ppo")
    said = refused(options(tmp_path / "other", init_from=folder, ppo=PPOConfig(**changes)), "ppo")
    assert f"its stages were trained with other settings: ppo.{name} is " in said
    folder = stored(tmp_path / "early", "sft")
    open_run(options(folder, ppo=PPOConfig(**changes)), "rm")  # not yet normalised: any sampling will do


def test_stage_1_fits_a_run_with_other_lengths_of_prompts_and_responses(tmp_path, refused):
    """Stage 2 is the first to read them."""
    source = stored(tmp_path / "source", "sft", config=load_config("imdb-small"))
    theirs, ours = load_config("imdb-small"), load_config("imdb-rl4lms-small")
    sections = {name: getattr(ours, name) for name in ("data", "model", "rm", "ppo")}
    assert ours.model == theirs.model
    assert ours.data.query_length != theirs.data.query_length
    run = open_run(options(tmp_path / "run", init_from=source, **sections), "rm")
    assert run.config.data == ours.data
    other = replace(ours.data, limit=50)
    said = refused(options(tmp_path / "other", init_from=source, **sections | {"data": other}), "rm")
    assert "other settings: data.limit is 0, here 50. Use" in said
    open_run(options(source, sft=theirs.sft, **sections), "rm")  # nor must the run directory be another one
    finished = stored(tmp_path / "finished", "sft", "rm", config=theirs)
    changed = {name: getattr(theirs, name) for name in ("model", "sft", "rm", "ppo")}
    said = refused(options(finished, data=replace(theirs.data, crop_words=80), **changed), "ppo")
    assert "data.crop_words is 100, now 80" in said
    said = refused(options(tmp_path / "other", init_from=finished, **sections), "ppo")
    assert "data.query_length is 10, here 64; data.response_length is 128, here 48; data.crop_words is 100" in said


def test_a_policy_without_a_reward_model_was_trained_on_its_lengths(tmp_path, refused):
    folder = stored(tmp_path / "run", "sft", "ppo", config=Config(ppo=PPOConfig(scorer="a:b")))
    said = refused(options(folder, data=DataConfig(query_length=20), ppo=PPOConfig(scorer="a:b")), "ppo")
    assert "data.query_length is 24, now 20" in said


# ---------------------------------------------------------------------------------------------- summary


def test_summary_gathers_what_each_stage_found(tmp_path):
    run = Run(tmp_path, Config(), "cpu")
    assert run.summary() == {}
    found = (("sft", 12.34, {"prompts": {"rows": 5}}, {"loss": 2.5}), ("rm", 5.0, {}, {"rm_accuracy": 0.75}))
    for stage, seconds, report, results in found:
        run.begin(stage)
        run.finish(stage, f"data of {stage}", seconds, report, results)
    summary = run.summary()
    assert summary["stage_seconds"] == {"sft": 12.3, "rm": 5.0}
    assert summary["data_report"] == {"sft": {"prompts": {"rows": 5}}, "rm": {}}
    assert set(summary["peak_memory_mb"]) == {"sft", "rm"}
    assert all(50 < memory < 100_000 for memory in summary["peak_memory_mb"].values())
    assert (summary["loss"], summary["rm_accuracy"]) == (2.5, 0.75)
    assert {"python", "torch"} <= set(summary["versions"])
    assert run.record("rm")["data"] == "data of rm"
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_summary_is_that_of_the_stages_whatever_its_file_says(tmp_path):
    run = load_run(stored(tmp_path / "run", "sft", "rm"))
    for content in ("{", '{"rm_accuracy": 1.0, "score_after": 9.0}'):
        (run.folder / "summary.json").write_text(content)
        assert (run.summary()["rm_accuracy"], "score_after" in run.summary()) == (0.8, False)
    run.write_summary()
    assert json.loads((run.folder / "summary.json").read_text()) == run.summary()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_that_is_no_number_fails_the_stage_with_its_name(tmp_path, value):
    run = Run(tmp_path, Config(), "cpu")
    run.begin("ppo")
    results = {"win_rate": 0.5, "bins": [{"share": 0.1}, {"share": value}]}
    with pytest.raises(TrainingError, match=rf"^ppo, results: bins\.1\.share is {value}$"):
        run.finish("ppo", "data", 1.0, {}, results)
    assert not run.is_finished("ppo")
    assert not (tmp_path / "summary.json").exists()


# ---------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("how", ["truncated", "altered", "missing", "no manifest", "no summary"])
def test_a_damaged_stage_is_refused_with_the_file(tmp_path, how):
    run = load_run(stored(tmp_path / "run", "sft"))
    path = run.stage("sft") / {"no manifest": "manifest.json", "no summary": "summary.json"}.get(how, "content")
    if how in ("truncated", "altered"):
        path.write_bytes(path.read_bytes()[:-1] + (b"" if how == "truncated" else b"?"))
    else:
        path.unlink()
    sentence = {
        "truncated": f"{path} is damaged: it has 9 bytes instead of the 10 in manifest.json",
        "altered": f"{path} is damaged: its SHA-256 is not the one in manifest.json",
        "no manifest": f"{path.parent} is incomplete, or was written by an older version: it has no manifest.json",
    }.get(how, f"{path} is missing, although manifest.json lists it")
    for asked in (lambda: run.earlier("sft"), lambda: run.record("sft"), run.summary):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
            asked()


def test_a_damaged_stage_of_another_run_is_not_copied(tmp_path):
    source = stored(tmp_path / "source", "sft")
    (source / "sft" / "content").write_text("sft of someone")
    with pytest.raises(ValueError, match=r"sft/content is damaged"):
        open_run(options(tmp_path / "run", init_from=source), "rm").begin("rm")
    assert not (tmp_path / "run" / "sft").exists()


def test_copied_stages_say_where_they_are_from_and_leave_the_checkpoints_behind(tmp_path):
    source = stored(tmp_path / "source", "sft")
    sealed_stage(source / "sft" / "policy" / "step-000009")  # a checkpoint is sealed, too
    (source / "sft" / "policy" / "weights").write_text("of the policy")
    sealed_stage(source / "sft")
    run = open_run(options(tmp_path / "run", init_from=source), "rm")
    run.begin("rm")
    assert run.record("sft")["copied_from"] == str(source)
    assert [path.name for path in (run.stage("sft") / "policy").iterdir()] == ["weights"]


def test_stages_trained_on_other_data_are_named_unless_they_are_another_run_s(tmp_path):
    run = load_run(stored(tmp_path / "run", "sft", "rm", data="theirs"))
    run.require_data("theirs", ["sft", "rm"], "advice")
    with pytest.raises(ValueError, match=rf"^{run.stage('sft')} was trained on other data .*\n\nadvice$"):
        run.require_data("ours", ["sft", "rm"], "advice")
    copied = open_run(options(tmp_path / "copied", init_from=run.folder), "ppo")
    copied.begin("ppo")
    copied.require_data("ours", ["sft", "rm"], "advice")


# ---------------------------------------------------------------------------------------------- longer training

LONGER = SFTConfig(policy=replace(SFTConfig().policy, tokens=10**9))


@pytest.mark.parametrize(
    ("finished", "stage", "changes", "own"),
    [
        (("sft",), "sft", {"sft": LONGER}, "sft"),
        (("sft", "rm"), "rm", {"rm": RMConfig(epochs=99)}, "rm"),
        (("sft", "rm", "ppo"), "ppo", {"ppo": PPOConfig(num_iterations=10**6)}, "ppo"),
        (("sft", "rm", "ppo.unfinished"), "ppo", {"ppo": PPOConfig(num_iterations=10**6)}, ""),
    ],
)
def test_the_last_stage_can_be_trained_for_longer(tmp_path, finished, stage, changes, own):
    folder = stored(tmp_path / "run", *finished)
    checkpoint = folder / finished[-1] / "part" / "step-000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state").write_text("trained")
    run = open_run(options(folder, **changes), stage)
    assert run.continues == own
    assert run.in_training(stage)
    assert run.checkpoints_folder(stage) == folder / finished[-1]
    assert (run.begin(stage) / "part" / "step-000003" / "state").read_text() == "trained"
    assert run.checkpoints_folder(stage) == run.unfinished(stage)
    if own:  # the result of before stays until the new one replaces it
        assert (run.stage(stage) / "content").is_file()
    assert load_run(folder).config == replace(Config(), **changes)
    again = open_run(options(folder, **changes), stage)  # interrupted
    assert again.in_training(stage)
    assert (again.begin(stage) / "part" / "step-000003" / "state").is_file()
    again.finish(stage, "data", 1.0, {}, {})
    assert again.is_finished(stage)
    assert not again.in_training(stage)
    assert not own or not (again.stage(stage) / "content").exists()


def test_a_stage_without_checkpoints_is_not_trained_for_longer(tmp_path, refused):
    folder = stored(tmp_path / "run", "sft", "rm")
    said = refused(options(folder, rm=RMConfig(epochs=99)), "rm")
    assert said == f"{folder / 'rm'} has no checkpoints that could be trained for longer"


def test_nothing_is_built_on_a_stage_that_is_being_trained_for_longer(tmp_path, refused):
    folder = stored(tmp_path / "run", "sft", "sft.unfinished")
    said = refused(options(folder), "rm")
    assert said == f"the reference policy in {folder} is being trained for longer; finish it first"


def test_settings_that_another_process_has_changed_since_are_refused(tmp_path):
    """Both have loaded their inputs; one is faster and has been interrupted."""
    slow = open_run(options(tmp_path / "run", seed=2), "sft")
    open_run(options(tmp_path / "run", seed=1), "sft").begin("sft")
    with pytest.raises(ValueError, match=r"another process has trained in .* in the meantime; run the command again"):
        slow.begin("sft")
    assert load_run(tmp_path / "run").config.seed == 1


@pytest.mark.parametrize(
    "name", ["samples.md", "metrics.jsonl", "tensorboard", "sft.unfinished", "sft.unfinished/policy"]
)
def test_nothing_is_written_through_a_link(tmp_path, name):
    """The run may be somebody else's, and the link may point at a file of yours."""
    folder, mine = tmp_path / "run", tmp_path / "mine"
    open_run(options(folder), "sft").begin("sft")
    shutil.rmtree(folder / "sft.unfinished")
    mine.mkdir()
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).symlink_to(mine)
    with pytest.raises(ValueError, match=f"{name} is not a file or folder of its own"):
        open_run(options(folder), "sft").begin("sft")


def test_only_the_files_of_the_manifest_are_copied(tmp_path):
    source = stored(tmp_path / "source", "sft")
    (source / "sft" / "zero").symlink_to("/dev/zero")
    (source / "sft" / "loop").symlink_to(source / "sft")
    run = open_run(options(tmp_path / "run", init_from=source), "rm")
    run.begin("rm")
    assert sorted(path.name for path in run.stage("sft").iterdir()) == ["content", "manifest.json", "summary.json"]


def test_partial_files_of_a_run_below_this_one_are_left_alone(tmp_path):
    other = tmp_path / "run" / "other" / "ppo.unfinished" / ".partial-step-000009"
    open_run(options(tmp_path / "run"), "sft").begin("sft")
    other.mkdir(parents=True)
    open_run(options(tmp_path / "run"), "sft").begin("sft")
    assert other.is_dir()


def test_stored_settings_are_checked(tmp_path):
    folder = stored(tmp_path / "run", "sft", config=Config(data=DataConfig(response_length=-5)))
    with pytest.raises(ValueError, match=r"config\.yaml: data.response-length must be at least 1, not -5"):
        load_run(folder)


@pytest.mark.parametrize(
    ("finished", "stage", "changes", "name"),
    [
        (
            ("sft", "rm"),
            "sft",
            {"sft": LONGER},
            "sft.policy.tokens",
        ),
        (("sft", "rm", "ppo.unfinished"), "rm", {"rm": RMConfig(epochs=99)}, "rm.epochs"),
        (("sft", "rm", "ppo"), "ppo", {"ppo": PPOConfig(num_iterations=1)}, "ppo.num_iterations"),  # shorter
        (("sft", "rm"), "ppo", {"rm": RMConfig(epochs=99)}, "rm.epochs"),  # the command trains another stage
    ],
)
def test_a_stage_that_others_build_on_is_not_trained_for_longer(tmp_path, refused, finished, stage, changes, name):
    assert f"{name} is " in refused(options(stored(tmp_path / "run", *finished), **changes), stage)


def test_how_often_checkpoints_are_saved_may_change_at_any_time(tmp_path):
    folder = stored(tmp_path / "run", "sft", "rm", "ppo.unfinished")
    policy = replace(SFTConfig().policy, save_every=7)
    changes = {
        "sft": SFTConfig(policy=policy, reward=replace(SFTConfig().reward, save_every=8)),
        "rm": RMConfig(save_every=9),
        "ppo": PPOConfig(save_every=11),
    }
    assert open_run(options(folder, **changes), "ppo").config == replace(Config(), **changes)


def test_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_text(path, "old")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_text(path, "new")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.json"]
    assert path.read_text() == "new"


def test_every_section_of_the_configuration_shapes_a_stage():
    sections = {section for sections, _ in STAGES.values() for section in sections}
    # `memory` changes no result and belongs to no stage: a run can be resumed with other options.
    assert sections == set(Config.__dataclass_fields__) - {"memory"}


def test_stages_of_two_runs_are_not_mixed(tmp_path, refused):
    source, folder = stored(tmp_path / "source", "sft", "rm"), stored(tmp_path / "run", "sft")
    before = everything(folder)
    said = refused(options(folder, init_from=source), "ppo")
    assert said.startswith(f"{folder} already has its own reference policy; --init-from {source} would mix")
    assert everything(folder) == before


def test_stages_whose_copying_was_cut_short_are_taken_again(tmp_path, monkeypatch):
    source, copied = stored(tmp_path / "source", "sft", "rm"), shutil.copyfile

    def dies(place, *rest, **options):
        if place.parent.name == "rm":
            raise KeyboardInterrupt
        return copied(place, *rest, **options)

    run = open_run(options(tmp_path / "run", init_from=source), "ppo")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", dies)
        with pytest.raises(KeyboardInterrupt):
            run.begin("ppo")
    assert (tmp_path / "run" / "sft").is_dir()
    again = tmp_path / "other" / ".." / "source"  # another spelling of the same folder
    (tmp_path / "other").mkdir()
    run = open_run(options(tmp_path / "run", init_from=again), "ppo")
    run.begin("ppo")
    assert run.is_finished("rm")
    assert run.summary()["rm_accuracy"] == 0.8


def test_run_that_another_process_trains_is_refused(tmp_path):
    run = open_run(options(tmp_path / "run"), "sft")
    run.begin("sft")
    program = f"""
from pathlib import Path
from minippo.runs import load_run
try:
    load_run(Path({str(run.folder)!r})).begin("sft")
except ValueError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == f"another process is training in {run.folder} (--run-dir)\n"


def test_folder_that_cannot_be_written_is_refused_in_a_sentence(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("minippo.runs.run.write_text", full)
    with pytest.raises(ValueError, match=r"run cannot be written: No space left on device \(--run-dir\)"):
        open_run(options(tmp_path / "run"), "sft").begin("sft")


def test_first_stage_has_nothing_to_take_over(tmp_path, refused):
    source = stored(tmp_path / "source", "sft")
    assert "but the reference policy is the first" in refused(options(tmp_path / "run", init_from=source), "sft")


def test_a_folder_with_only_what_a_killed_process_left_can_be_started(tmp_path):
    folder = tmp_path / "run"
    (folder / ".partial-config.yaml").mkdir(parents=True)
    (folder / ".lock").write_text("")
    run = open_run(options(folder), "sft")
    unfinished = run.unfinished("sft") / "policy" / ".partial-step-000003"
    unfinished.mkdir(parents=True)
    run.begin("sft")
    assert sorted(path.name for path in folder.rglob("*")) == [".lock", "config.yaml", "policy", "sft.unfinished"]


def test_the_lock_follows_no_link_and_truncates_no_file(tmp_path):
    mine, folder = tmp_path / "mine", tmp_path / "run"
    mine.write_text("thesis")
    folder.mkdir()
    (folder / ".lock").symlink_to(mine)
    with pytest.raises(ValueError, match=r"cannot be written: .*symbolic links"):
        open_run(options(folder), "sft").begin("sft")
    (folder / ".lock").unlink()
    (folder / ".lock").hardlink_to(mine)
    open_run(options(folder), "sft").begin("sft")
    assert mine.read_text() == "thesis"


def test_a_run_directory_that_has_been_moved_is_not_created_again(tmp_path):
    run = open_run(options(tmp_path / "run"), "sft")
    run.begin("sft")
    assert run.results_folder("sft") == run.unfinished("sft")
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    for use in (lambda: run.results_folder("sft"), lambda: run.finish("sft", "data", 1.0, {}, {})):
        with pytest.raises(FileNotFoundError, match="the run directory has been moved or deleted"):
            use()
    assert not (tmp_path / "run").exists()


def test_the_command_that_resumes_is_quoted_and_names_the_scorer(tmp_path):
    run = Run(tmp_path / "my run", replace(Config(), ppo=PPOConfig(scorer="mine:score")), "cpu")
    path = tmp_path / "my run"
    command = f"python train_ppo.py --config '{path}/config.yaml' --run-dir '{path}' --ppo.scorer mine:score"
    assert run.command("ppo") == command
    plain = f"python train_rm.py --config {tmp_path}/config.yaml --run-dir {tmp_path}"
    assert Run(tmp_path, Config(), "cpu").command("rm") == plain
