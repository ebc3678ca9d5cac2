"""What to do when the GPU's memory is not enough: the options that free some of it in that phase, and how much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from minippo.config import Config
from minippo.runs.arguments import options_text
from minippo.runs.phases import Phase, Planner
from minippo.runs.plan import amount, architectures, savings


def remedies(stage: str, config: Config, path: str) -> str:
    """The end of the sentence about a phase that has run out of memory: options, and what they free by the plan.

    `path` is `GPUMemoryError.path`. The text is "" if no option frees anything, or if nothing can be planned.
    """
    try:
        models = architectures(config)
        found = savings(
            config, "GPU", lambda config: planned_phase(Planner(config, models, on_gpu=True).phases(stage), path)
        )
    except Exception:  # whatever it is, it must not take the place of the error that the sentence is about
        return ""
    now: list[str] = []  # these may change at any time: the run goes on from its last checkpoint
    later: list[str] = []  # these belong to the stage
    for freed, changes, _ in found:
        options = options_text(changes)
        (now if options.startswith("--memory.") else later).append(f"{options} (frees {amount(freed)})")
    parts = [
        f"; this run can go on with {' or '.join(now)}" if now else "",
        f"; a new run with {' or '.join(later)} needs less" if later else "",
    ]
    return "".join(parts)


def planned_phase(phases: Sequence[Phase], path: str) -> Phase:
    """The phase of the plan that a path ends with. While models are loaded, their weights are all there is. Raises
    ValueError for a path that is not in the plan."""
    weights = ("GPU", "weights")
    loading = Phase("loading", Counter({weights: phases[0].usage[weights]}))
    # The longest name: "reference's answers: generation" ends with "generation", which is another phase.
    return max((phase for phase in [loading, *phases] if path.endswith(phase.name)), key=lambda phase: len(phase.name))
