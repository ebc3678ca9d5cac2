"""The code blocks and shell commands of the documentation, and what each command needs and creates."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import textwrap
from collections import defaultdict
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import NamedTuple

from minippo.runs import command_line, parse_options

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [
    "README.md",  # first: the other pages assume its environment and its run
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "data/README.md",
    *sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "docs").glob("*.md")),
]
STAGES = ("sft", "rm", "ppo")
INSTALLED = "$(VENV)/installed"


class Block(NamedTuple):
    """A code block."""

    language: str
    text: str
    before: str  # the line before it


def read(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced code blocks of a page."""
    found = re.findall(r"([^\n]*)\n*^( *)```(\w*)\n(.*?)^\2```$", read(page), re.MULTILINE | re.DOTALL)
    return [Block(language, textwrap.dedent(text), before) for before, _, language, text in found]


def indented_commands(page: str) -> list[str]:
    """Commands in blocks that are only indented."""
    text = re.sub(r"^( *)```.*?^\1```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^    ((?:python|make|minippo|pip|for) .*)", text, re.MULTILINE)


def commands(page: str) -> list[str]:
    """The shell commands of a page in order, one per element, without comments."""
    lines = [line for block in blocks(page) if block.language == "bash" for line in joined_lines(block.text)]
    lines = [line for given in [*lines, *indented_commands(page)] for line in unrolled(without_comment(given))]
    parts = [part for line in lines for part in line.split("&&")]
    return [part.strip() for part in parts if part.strip()]


def joined_lines(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def unrolled(line: str) -> list[str]:
    """The commands of a `for` loop on one line; other lines as they are."""
    if not (loop := re.fullmatch(r"for (\w+) in (.*?); do (.*); done", line.strip())):
        return [line]
    name, values, body = loop.groups()
    return [body.replace(f"${name}", value) for value in values.split()]


def without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line)


def make_targets() -> dict[str, set[str]]:
    """Target of the Makefile -> what it depends on, with the files `$(VENV)/installed*` as the targets `install*`."""
    targets: dict[str, set[str]] = defaultdict(set)
    for target, dependencies in re.findall(
        r"^([a-z][a-z-]*):([^#\n=]*)", read("Makefile").replace(INSTALLED, "install"), re.M
    ):
        targets[target] |= set(re.findall(r"[a-z][a-z-]*", dependencies))  # also those in $(if ...)
    return dict(targets)


def bench_fields(path: Path) -> dict[str, bool]:
    """Option of a script in bench/ -> whether it is a flag, read from its class `Options`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Options"]
    members = [member for node in classes for member in node.body if isinstance(member, ast.AnnAssign)]
    return {f"--{ast.unparse(m.target).replace('_', '-')}": ast.unparse(m.annotation) == "bool" for m in members}


def needs_dev_tools(path: Path) -> bool:
    """Whether a script imports a package that only `make install-dev` installs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return bool({name.split(".")[0] for name in names} & {"matplotlib", "sklearn", "transformers"})


@dataclass
class Shell:
    """What the commands so far have created. `run` checks that the next one can work and adds what it creates."""

    activated: bool = False
    made: set[str] = field(default_factory=set)
    """Targets of the Makefile that have been built."""
    stages: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Run directory -> its finished stages."""

    def run_all(self, commands: list[str]) -> None:
        for command in commands:
            self.run(command)

    def run(self, command: str) -> None:
        words = shlex.split(command)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # environment variables
            words.pop(0)
        program, *arguments = words or ["export"]  # a variable of the shell alone
        if program == "make":
            self.make(arguments)
        elif program in (".", "source"):
            assert arguments == [".venv/bin/activate"], command
            assert "install" in self.made, f"{command}: no environment has been created yet"
            self.activated = True
        elif program == "python":
            assert self.activated, f"{command}: the environment is not activated yet"
            self.python(arguments)
        else:
            assert (program, *arguments[:1]) == ("git", "clone") or program in ("cd", "echo", "export"), (
                f"unknown command: {command}"
            )

    def make(self, arguments: list[str]) -> None:
        variables = dict(word.split("=", 1) for word in arguments if "=" in word)
        assert all(f"$({name})" in read("Makefile") for name in variables), arguments
        targets, names = make_targets(), [word for word in arguments if "=" not in word]
        assert set(names) <= targets.keys(), f"make {' '.join(names)}: no such target"
        while names:
            name = names.pop()
            self.made.add(name)
            names += (targets[name] & targets.keys()) - self.made
        run = variables.get("RUN_DIR", f"runs/{Path(variables.get('CONFIG', 'reviews')).stem}")
        options = [f"--config={variables.get('CONFIG', 'reviews')}", f"--run-dir={run}"]
        options += [f"--init-from={variables['INIT_FROM']}"] if "INIT_FROM" in variables else []
        options += shlex.split(variables.get("ARGS", ""))
        last = max([{"sft": 1, "train-rm": 2, "train-ppo": 3, "train": 3}.get(word, 0) for word in arguments])
        for stage in STAGES[last - 1 if "INIT_FROM" in variables else 0 : last]:
            self.stage(stage, options)
        if {"evaluate", "generate", "curves"} & set(arguments):
            assert "ppo" in self.stages[run], f"no command has created {run} yet"

    def python(self, arguments: list[str]) -> None:
        script, *rest = arguments
        if script == "-m":
            module, *rest = rest
            if module == "minippo":
                self.command(rest[0], rest[1:])
            elif module == "pytest":
                assert "install-test" in self.made
                assert all((REPOSITORY / word).exists() for word in rest if not word.startswith("-")), rest
            elif module == "bench":
                assert "install-dev" in self.made, "bench needs make install-dev"
                self.bench(REPOSITORY / "bench" / "__main__.py", rest)
            else:
                assert module in ("tests.mutants.run", "bench.planned", "bench.documents"), f"unknown module: {module}"
        elif script in ("train_rm.py", "train_ppo.py"):
            self.stage(script.removeprefix("train_").removesuffix(".py"), rest)
        else:
            assert (REPOSITORY / script).is_file(), f"{script} does not exist"
            if script.startswith("bench/"):
                self.bench(REPOSITORY / script, rest)

    def command(self, name: str, arguments: list[str]) -> None:
        """`python -m minippo NAME`."""
        if name == "sft":
            return self.stage("sft", arguments)
        known = importlib.import_module("minippo.__main__").COMMANDS
        assert name in known, f"minippo has no command {name}"
        module = importlib.import_module(known[name][0])
        (options,) = (
            value
            for key, value in vars(module).items()
            if key.endswith("Options") and is_dataclass(value) and value.__module__ == module.__name__
        )
        parsed = vars(command_line(options, None, arguments))
        runs = [parsed.get("run"), parsed.get("run_dir"), *parsed.get("runs", ())]
        if name in ("curves", "frontier"):
            assert self.made & {"install-plot", "install-test"}, "plots need make install-plot"
        missing = [str(run) for run in runs if run is not None and not self.stages[str(run)]]
        assert missing == [] or name == "trace", f"no command has created {missing}, which {name} needs"

    def stage(self, stage: str, arguments: list[str]) -> None:
        options = parse_options("", arguments)
        if options.plan:  # needs nothing and writes nothing
            return
        run = str(options.run_folder)
        if options.init_from is not None:
            assert self.stages[str(options.init_from)], f"no command has created {options.init_from} yet"
            self.stages[run] |= self.stages[str(options.init_from)] & set(STAGES[: STAGES.index(stage)])
        needed = set(STAGES[: STAGES.index(stage)]) - ({"rm"} if options.ppo.scorer else set())
        assert needed <= self.stages[run], f"{stage} of {run} needs {needed - self.stages[run]}"
        self.stages[run].add(stage)

    def bench(self, path: Path, arguments: list[str]) -> None:
        assert "install-dev" in self.made or not needs_dev_tools(path), f"{path.name} needs make install-dev"
        flags = bench_fields(path)
        for index, word in enumerate(arguments):
            if word.startswith("--"):
                assert word in flags, f"{path.name} has no option {word}"
                assert flags[word] or not arguments[index + 1].startswith("--"), f"{word} needs a value"
            if word in ("--run-dir", "--init-from"):
                assert self.stages[arguments[index + 1]], f"no command has created {arguments[index + 1]} yet"
