"""Speed and memory of minippo, compared with transformers and TRL.

    python -m bench                                    # all sections but gpu
    python -m bench rollout optimizer                  # some of them
    python -m bench gpu                                # large models on a GPU of 12 GB
    python -m bench ppo --models S --rounds 3          # other models: printed only
    python -m bench ppo --models S --profile           # the operators that take most of the time

minippo and its peer alternate, with the same random weights, shapes, dtype and threads. Every section prints its rows
and writes them to bench/results/SECTION.json and docs/performance.md.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Annotated

import minippo  # noqa: F401 - before PyTorch, because it configures how OpenMP threads wait

# isort: split
import torch

from bench.machine import rates_of_machine
from bench.models import SIZES
from bench.profiling import print_profile
from bench.report import HEADER, rates_in_words, record, write
from minippo.config import Count
from minippo.runs import Argument, command_line, wrong_input_exits

SECTIONS = ("rollout", "ppo", "reward", "optimizer", "scaling", "gpu")


@dataclass(frozen=True)
class Options:
    """What to measure."""

    sections: Annotated[tuple[str, ...], Argument(positional=True)] = ()
    """rollout, ppo, reward, optimizer, scaling or gpu; by default all but gpu, which needs CUDA."""
    rounds: Count = 5
    """Measured rounds, after one that warms up."""
    models: tuple[str, ...] = ()
    """Models to measure (toy, S, M, L, ...) instead of those of the section. The results are then only printed."""
    profile: bool = False
    """Instead of measuring, print the operators that take most of the time. Not for gpu."""


def main() -> None:
    """Run the sections."""
    options = command_line(Options, __doc__)
    with wrong_input_exits():
        for name, known in [(n, SECTIONS) for n in options.sections] + [(n, tuple(SIZES)) for n in options.models]:
            if name not in known:
                raise ValueError(f"{name!r} is not one of {', '.join(known)}")
        if options.profile and "gpu" in options.sections:
            raise ValueError("--profile shows operators on the CPU, and the section gpu measures a GPU")
        if "gpu" in options.sections and not torch.cuda.is_available():
            raise ValueError("the section gpu needs a GPU with CUDA, and PyTorch finds none")
    for name in options.sections or SECTIONS[:-1]:
        section = importlib.import_module(f"bench.{name}")
        sizes = [SIZES[model] for model in options.models or section.MODELS]
        if options.profile:
            for size in sizes:
                print_profile(section.profiled(size), f"{name}, {size.name}")
            continue
        where = ("cuda", torch.bfloat16) if name == "gpu" else ("cpu", torch.float32)
        rates = rates_of_machine(*where)
        result = section.run(sizes, options.rounds)
        rates = rates.best(rates_of_machine(*where))
        print(rates_in_words(rates), HEADER, *[row.text(rates) for row in result.rows], sep="\n", flush=True)
        if not options.models:
            write(record(name, result, rates, options.rounds), SECTIONS)


if __name__ == "__main__":
    main()
