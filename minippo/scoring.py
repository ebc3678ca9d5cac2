"""Texts -> scores. A scorer is any function of prompts and responses; the reward model behind the bridge is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minippo.data import pad
from minippo.heads import RewardModel
from minippo.tokenizer import Tokenizer, reward_tokens

Scorer = Callable[[list[str], list[str]], Tensor]
"""Prompts and responses, B of each -> scores (B,), float32 on the CPU."""


class RewardScorer:
    """The reward model as a scorer: text -> its own tokens -> its score. It never trains."""

    def __init__(self, reward_model: RewardModel, tokenizer: Tokenizer, batch_size: int = 64) -> None:
        self.reward_model = reward_model.eval().requires_grad_(False)
        self.tokenizer, self.batch_size = tokenizer, batch_size

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        context = self.reward_model.gpt.config.context
        rows = reward_tokens(self.tokenizer, prompts, responses, context)
        return score_tokens(self.reward_model, rows, self.tokenizer.pad_id, self.batch_size)


@torch.no_grad()
def score_tokens(reward_model: RewardModel, rows: Sequence[list[int]], pad_id: int, batch_size: int = 64) -> Tensor:
    """Scores (B,) on the CPU of rows of reward-model ids; like lengths share a batch."""
    device = reward_model.score_head.weight.device
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    scores = torch.zeros(len(rows))
    for start in range(0, len(rows), batch_size):
        chosen = order[start : start + batch_size]
        tokens, mask = pad([rows[index] for index in chosen], pad_id, "right")
        scores[torch.tensor(chosen)] = reward_model(tokens.to(device), mask.to(device)).cpu()
    return scores
