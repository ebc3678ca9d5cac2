"""Markdown tables of figures and their intervals."""

from __future__ import annotations

from collections.abc import Sequence

from minippo.bootstrap import Estimate


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is readable in a terminal. The first row is the heading."""
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join(f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows)


def shown(estimate: Estimate) -> str:
    """A figure and its interval, such as "1.839 [1.790, 1.888]"."""
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
