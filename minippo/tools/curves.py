"""Plot the learning curves of one or more runs, from their metrics.jsonl.

python -m minippo curves runs/reviews
python -m minippo curves runs/reviews runs/reviews-2 --out curves.png

Panels for which no run has data are left out, such as those of the reward model if all runs took it from another run.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from minippo.runs import Argument, command_frame, command_line, load_run, read_metrics, wrong_input_exits
from minippo.storage import write_bytes

# Title, stage, metric on the x axis, metric on the y axis.
PANELS = (
    ("reward model: loss", "rm", "step", "loss/rm"),
    ("reward model: validation accuracy", "rm", "step", "eval/accuracy"),
    ("PPO: policy loss", "ppo", "step", "loss/policy"),
    ("PPO: value (TD) error", "ppo", "step", "value/td_error"),
    ("PPO: mean score of rollouts", "ppo", "step", "objective/scores"),
    ("PPO: validation score", "ppo", "step", "eval/score"),
    ("PPO: KL to the reference, nats per sequence", "ppo", "step", "objective/kl"),
    ("PPO: response length, tokens", "ppo", "step", "response/length"),
    ("PPO: validation score", "ppo", "eval/kl", "eval/score"),
    ("PPO: validation gold score", "ppo", "eval/kl", "eval/gold_score"),
)
AXES = {"rm": "step", "ppo": "iteration", "eval/kl": "KL to the reference, nats per sequence"}
DENSE = 100  # curves of more points are drawn faintly, with a moving average on top
IMAGES = (".png", ".pdf", ".svg")

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class CurvesOptions:
    """Options of `curves`."""

    runs: Annotated[tuple[Path, ...], Argument(positional=True)] = ()
    """Run directories."""
    out: Path | None = None
    """Image file to write; its name ends in .png, .pdf or .svg. None: curves.png in the first run directory."""


def points(rows: Sequence[dict[str, Any]], x: str, y: str) -> Points:
    """The values of two metrics, from all rows that have both."""
    return [(row[x], row[y]) for row in rows if x in row and y in row]


def moving_average(values: Sequence[float], width: int) -> list[float]:
    """Means of the last `width` values, or of as many as there are."""
    return [sum(values[max(0, end - width) : end]) / min(end, width) for end in range(1, len(values) + 1)]


def panels(rows: dict[str, dict[str, list[dict[str, Any]]]]) -> list[tuple[str, str, dict[str, Points]]]:
    """Title, x label and the curve of each run, for every panel with data. `rows` are metrics by run and stage."""
    all_panels = []
    for title, stage, x, y in PANELS:
        curves = {name: points(stages[stage], x, y) for name, stages in rows.items()}
        curves = {name: curve for name, curve in curves.items() if curve}
        if curves:
            all_panels.append((title, AXES[stage if x == "step" else x], curves))
    return all_panels


def plot(rows: dict[str, dict[str, list[dict[str, Any]]]], path: Path) -> None:
    """Plot all panels into an image file."""
    import matplotlib  # an optional dependency
    from matplotlib.figure import Figure  # needs no display

    matplotlib.rcdefaults()  # not those of a file matplotlibrc in the working directory, which may run LaTeX
    shown = panels(rows)
    num_columns = -(-len(shown) // 2)
    figure = Figure(figsize=(3.75 * num_columns, 6), layout="constrained")
    axes = figure.subplots(2, num_columns, squeeze=False).T.flat
    colors = {name: f"C{index}" for index, name in enumerate(rows)}
    for axis, (title, x_label, curves) in zip(axes, shown, strict=False):
        for name, curve in curves.items():
            x, y = zip(*curve, strict=True)
            dense = len(curve) > DENSE
            axis.plot(x, y, color=colors[name], alpha=0.25 if dense else 1, marker=None if dense else ".")
            if dense:
                axis.plot(x, moving_average(y, len(y) // 30), color=colors[name])
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(x_label, fontsize=8)
        axis.grid(alpha=0.3)
    for axis in list(figure.axes)[len(shown) :]:
        axis.set_visible(False)
    if len(rows) > 1:
        lines = [figure.axes[0].plot([], [], color=color)[0] for color in colors.values()]
        labels = [name.replace("$", r"\$") for name in colors]  # $ begins a formula
        figure.legend(lines, labels, loc="outside lower center", ncols=min(len(rows), 4))
    image = io.BytesIO()
    figure.savefig(image, dpi=80, format=path.suffix[1:].lower())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, image.getvalue())


def plot_runs(folders: Sequence[Path], path: Path) -> None:
    """Plot the curves of run directories into an image file. Raises ValueError if this is impossible."""
    if path.suffix.lower() not in IMAGES:
        raise ValueError(f"the name of the image must end in {', '.join(IMAGES)} (--out), not {path}")
    rows = {}
    for folder in folders:
        load_run(folder, "cpu")  # raises ValueError unless it is a run directory
        if not (folder / "metrics.jsonl").is_file():
            raise ValueError(f"{folder} has no metrics.jsonl: nothing has been trained there yet")
        rows[str(folder)] = {stage: read_metrics(folder, stage) for stage in ("rm", "ppo")}
    if not panels(rows):
        raise ValueError(f"{folders[0]} has no metrics of the reward model or PPO yet (python train_rm.py)")
    try:
        plot(rows, path)
    except ImportError:
        raise ValueError("plots need matplotlib: run pip install matplotlib, or make install-plot") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be written (--out): {error.strerror}") from None


@command_frame()
def main() -> None:
    """`python -m minippo curves RUN`."""
    options = command_line(CurvesOptions, __doc__)
    with wrong_input_exits():
        if not options.runs:
            raise ValueError("name a run directory, such as runs/reviews")
        path = options.out or options.runs[0] / "curves.png"
        plot_runs(options.runs, path)
    print(path)
