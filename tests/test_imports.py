"""Who may import whom: the method is at the top level of `minippo/`, and depends on nothing around it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LAYERS = (
    ("config", "errors", "interruption", "exits", "streams", "splits", "storage", "masking", "batches", "optim"),
    ("equations", "bootstrap", "lookup", "model"),
    ("memory", "heads", "packing", "sampling", "advantages", "language_model"),
    ("state", "scoring"),
    ("rollout",),
    ("ppo", "checks", "answers", "evaluation", "reward_evaluation", "overoptimisation"),
)
"""The files of the method. A file imports from lower layers, or from files to its left in its own layer."""
ORDER = {name: (layer, index) for layer, names in enumerate(LAYERS) for index, name in enumerate(names)}
ALLOWED = {
    "tokenizer": set(),
    "weights": {"tokenizer"},
    "reviews": {"tokenizer"},
    "data": {"tokenizer", "reviews"},
    "runs": {"tokenizer", "weights", "reviews", "data"},
    "tools": {"tokenizer", "weights", "reviews", "data", "runs"},
}
"""Subpackage -> the others that it may import. All of them may import the method."""
SCRIPTS = {"sft", "__main__", "train_rm", "train_ppo"}
"""They may import anything, but only through the public API of a subpackage."""


class Import(NamedTuple):
    """A line that imports something of our own."""

    file: Path
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports_of(path: Path) -> list[Import]:
    """Imports of modules of `minippo`, whether at the top or inside a function, with the names that are modules."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name if exists(name) else node.module for name in names]
        found += [Import(path, node.lineno, name) for name in modules if name.split(".")[0] == "minippo"]
    return found


def exists(module: str) -> bool:
    path = REPOSITORY / module.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def package_of(path: Path) -> str:
    """The subpackage of a file; its own name for a file of the method or a script."""
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return parts[1] if parts[0] == "minippo" else parts[0]


def mistakes(path: Path) -> list[str]:
    """The imports of a file that break a rule."""
    wrong, package = [], package_of(path)
    for line in imports_of(path):
        _, *parts = line.module.split(".")
        target = parts[0] if parts else ""
        if not target or target == package:
            continue
        if len(parts) > 1:
            wrong.append(f"{line}: outside {target}/, import from minippo.{target}")
        elif target in SCRIPTS:
            wrong.append(f"{line}, which is a script")
        elif package in SCRIPTS or target == "streams":
            continue
        elif package in ALLOWED:
            if target in ALLOWED and target not in ALLOWED[package]:
                wrong.append(f"{line}, which {package}/ must not know")
        elif target in ALLOWED:
            if target != "tokenizer":
                wrong.append(f"{line}, but the method must not know {target}/")
        elif ORDER[target] >= ORDER[package]:
            wrong.append(f"{line}, which is not below it")
    return wrong


FILES = sorted([*(REPOSITORY / "minippo").rglob("*.py"), REPOSITORY / "train_rm.py", REPOSITORY / "train_ppo.py"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_point_down_and_use_public_names(path):
    assert mistakes(path) == []


def test_every_file_of_the_method_has_a_layer():
    files = {path.stem for path in (REPOSITORY / "minippo").glob("*.py")} - {"__init__", "sft", "__main__"}
    assert files == set(ORDER)
    folders = {path.parent.name for path in (REPOSITORY / "minippo").glob("*/__init__.py")}
    assert folders == set(ALLOWED)


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("minippo/equations.py", "from minippo.ppo import ppo_update", "minippo/equations.py:1 imports minippo.ppo"),
        ("minippo/ppo.py", "from minippo.data import load_corpus", "the method must not know data/"),
        ("minippo/rollout.py", "from minippo.tokenizer.bpe import Merge", "import from minippo.tokenizer"),
        ("minippo/reviews/gold.py", "from minippo.data import Comparison", "reviews/ must not know"),
        ("minippo/data/own.py", "def f():\n    from minippo.runs import Run", ":2 imports minippo.runs"),
        ("minippo/runs/run.py", "import minippo.tools", "runs/ must not know"),
        ("train_ppo.py", "from minippo.runs.run import Run", "import from minippo.runs"),
        ("minippo/model.py", "import minippo.sft", "which is a script"),
        ("minippo/optim.py", "from minippo import model", "which is not below it"),
    ],
)
def test_a_wrong_import_is_found_and_named(file, line, expected, monkeypatch):
    path = REPOSITORY / file
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: line)
    (wrong,) = mistakes(path)
    assert expected in wrong


def modules_after(code: str) -> set[str]:
    """The modules of `minippo` that a fresh process has loaded after running `code`."""
    show = "import sys; print(*(name for name in sys.modules if name.startswith('minippo')))"
    output = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return set(output.stdout.split())


def test_the_update_loads_the_method_and_nothing_around_it():
    loaded = modules_after("import minippo.ppo")
    assert "minippo.rollout" in loaded
    assert {name.split(".")[1] for name in loaded if "." in name} <= {*ORDER, "tokenizer"}


def test_no_training_run_loads_the_generator_of_the_corpus():
    scripts = "import train_ppo, train_rm, minippo.sft"
    corpus = "from minippo.config import Config; from minippo.data import load_corpus; c = load_corpus(Config())"
    reads = "; ".join(f"list(c.{part}('test')[:2])" for part in ("demonstrations", "comparisons", "prompts"))
    loaded = modules_after(f"{scripts}; {corpus}; {reads}; c.judge.gold_score('', 'A fine film.')")
    assert "minippo.reviews.gold" in loaded
    assert loaded & {"minippo.reviews.writer", "minippo.reviews.build"} == set()


def test_no_function_of_the_method_takes_more_than_six_parameters():
    """Apart from `generate` and the pure formulas."""
    for name in {*ORDER} - {"equations", "masking"}:
        tree = ast.parse((REPOSITORY / "minippo" / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name not in ("generate", "__init__"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in arguments)
                assert count <= 6, f"minippo/{name}.py:{node.lineno}: {node.name} takes {count} parameters"
