"""Paths that cannot be used are one sentence in every command and for every option."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import train_ppo
import train_rm
from minippo import sft
from minippo.reviews.__main__ import main as reviews
from minippo.tools import compare, curves, evaluate, export, frontier, generate, score, trace
from tests.pipeline.tiny_run import command


def link_loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    (path / "something").write_text("else")
    return path


def file(path: Path) -> Path:
    path.write_text("[not, what, is, expected")
    return path


def dangling(path: Path) -> Path:
    path.symlink_to("nowhere")
    return path


PATHS: dict[str, Callable[[Path], Path | str]] = {
    "missing": lambda path: path,
    "long": lambda path: path.with_name("x" * 300),
    "deep": lambda path: path / ("y/" * 3000),
    "link loop": link_loop,
    "below a link loop": lambda path: link_loop(path) / "below",
    "dangling link": dangling,
    "fifo": fifo,
    "folder": folder,
    "file": file,
    "below a file": lambda path: file(path) / "below",
    "device": lambda path: "/dev/full",
    "below a device": lambda path: "/dev/null/below",
    "process": lambda path: "/proc/self/mem",
    "not writable": lambda path: "/proc/below",
    "empty": lambda path: "",
    "control": lambda path: path.with_name("red\x1b[31m"),
    "not utf-8": lambda path: path.with_name("\udcff"),
    "url": lambda path: "https://127.0.0.1:9/x",
}
STAGES = {"sft": sft.main, "train_rm": train_rm.main, "train_ppo": train_ppo.main}
TINY = ["--config", "{run}/config.yaml", "--run-dir", "new"]
OPTIONS = {
    **{f"{name} {option}": (main, [option]) for name, main in STAGES.items() for option in ("--config", "--init-from")},
    **{f"{name} --run-dir": (main, ["--run-dir"]) for name, main in STAGES.items() if name != "sft"},
    "train_rm --run-dir to write": (train_rm.main, [*TINY, "--init-from", "{run}", "--run-dir"]),
    "sft --data.folder": (sft.main, ["--data.folder"]),
    "sft --data.imdb-path": (sft.main, ["--data.source", "imdb", "--data.imdb-path"]),
    "sft --data.demonstrations": (sft.main, ["--data.source", "files", "--data.demonstrations"]),
    "sft --model.policy.tokenizer": (sft.main, [*TINY, "--model.policy.tokenizer"]),
    "sft --model.reward.weights": (sft.main, [*TINY, "--model.reward.weights"]),
    "evaluate": (evaluate.main, ["--run"]),
    "generate": (generate.main, ["--prompt", "x", "--run"]),
    "score": (score.main, ["x", "--run"]),
    "compare": (compare.main, ["--"]),
    "curves": (curves.main, ["--"]),
    "frontier": (frontier.main, ["--"]),
    "curves --out": (curves.main, ["{run}", "--out"]),
    "export --run": (export.main, ["--out", "exported", "--run"]),
    "export --out": (export.main, ["--run", "{run}", "--out"]),
    "trace": (trace.main, ["--run"]),
    "reviews": (reviews, ["--describe", "--out"]),
}
USABLE = {
    "train_rm --run-dir to write": {"missing", "dangling link", "empty", "control", "not utf-8", "url"},
    "sft --model.reward.weights": {"empty"},
    "export --out": {"missing", "empty", "control", "not utf-8", "url"},
}
"""Options for which some of the paths are valid."""


@pytest.mark.parametrize("option", OPTIONS)
def test_a_path_that_cannot_be_used_is_one_sentence(tiny_runs, tmp_path, monkeypatch, capsys, option):
    main, words = OPTIONS[option]
    shutil.copytree(tiny_runs.base().folder, tmp_path / "run")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    capsys.readouterr()
    wrong = []
    for kind in PATHS.keys() - USABLE.get(option, set()):
        place = tmp_path / kind.replace(" ", "-")
        place.mkdir()
        monkeypatch.chdir(place)
        path = PATHS[kind](place / "given")
        try:
            command(main, *(word.format(run=tmp_path / "run") for word in words), path)
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException as error:
            status = f"{type(error).__name__}: {error}"
        out, err = capsys.readouterr()
        if status not in (1, 2) or err.count("\n") != 1 or not err.startswith("error: ") or "\x1b" in err:
            wrong.append(f"{kind}: {status}: {err[:300]!r} {out[:100]!r}")
    assert not wrong, "\n".join(wrong)
