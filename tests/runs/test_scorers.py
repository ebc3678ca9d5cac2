"""A run directory from someone else runs no code: a scorer that a file names must also be named by the command line."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import train_ppo
import train_rm
from minippo import sft
from minippo.runs import load_run, load_run_scorer, parse_options
from minippo.runs.options import new_run_commands
from minippo.runs.scorers import require_named_scorer
from minippo.storage import REPOSITORY
from minippo.tools import compare, curves, evaluate, export, generate, score, trace
from tests.pipeline.tiny_run import command
from tests.stored import edit_settings

EVIL = "import pathlib\npathlib.Path(r'{marker}').touch()\ndef scorer(prompts, responses):\n    raise SystemExit(0)\n"


@pytest.fixture
def hostile(tiny_runs, tmp_path, monkeypatch):
    """A run directory whose settings name a scorer, and the mark that appears if its module is imported."""
    folder, marker = tmp_path / "somebodys_run", tmp_path / "executed"
    shutil.copytree(tiny_runs.base().folder, folder)
    edit_settings(folder, "scorer: ''", "scorer: evil_module:scorer")
    (tmp_path / "evil_module.py").write_text(EVIL.format(marker=marker))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    importlib.invalidate_caches()
    return folder, marker


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (evaluate.main, ["--run"]),
        (score.main, ["A film.", "--run"]),
        (trace.main, ["--run"]),
        (sft.main, ["--config", "{}/config.yaml", "--run-dir"]),
        (train_rm.main, ["--config", "{}/config.yaml", "--run-dir"]),
        (train_ppo.main, ["--config", "{}/config.yaml", "--run-dir"]),
    ],
    ids=lambda value: value.__module__ if callable(value) else "",
)
def test_a_scorer_that_only_a_file_names_is_refused_and_its_module_not_imported(hostile, capsys, main, arguments):
    folder, marker = hostile
    with pytest.raises(SystemExit) as end:
        command(main, *(word.format(folder) for word in arguments), folder)
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.count("\n") == 1
    option = "--ppo.scorer" if "--config" in arguments else "--scorer"
    assert "config.yaml names the scorer 'evil_module:scorer', which is code that would run with your rights" in said
    assert f"name it again: {option} evil_module:scorer" in said
    assert not marker.exists()


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (generate.main, ["--prompt", "A film.", "--run"]),
        (compare.main, []),
        (curves.main, []),
        (export.main, ["--out", "exported", "--run"]),
    ],
    ids=lambda value: value.__module__ if callable(value) else "",
)
def test_commands_that_need_no_scorer_import_none(hostile, main, arguments):
    folder, marker = hostile
    command(main, *arguments, folder)
    assert not marker.exists()


def test_a_scorer_that_the_command_line_names_as_well_is_called(hostile, capsys):
    folder, marker = hostile
    with pytest.raises(SystemExit) as end:
        command(score.main, "A film.", "--run", folder, "--scorer", "evil_module:scorer")
    assert marker.exists()
    assert end.value.code == 2  # its sys.exit(0) is an error
    assert "error: the scorer evil_module:scorer raised SystemExit: 0 (" in capsys.readouterr().err


def test_resuming_needs_the_scorer_on_the_command_line_and_goes_on_with_it(hostile, capsys):
    """A finished run is only shown."""
    folder, _ = hostile
    command(
        train_ppo.main, "--config", folder / "config.yaml", "--run-dir", folder, "--ppo.scorer", "evil_module:scorer"
    )
    assert "policy already trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stored", "named", "part"),
    [
        ("a:f", "b:f", "was trained on the scorer 'a:f', not on the scorer 'b:f' (--scorer)"),
        ("", "b:f", "was trained on its reward model, not on the scorer 'b:f' (--scorer)"),
        ("a:f", "", "was trained on the scorer 'a:f', not on the scorer '' (--scorer)"),
    ],
)
def test_a_run_is_not_measured_with_another_scorer(hostile, stored, named, part):
    folder, _ = hostile
    edit_settings(folder, "evil_module:scorer", stored or "''")
    with pytest.raises(ValueError, match="trained on") as error:
        load_run_scorer(load_run(folder, "cpu"), named)
    assert part in str(error.value)


@pytest.mark.parametrize("place", ["working directory", "sys.path", "namespace package", "imported by another"])
def test_nothing_is_imported_from_a_run_directory(hostile, monkeypatch, capsys, place):
    folder, marker = hostile
    shutil.move("evil_module.py", folder / "evil_module.py")
    name = "evil_module"
    if place == "working directory":
        monkeypatch.chdir(folder)
    elif place == "sys.path":
        monkeypatch.syspath_prepend(folder)
    elif place == "namespace package":
        name = "somebodys_run.evil_module"
    else:
        monkeypatch.syspath_prepend(folder)
        Path("innocent.py").write_text("from evil_module import scorer\n")
        name = "innocent"
    edit_settings(folder, "evil_module:", f"{name}:")
    importlib.invalidate_caches()
    with pytest.raises(SystemExit) as end:
        command(score.main, "A film.", "--run", folder, "--scorer", f"{name}:scorer")
    assert end.value.code == 2
    assert "is in a run directory, whose files are never imported" in capsys.readouterr().err
    assert not marker.exists()
    monkeypatch.delitem(sys.modules, "innocent", raising=False)


@pytest.mark.parametrize(("module", "argument"), [("difflib", "--help"), ("torch", "compare")])
def test_python_m_does_not_import_from_the_working_directory(tmp_path, module, argument):
    marker = tmp_path / "executed"
    (tmp_path / f"{module}.py").write_text(EVIL.format(marker=marker))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    arguments = [sys.executable, "-m", "minippo", argument]
    done = subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == (0 if argument == "--help" else 2)
    assert not marker.exists()


def test_the_scorer_of_a_file_is_quoted_for_the_shell():
    with pytest.raises(ValueError, match="rights") as error:
        require_named_scorer("m:f; rm -rf ~", None, "own.yaml", "--ppo.scorer")
    assert str(error.value).endswith("--ppo.scorer 'm:f; rm -rf ~'")


def test_commands_for_a_new_run_name_the_scorer_that_the_file_names(tmp_path):
    (tmp_path / "own.yaml").write_text("ppo: {scorer: 'm:f'}\n")
    given = ["--config", str(tmp_path / "own.yaml"), "--ppo.scorer", "m:f"]
    text = new_run_commands(parse_options("", given, stage="ppo"), {"ppo": "python train_ppo.py"})
    assert text.count("--ppo.scorer m:f") == 2  # for Python and for make
