"""The command line: presets, options, and invalid input, which is answered with one sentence before any file is
written."""

from __future__ import annotations

import mmap
import os
import platform
import re
import shlex
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import train_ppo
import train_rm
from minippo import sft
from minippo.config import Config, DataConfig, PPOConfig
from minippo.runs import command_line, load_config, parse_options
from minippo.runs.arguments import options_text
from minippo.runs.options import new_run_commands
from minippo.runs.presets import PRESETS, differences, dump_config, preset_names
from minippo.runs.validation import check
from minippo.storage import REPOSITORY
from minippo.tools import evaluate, generate, score


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """An empty working directory that must still be empty after the test."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a command that must exit with status 2; returns its error message."""

    def run(command, *arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["command", *arguments])
        with pytest.raises(SystemExit) as end:
            command()
        assert end.value.code == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("error: ")
        assert shown.err.count("\n") == 1  # one sentence, no traceback
        return shown.err.strip()

    return run


def yaml_file(folder: Path, text: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


# ---------------------------------------------------------------------------------------------- presets and files


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_is_valid(name):
    check(load_config(name))


def test_presets_contain_only_fields_that_they_change():
    for name in preset_names():
        stated = yaml.safe_load((PRESETS / f"{name}.yaml").read_text()) or {}
        flat = {f"{section}.{key}" for section, values in stated.items() if isinstance(values, dict) for key in values}
        changed = {".".join(key.split(".")[:2]) for key in differences(load_config(name), Config())}
        assert changed <= flat | {key for key, value in stated.items() if not isinstance(value, dict)}


def test_file_changes_the_fields_it_contains_and_no_others(tmp_path):
    path = yaml_file(tmp_path, "seed: 7\nppo:\n  kl_coef: 0.3\nmodel:\n  policy:\n    layers: 5\n")
    found = differences(load_config(path), Config())
    assert found == {"seed": (7, 1), "ppo.kl_coef": (0.3, Config().ppo.kl_coef), "model.policy.layers": (5, 2)}


def test_empty_file_gives_the_defaults(tmp_path):
    assert load_config(yaml_file(tmp_path, "# nothing\n")) == Config()


numbers = st.floats(0, 10, allow_subnormal=False)


@settings(deadline=None, max_examples=12)
@given(
    lr=numbers,
    clip=st.none() | st.floats(1e-9, 10),
    mode=st.sampled_from(["off", "replace", "subtract"]),
    folder=st.text(max_size=12).filter(str.isprintable),
    seed=st.integers(0, 2**40),
)
def test_stored_configuration_is_loaded_unchanged(tmp_path_factory, lr, clip, mode, folder, seed):
    """Including "off", which YAML reads as False, "1e-05", which it reads as a string, and a folder named "null"."""
    ppo = PPOConfig(lr=lr, value_clip=clip, missing_eos=mode, adam_eps=1e-5)
    config = Config(data=DataConfig(folder=folder), ppo=ppo, seed=seed)
    path = tmp_path_factory.mktemp("stored") / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(str(path)) == config


def test_stored_configuration_contains_every_field():
    def names(config):
        return {
            field.name: names(getattr(config, field.name)) if is_dataclass(getattr(config, field.name)) else None
            for field in fields(config)
        }

    def keys(values):
        return {key: keys(value) if isinstance(value, dict) else None for key, value in values.items()}

    assert keys(yaml.safe_load(dump_config(Config()))) == names(Config())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pppo:\n  lr: 1.0\n", "own.yaml, line 1: unknown field pppo; did you mean ppo?"),
        ("ppo:\n  kl_coeff: 0.1\n", "own.yaml, line 2: unknown field ppo.kl_coeff; did you mean ppo.kl_coef?"),
        ("ppo:\n  kl-coef: 0.1\n", "own.yaml, line 2: unknown field ppo.kl-coef; did you mean ppo.kl_coef?"),
        (
            "model:\n  policy:\n    layer: 3\n",
            "own.yaml, line 3: unknown field model.policy.layer; did you mean model.policy.layers?",
        ),
        ("5: 6\n", "own.yaml, line 1: unknown field 5"),
        ("ppo:\n  lr: fast\n", "own.yaml, line 2: ppo.lr must be of type float, not 'fast'"),
        ("ppo:\n  num_epochs: 2.5\n", "own.yaml, line 2: ppo.num_epochs must be of type int, not 2.5"),
        ("ppo:\n  num_epochs: true\n", "own.yaml, line 2: ppo.num_epochs must be of type int, not true"),
        ("ppo:\n  lr: true\n", "own.yaml, line 2: ppo.lr must be of type float, not true"),
        ("ppo:\n  lr: [1.0]\n", "own.yaml, line 2: ppo.lr must be of type float, not a list"),
        ("ppo:\n  score_clip: None\n", "own.yaml, line 2: ppo.score_clip must be of type float or null, not 'None'"),
        ("ppo:\n  lr: null\n", "own.yaml, line 2: ppo.lr must be of type float, not null"),
        ("ppo:\n  whiten_advantages: 1\n", "own.yaml, line 2: ppo.whiten_advantages must be of type bool, not 1"),
        ("ppo:\n  missing_eos: punish\n", "own.yaml, line 2: ppo.missing_eos must be one of off, replace, subtract"),
        ("data:\n  folder: 3\n", "own.yaml, line 2: data.folder must be of type str, not 3"),
        ("ppo: 3\n", "own.yaml, line 1: ppo must contain fields, not 3"),
        ("- 1\n", "own.yaml, line 1: the file must contain fields, not a list"),
        ("ppo: {lr: 1\n", "own.yaml, line 2, column 1: not valid YAML, expected"),
    ],
)
def test_wrong_key_or_type_in_a_file_is_named(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load_config(yaml_file(tmp_path, text))


def test_floats_that_yaml_reads_as_strings_or_integers_are_converted(tmp_path):
    config = load_config(yaml_file(tmp_path, "ppo:\n  lr: 3e-4\n  score_clip: 2\n  value_clip: null\n"))
    assert (config.ppo.lr, config.ppo.score_clip, config.ppo.value_clip) == (3e-4, 2.0, None)
    assert isinstance(config.ppo.score_clip, float)


def test_differences_name_both_values():
    ours = replace(Config(), seed=3, ppo=PPOConfig(lr=0.5))
    assert differences(ours, Config()) == {"seed": (3, 1), "ppo.lr": (0.5, Config().ppo.lr)}
    assert differences(Config(), Config()) == {}


# ---------------------------------------------------------------------------------------------- options


def test_options_override_the_preset_and_the_preset_the_defaults(tmp_path):
    path = yaml_file(tmp_path, "ppo:\n  kl_coef: 0.3\n  lr: 0.5\nseed: 9\n")
    options = parse_options("", ["--config", path, "--ppo.lr", "0.25", "--ppo.score-clip", "2", "--run-dir", "here"])
    found = differences(options.settings, Config())
    assert found == {
        "seed": (9, 1),
        "ppo.kl_coef": (0.3, Config().ppo.kl_coef),
        "ppo.lr": (0.25, Config().ppo.lr),
        "ppo.score_clip": (2.0, None),
    }
    assert options.run_folder == Path("here")


def test_config_option_may_have_any_position(tmp_path):
    path = yaml_file(tmp_path, "seed: 9\n")
    for arguments in (
        ["--seed", "9"],
        ["--config", path],
        [f"--config={path}"],
        ["--ppo.lr", str(Config().ppo.lr), "--config", path],
    ):
        assert parse_options("", arguments).settings == replace(Config(), seed=9)


def test_run_folder_is_named_after_the_preset_or_file(tmp_path):
    assert parse_options("", []).run_folder == Path("runs/reviews")
    assert parse_options("", ["--config", yaml_file(tmp_path, "")]).run_folder == Path("runs/own")


def test_unquoted_off_in_yaml_is_off(tmp_path):
    (tmp_path / "own.yaml").write_text("ppo: {missing_eos: off}\n")
    assert load_config(str(tmp_path / "own.yaml")).ppo.missing_eos == "off"


def test_none_disables_a_limit():
    assert parse_options("", ["--ppo.value-clip", "None"]).settings.ppo.value_clip is None


def test_value_of_an_unknown_option_is_not_reported(empty, refused):
    assert refused(sft.main, "--ppo.lrr", "0.1", "--seed", "2") == (
        "error: unknown option --ppo.lrr; did you mean --ppo.lr? (--help lists all)"
    )


def test_negative_numbers_are_values_in_every_notation():
    for text in ("-1", "-0.5", "-.5", "-1e-3", "-1E+2"):
        options = parse_options("", ["--ppo.missing-eos-score", text, "--seed", "2"])
        assert options.settings == replace(Config(), seed=2, ppo=PPOConfig(missing_eos_score=float(text)))


def test_underscores_in_the_name_of_an_option_are_hyphens_and_in_its_value_are_not():
    options = parse_options("", ["--ppo.kl_coef=0.5", "--data.folder", "my_data", "--run_dir=my_run"])
    assert (options.ppo.kl_coef, options.data.folder, options.run_dir) == (0.5, "my_data", Path("my_run"))


def test_switches_have_an_option_for_each_state():
    assert parse_options("", ["--ppo.whiten-rewards"]).settings.ppo == PPOConfig(whiten_rewards=True)
    assert parse_options("", ["--ppo.no-whiten-advantages"]).settings.ppo == PPOConfig(whiten_advantages=False)


def test_options_text_sets_the_fields_again(tmp_path):
    changed = PPOConfig(lr=1e-4, value_clip=None, whiten_rewards=True, whiten_advantages=False, missing_eos="replace")
    config = replace(Config(), seed=3, ppo=changed, data=DataConfig(folder="my data"))
    text = options_text({name: ours for name, (ours, _) in differences(config, Config()).items()})
    assert parse_options("", shlex.split(text)).settings == config


@pytest.mark.parametrize(
    ("changed", "stages", "lines"),
    [
        (
            ["--ppo.lr", "1e-4"],
            ["ppo"],
            [
                "run-ppo --config reviews --run-dir {run}-2 --ppo.lr 0.0001 --init-from {run}",
                "or",
                "make train-ppo INIT_FROM={run} RUN_DIR={run}-2 ARGS='--ppo.lr 0.0001'",
            ],
        ),
        (
            ["--rm.lr", "1e-4"],
            ["rm", "ppo"],
            [
                "run-rm --config reviews --run-dir {run}-2 --rm.lr 0.0001 --init-from {run}",
                "run-ppo --config reviews --run-dir {run}-2 --rm.lr 0.0001",
                "or",
                "make train-rm INIT_FROM={run} RUN_DIR={run}-2 ARGS='--rm.lr 0.0001'",
                "make train-ppo RUN_DIR={run}-2 ARGS='--rm.lr 0.0001'",
            ],
        ),
        (
            ["--seed", "2", "--config", "smoke"],
            ["sft", "rm"],
            [
                "run-sft --config smoke --run-dir {run}-2 --seed 2",
                "run-rm --config smoke --run-dir {run}-2 --seed 2",
                "or",
                "make train-rm CONFIG=smoke RUN_DIR={run}-2 ARGS='--seed 2'",
            ],
        ),
    ],
)
def test_commands_for_new_settings_train_only_the_stages_that_change(tmp_path, changed, stages, lines):
    run = tmp_path / "run"
    options = parse_options("", [*changed, "--run-dir", str(run)])
    commands = new_run_commands(options, {stage: f"run-{stage}" for stage in stages})
    assert [line.strip() for line in commands.splitlines()] == [line.format(run=run) for line in lines]


def test_new_run_directory_does_not_exist_yet(tmp_path):
    (tmp_path / "run-2").mkdir()
    options = parse_options("", ["--seed", "2", "--run-dir", str(tmp_path / "run")])
    assert f"--run-dir {tmp_path / 'run-3'} " in new_run_commands(options, {"sft": "sft"})


@pytest.mark.parametrize(
    ("changed", "stages"),
    [
        (["--ppo.lr", "0.5"], ["train_ppo.py"]),
        (["--eval.every", "3"], ["train_ppo.py"]),
        (["--rm.lr", "0.5", "--ppo.lr", "0.5"], ["train_rm.py", "train_ppo.py"]),
        (["--ppo.temperature", "0.5"], ["train_rm.py", "train_ppo.py"]),  # scores are normalised on sampled responses
        (["--sft.policy.lr", "0.5"], ["-m minippo sft", "train_rm.py", "train_ppo.py"]),
        (["--data.limit", "9", "--ppo.lr", "0.5"], ["-m minippo sft", "train_rm.py", "train_ppo.py"]),
        (["--seed", "2"], ["-m minippo sft", "train_rm.py", "train_ppo.py"]),
    ],
)
def test_other_settings_in_a_trained_run_are_refused_with_the_commands_that_use_them(
    tmp_path, monkeypatch, capsys, changed, stages
):
    """`make train ARGS=...` after `make train` starts with stage 1, whichever stage the settings are for."""
    run = tmp_path / "run"
    for stage in ("sft", "rm", "ppo"):
        (run / stage).mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(Config()))
    monkeypatch.setattr("sys.argv", ["command", "--run-dir", str(run), *changed])
    with pytest.raises(SystemExit) as end:
        sft.main()
    said = capsys.readouterr().err
    assert end.value.code == 2
    commands = [line.strip() for line in said.splitlines() if line.strip().startswith("python ")]
    source = "" if len(stages) == 3 else f" --init-from {run}"
    for number, (command, stage) in enumerate(zip(commands, stages, strict=True)):
        given = f"--config reviews --run-dir {run}-2 {' '.join(changed)}"
        assert command == f"python {stage} {given}{'' if number else source}"
    assert not (tmp_path / "run-2").exists()


@pytest.mark.parametrize("command", [train_rm.main, train_ppo.main], ids=["rm", "ppo"])
def test_all_stages_report_invalid_input_in_the_same_way(empty, refused, command):
    assert "did you mean reviews?" in refused(command, "--config", "revews")
    assert "error: ppo.gamma must be from 0 to 1, not 1.5" in refused(command, "--ppo.gamma", "1.5")
    assert "--ppo.kl-coef" in refused(command, "--ppo.kl-coeff", "0.1")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "revews"], ["no preset or file 'revews'", "did you mean reviews?"]),
        (["--config", "no/such.yaml"], ["no preset or file 'no/such.yaml'"]),
        (["--config"], ["--config needs the name"]),
        (["--ppo.kl-coeff", "0.1"], ["--ppo.kl-coeff", "did you mean --ppo.kl-coef?"]),
        (["--kl-coef", "0.1"], ["unknown option --kl-coef; did you mean --ppo.kl-coef? (--help"]),
        (["--lr", "1"], ["did you mean --sft.policy.lr, --sft.reward.lr, --rm.lr or --ppo.lr?"]),
        (["--no-whiten-rewards"], ["did you mean --ppo.no-whiten-rewards?"]),
        (["--config", "xyzzy"], ["no preset or file 'xyzzy' (--config; the presets are imdb, "]),
        (["--config", "."], [". is a folder, not a YAML file (--config)"]),
        (["--ppo.lr"], ["--ppo.lr", "expected one argument"]),
        (["--ppo.lr", "--seed", "2"], ["--ppo.lr", "expected one argument"]),
        (["--ppo.value-clip", "none"], ["--ppo.value-clip", "'none'"]),
        (["--ppo.whiten-rewards=yes"], ["--ppo.whiten-rewards", "yes"]),
        (["--foo", "1", "--rm.epoch", "2"], ["--foo", "did you mean --rm.epochs?"]),
        (["--ppo.lr", "fast"], ["--ppo.lr", "fast"]),
        (["--ppo.num-epochs", "1.5"], ["--ppo.num-epochs", "1.5"]),
        (["--ppo.missing-eos", "punish"], ["--ppo.missing-eos", "punish", "replace"]),
        (["--ppo.gamma", "1.5"], ["error: ppo.gamma must be from 0 to 1, not 1.5"]),
        (["--ppo.temperature", "0"], ["error: ppo.temperature must be at least 0.01, not 0.0"]),
        (["--ppo.lr", "nan"], ["error: ppo.lr must be at least 0, not nan"]),
        (["--ppo.rollout-batch-size", "100", "--ppo.num-minibatches", "3"], ["3 minibatches do not divide", "100"]),
        (["--ppo.microbatch-size", "5"], ["microbatches of 5 do not divide a minibatch of 128 / 2 = 64"]),
        (["--data.query-length", "100"], ["prompts of 100 tokens and responses of 64", "context of 128"]),
        (["--run-dir"], ["--run-dir"]),
        (["--device", "tpu"], ["--device", "tpu"]),
        (["extra"], ["extra"]),
    ],
)
def test_invalid_options_are_reported_in_one_sentence_before_any_file_is_written(empty, refused, arguments, words):
    said = refused(sft.main, *arguments)
    for word in words:
        assert word in said


def test_file_with_a_wrong_key_is_reported_in_one_sentence(tmp_path, refused):
    said = refused(
        sft.main, "--config", yaml_file(tmp_path, "ppo:\n  kl_coeff: 1\n"), "--run-dir", str(tmp_path / "run")
    )
    assert said == "error: own.yaml, line 2: unknown field ppo.kl_coeff; did you mean ppo.kl_coef?"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data.folder", "nowhere"], ["nowhere has no demonstrations.jsonl.bz2 (data.folder)"]),
        (
            ["--data.source", "imdb", "--data.imdb-path", "./nowhere"],
            ["the IMDB folder ./nowhere does not exist (data.imdb-path)"],
        ),
        (["--model.policy.tokenizer", "gtp2"], ["unknown tokenizer 'gtp2'"]),
        (["--model.policy.tokenizer", "."], [". is not a tokenizer: it has neither vocab.json nor"]),
        (["--model.policy.tokenizer", "train:100"], ["at least 257 ids, not 100"]),
        (["--device", "cuda"], ["PyTorch finds no GPU"]),
        (["--init-from", "nowhere"], ["nowhere is not a run directory (no config.yaml)"]),
        (["--init-from", "here", "--run-dir", "here"], ["--init-from here is the run directory itself"]),
    ],
)
def test_missing_inputs_are_named_before_any_file_is_written(empty, refused, monkeypatch, arguments, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = refused(sft.main, *arguments)
    assert said.startswith("error: ")
    for word in words:
        assert word in said


def test_incomplete_weights_folder_is_named_before_any_file_is_written(tmp_path, refused):
    (tmp_path / "weights").mkdir()
    said = refused(
        sft.main,
        "--model.policy.weights",
        str(tmp_path / "weights"),
        "--run-dir",
        str(tmp_path / "run"),
        "--data.limit",
        "5",
    )
    assert said == f"error: {tmp_path / 'weights'} has no config.json"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "first"), [(train_rm.main, "reference policy"), (train_ppo.main, "reference policy")]
)
def test_missing_stage_is_named_with_the_command_that_runs_it(empty, refused, command, first):
    said = refused(command, "--run-dir", "new")
    assert said == (
        f"error: train the {first} first: new has no sft/ "
        "(python -m minippo sft --config reviews --run-dir new, or --init-from)"
    )


def test_missing_reward_model_is_named_with_the_command_that_runs_it(tmp_path, refused):
    (tmp_path / "sft").mkdir()
    (tmp_path / "config.yaml").write_text(dump_config(Config()))
    before = sorted(tmp_path.rglob("*"))
    said = refused(train_ppo.main, "--run-dir", str(tmp_path))
    assert said.startswith("error: train the reward model first:")
    assert f"python train_rm.py --config reviews --run-dir {tmp_path}" in said
    assert sorted(tmp_path.rglob("*")) == before


def test_evaluation_of_an_unfinished_run_is_refused(tmp_path, refused):
    assert "is not a run directory (no config.yaml)" in refused(evaluate.main, "--run-dir", str(tmp_path))
    (tmp_path / "config.yaml").write_text(dump_config(Config()))
    assert "has no finished ppo/: train the policy first" in refused(evaluate.main, "--run-dir", str(tmp_path))
    assert "tpu" in refused(evaluate.main, "--run-dir", str(tmp_path), "--device", "tpu")


def test_evaluation_on_a_missing_gpu_is_refused(tmp_path, refused, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "config.yaml").write_text(dump_config(Config()))
    (tmp_path / "ppo").mkdir()
    assert "PyTorch finds no GPU" in refused(evaluate.main, "--run-dir", str(tmp_path), "--device", "cuda")


# ---------------------------------------------------------------------------------------------- help


def test_help_has_the_name_default_and_text_of_every_field(empty, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # narrow: one column
    with pytest.raises(SystemExit) as end:
        parse_options("The page.", ["--help"])
    assert end.value.code in (0, None)
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "The page." in shown

    def walk(config, prefix=""):
        for field in fields(config):
            value = getattr(config, field.name)
            if is_dataclass(value):
                yield from walk(value, f"{prefix}{field.name}.")
            else:
                yield prefix + field.name, value

    for name, value in walk(load_config("reviews")):
        option = "--" + name.replace("_", "-")
        place = shown.find(option + " ")
        if isinstance(value, bool):
            place = shown.find(f"{option}, ")
        assert place >= 0, option
        entry = shown[place : place + 500]
        default = f"(default: {value})" if value != "" else "(default: '')"
        assert default in entry, (option, entry)
    for option in ("--config", "--run-dir", "--init-from", "--device"):
        assert option in shown
    for meaning in ("Coefficient of the per-token KL penalty", "Number of reference responses used to normalise"):
        assert meaning in shown


@pytest.mark.parametrize(
    ("main", "first"),
    [
        (sft.main, ["sft.policy", "sft.reward", "model.policy", "model.reward", "data"]),
        (train_rm.main, ["rm", "data"]),
        (train_ppo.main, ["ppo", "eval", "data"]),
    ],
)
def test_help_of_a_stage_starts_with_its_own_options(empty, capsys, monkeypatch, main, first):
    monkeypatch.setattr("sys.argv", ["command", "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    headings = re.findall(r"^([a-z.]+) options:$", capsys.readouterr().out, flags=re.MULTILINE)
    assert len(headings) == len(set(headings)) == 9
    rest = sorted(headings[len(first) :], key=headings.index)
    assert headings == [*first, *rest]


def test_help_shows_the_defaults_of_the_chosen_preset(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse_options("", ["--config", yaml_file(tmp_path, "ppo:\n  kl_coef: 0.321\n"), "--help"])
    assert "(default: 0.321)" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["-m", "minippo", "sft"], ["train_rm.py"], ["train_ppo.py"]])
@pytest.mark.parametrize("asked", [None, "active"])
def test_openmp_threads_spin_briefly_and_then_sleep_unless_the_environment_says_otherwise(command, asked):
    """OpenMP prints its settings when it is loaded."""
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {k: v for k, v in os.environ.items() if k not in ours} | {"OMP_DISPLAY_ENV": "verbose"}
    if asked:
        environment["OMP_WAIT_POLICY"] = asked
    done = subprocess.run(
        [sys.executable, *command, "--help"], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this build of PyTorch does not use GNU OpenMP")
    assert f"OMP_WAIT_POLICY = '{(asked or 'passive').upper()}'" in done.stderr
    assert ("GOMP_SPINCOUNT = '1500'" in done.stderr) == (asked is None)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns memory and can be told not to")
@pytest.mark.parametrize(
    "asked", ["", "MALLOC_TRIM_THRESHOLD_=", "MALLOC_MMAP_THRESHOLD_=", "GLIBC_TUNABLES=glibc.malloc.trim_threshold="]
)
def test_freed_memory_is_kept_for_the_next_tensor_unless_the_environment_says_otherwise(asked):
    """Memory that comes fresh from the kernel costs a page fault for every page."""
    count = """import ctypes, minippo, numpy, resource
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: no huge pages
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [numpy.ones(2**18) for _ in range(32)]  # 64 MiB
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    others = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    if asked:
        name, _, value = asked.partition("=")
        environment[name] = f"{value}{2**20}"
    done = subprocess.run(
        [sys.executable, "-c", count], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    pages = 64 * 2**20 // mmap.PAGESIZE
    if asked:
        assert int(done.stdout) > 0.9 * pages
    else:
        assert int(done.stdout) < 0.05 * pages


def test_a_text_may_begin_like_an_option():
    """A value that begins with a hyphen is glued to its option only if it is a number, and "-- a dash" is a text."""
    options = command_line(
        score.ScoreOptions, arguments=["--run=r", "-1 star film", "--", "--not an option"], default=None
    )
    assert options.texts == ("-1 star film", "--not an option")
    assert command_line(score.ScoreOptions, arguments=["--run=r", "-1"]).texts == ("-1",)
    options = command_line(generate.GenerateOptions, arguments=["--run", "r", "--prompt", "-- a dash", "a -b"])
    assert options.prompt == ("-- a dash", "a -b")


def test_suggested_commands_work_for_any_name_of_the_run(tmp_path, monkeypatch):
    (tmp_path / "a run").mkdir()
    monkeypatch.chdir(tmp_path / "a run")
    options = parse_options("", ["--run-dir", "."], stage="ppo")
    command = new_run_commands(options, {"ppo": "python train_ppo.py"}).splitlines()[0]
    words = shlex.split(command)
    assert words[words.index("--run-dir") + 1] == str(tmp_path / "a run-2")
    assert words[words.index("--init-from") + 1] == str(tmp_path / "a run")
