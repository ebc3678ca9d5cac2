"""Evaluate a run on held-out data and print the result: its policy against the reference, then its reward model.

python -m minippo evaluate --run runs/reviews
python -m minippo evaluate --run runs/reviews --split validation --prompts 2000 --out evaluation.json

Every figure has a 95 % bootstrap interval. Differences between policy and reference are paired by prompt. Choose
settings by the figures of the validation split, and report those of the test split. No file of the run is changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from minippo.answers import Answer, answer_metrics, wins
from minippo.bootstrap import Estimate, estimate, paired_difference
from minippo.config import CountOrZero
from minippo.data import Corpus, judge_of, load_corpus, prompt_rows
from minippo.evaluation import Evaluator
from minippo.runs import (
    MORE_TITLES,
    TITLES,
    Argument,
    Run,
    command_frame,
    command_line,
    few,
    load_environment,
    load_policy,
    load_run,
    read_answers,
    side_by_side,
    unread_ends,
    wrong_input_exits,
)
from minippo.splits import Split
from minippo.storage import write_text
from minippo.tools.evaluate_rewards import reward_figures, reward_report, training_gain
from minippo.tools.evaluate_texts import text_figures, text_report
from minippo.tools.tables import markdown, shown

NOT_OF_GREEDY = ("kl", "exact_kl")
"""Metrics that are expectations over sampled responses."""


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate a run and print the result."""

    run_dir: Annotated[Path, Argument(alias="--run")] = Path("runs/reviews")
    """Run directory."""
    split: Literal["validation", "test"] = "test"
    """Held-out split of the prompts and comparisons."""
    prompts: CountOrZero = 0
    """Number of prompts, and of texts for the perplexity. 0: as many as the final evaluation of the run
    (eval.final_prompts)."""
    samples: CountOrZero = 3
    """Number of prompts to show with their answers."""
    out: Path | None = None
    """JSON file to write the figures to."""
    scorer: str | None = None
    """The run's scorer, if it was trained on a function of yours (docs/scorer.md): a function that only the run
    directory names is not called."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on. "auto" uses a GPU if there is one."""


@command_frame()
def main() -> None:
    """`python -m minippo evaluate --run-dir RUN`."""
    options = command_line(EvaluateOptions, __doc__)
    with wrong_input_exits():
        run = load_run(options.run_dir, options.device)
        if not run.is_finished("rm"):
            run.require_finished("ppo")
        figures: dict[str, Any] = {"run": str(run.folder), "split": options.split}
        if run.is_finished("ppo"):
            run.require_finished("sft")
            if not run.config.ppo.scorer:
                run.require_finished("rm")
            env, policy = load_environment(run, options.scorer), load_policy(run, "ppo")
        corpus = corpus_of(run, options.split)
        queries = held_out_queries(run, corpus, options) if run.is_finished("ppo") else []
        if run.is_finished("rm") and corpus is not None:
            training_gain(run)  # raises ValueError now, not after the answers
    if run.is_finished("ppo"):
        evaluator = Evaluator(env, queries, options.split, judge_of(run.config), run.config)
        for decoding, each in (("sampled", evaluator), ("greedy", evaluator.greedy())):
            answers = each.answer(policy)
            figures[decoding] = answer_figures(each, answers, () if decoding == "sampled" else NOT_OF_GREEDY)
            print(f"{run.folder}, {decoding} answers: {answer_report(run, each, figures[decoding])}\n")
            if decoding == "sampled" and options.samples:
                print(f"{side_by_side(each.reference_answers, answers, options.samples)}\n")
        texts = text_figures(run, corpus, env, policy, options.split, len(queries)) if corpus else None
        if texts:
            figures["texts"] = texts
            print(f"{run.folder}, {text_report(texts, options.split)}\n")
    if run.is_finished("rm") and corpus is not None:
        figures["reward_model"] = reward_figures(run, corpus, options.split)
        print(f"{run.folder}, reward model: {reward_report(figures['reward_model'], options.split)}")
    if options.out is not None:
        with wrong_input_exits():
            write_text(options.out, json.dumps(figures, indent=2) + "\n")


def corpus_of(run: Run, split: Split) -> Corpus | None:
    """The corpus of a run; None, with a note, if its files are gone and the run's stored test prompts will do."""
    try:
        corpus = load_corpus(run.config)
    except FileNotFoundError as error:
        if split != "test" or not run.is_finished("ppo"):
            raise
        print(f"note: only the stored test prompts are evaluated, without the data: {error}", file=sys.stderr)
        return None
    for stage in ("rm", "ppo"):
        if run.is_finished(stage) and corpus.fingerprint != run.record(stage)["data"]:
            print(
                f"note: {run.stage(stage)} was trained on other data; rows that are held out now may have been "
                "training rows",
                file=sys.stderr,
            )
    return corpus


def held_out_queries(run: Run, corpus: Corpus | None, options: EvaluateOptions) -> Sequence[list[int]]:
    """The first prompts of the split in the policy's tokens, as many as asked for or as there are.

    The test prompts that the run has answered are stored in it.
    """
    if options.split == "test":
        stored = [row["query"] for row in read_answers(run)]
        if options.prompts <= len(stored) or corpus is None:
            return stored[: options.prompts or None]
    queries, _ = prompt_rows(corpus.prompts, run.tokenizers()[0], run.config.data)
    return queries[options.split][: options.prompts or run.config.eval.final_prompts]


def answer_figures(evaluator: Evaluator, answers: Sequence[Answer], without: Sequence[str]) -> dict[str, Any]:
    """What `answer_report` prints, for JSON: metric -> estimates of reference, policy and their difference."""
    judge, reference = evaluator.judge, evaluator.reference_answers
    before, after = answer_metrics(reference, judge), answer_metrics(answers, judge)
    metrics = {
        name: {
            "reference": estimate(before[name])._asdict(),
            "policy": estimate(after[name])._asdict(),
            "difference": paired_difference(after[name], before[name])._asdict(),
        }
        for name in TITLES | MORE_TITLES
        if name in after and name not in without
    }
    win_rate = estimate(wins(answers, reference, judge))._asdict()
    return {"prompts": len(answers), "answers_cut": evaluator.num_cut, "win_rate": win_rate, "metrics": metrics}


def answer_report(run: Run, evaluator: Evaluator, figures: dict[str, Any]) -> str:
    """The figures as Markdown, and in words what they do not show."""
    titles, metrics = TITLES | MORE_TITLES, figures["metrics"]
    estimates = {name: {key: Estimate(**value) for key, value in row.items()} for name, row in metrics.items()}
    rows = [["", "reference", "policy", "policy - reference"]]
    rows += [[titles[name], *map(shown, row.values())] for name, row in estimates.items()]
    judge = "the gold score" if evaluator.judge else run.config.ppo.scorer or "the reward model"
    win_rate, prompts = Estimate(**figures["win_rate"]), figures["prompts"]
    lines = [f"wins against the reference's answer, by {judge}: {shown(win_rate)}"]
    if win_rate.low <= 0.5 <= win_rate.high:
        lines[0] += "; neither is shown to be better: the interval contains 0.5"
    if "kl" in metrics:
        errors = {name: metrics[name]["policy"]["standard_error"] for name in NOT_OF_GREEDY}
        lines.append(f"standard error of the KL: sampled {errors['kl']:.3f}, exact {errors['exact_kl']:.3f}")
    unknown = [titles[name] for name, row in estimates.items() if not row["difference"].excludes_zero]
    if unknown:
        lines.append(f"no difference is shown (its interval contains 0) for: {', '.join(unknown)}")
    heading = f"{prompts} {evaluator.split} prompts{few(prompts, 'prompts')}"
    heading += unread_ends(figures["answers_cut"], "answers")
    return "\n\n".join([heading, markdown(rows), "\n".join(lines)])
