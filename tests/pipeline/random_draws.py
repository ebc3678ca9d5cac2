"""Every draw of random numbers in the product, found in its syntax trees, and the tables of docs/randomness.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "randomness.md"
STREAMS = {f"minippo.streams.{name}" for name in ("generator", "seed_global", "response_uniforms")}
# What passes a name on to one of them, or to random.Random: there the name is an argument, and its callers have it.
PASS_ON = ("BatchStream", "random_order", "hold_out", "pairs")
DRAWS = re.compile(
    r"torch\.(rand|randn|randint|rand_like|randn_like|randint_like|randperm|multinomial|normal|bernoulli|poisson|seed)"
    r"|torch\.(manual_seed|Generator|set_rng_state|default_generator\..*|random\..*|cuda\..*seed.*|distributions\..*)"
    r"|torch\.nn\.(Dropout\w*|AlphaDropout|functional\.(dropout\w*|gumbel_softmax|rrelu)|init\.(?!zeros_|ones_|constant_)\w+)"
    r"|numpy\.random\..*|random\.(?!Random\b)\w+|secrets\..*|uuid\..*|os\.urandom"
    r"|.*\.(normal_|uniform_|bernoulli_|random_|exponential_|geometric_|cauchy_|log_normal_)"
)


class Call(NamedTuple):
    """A call that opens a stream."""

    file: str
    function: str
    name: str  # with {…} for what is only known when it runs
    pattern: str  # of the names that it can be


def sources() -> Iterator[tuple[str, ast.Module]]:
    paths = [*REPOSITORY.glob("train_*.py"), *(REPOSITORY / "minippo").rglob("*.py")]
    for path in sorted(path for path in paths if path.name != "streams.py"):
        yield str(path.relative_to(REPOSITORY)), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> dict[str, str]:
    """Name in a module -> what it stands for."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
            if isinstance(node, ast.ImportFrom):
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif alias.asname:
                names[alias.asname] = alias.name
    return names


def calls_of(tree: ast.Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Every call, the full name of what is called, and the function or class around it."""
    names = imported(tree)

    def visit(node: ast.AST, around: str) -> Iterator[tuple[ast.Call, str, str]]:
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield node, names.get(first, first) + dot + rest, around
        inner = f"{around}.{node.name}" if isinstance(node, ast.FunctionDef | ast.ClassDef) else around
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inner)

    return visit(tree, "")


def name_in(call: ast.Call) -> tuple[str, str] | None:
    """The text among a call's arguments, and a pattern of what it can become."""
    for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
            return argument.value, re.escape(argument.value)
        if isinstance(argument, ast.JoinedStr):
            parts = [
                (str(part.value), re.escape(str(part.value)))
                if isinstance(part, ast.Constant)
                else ("{" + ast.unparse(part.value).removeprefix("self.") + "}", ".+")
                for part in argument.values
            ]
            return "".join(text for text, _ in parts), "".join(pattern for _, pattern in parts)
    return None


def calls() -> list[Call]:
    """Every call that opens a stream by its name."""
    found = []
    for file, tree in sources():
        for call, function, around in calls_of(tree):
            last = function.split(".")[-1]
            if function not in (*STREAMS, "random.Random") and last not in PASS_ON:
                continue
            named = name_in(call)
            if named is None:
                assert set(around.split(".")) & set(PASS_ON), f"{file}: {ast.unparse(call)} names no stream"
                continue
            function = "random.Random" if last == "pairs" else last if last in PASS_ON else function
            found.append(Call(_file(file, last), function, *named))
    return found


def _file(file: str, function: str) -> str:
    return "minippo/data/labelled.py" if function == "pairs" else file


def exceptions() -> set[tuple[str, str]]:
    """Draws from something else than a stream: file and function. Those from a given generator are none."""
    return {
        (file, function)
        for file, tree in sources()
        for call, function, _ in calls_of(tree)
        if DRAWS.fullmatch(function) and not any(keyword.arg == "generator" for keyword in call.keywords)
    }


def _tables() -> list[list[tuple[str, str]]]:
    """The first and the last cell of the rows of each table."""
    blocks = re.findall(r"(?:^\|.*\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    tables = []
    for block in blocks:
        rows = [line.strip("|").split("|") for line in block.splitlines()[2:]]
        tables.append([(row[0].strip(" `"), row[-1].strip(" `")) for row in rows])
    return tables


def streams_of_table() -> dict[str, str]:
    """Name of each stream -> the file that draws from it."""
    return dict(_tables()[0])


def templates_of_table() -> set[tuple[str, str]]:
    """Seed of each random.Random, and its file."""
    return set(_tables()[1])
