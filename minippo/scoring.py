"""Texts -> scores. A scorer is any function of prompts and responses; the reward model behind the bridge is one."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from minippo.errors import TrainingError, require_finite
from minippo.heads import RewardModel
from minippo.masking import pad
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


class FunctionScorer:
    """Somebody's own function as a scorer. Whatever it does wrong stops the run in a sentence that names it."""

    def __init__(self, name: str, function: Scorer) -> None:
        self.name, self.function = name, function

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        try:
            scores = self.function(list(prompts), list(responses))
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise TrainingError(
                f"the scorer {self.name} raised {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
            ) from error
        if not isinstance(scores, Tensor):
            raise TrainingError(f"the scorer {self.name} should return a tensor, not {type(scores).__name__}")
        if scores.shape != (len(responses),):
            raise TrainingError(
                f"the scorer {self.name} should return the shape ({len(responses)},) for {len(responses)} responses, "
                f"not {tuple(scores.shape)}"
            )
        scores = scores.detach().float().cpu()
        for prompt, response, score in zip(prompts, responses, scores.tolist(), strict=True):
            require_finite(f"the scorer {self.name}, asked about {response!r} after {prompt!r}", score=score)
        return scores


def load_scorer(name: str) -> FunctionScorer:
    """The scorer `package.module:function`; modules are looked for in the working directory too.

    Raises ValueError where there is no such function, or where its module cannot be imported.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"ppo.scorer must be package.module:function, not {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module does while it is imported
        raise ValueError(
            f"the module of ppo.scorer {name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"ppo.scorer {name}: {module.__name__} has no function {function_name!r}")
    return FunctionScorer(name, function)
