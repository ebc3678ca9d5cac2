"""Scorers that a file names: code that runs with the user's rights, so the command line must name it, too."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from minippo.errors import quoted
from minippo.scoring import FunctionScorer, load_scorer


def require_named_scorer(stored: str, named: str | None, file: str | Path, option: str) -> None:
    """Raise ValueError unless the command line names the scorer that a file contains, or another one in its place.

    Otherwise a file from someone else would decide which code runs: `pty:spawn` starts the program that a prompt names.
    """
    if stored and named is None:
        raise ValueError(
            f"{file} names the scorer {quoted(stored)}, which is code that would run with your rights; if you trust "
            f"it, name it again: {option} {shlex.quote(stored)}"
        )


def load_stored_scorer(stored: str, named: str | None, folder: Path) -> FunctionScorer:
    """The scorer of the run in `folder`, if the command line names it. Raises ValueError otherwise."""
    require_named_scorer(stored, named, folder / "config.yaml", "--scorer")
    if named != stored:
        trained_on = f"the scorer {quoted(stored)}" if stored else "its reward model"
        raise ValueError(f"{folder} was trained on {trained_on}, not on the scorer {quoted(named)} (--scorer)")
    return load_named_scorer(stored)


def load_named_scorer(name: str) -> FunctionScorer:
    """The scorer that the command line names. Raises ValueError if it cannot be used or is in a run directory."""
    if not any(isinstance(finder, _NotFromRuns) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NotFromRuns())
    return load_scorer(name)


class _NotFromRuns(MetaPathFinder):
    """Refuses to import files of run directories, which are data, wherever `sys.path` and the working directory point.

    Stays for the whole process: a scorer may import modules when it is called.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise ImportError for such a module; leave all others to the finders that follow."""
        spec = PathFinder.find_spec(name, path, target)
        for origin in [spec.origin, *(spec.submodule_search_locations or ())] if spec else []:
            if origin and any(map(is_run_folder, (file := Path(os.path.realpath(origin)), *file.parents))):
                raise ImportError(f"{origin} is in a run directory, whose files are never imported")
        return None


def is_run_folder(folder: Path) -> bool:
    """Whether `folder` is a run directory with at least one stage, finished or not."""
    return (folder / "config.yaml").is_file() and any(
        (folder / f"{stage}{suffix}").is_dir() for stage in ("sft", "rm", "ppo") for suffix in ("", ".unfinished")
    )
