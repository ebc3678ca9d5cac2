"""The documentation names only what exists: tests, options, files, metrics, mutants."""

from __future__ import annotations

import ast
import re
from dataclasses import fields, is_dataclass

import pytest
import yaml

from minippo.config import Config
from minippo.runs.results import MORE_TITLES, TITLES
from tests.doc_commands import PAGES, REPOSITORY, blocks, read
from tests.mutants.mutants import path_of
from tests.mutants.plumbing import EVERY_MUTANT
from tests.test_imports import LAYERS

DETAILS = read("docs/details.md").split("## Measured")[0]
METRICS = read("docs/metrics.md")


def options(config: object, prefix: str = "--") -> set[str]:
    """Every field of the configuration, as a command-line option."""
    names = set()
    for field in fields(config):
        value = getattr(config, field.name)
        name = prefix + field.name.replace("_", "-")
        names |= options(value, name + ".") if is_dataclass(value) else {name}
    return names


def cells(line: str) -> list[str]:
    return line.strip().strip("|").split("|")


def test_every_test_named_in_details_exists():
    named = re.findall(r"(test_\w+): (test_\w+)", DETAILS)
    assert len(named) > 40
    for file, test in named:
        assert f"def {test}(" in read(path_of(file.removeprefix("test_"))), test


@pytest.mark.parametrize("page", PAGES)
def test_every_option_named_on_a_page_exists(page):
    named = set(re.findall(r"--(?:ppo|rm|sft|data|model|eval|memory)\.[a-z.-]*[a-z]", read(page)))
    assert {name.replace(".no-", ".") for name in named} <= options(Config())


def test_every_option_of_ppo_has_its_row_in_details():
    method = {name for name in options(Config()) if name.startswith("--ppo.")}
    sizes = {f"--ppo.{name}" for name in ("num-iterations", "rollout-batch-size", "microbatch-size", "save-every")}
    plain = {f"--ppo.{name}" for name in ("lr", "weight-decay", "adam-beta2")}
    named = set(re.findall(r"--[a-z.-]+[a-z]", DETAILS))
    assert method - sizes - plain - named == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_row_of_a_table_has_as_many_cells_as_its_heading(page):
    text = re.sub(r"```.*?```", "", read(page), flags=re.DOTALL)
    for table in re.findall(r"(?:^ *\|.*\n)+", text, re.MULTILINE):
        widths = {len(cells(line)) for line in table.splitlines()}
        assert len(widths) == 1, table


@pytest.mark.parametrize("page", PAGES)
def test_every_file_named_on_a_page_exists(page):
    text = read(page)
    for name in re.findall(r"`((?:minippo|tests|bench|docs|data)/[\w/.-]*\.\w+|train_\w+\.py)`", text):
        assert (REPOSITORY / name).is_file(), name
    for name in re.findall(r"`((?:minippo|tests)/[\w/]*/)`", text):
        assert (REPOSITORY / name).is_dir(), name
    for name in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert ((REPOSITORY / page).parent / name).exists(), name


@pytest.mark.parametrize("page", PAGES)
def test_code_blocks_are_valid(page):
    for language, block, _ in blocks(page):
        if language == "python":
            ast.parse(block)
        elif language == "yaml":
            assert isinstance(yaml.safe_load(block), dict)
        else:
            assert language in ("bash", "diff", "text"), f"a block of {page} has no language"


def test_readme_is_short():
    assert len(read("README.md").splitlines()) <= 150


def test_readme_states_the_number_of_mutants():
    (stated,) = re.findall(r"inserts about ([\d,]+) bugs", read("README.md"))
    assert int(stated.replace(",", "")) == round(len(EVERY_MUTANT), -2)


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_reports_on_a_page_have_the_present_rows(page):
    (report,) = (block for _, block, _ in blocks(page) if "| before | " in re.sub(" +", " ", block))
    titles = [cells(line)[0].strip() for line in report.splitlines() if line.startswith("|")][2:]
    assert titles == list(TITLES.values())


def test_readme_names_the_files_of_every_layer():
    rows = re.findall(r"^\| ([1-6]) \| (.*?) \|", read("README.md"), re.MULTILINE)
    named = {int(layer): set(re.findall(r"`minippo/(\w+)\.py`", files)) for layer, files in rows}
    assert named == {layer: set(files) for layer, files in enumerate(LAYERS, 1)}


def test_every_metric_is_explained():
    paths = [*REPOSITORY.glob("minippo/*.py"), *REPOSITORY.glob("train_*.py")]
    source = "".join(path.read_text(encoding="utf-8") for path in paths)
    pattern = r"(?:objective|loss|policy|value|response|rm|train|eval)/\w+"
    logged = set(re.findall(f'"({pattern})"', source)) | {
        f"eval/{name}" for name in (*TITLES, *MORE_TITLES, "win_rate")
    }
    assert len(logged) > 35
    assert set(re.findall(f"`({pattern})`", METRICS)) == logged


def test_citation_and_changelog_have_the_present_version():
    (version,) = re.findall(r'^version = "(.*)"', read("pyproject.toml"), re.MULTILINE)
    citation = yaml.safe_load(read("CITATION.cff"))
    assert str(citation["version"]) == version
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)[0] == version
