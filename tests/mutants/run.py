"""Apply each mutant to a copy of the tree, run the tests that concern it, and print which were killed.

    python -m tests.mutants.run [WORD ...]      only mutants whose file or text holds a WORD
    python -m tests.mutants.run --record        also write which test has killed which mutant
    python -m tests.mutants.run --tests-passed  do not run the tests without a mutant, because they have just passed

A mutant first meets the test that killed it when the kills were last recorded, in `killers.json`, and then all tests that
concern it. Every child is forked from this process, which has loaded torch and whatever else is slow to import, but none of our own
code: a mutant costs what its tests cost. Exit status 1 where one survived.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import datasets  # noqa: F401 - loaded once, here, for all children
import huggingface_hub  # noqa: F401
import hypothesis
import pytest
import scipy.special
import scipy.stats  # noqa: F401
import tiktoken  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import transformers  # noqa: F401

from tests.mutants.mutants import Mutant
from tests.mutants.plumbing import EVERY_MUTANT

REPOSITORY = Path(__file__).resolve().parents[2]
KILLERS = Path(__file__).with_name("killers.json")
"""Mutant -> the test that killed it."""
TIME_LIMIT = 180
"""Seconds; a mutant that never ends is killed as well."""
KILLED, SURVIVED = "killed", "SURVIVED"


def copy_tree(place: Path) -> None:
    """What the tests need; the data, which no mutant touches, as a link."""
    for name in ("minippo", "tests", "bench"):
        shutil.copytree(REPOSITORY / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train_rm.py", "train_ppo.py", "pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, place / name)
    for name in ("data", "docs", "Makefile"):
        (place / name).symlink_to(REPOSITORY / name)


def apply(mutant: Mutant, place: Path) -> None:
    """Edit the copy. Raises ValueError where the text does not stand there exactly once."""
    path = place / mutant.file
    source = path.read_text(encoding="utf-8")
    if source.count(mutant.old) != 1:
        raise ValueError(f"{mutant.file} holds {mutant.old!r} {source.count(mutant.old)} times")
    path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")


class Failures:
    """A pytest plugin that writes which test has failed into a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.path.write_text(report.nodeid, encoding="utf-8")


def fork_tests(place: Path, tests: str, killer: str, log: Path) -> int:
    """Run the killer and, unless it fails, the tests in a child, in `place`; returns its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(place)
    signal.alarm(TIME_LIMIT)
    # Our own code comes from the copy, not from where this process found its list of mutants.
    for name in [name for name in sys.modules if name.split(".")[0] in ("tests", "minippo")]:
        del sys.modules[name]
    sys.path[:] = [str(place), *(entry for entry in sys.path if Path(entry or ".").resolve() != REPOSITORY)]
    options = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not slow",
        "--tb=line",
        "--assert=plain",
        "--rootdir",
        str(place),
    ]
    plugins = [Failures(log.with_suffix(".killer"))]
    status = pytest.main([*options, killer], plugins) if killer else 0
    if status != pytest.ExitCode.TESTS_FAILED:  # it may have been renamed
        status = pytest.main([*options, *(part.replace("_or_", " or ") for part in tests.split())], plugins)
    sys.stdout.flush()
    os._exit(int(status))


def verdict(wait_status: int) -> str:
    """What a child's end says: failed tests kill, and so does never ending; passed tests do not."""
    if os.WIFSIGNALED(wait_status):
        return f"{KILLED} (never ended)" if os.WTERMSIG(wait_status) == signal.SIGALRM else f"{KILLED} (crashed)"
    code = os.WEXITSTATUS(wait_status)
    return {0: SURVIVED, 1: KILLED}.get(code, f"ERROR {code}: the tests did not run")


def key(mutant: Mutant) -> str:
    """What a mutant is called in `killers.json`."""
    return f"{mutant.file}: {mutant.old} -> {mutant.new}"


def run(mutants: list[tuple[str, Mutant | None, str]], scratch: Path, killers: dict[str, str]) -> dict[str, str]:
    """Name -> verdict of all (name, mutant, tests), as many at a time as there are cores; prints each as it comes."""
    mutants_by_name = {name: mutant for name, mutant, _ in mutants}
    waiting, running, found = list(mutants), {}, {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    while waiting or running:
        while waiting and len(running) < cores:
            name, mutant, tests = waiting.pop(0)
            place = scratch / name
            copy_tree(place)
            if mutant:
                apply(mutant, place)
            killer = killers.get(key(mutant), "") if mutant else ""
            running[fork_tests(place, tests, killer, scratch / f"{name}.log")] = (name, time.perf_counter())
        child, status = os.wait()
        name, started = running.pop(child)
        found[name] = verdict(status)
        shutil.rmtree(scratch / name)
        print(row(found[name], time.perf_counter() - started, mutants_by_name[name]), flush=True)
    return found


def row(outcome: str, seconds: float, mutant: Mutant | None) -> str:
    """A line of the table."""
    if mutant is None:
        return f"{'passed' if outcome == SURVIVED else outcome:22} {seconds:5.1f} s  without a mutant"
    old, new = (" ".join(text.split())[:70] for text in (mutant.old, mutant.new))
    return f"{outcome:22} {seconds:5.1f} s  {mutant.file:26} {old}  ->  {new or '(nothing)'}"


def main() -> None:
    """Print a table; exit with 1 unless the tests pass without mutants and fail with each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--tests-passed", action="store_true")
    options = parser.parse_args()
    words = options.words
    chosen = [m for m in EVERY_MUTANT if not words or any(word in m.file + m.old + m.new for word in words)]
    killers: dict[str, str] = json.loads(KILLERS.read_text(encoding="utf-8")) if KILLERS.exists() else {}
    started = time.perf_counter()
    # One failing example is enough: no time goes into finding the smallest.
    hypothesis.settings.register_profile(
        "mutants", deadline=None, derandomize=True, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
    )
    hypothesis.settings.load_profile("mutants")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    gc.freeze()  # the children's garbage collection leaves out what is loaded here
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        files = [] if options.tests_passed else sorted({re.split(r"::| ", m.tests)[0] for m in chosen})
        baseline = [(f"none-{i}", None, file) for i, file in enumerate(files)]
        for name, outcome in run(baseline, scratch, {}).items():  # a test that always fails would kill anything
            if outcome != SURVIVED:
                sys.exit(f"tests fail without any mutant:\n{(scratch / f'{name}.log').read_text()[-3000:]}")
        jobs = [(f"mutant-{i}", mutant, mutant.tests) for i, mutant in enumerate(chosen)]
        found = run(jobs, scratch, killers)
        if options.record:
            known = {key(mutant) for mutant in EVERY_MUTANT}
            failures = {key(mutant): scratch / f"{name}.killer" for name, mutant, _ in jobs}
            new = {name: path.read_text(encoding="utf-8") for name, path in failures.items() if path.exists()}
            killers = {name: test for name, test in sorted((killers | new).items()) if name in known}
            KILLERS.write_text(json.dumps(killers, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    bad = [name for name, outcome in found.items() if not outcome.startswith(KILLED)]
    for name, mutant, _ in jobs:
        if name in bad:
            print(f"{found[name]}: {key(mutant)}")
    print(f"{len(jobs) - len(bad)} of {len(jobs)} mutants killed in {time.perf_counter() - started:.0f} s")
    sys.exit(len(bad) > 0)


if __name__ == "__main__":
    main()
