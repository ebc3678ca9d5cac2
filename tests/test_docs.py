"""What the pages name is there: tests, options, files, curves."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from minippo.config import Config
from tests.mutants.mutants import path_of
from tests.mutants.plumbing import EVERY_MUTANT

REPOSITORY = Path(__file__).resolve().parents[1]
DETAILS = (REPOSITORY / "docs" / "details.md").read_text(encoding="utf-8")
TABLES = DETAILS.split("## Measured")[0]


def options(config: object, prefix: str = "--") -> set[str]:
    found = set()
    for field in fields(config):
        value = getattr(config, field.name)
        name = prefix + field.name.replace("_", "-")
        found |= options(value, name + ".") if is_dataclass(value) else {name}
    return found


def test_every_test_that_the_details_name_exists():
    named = re.findall(r"(test_\w+): (test_\w+)", TABLES)
    assert len(named) > 40
    for file, test in named:
        assert f"def {test}(" in (REPOSITORY / path_of(file.removeprefix("test_"))).read_text(encoding="utf-8"), test


def test_every_option_that_the_pages_name_exists():
    known = options(Config()) | {"--config", "--run-dir", "--init-from", "--device", "--help", "--seed"}
    for page in ("docs/details.md", "docs/log.md", "docs/data.md", "README.md"):
        text = (REPOSITORY / page).read_text(encoding="utf-8")
        named = set(re.findall(r"--(?:ppo|rm|sft|data|model|eval)\.[a-z.-]*[a-z]", text))
        assert {name.replace(".no-", ".") for name in named} <= known, page


def test_every_option_of_the_method_has_its_row():
    method = {name for name in options(Config()) if name.startswith("--ppo.")}
    sizes = {f"--ppo.{name}" for name in ("num-iterations", "rollout-batch-size", "microbatch-size", "save-every")}
    plain = {f"--ppo.{name}" for name in ("lr", "weight-decay", "adam-beta2")}
    named = set(re.findall(r"--[a-z.-]+[a-z]", TABLES))
    assert method - sizes - plain - named == set()


def test_every_row_has_as_many_cells_as_its_heading():
    for line in TABLES.splitlines():
        if line.startswith("|"):
            assert len(line.strip("|").split("|")) == 4, line


@pytest.mark.parametrize(
    "page", ["README.md", "docs/details.md", "docs/log.md", "docs/metrics.md", "docs/data.md", "data/README.md"]
)
def test_files_that_the_pages_name_exist(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:minippo|tests|bench|docs|data)/[\w/.]+\.\w+)`", text):
        assert (REPOSITORY / name).is_file(), name
    for name in re.findall(r"\]\(((?:docs|\.\.)/[\w/.-]+)\)", text):
        assert ((REPOSITORY / page).parent / name).exists(), name


def test_readme_counts_the_mutants():
    assert f"puts {len(EVERY_MUTANT)} small bugs" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_every_curve_of_a_ppo_run_is_explained():
    page = (REPOSITORY / "docs" / "metrics.md").read_text(encoding="utf-8")
    source = "".join((REPOSITORY / "minippo" / f"{name}.py").read_text(encoding="utf-8") for name in ("ppo", "rollout"))
    curves = set(re.findall(r'"((?:objective|loss|policy|value|response)/\w+)"', source))
    assert len(curves) > 20
    assert {curve for curve in curves if f"`{curve}`" not in page} == set()
