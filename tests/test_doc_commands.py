"""The shell commands of the documentation work, in the order in which they are given."""

from __future__ import annotations

import ast
import copy
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from minippo.runs import load_config
from tests.doc_commands import (
    PAGES,
    REPOSITORY,
    STAGES,
    Shell,
    blocks,
    commands,
    joined_lines,
    read,
    without_comment,
)

SCRIPTS = sorted(
    str(path.relative_to(REPOSITORY))
    for pattern in ("train_*.py", "minippo/*.py", "minippo/tools/*.py", "bench/*.py", "docs/*.py")
    for path in REPOSITORY.glob(pattern)
)
NOT_RUN = re.compile(r"git |cd |pip |make (install|test|mutants|lint|bench|tensorboard)")
"""Commands of the README that need the network or pip, never end, or would run these tests again."""


@pytest.fixture(scope="module")
def after_readme() -> Shell:
    shell = Shell()
    shell.run_all(commands("README.md"))
    return shell


@pytest.mark.parametrize("page", PAGES)
def test_every_command_can_work_where_it_stands(page, after_readme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks(page):  # "In `kitchen.yaml`:"
        if block.language == "yaml" and (name := re.search(r"`([\w-]+\.yaml)`:$", block.before)):
            Path(name.group(1)).write_text(block.text, encoding="utf-8")
            load_config(name.group(1))
    shell = Shell() if page == "README.md" else copy.deepcopy(after_readme)
    shell.run_all(commands(page))


@pytest.mark.parametrize("script", SCRIPTS)
def test_commands_in_a_docstring_have_options_that_exist(script):
    docstring = ast.get_docstring(ast.parse(read(script))) or ""
    shell = Shell(activated=True, made={"install"}, stages=defaultdict(lambda: set(STAGES)))
    shell.run("make install-dev")
    for line in joined_lines(docstring):
        if line.lstrip().startswith("python "):
            shell.run(without_comment(line).replace("[", "").replace("]", ""))


def test_readme_has_commands_of_every_kind():
    first_words = {" ".join(command.split()[:3]) for command in commands("README.md")}
    expected = {"make train", "make test", ". .venv/bin/activate", "python -m minippo"}
    assert expected <= first_words


@pytest.mark.parametrize(
    ("commands_", "message"),
    [
        (["python train_rm.py"], "not activated"),
        ([". .venv/bin/activate"], "no environment"),
        (["make trian"], "no such target"),
        (["make train", "pip install x"], "unknown command"),
        (["make install", ". .venv/bin/activate", "python train_ppo.py"], "needs"),
        (["make train", ". .venv/bin/activate", "python bench/details.py --sedes 1"], "no option"),
        (["make train", ". .venv/bin/activate", "python bench/imdb_judge.py"], "make install-dev"),
        (["make train", ". .venv/bin/activate", "python docs/kitchen.py"], "does not exist"),
    ],
)
def test_commands_that_cannot_work_are_found(commands_, message):
    with pytest.raises(AssertionError, match=message):
        Shell().run_all(commands_)


@pytest.mark.parametrize("option", ["--ppo.kl-cof 1", "--ppo.kl-coef much"])
def test_wrong_options_of_a_stage_are_found(option):
    with pytest.raises(SystemExit):
        Shell(activated=True).run(f"python train_ppo.py {option}")


def hashes(folder: Path) -> dict[str, str]:
    """Relative path of each file -> hash of its contents."""
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def tree(tmp_path) -> Path:
    """A copy of the repository in which the preset `reviews` is as small as `smoke`."""
    tree = tmp_path / "minippo"
    left_out = {".git", ".venv", ".pytest_cache", ".ruff_cache", ".hypothesis", "runs", "build", "exported"}

    def ignored(folder: str, names: list[str]) -> set[str]:
        return {"__pycache__"} | (left_out if Path(folder) == REPOSITORY else set())

    shutil.copytree(REPOSITORY, tree, ignore=ignored)
    shutil.copy(tree / "minippo" / "configs" / "smoke.yaml", tree / "minippo" / "configs" / "reviews.yaml")
    return tree


def make_environment(tree: Path) -> None:
    """A .venv whose `python` is the current interpreter, and which make takes for installed."""
    folder = tree / ".venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    (folder / "python").chmod(0o755)
    (folder / "activate").write_text(f'export PATH="{folder}:$PATH"\n', encoding="utf-8")
    for name in ("installed", "installed-test", "installed-dev"):
        (folder.parent / name).touch()


@pytest.mark.slow
def test_commands_of_readme_run_in_order_and_overwrite_no_file(tree, tmp_path):
    before = hashes(tree)
    make_environment(tree)
    script = "\n".join(command for command in commands("README.md") if not NOT_RUN.match(command))
    environment = os.environ | {
        "PYTHONPATH": str(tree),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        ["bash", "-exc", script], cwd=tree, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    after = hashes(tree)
    assert {name for name in before if after.get(name) != before[name]} == set()
    created = {name.split("/")[0] for name in after.keys() - before.keys()}
    assert created <= {".venv", "runs", "exported"}
