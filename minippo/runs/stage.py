"""What the three stages share."""

from __future__ import annotations


def print_report(report: dict[str, dict[str, int]]) -> None:
    """A line for each kind of data: how much there was, and what of it was left out and why."""
    for name, counts in report.items():
        print(f"data: {name}: {', '.join(f'{count:,} {what}' for what, count in counts.items())}")
