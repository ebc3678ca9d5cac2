"""An independent judge of a run on IMDB: a bag of n-grams (tf-idf of words and word pairs, logistic regression).

    python bench/imdb_judge.py --run-dir runs/imdb-small [--imdb-path FOLDER]

It answers two questions:

1. How good is the reward model? The n-gram model is trained on crops of the same training reviews and measured on the
   same held-out pairs.
2. Did PPO improve the responses, or only exploit the reward model? The n-gram model, which was never used in training,
   judges the responses to held-out prompts before and after PPO.

Prints both answers and writes them to judge.json in the run directory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from minippo.data import load_corpus
from minippo.runs import command_line, load_run, read_answers
from minippo.storage import write_text


@dataclass(frozen=True)
class Options:
    """Options of the benchmark."""

    run_dir: Path = Path("runs/imdb-small")
    """Folder of the finished run."""
    imdb_path: str = ""
    """Hub name or folder of the IMDB dataset; by default that of the run."""
    crops: int = 4
    """Number of crops of each training review."""


def main() -> None:
    """Fit the n-gram model, measure both models, write judge.json, print Markdown."""
    options = command_line(Options, __doc__)
    run = load_run(options.run_dir)
    config = replace(run.config.data, limit=0, imdb_path=options.imdb_path or run.config.data.imdb_path)
    corpus = load_corpus(replace(run.config, data=config))
    texts, labels = [], []
    for epoch in range(options.crops):
        for comparison in corpus.comparisons("train", epoch):
            texts += comparison.ranked
            labels += [1, 0]
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=5, sublinear_tf=True), LogisticRegression(C=3, max_iter=300)
    )
    model.fit(texts, labels)

    pairs = [comparison.ranked for comparison in corpus.comparisons("test")[: run.config.rm.eval_comparisons]]
    positive, negative = (model.decision_function(list(side)) for side in zip(*pairs, strict=True))
    rows = read_answers(run)
    answers = {key: [row[key] for row in rows] for key in ("before", "after")}
    judge = {
        "pairs": len(pairs),
        "crop_words": config.crop_words,
        "reward_model_accuracy": run.summary()["rm_accuracy"],
        "pair_accuracy": float((positive > negative).mean()),
        "accuracy": float(((positive > 0).mean() + (negative <= 0).mean()) / 2),
        "prompts": len(rows),
        "judged_positive": {
            key: float((model.decision_function([a["prompt"] + a["response"] for a in side]) > 0).mean())
            for key, side in answers.items()
        },
        "score": {key: sum(a["score"] for a in side) / len(side) for key, side in answers.items()},
    }
    write_text(run.folder / "judge.json", json.dumps(judge, indent=2) + "\n")
    print(report(judge))


def report(judge: dict[str, Any]) -> str:
    """The contents of judge.json as Markdown."""
    lines = [f"{judge['pairs']} held-out pairs of {judge['crop_words']}-word crops", ""]
    lines += ["| | pair accuracy |", "| --- | --- |"]
    lines += [f"| reward model | {judge['reward_model_accuracy']:.4f} |"]
    lines += [f"| bag of n-grams | {judge['pair_accuracy']:.4f} |", ""]
    own = f"(its own accuracy on test crops: {judge['accuracy']:.3f})"
    lines += [f"{judge['prompts']} held-out prompts; judged by the bag of n-grams {own}", ""]
    lines += ["| | judged positive | reward model's score |", "| --- | --- | --- |"]
    lines += [f"| {key} | {judge['judged_positive'][key]:.3f} | {judge['score'][key]:+.2f} |" for key in judge["score"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
