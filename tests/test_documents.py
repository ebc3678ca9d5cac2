"""README.md and docs/results.md show the stored results and nothing else, and these are those of the runs."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from datetime import date
from pathlib import Path

import jinja2.nodes
import numpy as np
import pytest
import yaml

from bench import documents, experiments
from bench.experiments import Experiment
from minippo.data import load_corpus
from minippo.runs import load_run, read_answers, table
from minippo.storage import REPOSITORY
from tests.pipeline.tiny_run import command

TEMPLATES = tuple(documents.PAGES)
ALLOWED = {
    "README.md": {
        "names": ["GPT-2", *(f"| {layer} |" for layer in range(1, 7))],
        "formulas, with the default settings": [
            "* A_{t+1},",
            "* V_{t+1} -",
            "mean 0 and variance 1 over",
            "clip(ratio_t, 0.8, 1.2))",
            "1/2 * max((V_new - R_t)^2, (V_t + clip(V_new - V_t, -0.2, 0.2) - R_t)^2)",
        ],
        "pyproject.toml": ["Python 3.10 or newer"],
        "the size of .venv, which no run measures": ["1.3 GB of disk space", "(1.8 GB with"],
        "test_docs counts the mutants": ["about 1,100 bugs"],
    },
    "results.md": {
        "names": [
            *("SHA-256", "GPT-2 or, in the last, GPT-2 XL", "OPT-125m", "with 12 GB)", "Gao et al. 2022"),
            *("stage 1 included", "of RL4LMs", "RL4LMs (Ramamurthy et al. 2022), GPT-2 continues"),
            "Rafailov et al. (2023, figure 2)",
        ],
        "published by Ramamurthy et al. 2022": [
            "| published, GPT-2, PPO | 0.489 -> 0.605 | 32.2 -> 33.5 |",
            "| published, GPT-2, NLPO | 0.489 -> 0.637 | 32.2 -> 32.7 |",
            "against +0.116) and",
            "against 4 % in the published run of PPO",
        ],
        "settings of the commands": [
            "stage 1 and seeds",
            "(4, 2, 1, 1/2 and 1/4 times the",
            "own, and 0)",
            "(16, 4 and 1 times)",
            "trained on 1/4 and 1/16 of the",
            "with seed 1, and",
        ],
        "formulas": ["log n - (n-1)/n", "95 % intervals over", "95 % intervals over prompts or texts"],
        "targets": [
            "were: 0.85 of",
            "at most 4 points",
            "0.95 judged positive",
            "rate of 0.90 at a KL of at most 10 nats",
            "0.97 of the reference's",
            "0.7 of its",
            "at most 1.5 times",
            "at most 1 GB",
            "target of 0.92 by",
            "less than 45 minutes",
        ],
        "printed by bench/load_memory.py, which makes no run": ["at most 1.05 times"],
    },
}
"""Template -> reason -> phrases with a number that does not come from a run."""


def source(template: str) -> str:
    return (REPOSITORY / "docs" / "templates" / template).read_text(encoding="utf-8")


@pytest.fixture
def in_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)


# ---------------------------------------------------------------------------------------------- the documents


@pytest.mark.parametrize(("template", "page"), documents.PAGES.items())
def test_a_document_is_its_template_with_the_stored_results(template, page, in_repository):
    text = documents.rendered(template, documents.stored_results())
    assert text == page.read_text(encoding="utf-8"), "run `make results`"


def literal_numbers(text: str, template: str) -> list[str]:
    """The lines with a number that is neither rendered, nor part of code, nor allowed. Every phrase must be there."""
    literal = "".join(part if kind == "data" else "\0" for _, kind, part in jinja2.Environment().lex(text))
    literal = re.sub(r"^```(bash|python|yaml)\n.*?^```$", "", literal, flags=re.DOTALL | re.MULTILINE)
    literal = re.sub(r"`[^`\n]+`|\]\([^)]*\)|^\d\. ", "", literal, flags=re.MULTILINE)  # code, targets of links, lists
    for phrases in ALLOWED[template].values():
        for phrase in phrases:
            pattern = r"\s+".join(map(re.escape, phrase.split()))
            assert re.search(pattern, literal), f"{template} does not contain {phrase!r} any more"
            literal = re.sub(pattern, "", literal, count=1)
    return [line for line in literal.splitlines() if re.search(r"\d", line)]


@pytest.mark.parametrize("template", TEMPLATES)
def test_no_number_in_a_template_is_a_result(template):
    assert literal_numbers(source(template), template) == []


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "text", ["It reaches 0.769.", "It takes 97 s.", "13 % fail", "| gold | 2.09 |", "```text\n7\n```"]
)
def test_a_number_in_a_template_is_found(template, text):
    assert len(literal_numbers(f"{source(template)}\n{text}\n", template)) == 1


def constant_expressions(text: str) -> list[int]:
    """The lines of `{{ expressions }}` that use no variable: a number in braces is a literal as well."""
    outputs = documents.environment().parse(text).find_all(jinja2.nodes.Output)
    parts = [part for output in outputs for part in output.nodes if not isinstance(part, jinja2.nodes.TemplateData)]
    # `find_all` looks below a node only.
    return [part.lineno for part in parts if not list(jinja2.nodes.Output([part]).find_all(jinja2.nodes.Name))]


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_expression_of_a_template_uses_a_result(template):
    assert constant_expressions(source(template)) == []
    assert constant_expressions(source(template) + "{{ 0.769 | fixed(2) }}\n") != []


def test_the_report_of_a_run_has_its_results(in_repository):
    for name, record in documents.stored_results().items():
        if "report" in record:
            assert table(record["runs"][0]["before"], record["runs"][0]["after"]) in "\n".join(record["report"]), name


@pytest.mark.parametrize(
    ("name", "path", "template"),
    [
        ("reviews", ("report", 0), "README.md"),
        ("reviews", ("runs", 0, "stage_seconds", "rm"), "README.md"),
        ("reviews", ("machine", "cores"), "README.md"),
        ("trace", ("output", 64), "README.md"),
        ("seeds", ("runs", 0, "after", "gold_score"), "results.md"),
        ("seeds", ("runs", 3, "peak_memory_mb", "ppo"), "results.md"),
        ("seeds", ("runs", 9, "after", "kl"), "results.md"),
        ("frontier", ("data", "points", 3, "gold", 0), "results.md"),
        ("frontier", ("data", "laws", 1, "root_mean_square_error"), "results.md"),
        ("imdb_rl4lms_small", ("frontier", "points", 7, "ahead", 0), "results.md"),
        ("imdb_small", ("judge", "pair_accuracy"), "results.md"),
        ("imdb_small", ("runs", 0, "after", "distinct_2"), "results.md"),
    ],
)
def test_another_result_is_another_document(name, path, template, in_repository):
    stored = documents.stored_results()
    before, changed = documents.rendered(template, stored), copy.deepcopy(stored)
    *keys, last = path
    place = changed[name]
    for key in keys:
        place = place[key]
    place[last] = place[last] * 1.1 if isinstance(place[last], float) else f"another {place[last]}"
    assert documents.rendered(template, changed) != before


# ---------------------------------------------------------------------------------------------- templates


RUNS = [
    {"seed": 3, "after": {"gold": 1.5}, "before": {"gold": 1.0}},
    {"seed": 4, "after": {"gold": 9}, "before": {"gold": 2}},
]


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ('runs | each("after.gold - before.gold") | join(" ")', "0.5 7"),
        ('runs | each("after.gold") | mean | fixed(2)', "5.25"),
        ("0.12345678 | significant", "0.1235"),
        ("2.0 | signed(1)", "+2.0"),
        ("75000 | thousands", "75,000"),
        ("lines | paragraphs(1, 3)", "b\nc\n\nd"),
        ('lines | starting("b", 2)', "b\nc"),
    ],
)
def test_filters(expression, text):
    lines = ["a", "", "b", "c", "", "d", "", "e"]
    assert documents.environment().from_string(f"{{{{ {expression} }}}}").render(runs=RUNS, lines=lines) == text


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A repository with one document and no experiment; templates and runs are still to be added."""
    for folder in ("docs/templates", "docs/results", "docs/images", "runs"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(documents, "PAGES", {"page.md": Path("page.md")})
    for module in (documents, experiments):
        monkeypatch.setattr(module, "EXPERIMENTS", {})
    return tmp_path


@pytest.fixture
def refused(capsys):
    """The one sentence with which the program ends; what it printed before is dropped."""

    def run(*arguments: str) -> str:
        with pytest.raises(SystemExit) as end:
            command(documents.main, *arguments)
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return run


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ a.b }}", "docs/templates/page.md: 'dict object' has no attribute 'b'"),
        ("{{ missing.x }}", "docs/templates/page.md: 'missing' is undefined"),
        ("{{ a.x | fixed( }}", "docs/templates/page.md: unexpected"),
        (
            "{% call holds(a.x > 1) %}It is\nabove {{ a.x }}.{% endcall %}",
            "docs/templates/page.md: the results contradict this sentence: It is above 1.",
        ),
    ],
)
def test_a_template_that_the_results_do_not_fit_is_refused(place, refused, template, sentence):
    (place / "docs/results/a.json").write_text('{"x": 1}')
    (place / "docs/templates/page.md").write_text(template)
    assert sentence in refused()
    assert not (place / "page.md").exists()


def test_a_sentence_that_holds_is_rendered(place):
    (place / "docs/results/a-b.json").write_text('{"x": 1}')
    (place / "docs/templates/page.md").write_text("{% call holds(a_b.x == 1) %}It is {{ a_b.x }}.\n{% endcall %}")
    command(documents.main)
    assert (place / "page.md").read_text() == "It is 1.\n"


def test_another_directory_is_refused(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    assert refused().endswith("run this command in the repository")


# ---------------------------------------------------------------------------------------------- stored results


@pytest.fixture
def experiment(place, tiny_runs, monkeypatch) -> Experiment:
    """A complete experiment named "tiny-run": a run of three stages, two files and a figure."""
    run = tiny_runs.base()
    (place / "runs/tiny").symlink_to(run.folder)
    (place / "preset.yaml").write_text((run.folder / "config.yaml").read_text())
    (place / "runs/numbers.json").write_text('{"x": 0.25}')
    (place / "runs/printed.txt").write_text("a\n\nb\n")
    (place / "runs/figure.svg").write_text("<svg/>")
    (place / "docs/templates/page.md").write_text("{{ tiny_run.runs[0].after.score | fixed(4) }}\n")
    experiment = Experiment(
        ("echo made > runs/printed.txt",),
        {"runs/tiny": {}},
        preset="preset.yaml",
        files={"numbers": "runs/numbers.json", "output": "runs/printed.txt"},
        images={"copy.svg": "runs/figure.svg"},
    )
    for module in (documents, experiments):
        monkeypatch.setitem(module.EXPERIMENTS, "tiny-run", experiment)
    return experiment


def test_results_are_those_of_the_runs(experiment, place, tiny_runs, monkeypatch):
    drawn = replace(experiment, curves={"curves.png": ("runs/tiny",)})
    for module in (documents, experiments):
        monkeypatch.setitem(module.EXPERIMENTS, "tiny-run", drawn)
    command(documents.main)
    run, record = tiny_runs.base(), json.loads((place / "docs/results/tiny-run.json").read_text())
    ppo = json.loads((run.folder / "ppo/summary.json").read_text())
    (stored,) = record["runs"]
    assert (place / "page.md").read_text() == f"{ppo['results']['after']['score']:.4f}\n"
    assert (stored["run"], stored["seed"], stored["after"]) == ("runs/tiny", 1, ppo["results"]["after"])
    assert stored["stage_seconds"]["ppo"] == ppo["stage_seconds"]
    assert record["commands"] == ["echo made > runs/printed.txt"]
    assert record["versions"] == ppo["versions"]
    assert record["machine"].keys() == {"processor", "cores", "system"}
    date.fromisoformat(record["date"])
    assert record["settings"]["ppo"] == yaml.safe_load((place / "preset.yaml").read_text())["ppo"]
    assert "imdb_path" not in record["settings"]["data"]
    assert record["report"][0].startswith("runs/tiny: ")
    assert (record["numbers"], record["output"]) == ({"x": 0.25}, ["a", "", "b"])
    assert (place / "docs/images/curves.png").read_bytes().startswith(b"\x89PNG")
    assert (place / "docs/images/copy.svg").read_text() == "<svg/>"


def test_the_same_runs_keep_their_date_and_machine(experiment, place):
    command(documents.main)
    path = place / "docs/results/tiny-run.json"
    old = json.loads(path.read_text()) | {"date": "2001-02-03", "machine": {"cores": 64}}
    path.write_text(json.dumps(old))
    command(documents.main)
    assert json.loads(path.read_text()) == old
    (place / "runs/numbers.json").write_text('{"x": 0.5}')
    command(documents.main)
    new = json.loads(path.read_text())
    assert new["numbers"] == {"x": 0.5}
    assert new["date"] != old["date"]
    assert new["machine"] != old["machine"]


@pytest.mark.parametrize("missing", ["runs/tiny/ppo", "runs/printed.txt", "runs/figure.svg"])
def test_without_its_runs_an_experiment_keeps_its_stored_results(experiment, place, missing, capsys):
    stored = '{"runs": [{"after": {"score": 7.0}}]}'
    (place / "docs/results/tiny-run.json").write_text(stored)
    if missing == "runs/tiny/ppo":
        (place / "runs/tiny").unlink()
        (place / "runs/tiny/ppo.unfinished").mkdir(parents=True)
        (place / "preset.yaml").rename(place / "runs/tiny/config.yaml")
    else:
        (place / missing).unlink()
    command(documents.main)
    assert (place / "docs/results/tiny-run.json").read_text() == stored
    assert (place / "page.md").read_text() == "7.0000\n"
    assert (
        f"tiny-run: no {missing}, the stored results stay. The commands are\n    echo made >" in capsys.readouterr().out
    )
    assert not list((place / "docs/images").iterdir())


def test_runs_with_other_settings_are_refused(experiment, place, refused, monkeypatch):
    other = replace(experiment, runs={"runs/tiny": {"seed": 2, "ppo.kl_coef": 0.0}})
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny-run", other)
    assert re.search(r"runs/tiny is not a run of its experiment: .* is .* instead of (2|0\.0); move it away", refused())
    assert not list((place / "docs/results").iterdir())


def test_with_train_the_commands_of_incomplete_experiments_run_first(experiment, place, refused, monkeypatch):
    command(documents.main, "--train")
    assert json.loads((place / "docs/results/tiny-run.json").read_text())["output"] == ["a", "", "b"]  # it was complete
    (place / "runs/printed.txt").unlink()
    command(documents.main, "--train")
    assert json.loads((place / "docs/results/tiny-run.json").read_text())["output"] == ["made"]
    failing = replace(experiment, commands=("false", "touch runs/later"))
    monkeypatch.setitem(documents.EXPERIMENTS, "tiny-run", failing)
    (place / "runs/printed.txt").unlink()
    assert refused("--train") == "error: the commands of tiny-run have failed with status 1"
    assert not (place / "runs/later").exists()


def test_every_experiment_is_stored_with_its_commands_seeds_machine_and_versions(in_repository):
    for name, record in documents.stored_results().items():
        experiment = experiments.EXPERIMENTS[name.replace("_", "-")]
        assert record["commands"] == list(experiment.commands)
        assert [run["run"] for run in record.get("runs", ())] == list(experiment.runs)
        assert all(isinstance(run["seed"], int) for run in record.get("runs", ()))
        assert {"processor", "cores", "system"} <= record["machine"].keys()
        assert {"python", "torch"} <= record["versions"].keys()
        common = {"experiment", "date", "commands", "machine", "versions", "settings", "report", "runs"}
        assert record.keys() - common == set(experiment.files)


class ByLength:
    """In place of the n-gram model: texts of more than 60 characters are positive."""

    def fit(self, texts: list[str], labels: list[int]) -> None:
        self.examples = list(zip(texts, labels, strict=True))

    def decision_function(self, texts: list[str]) -> np.ndarray:
        return np.array([len(text) - 60 for text in texts])


def test_the_judge_of_imdb_writes_what_it_finds(tiny_runs, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    from bench import imdb_judge

    run, model = load_run(tiny_runs.base("imdb").folder, "cpu"), ByLength()
    monkeypatch.setattr(imdb_judge, "make_pipeline", lambda *parts: model)
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()}
    command(imdb_judge.main, "--run-dir", run.folder, "--crops", 2)
    judge = json.loads((run.folder / "judge.json").read_text())
    (run.folder / "judge.json").unlink()  # other tests use the run
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*") if path.is_file()} == before

    corpus = load_corpus(replace(run.config, data=replace(run.config.data, limit=0)))
    pairs = [comparison.ranked for comparison in corpus.comparisons("test")][: run.config.rm.eval_comparisons]
    crops = [corpus.comparisons("train", epoch)[0].ranked for epoch in (0, 1)]
    assert {(crops[0][0], 1), (crops[0][1], 0), (crops[1][0], 1), (crops[1][1], 0)} <= set(model.examples)
    assert judge["pairs"] == len(pairs)
    assert judge["pair_accuracy"] == pytest.approx(np.mean([len(good) > len(bad) for good, bad in pairs]))
    right = [np.mean([len(good) > 60 for good, _ in pairs]), np.mean([len(bad) <= 60 for _, bad in pairs])]
    assert judge["accuracy"] == pytest.approx(np.mean(right))
    for key in ("before", "after"):
        answers = [row[key] for row in read_answers(run)]
        positive = [len(answer["prompt"] + answer["response"]) > 60 for answer in answers]
        assert judge["judged_positive"][key] == pytest.approx(np.mean(positive))
        assert judge["score"][key] == pytest.approx(np.mean([answer["score"] for answer in answers]))
    assert f"| bag of n-grams | {judge['pair_accuracy']:.4f} |" in capsys.readouterr().out
