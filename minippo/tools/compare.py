"""Print the settings and results of several runs side by side, as a Markdown table.

python -m minippo compare runs/reviews runs/reviews-2
python -m minippo compare runs/reviews runs/no-kl --out curves.png
python -m minippo compare runs/seed-1 runs/seed-2 runs/no-kl-1 runs/no-kl-2 --mean

The table has the settings in which the runs differ, then their results: the names are those of summary.json, "before"
is the reference policy and "after" the trained policy, both on the test prompts. Results of the trained policies have
95 % bootstrap intervals, and so have their differences to the first run, which are paired by prompt if the runs have
answered the same prompts. The intervals say what other prompts could change, not what another seed could.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from minippo.answers import answer_metrics, wins
from minippo.bootstrap import Statistic, estimate, paired_difference, unpaired_difference
from minippo.data import judge_of
from minippo.runs import (
    Argument,
    Run,
    command_frame,
    command_line,
    differences,
    few,
    load_run,
    same_files,
    stored_answers,
    wrong_input_exits,
)
from minippo.tools.curves import plot_runs
from minippo.tools.tables import markdown, shown


@dataclass(frozen=True)
class CompareOptions:
    """Options of `compare`."""

    runs: Annotated[tuple[Path, ...], Argument(positional=True)] = ()
    """Run directories with a trained policy."""
    mean: bool = False
    """Instead of intervals and differences, add two columns with the mean and the range of each result for every group
    of runs that differ only in their seed."""
    out: Path | None = None
    """Image file to plot the learning curves of all runs into; its name ends in .png, .pdf or .svg."""


class Results:
    """The results of one run."""

    def __init__(self, run: Run) -> None:
        self.run, self.judge = run, judge_of(run.config)
        reference, self.answers = stored_answers(run)
        self.values = summary_rows(run.summary())
        """Name of the row -> result."""
        self.statistics: dict[str, Statistic] = {"win_rate": wins(self.answers, reference, self.judge)}
        """The rows of which the answers to each prompt are known."""
        self.statistics |= {f"{name}, after": value for name, value in answer_metrics(self.answers, self.judge).items()}

    def has_prompts_of(self, other: Results) -> bool:
        """Whether both runs have answered the same prompts in the same order."""
        return [a.prompt for a in self.answers] == [a.prompt for a in other.answers]

    def has_scorer_of(self, other: Results) -> bool:
        """Whether the scores of both are in the same units: those of the same function or reward model."""
        ours, theirs = self.run.config.ppo.scorer, other.run.config.ppo.scorer
        return ours == theirs and (bool(ours) or same_files(self.run.stage("rm"), other.run.stage("rm")))

    def has_reference_of(self, other: Results) -> bool:
        """Whether the KL and the perplexity of both are measured against the same distribution."""
        ours, theirs = self.run.config.ppo, other.run.config.ppo
        same = (ours.temperature, ours.min_new_tokens) == (theirs.temperature, theirs.min_new_tokens)
        return same and same_files(self.run.stage("sft"), other.run.stage("sft"))

    def has_wins_of(self, other: Results) -> bool:
        """Whether the wins of both are over the same reference, by the same judge or, without one, the same scorer."""
        same = self.judge == other.judge and (self.judge is not None or self.has_scorer_of(other))
        return same and self.has_reference_of(other)


def summary_rows(summary: dict[str, Any]) -> dict[str, float]:
    """The results in a run's summary, by row of the table."""
    rows = {"rm_accuracy": summary.get("rm_accuracy"), "win_rate": summary["win_rate"]}
    rows["prompts"] = summary.get("prompts")
    rows |= {f"{name}, {when}": value for when in ("before", "after") for name, value in summary[when].items()}
    rows["stage_seconds"] = sum(summary["stage_seconds"].values())
    rows["peak_memory_mb"] = max(summary["peak_memory_mb"].values())
    return {name: value for name, value in rows.items() if value is not None}


def table(runs: Sequence[Run], mean: bool) -> str:
    """The Markdown table, and what to know about its differences."""
    columns = [Results(run) for run in runs]
    settings = sorted({name for run in runs for name in differences(run.config, runs[0].config)})
    names = list(dict.fromkeys(name for column in columns for name in column.values))
    rows = [["", *(str(run.folder) for run in runs)]]
    rows += [[name, *(str(value_of(run.config, name)) for run in runs)] for name in settings]
    rows += [[name, *(cell(column, name, interval=not mean) for column in columns)] for name in names]
    more = group_columns(columns, names) if mean else difference_columns(columns, names)
    for heading, cells in more:
        for row, text in zip(rows, [heading, *[""] * len(settings), *cells], strict=True):
            row.append(text)
    return "\n\n".join([markdown(rows), *([] if mean else notes(columns))])


def cell(column: Results, name: str, interval: bool) -> str:
    """A result; with its interval, if that is wanted and known."""
    if interval and name in column.statistics:
        return shown(estimate(column.statistics[name]))
    return f"{column.values[name]:.4g}" if name in column.values else ""


def difference_columns(columns: Sequence[Results], names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Heading and cells of a column for every run but the first: its difference to the first."""
    first, more = columns[0], []
    for column in columns[1:]:
        difference = paired_difference if column.has_prompts_of(first) else unpaired_difference
        known = column.statistics.keys() & first.statistics.keys()
        if not column.has_scorer_of(first):
            known -= {"score, after"}
        if not column.has_reference_of(first):
            known -= {"kl, after", "exact_kl, after", "perplexity, after"}
        if not column.has_wins_of(first):
            known -= {"win_rate"}
        cells = [
            shown(difference(column.statistics[name], first.statistics[name])) if name in known else ""
            for name in names
        ]
        more.append((f"{column.run.folder} - {first.run.folder}", cells))
    return more


def notes(columns: Sequence[Results]) -> list[str]:
    """What to know about the differences, one sentence each."""
    lines, first = [], columns[0]
    for column in columns[1:]:
        name = f"{column.run.folder} - {first.run.folder}"
        paired = column.has_prompts_of(first)
        lines.append(f"{name}: {'paired by prompt' if paired else 'not paired, because the prompts differ'}")
        if not column.has_scorer_of(first):
            lines[-1] += "; no difference of the scores, which are from different scorers"
        if not column.has_reference_of(first):
            lines[-1] += "; no difference of KL and perplexity, which are to different references"
        if not column.has_wins_of(first):
            lines[-1] += "; no difference of the win rates, which are over different references or judged differently"
        lines[-1] += few(min(len(column.answers), len(first.answers)), "prompts")
    return lines


def group_columns(columns: Sequence[Results], names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Heading and cells of two columns for every group of runs that differ only in their seed: mean and range."""
    groups: dict[Any, list[Results]] = {}
    for column in columns:
        config = column.run.config
        groups.setdefault(replace(config, seed=0, data=replace(config.data, seed=None)), []).append(column)
    more = []
    for group in groups.values():
        values = {name: [column.values[name] for column in group if name in column.values] for name in names}
        of = f" of {len(group)} like {group[0].run.folder}" if len(groups) > 1 else ""
        more.append((f"mean{of}", [f"{statistics.mean(x):.4g}" if x else "" for x in values.values()]))
        more.append((f"range{of}", [f"{min(x):.4g} to {max(x):.4g}" if x else "" for x in values.values()]))
    return more


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
        text = table(runs, options.mean)
        if options.out is not None:
            plot_runs(options.runs, options.out)
    print(text)
