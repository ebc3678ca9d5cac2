"""An independent judge of a run on IMDB: a bag of n-grams (tf-idf of words and word pairs, logistic regression).

    python bench/imdb_judge.py --run-dir runs/imdb-small [--imdb-path FOLDER]

It answers two questions:

1. How good is the reward model? The n-gram model is trained on crops of the same training reviews and measured on the
   same held-out pairs.
2. Did PPO improve the responses, or only exploit the reward model? The n-gram model, which was never used in training,
   judges the responses to held-out prompts before and after PPO.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from minippo.data import load_corpus
from minippo.runs import command_line, load_run


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
    """Fit the n-gram model, measure both models, print Markdown."""
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
    accuracy = ((positive > 0).mean() + (negative <= 0).mean()) / 2
    summary = run.summary()
    print(f"{len(pairs)} held-out pairs of {config.crop_words}-word crops\n")
    print("| | pair accuracy |\n| --- | --- |")
    print(f"| reward model | {summary['rm_accuracy']:.4f} |\n| bag of n-grams | {(positive > negative).mean():.4f} |\n")

    rows = [json.loads(line) for line in (run.folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    print(
        f"{len(rows)} held-out prompts; judged by the bag of n-grams (its own accuracy on test crops: {accuracy:.3f})\n"
    )
    print("| | judged positive | reward model's score |\n| --- | --- | --- |")
    for key in ("before", "after"):
        texts = [row[key]["prompt"] + row[key]["response"] for row in rows]
        share = (model.decision_function(texts) > 0).mean()
        print(f"| {key} | {share:.3f} | {sum(row[key]['score'] for row in rows) / len(rows):+.2f} |")


if __name__ == "__main__":
    main()
