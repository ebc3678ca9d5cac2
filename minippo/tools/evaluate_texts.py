"""The part of `evaluate` about texts that people have written: what PPO costs the policy as a language model."""

from __future__ import annotations

from typing import Any

import numpy as np

from minippo.bootstrap import Estimate, estimate, exponential_ratio, paired_difference
from minippo.data import Corpus, policy_rows, windows
from minippo.heads import ActorCritic
from minippo.language_model import held_out_losses
from minippo.memory import loaded
from minippo.rollout import Environment
from minippo.runs import Run, few
from minippo.splits import Split
from minippo.tools.tables import shown


def text_figures(
    run: Run, corpus: Corpus, env: Environment, policy: ActorCritic, split: Split, count: int
) -> dict[str, Any] | None:
    """What `text_report` prints, for JSON: perplexities of the first `count` held-out demonstrations.

    None if the corpus has no demonstrations. They are computed as in stage 1: at temperature 1, without the prompts, in
    windows of the context. This is the "perplexity" of Ramamurthy et al. 2022 (2210.01241), which is about the policy;
    that of the answers under the reference is another one.
    """
    rows = policy_rows(corpus.demonstrations(split), env.tokenizer)[:count]
    if not len(rows):
        return None
    pieces = windows(rows, policy.gpt.config.context)
    text = np.searchsorted(rows.starts, pieces.starts, side="right") - 1  # (pieces,) the row that each is from
    perplexities = {}
    for name, model in (("reference", env.reference), ("policy", policy)):
        with loaded(model):
            losses, tokens = held_out_losses(
                model.gpt, pieces, pieces.prompt_lengths, env.tokenizer.pad_id, run.config.sft.policy.batch_tokens
            )
        # Windows of the same text are resampled together.
        by_text = (np.bincount(text, column, minlength=len(rows)) for column in (losses, tokens))
        perplexities[name] = exponential_ratio(*by_text)
    difference = paired_difference(perplexities["policy"], perplexities["reference"])
    estimates = {name: estimate(perplexity) for name, perplexity in perplexities.items()} | {"difference": difference}
    return {"texts": len(rows)} | {name: each._asdict() for name, each in estimates.items()}


def text_report(figures: dict[str, Any], split: Split) -> str:
    """The figures in a line."""
    reference, policy, difference = (shown(Estimate(**figures[name])) for name in ("reference", "policy", "difference"))
    return (
        f"perplexity of {figures['texts']} {split} texts{few(figures['texts'], 'texts')}: reference {reference}, "
        f"policy {policy}, policy - reference {difference}"
    )
