"""Which operators a piece of minippo's work spends its time in."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def print_profile(work: Callable[[], object], name: str, rows: int = 25) -> None:
    """Print the operators with the largest share of one repetition, after one that warms up."""
    work()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    print(name, profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows), sep="\n")
