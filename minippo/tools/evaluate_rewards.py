"""The part of `evaluate` about the reward model: accuracy, calibration, agreement with the gold score."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from minippo.bootstrap import Estimate, estimate, mean
from minippo.data import Corpus, comparison_rows
from minippo.reward_evaluation import (
    accuracy_by,
    calibration,
    calibration_error,
    calibration_floor,
    comparison_scores,
    label_comparisons,
    pairs_of,
    pairwise_accuracy,
    rank_correlation,
    score_differences,
)
from minippo.runs import Run, few, load_reward_scorer
from minippo.splits import Split
from minippo.tools.tables import markdown, shown

GROUPS = {
    "margin": "scores differ by",
    "gold_margin": "gold scores differ by",
    "length_difference": "tokens, better - worse",
}
ESTIMATES = ("accuracy", "label_accuracy", "best_possible", "gold_agreement", "gold_rank_correlation")


def training_gain(run: Run) -> float:
    """The gain of the reward model while it was trained. Raises ValueError if an earlier version has not stored it."""
    results = run.record("rm")["results"]
    if run.config.rm.normalise_before and "rm_training_gain" not in results:
        raise ValueError(
            f"{run.stage('rm')} is from an earlier version and has no rm_training_gain, the scale of its training "
            "(rm.normalise_before); train it again in another run directory"
        )
    return results.get("rm_training_gain", 1.0)


def reward_figures(run: Run, corpus: Corpus, split: Split) -> dict[str, Any]:
    """What `reward_report` prints, for JSON. Scores are those of training, before their normalisation; those of a
    classifier are probabilities."""
    scorer, config = load_reward_scorer(run), run.config
    model, tokenizer, texts = scorer.reward_model, scorer.tokenizer, corpus.comparisons(split)
    rows, kept, _ = comparison_rows(texts, tokenizer, model.gpt.config.context, config.data)
    rows, kept = rows[: config.rm.eval_comparisons], kept[: config.rm.eval_comparisons]
    gain = training_gain(run) / model.gain.item()
    scores = [[gain * score for score in of_row] for of_row in comparison_scores(model, rows, tokenizer.pad_id)]
    judge, gold = corpus.judge, None
    if judge:
        comparisons = [texts[index] for index in kept.tolist()]
        gold = [[judge.gold_score(c.prompt, text) for text in c.ranked] for c in comparisons]
    pairs = pairs_of(scores, [[len(ids) for ids in row] for row in rows], gold)
    groups = {"margin": np.abs(pairs.score), "length_difference": pairs.length}
    figures = {
        "comparisons": len(scores),
        "pairs": len(pairs.score),
        "accuracy": estimate(pairs.accuracy())._asdict(),
    }
    if config.rm.objective == "labels":
        scores = label_comparisons(torch.tensor(scores, dtype=torch.float64).logit().tolist())
        figures["label_accuracy"] = estimate(mean([pairwise_accuracy([row]) for row in scores]))._asdict()
    differences = score_differences(scores)
    figures |= {
        "calibration_error": calibration_error(calibration(differences)),
        "calibration_floor": calibration_floor(scores)._asdict(),
    }
    if gold is not None and pairs.gold is not None:
        groups["gold_margin"] = np.abs(pairs.gold)
        figures |= {
            "best_possible": estimate(pairs.share(pairs.gold > 0, np.ones(len(pairs.gold), bool)))._asdict(),
            "gold_agreement": estimate(pairs.agreement())._asdict(),
            "gold_rank_correlation": estimate(rank_correlation(scores, gold))._asdict(),
        }
    return figures | {
        name: [
            {"low": g.low, "high": g.high, "pairs": g.count, "accuracy": estimate(g.accuracy)._asdict()}
            for g in accuracy_by(pairs, values)
        ]
        for name, values in groups.items()
    }


def reward_report(figures: dict[str, Any], split: Split) -> str:
    """The figures as Markdown, and in words what they do not show."""
    estimates = {name: Estimate(**value) for name, value in figures.items() if name in ESTIMATES}
    count, error, floor = figures["comparisons"], figures["calibration_error"], figures["calibration_floor"]
    lines = [f"accuracy: {shown(estimates['accuracy'])}"]
    if "best_possible" in estimates:
        lines[0] += f"; the annotators' own gold score has {estimates['best_possible'].value:.3f}"
        lines.append(
            f"agreement with the gold score: {shown(estimates['gold_agreement'])} of the pairs, "
            f"rank correlation {shown(estimates['gold_rank_correlation'])}"
        )
    if "label_accuracy" in estimates:
        lines.append(f"accuracy of the labels, at a probability of 0.5: {shown(estimates['label_accuracy'])}")
    verdict = "more than chance explains" if error > floor["high"] else "no miscalibration is shown"
    lines.append(
        f"calibration error: {error:.4f}; chance gives a perfectly calibrated model {floor['mean']:.4f} "
        f"(below {floor['high']:.4f} in 95 % of cases): {verdict}"
    )
    rows = [["pairs", "number", "accuracy"]]
    for name, title in GROUPS.items():
        for group in figures.get(name, []):
            bounds = f"{group['low']:.4g} to {group['high']:.4g}"
            rows.append([f"{title}: {bounds}", str(group["pairs"]), shown(Estimate(**group["accuracy"]))])
    heading = f"{count} {split} comparisons, {figures['pairs']} pairs{few(count, 'comparisons')}"
    return "\n\n".join([heading, "\n".join(lines), markdown(rows)])
