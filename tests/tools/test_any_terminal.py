"""Every command on every kind of standard stream and in every environment: no traceback, no control characters."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from minippo.storage import REPOSITORY

FULL = "error: the standard output cannot be written: No space left on device\n"
STREAMS = {
    "full": (">/dev/full", 1, FULL),
    "errors full": ("2>/dev/full", 0, ""),
    "closed": ("<&- >&- 2>&-", 0, ""),
    "pipe": ("> >(true)", (0, 1), ""),
    "both to a pipe": ("> >(true) 2>&1", (0, 1), ""),
    "environment": ("", 0, None),
}
"""Redirections, the exit status, and the standard error output (None: anything but a traceback)."""
ENVIRONMENT = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "HOME": "/dev/null", "COLUMNS": "0", "LINES": "0"}
COMMANDS = {
    "help": "-m minippo --help",
    "evaluate": "-m minippo evaluate --device cpu --run {run}",
    "generate": "-m minippo generate --device cpu --run {run} --prompt 'A film.' --n 5",
    "score": "-m minippo score --device cpu --run {run} '\u65e5\u672c \x1b[31m'",
    "compare": "-m minippo compare {run} {run}",
    "curves": "-m minippo curves {run} --out {folder}/curves.png",
    "export": "-m minippo export --run {run} --out {folder}/exported",
    "trace": "-m minippo trace",
    "sft": "-m minippo sft --device cpu --config {config} --run-dir {folder}/new",
    "train_rm": "{repository}/train_rm.py --device cpu --config {config} --run-dir {folder}/new --init-from {run}",
    "train_ppo": "{repository}/train_ppo.py --device cpu --config {config} --run-dir {folder}/new --init-from {run}",
    "help of train_ppo": "{repository}/train_ppo.py --help",
    "reviews": "-m minippo.reviews --describe",
}


def run(words: str, redirections: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the shell. The empty environment has no TERM."""
    (folder / "errors").write_text("")
    shell = f"{shlex.quote(sys.executable)} {words} 2>{folder}/errors {redirections}"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(
        ["bash", "-c", shell], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, timeout=120
    )
    done.stderr = (folder / "errors").read_text(errors="backslashreplace")
    return done


@pytest.fixture(scope="module")
def finished(tiny_runs, tmp_path_factory) -> dict[str, Path]:
    """A finished run and its settings, to fill in the commands."""
    base = tiny_runs.base()
    return {"run": base.folder, "config": base.folder / "config.yaml", "repository": REPOSITORY}


def check_stream(stream: str, words: str, folder: Path) -> None:
    redirections, status, errors = STREAMS[stream]
    # Stages keep their cache in the home directory, or where XDG_CACHE_HOME says.
    environment = ENVIRONMENT | {"XDG_CACHE_HOME": str(folder / "cache")} if stream == "environment" else {}
    done = run(words, redirections, folder, **environment)
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    assert done.returncode in (status if isinstance(status, tuple) else (status,)), done.stderr
    assert errors is None or errors in done.stderr
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("stream", STREAMS)
def test_help_on_any_terminal(stream, tmp_path):
    check_stream(stream, COMMANDS["help"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stream"),
    # `reviews` takes ten seconds.
    [(n, s) for n in COMMANDS for s in STREAMS if n != "help" and (n != "reviews" or s in ("pipe", "environment"))],
)
def test_every_command_on_any_terminal(finished, stream, name, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(finished["run"], copy)
    check_stream(stream, COMMANDS[name].format(**finished | {"run": copy, "folder": tmp_path}), tmp_path)
    if name.startswith(("sft", "train")):
        stage = {"sft": "sft", "train_rm": "rm", "train_ppo": "ppo"}[name]
        assert (tmp_path / "new" / stage).is_dir()  # training does not depend on who reads its output


@pytest.mark.slow
def test_a_home_directory_that_cannot_be_written_is_one_sentence(finished, tmp_path):
    done = run(COMMANDS["sft"].format(**finished | {"folder": tmp_path}), "", tmp_path, HOME="/dev/null")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "set XDG_CACHE_HOME to use another folder" in done.stderr
