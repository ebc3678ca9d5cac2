"""A function of one's own as the reward: found by its name, checked at every call, trained against without stage 2."""

from __future__ import annotations

import importlib
import math
import sys

import numpy as np
import pytest
import torch

from docs.music_scorer import about_the_music
from minippo.errors import TrainingError
from minippo.scoring import FunctionScorer, load_scorer, score_texts


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module into the working directory; give its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    importlib.invalidate_caches()

    def write(source: str, name: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        return name

    return write


def test_a_scorer_is_found_in_the_working_directory_and_given_lists_of_strings(module):
    name = module(
        "import torch\n"
        "def lengths(prompts, responses):\n"
        "    assert type(prompts) is list and type(responses) is list\n"
        "    return torch.tensor([len(p) * 100 + len(r) for p, r in zip(prompts, responses)])\n",
        "found_here",
    )
    scores = load_scorer(f"{name}:lengths")(("ab", "c"), ("xyz", ""))
    assert scores.dtype == torch.float32
    assert scores.tolist() == [203.0, 100.0]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("no_colon", "package.module:function"),
        (":f", "package.module:function"),
        ("m:", "package.module:function"),
        ("no_such_module_xyz:f", "ModuleNotFoundError"),
        ("math:no_such_function", "math has no function 'no_such_function'"),
        ("math:pi", "math has no function 'pi'"),
    ],
)
def test_a_name_that_leads_to_no_function_is_refused(name, part):
    with pytest.raises(ValueError, match=r"ppo\.scorer") as error:
        load_scorer(name)
    assert part in str(error.value)
    assert name in str(error.value)


def test_a_module_that_cannot_be_imported_is_refused_with_its_error(module):
    name = module("raise RuntimeError('no licence')\n", "broken_module")
    with pytest.raises(ValueError, match="broken_module:f cannot be imported: RuntimeError: no licence"):
        load_scorer(f"{name}:f")


def fails(prompts, responses):
    raise KeyError("no such word")


def leaves(prompts, responses):
    raise SystemExit(0)


class UnprintableError(Exception):
    def __str__(self):
        raise RuntimeError


def fails_unprintably(prompts, responses):
    raise UnprintableError


@pytest.mark.parametrize(
    ("function", "part"),
    [
        pytest.param(leaves, "raised SystemExit: 0 (" + __file__, id="leaves"),
        (lambda p, r: exit(3), "raised SystemExit: 3 ("),
        (fails_unprintably, "UnprintableError: <exception str() failed> ("),
        pytest.param(fails, "raised KeyError: 'no such word' (" + __file__, id="fails"),
        (lambda p, r: ["good"] * len(r), "must return a tensor or a list of numbers, not ['good', "),
        (
            lambda p, r: [[0.0], [1.0, 2.0], []],
            "must return a tensor or a list of numbers, not [[0.0], [1.0, 2.0], []]",
        ),
        (lambda p, r: [0.0] * 2, "shape (3,) for 3 responses, not (2,)"),
        (lambda p, r: None, "must return a tensor or a list of numbers, not None"),
        (lambda p, r: torch.zeros(len(r), 1), "shape (3,) for 3 responses, not (3, 1)"),
        (lambda p, r: torch.zeros(2), "shape (3,) for 3 responses, not (2,)"),
        (lambda p, r: torch.zeros(()), "not ()"),
        (lambda p, r: torch.tensor([0, math.nan, 0]), "response 'two' to 'p2': score is nan"),
        (lambda p, r: torch.tensor([0, 0, -math.inf]), "response 'three' to 'p3': score is -inf"),
    ],
)
def test_what_a_scorer_does_wrong_stops_the_run_and_is_named(function, part):
    with pytest.raises(TrainingError) as error:
        score_texts(FunctionScorer("mine:f", function), ["p1", "p2", "p3"], ["one", "two", "three"])
    assert part in str(error.value)
    assert "the scorer mine:f" in str(error.value) or "score is" in part


@pytest.mark.parametrize("kind", [list, tuple, np.array, lambda x: np.array(x, np.float32), torch.tensor])
def test_lists_tuples_and_arrays_are_scores_too(kind):
    scores = FunctionScorer("m:f", lambda p, r: kind([1, 2.5]))(["", ""], ["a", "b"])
    assert (scores.dtype, scores.tolist()) == (torch.float32, [1.0, 2.5])


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("def f(response): return [0.0]", "raised TypeError: f() takes 1 positional argument but 2 were given"),
        ("def f(p, r): return 0.0", "must return a tensor or a list of numbers, not 0.0"),
        ("def f(p, r): return [0.0]", "shape (2,) for 2 responses, not (1,)"),
        ("def f(p, r): return [0.0, float('nan')]", "score is nan"),
    ],
)
def test_a_function_that_cannot_score_two_texts_is_refused_before_training(module, body, part):
    name = module(body + "\n", f"scorer_{abs(hash(body))}")
    with pytest.raises(ValueError, match=r"\(ppo.scorer, called with two texts before training\)$") as error:
        load_scorer(f"{name}:f")
    assert part in str(error.value)


def test_scores_carry_no_gradient():
    weight = torch.ones(2, requires_grad=True)
    assert not FunctionScorer("m:f", lambda p, r: weight * 2)(["", ""], ["a", "b"]).requires_grad


def test_the_rule_of_the_example_counts_sentences_on_music():
    responses = [" The score soars. The plot does not.", "A song! Songs. Melodies?", "", "The scores of men.", "..."]
    assert about_the_music([""] * 5, responses).tolist() == [0.5, 1.0, 0.0, 0.0, 0.0]


def test_an_interruption_within_a_scorer_is_none_of_its_errors():
    def interrupted(prompts, responses):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FunctionScorer("mine:f", interrupted)(["p"], ["r"])


@pytest.mark.parametrize("line", ["raise SystemExit(0)", "import sys; sys.exit()"])
def test_a_module_that_ends_the_program_when_it_is_imported_is_refused(module, line):
    name = module(f"{line}\n", f"leaves_{len(line)}")
    with pytest.raises(ValueError, match=f"{name}:f cannot be imported: SystemExit"):
        load_scorer(f"{name}:f")
