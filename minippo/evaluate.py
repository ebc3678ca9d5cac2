"""What a run has achieved: answers to held-out prompts, beside the reference's answers to the same prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from minippo.checkpoint import load_actor_critic, load_reward_model
from minippo.cli import broken_run_exits, command_line, wrong_input_exits
from minippo.config import Config
from minippo.corpora import Judge, judge_of
from minippo.heads import ActorCritic
from minippo.rollout import logprobs_and_values, respond
from minippo.run import Run, load_run, write_whole
from minippo.scoring import RewardScorer, Scorer, load_scorer
from minippo.streams import response_uniforms
from minippo.texts import Split
from minippo.tokenizer import Tokenizer


@dataclass(frozen=True)
class Answer:
    """One response to a held-out prompt."""

    prompt: str
    response: str
    score: float
    """By the scorer that trained the policy."""
    kl: float
    """Of the sequence, to the reference, nats (k1)."""
    length: int
    """Tokens, the end-of-text among them."""
    ended: bool
    """Whether it ends by itself."""


def scorer_of(run: Run) -> Scorer:
    """What scores the run's texts: the function that `ppo.scorer` names, or the reward model behind the bridge.

    Raises ValueError where the function cannot be found.
    """
    if run.config.ppo.scorer:
        return load_scorer(run.config.ppo.scorer)
    return RewardScorer(load_reward_model(run.stage("rm")).to(run.device), run.tokenizers()[1])


@torch.no_grad()
def answer(
    policy: ActorCritic,
    reference: ActorCritic,
    scorer: Scorer,
    queries: Sequence[list[int]],
    tokenizer: Tokenizer,
    config: Config,
    split: Split,
    batch_size: int = 128,
) -> list[Answer]:
    """Answer every query of a held-out split once.

    The random numbers depend on the seed, the split and a query's index alone. So all models are given the same ones,
    and what differs between their answers is due to the models.
    """
    policy.eval()
    end_ids = tokenizer.end_ids(config.ppo.stop_token)
    answers: list[Answer] = []
    for start in range(0, len(queries), batch_size):
        indices = range(start, min(start + batch_size, len(queries)))
        uniforms = response_uniforms(config.seed, f"{split} answers", 0, indices, config.data.response_length)
        batch = respond(policy, [queries[i] for i in indices], tokenizer, uniforms=uniforms, config=config.ppo)
        logprobs, _ = logprobs_and_values(policy, batch, end_ids, config.ppo)
        ref_logprobs, _ = logprobs_and_values(reference, batch, end_ids, config.ppo)
        columns = (
            batch.prompt_texts,
            batch.response_texts,
            scorer(batch.prompt_texts, batch.response_texts).tolist(),
            (logprobs - ref_logprobs).sum(dim=1).tolist(),
            batch.response_mask.sum(dim=1).tolist(),
            batch.has_eos.tolist(),
        )
        answers += [Answer(*row) for row in zip(*columns, strict=True)]
    return answers


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words as a share of all n-grams, over all texts together (Li et al. 2016)."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / max(1, len(grams))


def figures(answers: Sequence[Answer], judge: Judge | None) -> dict[str, float]:
    """Means over the answers; with a judge, what it thinks of them too."""
    found = {
        "score": _mean([a.score for a in answers]),
        "kl": _mean([a.kl for a in answers]),
        "eos_rate": _mean([a.ended for a in answers]),
        "response_length": _mean([a.length for a in answers]),
        "distinct_2": distinct_n([a.response for a in answers], 2),
    }
    if judge is not None:
        gold = [judge.gold_score(a.prompt, a.response) for a in answers]
        sentences = [sentence for a in answers for sentence in judge.split_sentences(a.response)]
        found["gold"] = _mean([score > 0 for score in gold])
        found["gold_score"] = _mean(gold)
        found["grammatical"] = _mean([judge.is_grammatical(sentence) for sentence in sentences])
    return found


def win_rate(answers: Sequence[Answer], others: Sequence[Answer], judge: Judge | None) -> float:
    """Share of prompts whose answer beats the other one; a tie counts half. By the gold score, or else by the score."""

    def value(a: Answer) -> float:
        return judge.gold_score(a.prompt, a.response) if judge else a.score

    pairs = [(value(ours), value(theirs)) for ours, theirs in zip(answers, others, strict=True)]
    return _mean([(a > b) + 0.5 * (a == b) for a, b in pairs])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


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


def final_evaluation(
    run: Run,
    policy: ActorCritic,
    reference: ActorCritic,
    scorer: Scorer,
    tokenizer: Tokenizer,
    queries: Sequence[list[int]],
    judge: Judge | None,
) -> dict[str, object]:
    """Answer the queries with both, write all answers to `answers.jsonl`, and return the summary's entries."""
    before, after = (
        answer(model, reference, scorer, queries, tokenizer, run.config, "test") for model in (reference, policy)
    )
    rows = [
        {"prompt": b.prompt, "query": query, "before": asdict(b), "after": asdict(a)}
        for query, b, a in zip(queries, before, after, strict=True)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_whole(run.folder / "answers.jsonl", "".join(lines))
    old, new = figures(before, judge), figures(after, judge)
    found: dict[str, object] = {"before": old, "after": new, "prompts": len(queries)}
    for key in ("score", "gold", "gold_score"):
        if key in new:
            found |= {f"{key}_before": old[key], f"{key}_after": new[key]}
    found |= {key: new[key] for key in ("kl", "eos_rate", "response_length")}
    return found | {"win_rate": win_rate(after, before, judge)}


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


@dataclass(frozen=True)
class EvaluateOptions:
    """Evaluate a finished run again and print the result."""

    run_dir: Annotated[Path, tyro.conf.arg(aliases=["--run"])] = Path("runs/reviews")
    """Folder of the run."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""


def main() -> None:
    """`python -m minippo.evaluate --run-dir RUN`."""
    options = command_line(EvaluateOptions, __doc__)
    with wrong_input_exits():
        run = load_run(options.run_dir, options.device)
        if not run.is_finished("ppo"):
            raise ValueError(f"{run.folder} has no finished ppo/: train the policy first (python train_ppo.py)")
        tokenizer, _ = run.tokenizers()
        scorer = scorer_of(run)
        queries = [row["query"] for row in answered(run)]  # so it needs no data, wherever it has been moved
    policy = load_actor_critic(run.stage("ppo") / "policy").to(run.device)
    reference = load_actor_critic(run.stage("sft") / "policy").to(run.device)
    with broken_run_exits():
        found = final_evaluation(run, policy, reference, scorer, tokenizer, queries, judge_of(run.config))
    write_whole(run.folder / "summary.json", json.dumps(run.summary() | found, indent=2) + "\n")
    print(report(run))


if __name__ == "__main__":
    main()
