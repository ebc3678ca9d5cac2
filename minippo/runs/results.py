"""The results of a finished run, as files and as text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from minippo.answers import Answer
from minippo.evaluation import Evaluator
from minippo.runs.run import Run
from minippo.storage import read_json_lines, write_text

TITLES = {
    "score": "score (trained on)",
    "gold_score": "gold score",
    "gold": "judged positive",
    "kl": "KL to the reference, nats",
    "response_length": "length, tokens",
    "eos_rate": "ends by itself",
    "grammatical": "grammatical sentences",
    "distinct_2": "distinct bigrams",
}
"""Metric -> its title in the report of a stage."""
MORE_TITLES = {
    "exact_kl": "KL, exact per token",
    "perplexity": "perplexity of the reference",
    "distinct_1": "distinct words",
    "distinct_3": "distinct trigrams",
    "repetition": "repeated 4-grams",
}
"""Further metrics, which `evaluate` shows as well."""


def write_answers(run: Run, evaluator: Evaluator, answers: Sequence[Answer]) -> None:
    """Write each prompt with the reference's response ("before") and the policy's ("after") to ppo/answers.jsonl."""
    rows = [
        {"prompt": b.prompt, "query": query, "before": asdict(b), "after": asdict(a)}
        for query, b, a in zip(evaluator.queries, evaluator.reference_answers, answers, strict=True)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(run.results_folder("ppo") / "answers.jsonl", text)


def read_answers(run: Run) -> list[dict[str, Any]]:
    """The rows of a finished run's answers.jsonl."""
    return [row for _, row in read_json_lines(run.intact(run.stage("ppo")) / "answers.jsonl")]


def stored_answers(run: Run) -> tuple[list[Answer], list[Answer]]:
    """The answers of the reference and of the policy in a finished run's answers.jsonl.

    Raises ValueError if an earlier version has written them, without numbers that an `Answer` has today.
    """
    rows = read_answers(run)
    names = [field.name for field in fields(Answer)]
    missing = sorted({name for row in rows for name in names if name not in row["before"] or name not in row["after"]})
    if missing:
        raise ValueError(
            f"{run.stage('ppo')}/answers.jsonl is from an earlier version and has no {' and no '.join(missing)}; "
            f"python -m minippo evaluate --run {run.folder} answers the prompts again"
        )
    return [Answer(**row["before"]) for row in rows], [Answer(**row["after"]) for row in rows]


def table(before: dict[str, float], after: dict[str, float]) -> str:
    """Metrics before and after PPO, as Markdown that is readable in a terminal."""
    lines = [f"| {'':26} | {'before':>8} | {'after':>8} |", f"| {'-' * 26} | {'-' * 8} | {'-' * 8} |"]
    lines += [f"| {title:26} | {before[k]:8.3f} | {after[k]:8.3f} |" for k, title in TITLES.items() if k in after]
    return "\n".join(lines)


def side_by_side(before: Sequence[Answer], after: Sequence[Answer], count: int) -> str:
    """The first `count` prompts with both answers, as Markdown."""
    # Every line of a prompt is quoted and every further line of a response indented, so that no text ends its block.
    blocks = [
        f"> {_lines(a.prompt, '> ')}\n\n"
        f"- before ({b.score:+.2f}): {_lines(b.response.strip(), '  ')}\n"
        f"- after ({a.score:+.2f}): {_lines(a.response.strip(), '  ')}"
        for b, a in zip(before[:count], after[:count], strict=True)
    ]
    return "\n\n".join(blocks)


def _lines(text: str, prefix: str) -> str:
    return f"\n{prefix}".join(text.splitlines())


def reward_model_line(run: Run) -> str:
    """Held-out accuracy of the run's reward model, the best possible one if the corpus defines it, and calibration."""
    summary = run.summary()
    names = {"held-out accuracy": "rm_accuracy", "best possible": "rm_accuracy_limit"}
    names["accuracy of the labels"] = "rm_label_accuracy"
    names["calibration error"] = "rm_calibration_error"
    values = {name: summary.get(key) for name, key in names.items()}
    line = "reward model: " + ", ".join(f"{name} {x:.3f}" for name, x in values.items() if x is not None)
    pairs = sum(level["count"] for level in summary.get("rm_calibration", []))
    return line + few(pairs, "held-out pairs") + unread_ends(summary.get("rm_samples_cut", 0), "samples")


def few(count: int, what: str) -> str:
    """A note for figures that are based on `count` examples, if these are fewer than 30."""
    return f" (from {count} {what} only: fewer than 30 say little)" if 0 < count < 30 else ""


def unread_ends(count: int, what: str) -> str:
    """A note on texts that the reward model has read without their end, if there are any."""
    return f" ({count} {what}, longer than the reward model's context, were scored without their end)" if count else ""


def language_model_line(run: Run) -> str:
    """Held-out losses of the two language models of stage 1."""
    losses = {name: run.summary().get(f"sft_{name}_loss") for name in ("policy", "reward")}
    trained = [f"{name} {loss:.3f}" for name, loss in losses.items() if loss is not None]
    return f"language models: held-out loss {', '.join(trained)} nats per token" if trained else "no demonstrations"


def run_report(run: Run) -> str:
    """The stored result of a finished run as Markdown: a table, then prompts with both answers."""
    summary, (before, after) = run.summary(), stored_answers(run)
    scorer = run.config.ppo.scorer
    judge = "the gold score" if "gold_after" in summary else scorer or "the reward model"
    wins = f"wins against the reference's answer, by {judge}: {summary['win_rate']:.3f}"
    wins += few(len(after), "prompts") + unread_ends(summary.get("answers_cut", 0), "answers")
    seconds = ", ".join(f"{stage} {value:.0f} s" for stage, value in summary["stage_seconds"].items())
    return "\n\n".join(
        [
            f"{run.folder}: {len(after)} held-out prompts ({seconds}){few(len(after), 'prompts')}",
            (f"scores: {scorer}" if scorer else reward_model_line(run)) + "\n" + wins,
            table(summary["before"], summary["after"]),
            side_by_side(before, after, run.config.eval.samples),
        ]
    )
