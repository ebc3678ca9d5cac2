"""The figure of a frontier: scores against KL, and the laws of over-optimisation."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minippo.storage import write_bytes
from minippo.tools.frontier.points import law_of

TICKS = (0, 0.3, 1, 3, 10, 30, 100, 300)
TITLES = {"score": "score (trained on)", "gold": "gold score", "laws": "gain in gold score, and fitted laws"}


def plot(data: dict[str, Any], path: Path) -> None:
    """Score and gold score against KL; gains of reward models trained on fewer comparisons. `data` is frontier.json."""
    import matplotlib  # an optional dependency
    from matplotlib.figure import Figure  # needs no display

    matplotlib.rcdefaults()  # not those of a file matplotlibrc in the working directory
    panels = ["score", *(["gold", "laws"] if data["gold"] else [])]
    figure = Figure(figsize=(4.5 * len(panels), 4.2), layout="constrained")
    for axis, panel in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True):
        axis.set_title(TITLES[panel], fontsize=10)
        axis.set_xlabel("KL to the reference, nats", fontsize=8)
        # From 0, where the reference is, to a hundred and more without penalty: distances on the axis are log(1 + KL).
        axis.set_xscale("function", functions=(np.log1p, np.expm1))
        axis.grid(alpha=0.3)
        if panel == "laws":
            draw_laws(axis, data["laws"])
        else:
            draw_points(axis, data, panel)
        axis.set_xlim(left=0)
        axis.set_xticks(
            ticks := [tick for tick in TICKS if tick <= axis.get_xlim()[1]], [f"{tick:g}" for tick in ticks]
        )
        axis.legend(fontsize=7)
    image = io.BytesIO()
    figure.savefig(image, dpi=80, format=path.suffix[1:])
    write_bytes(path, image.getvalue())


def draw_points(axis: Any, data: dict[str, Any], name: str) -> None:
    """The points of every method with their intervals, and in pale the evaluations during training for each of its
    settings, with the intervals of about eight."""
    whole, during = (
        [row for row in data[rows] if row["fraction"] == data["fraction"]] for rows in ("points", "checkpoints")
    )
    colors = {method: f"C{index}" for index, method in enumerate(dict.fromkeys(row["method"] for row in whole))}
    for method, color in colors.items():
        rows = sorted((row for row in whole if row["method"] == method), key=lambda row: row["kl"][0])
        draw_curve(axis, rows, name, color=color, marker="o", markersize=3, linewidth=1, label=method)
    for method, setting in dict.fromkeys((row["method"], row["setting"]) for row in during):
        rows = [row for row in during if (row["method"], row["setting"]) == (method, setting)]
        pale = {"color": colors[method], "alpha": 0.3, "linewidth": 0.6, "errorevery": max(1, len(rows) // 8)}
        draw_curve(axis, rows, name, **pale)


def draw_curve(axis: Any, rows: Sequence[dict[str, Any]], name: str, **style: Any) -> None:
    """A line through the KLs and values of rows in their order, with bars for the intervals of both."""
    x, y = ([row[key][0] for row in rows] for key in ("kl", name))
    bars = {"xerr": bar_lengths([row["kl"] for row in rows]), "yerr": bar_lengths([row[name] for row in rows])}
    axis.errorbar(x, y, **bars, **style)


def bar_lengths(intervals: Sequence[Sequence[float]]) -> list[list[float]]:
    """How far the error bars of [value, low, high] reach down and up; not below 0, where rounding would put them."""
    return [
        [max(0.0, value - low) for value, low, _ in intervals],
        [max(0.0, high - value) for value, _, high in intervals],
    ]


def draw_laws(axis: Any, laws: Sequence[dict[str, Any]]) -> None:
    """Mean measured gains as markers, laws as lines: a colour for each fraction, dashes for PPO."""
    fractions = sorted({law["fraction"] for law in laws})
    for law in laws:
        sampled, color = law["kind"] == "best-of-n", f"C{fractions.index(law['fraction'])}"
        kls, gains = zip(*law["points"], strict=True)
        axis.plot(kls, gains, color=color, linestyle="", marker="." if sampled else "x", markersize=4)
        grid = [max(kls) * (step / 100) ** 2 for step in range(101)]
        line = [law_of(law).gain(kl) for kl in grid]
        label = f"{'best-of-n' if sampled else 'PPO'}, {law['fraction']:g} of the comparisons"
        axis.plot(grid, line, color=color, linestyle="-" if sampled else "--", linewidth=1, label=label)
