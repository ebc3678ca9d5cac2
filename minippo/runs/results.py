"""The result of a run, as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from minippo.evaluation import Answer
from minippo.runs.run import Run

TITLES = {
    "score": "score, trained for",
    "gold_score": "gold score",
    "gold": "judged positive",
    "kl": "KL to the reference, nats",
    "response_length": "length, tokens",
    "eos_rate": "ends by itself",
    "grammatical": "grammatical sentences",
    "distinct_2": "distinct bigrams",
}


def table(before: dict[str, float], after: dict[str, float]) -> str:
    """Both sets of figures side by side, as Markdown that reads well in a terminal too."""
    lines = [f"| {'':26} | {'before':>8} | {'after':>8} |", f"| {'-' * 26} | {'-' * 8} | {'-' * 8} |"]
    lines += [f"| {title:26} | {before[k]:8.3f} | {after[k]:8.3f} |" for k, title in TITLES.items() if k in after]
    return "\n".join(lines)


def side_by_side(before: Sequence[Answer], after: Sequence[Answer], count: int) -> str:
    """The first `count` prompts with both answers, Markdown."""
    newline = "\n> "  # every line of a prompt is quoted
    blocks = [
        f"> {a.prompt.replace(chr(10), newline)}\n\n"
        f"- before ({b.score:+.2f}): {b.response.strip()}\n"
        f"- after ({a.score:+.2f}): {a.response.strip()}"
        for b, a in zip(before[:count], after[:count], strict=True)
    ]
    return "\n\n".join(blocks)


def answered(run: Run) -> list[dict[str, Any]]:
    """The rows of a finished run's `answers.jsonl`."""
    with (run.folder / "answers.jsonl").open(encoding="utf-8") as file:  # not splitlines: it splits at U+2028 as well
        return [json.loads(line) for line in file]


def report(run: Run) -> str:
    """The result of a finished run, as Markdown: the table, then prompts with both answers."""
    summary, rows = run.summary(), answered(run)
    before, after = ([Answer(**row[key]) for row in rows] for key in ("before", "after"))
    function = run.config.ppo.scorer
    scored_by = f"scores: {function}" if function else f"reward model: held-out accuracy {summary['rm_accuracy']:.3f}"
    if not function and summary.get("rm_accuracy_limit") is not None:
        scored_by += f", best possible {summary['rm_accuracy_limit']:.3f}"
    judged = "the gold score" if "gold_after" in summary else function or "the reward model"
    wins = f"wins against the reference's answer, by {judged}: {summary['win_rate']:.3f}"
    seconds = ", ".join(f"{stage} {value:.0f} s" for stage, value in summary["stage_seconds"].items())
    return "\n\n".join(
        [
            f"{run.folder}: {len(rows)} held-out prompts ({seconds})",
            scored_by + "\n" + wins,
            table(summary["before"], summary["after"]),
            side_by_side(before, after, run.config.eval.samples),
        ]
    )
