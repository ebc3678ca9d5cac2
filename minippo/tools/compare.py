"""Print the settings and results of several runs side by side, as a Markdown table.

python -m minippo compare runs/reviews runs/reviews-2

The table has the settings in which the runs differ, then their results: the names are those of summary.json, "before"
is the reference policy and "after" the trained policy, both on the test prompts.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from minippo.runs import Argument, Run, command_frame, command_line, differences, load_run, wrong_input_exits


@dataclass(frozen=True)
class CompareOptions:
    """Options of `compare`."""

    runs: Annotated[tuple[Path, ...], Argument(positional=True)] = ()
    """Run directories with a trained policy."""
    mean: bool = False
    """Add two columns with the mean and the range of each result, for runs that differ only in their seed."""


def results(summary: dict[str, Any]) -> dict[str, float]:
    """The results in a run's summary, by row of the table."""
    rows = {"rm_accuracy": summary.get("rm_accuracy"), "win_rate": summary["win_rate"]}
    rows["prompts"] = summary.get("prompts")
    rows |= {f"{name}, {when}": value for when in ("before", "after") for name, value in summary[when].items()}
    rows["stage_seconds"] = sum(summary["stage_seconds"].values())
    rows["peak_memory_mb"] = max(summary["peak_memory_mb"].values())
    return {name: value for name, value in rows.items() if value is not None}


def table(runs: Sequence[Run], mean: bool) -> str:
    """The Markdown table."""
    columns = [results(run.summary()) for run in runs]
    settings = {name for run in runs for name in differences(run.config, runs[0].config)}
    header = ["", *(str(run.folder) for run in runs), *(["mean", "range"] if mean else [])]
    rows = [header, ["---"] * len(header)]
    for name in sorted(settings):
        values = [value_of(run.config, name) for run in runs]
        rows.append([name, *map(str, values), *(["", ""] if mean else [])])
    for name in dict.fromkeys(name for column in columns for name in column):
        values = [column[name] for column in columns if name in column]
        cells = [f"{column[name]:.4g}" if name in column else "" for column in columns]
        if mean:
            cells += [f"{statistics.mean(values):.4g}", f"{min(values):.4g} to {max(values):.4g}"]
        rows.append([name, *cells])
    widths = [max(len(row[index]) for row in rows) for index in range(len(header))]
    return "\n".join(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows)


def value_of(config: Any, name: str) -> Any:
    """The value of a field by its dotted name."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


@command_frame()
def main() -> None:
    """`python -m minippo compare RUN RUN`."""
    options = command_line(CompareOptions, __doc__)
    with wrong_input_exits():
        if not options.runs:
            raise ValueError("name the run directories to compare, such as runs/reviews runs/reviews-2")
        runs = [load_run(folder, "cpu") for folder in options.runs]
        for run in runs:
            if "after" not in run.summary():
                raise ValueError(f"{run.folder} has no results: its policy is not trained yet")
    print(table(runs, options.mean))
