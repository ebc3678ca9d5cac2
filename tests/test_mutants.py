"""The list of mutants is fit to be run: `make mutants` runs it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.mutants.plumbing import EVERY_MUTANT

REPOSITORY = Path(__file__).resolve().parents[1]


def test_there_are_enough_and_none_twice():
    assert len(EVERY_MUTANT) >= 60
    assert len({(m.file, m.old, m.new) for m in EVERY_MUTANT}) == len(EVERY_MUTANT)


@pytest.mark.parametrize("mutant", EVERY_MUTANT, ids=lambda m: f"{m.file}: {m.old.strip()[:40]}")
def test_a_mutant_stands_once_in_its_file_and_is_code(mutant):
    source = (REPOSITORY / mutant.file).read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1
    changed = source.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
    for name in mutant.tests.split():
        if not name.startswith("-") and name.endswith(".py"):
            assert (REPOSITORY / name).is_file()
