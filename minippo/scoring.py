"""Texts -> scores. A scorer is any function of prompts and responses; the reward model behind the text bridge is one.

The bridge: policy and reward model may have different tokenizers, so a response cannot be passed on as token ids. It is
decoded to text with the policy's tokenizer and encoded again with the reward model's. Text is the only interface, which
is also why any Python function can replace the reward model. `minippo.tokenizer.reward_tokens` is the one function that
encodes for the reward model, in its training and here.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from minippo.errors import TrainingError, quoted, require_finite
from minippo.heads import RewardModel
from minippo.masking import pad
from minippo.memory import loaded, phase
from minippo.tokenizer import Tokenizer, reward_tokens

Scorer = Callable[[list[str], list[str]], Tensor]
"""B prompts and B responses -> scores (B,), float32 on the CPU."""


def score_texts(scorer: Scorer, prompts: list[str], responses: list[str]) -> Tensor:
    """Scores (B,). Raises TrainingError, naming the scorer and quoting the text, if one is NaN or infinite."""
    scores, name = scorer(prompts, responses), getattr(scorer, "name", "the scorer")
    for prompt, response, score in zip(prompts, responses, scores.tolist(), strict=True):
        text = f"response {response!r} to {prompt!r}"
        require_finite({"score": score}, f"{name}, {text}")
    return scores


class RewardScorer:
    """The reward model as a scorer: text -> its own tokens -> score. The model is frozen."""

    name = "the reward model"
    cut: Sequence[int] = ()
    """Indices of the texts of the latest call that are longer than the context: they were scored without their end."""

    def __init__(self, reward_model: RewardModel, tokenizer: Tokenizer, batch_size: int = 64) -> None:
        self.reward_model = reward_model.eval().requires_grad_(False)
        self.tokenizer, self.batch_size = tokenizer, batch_size

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        # Prompt and response are encoded as one text, as in training: a token may span the border between them.
        rows, self.cut = rows_in_context(self.reward_model, self.tokenizer, prompts, responses)
        with loaded(self.reward_model):
            return score_tokens(self.reward_model, rows, self.tokenizer.pad_id, self.batch_size)


def rows_in_context(
    reward_model: RewardModel, tokenizer: Tokenizer, prompts: Sequence[str], responses: Sequence[str]
) -> tuple[list[list[int]], list[int]]:
    """The tokens that the reward model reads of B texts, and the indices of those that were cut to fit its context."""
    context = reward_model.gpt.config.context
    rows = reward_tokens(tokenizer, prompts, responses, sys.maxsize)
    cut = [index for index, ids in enumerate(rows) if len(ids) > context]
    for index in cut:
        rows[index] = [*rows[index][: context - 1], tokenizer.eos_id]
    return rows, cut


def num_cut(scorer: Scorer) -> int:
    """How many texts of its latest call a scorer has read without their end; 0 for functions of your own."""
    return len(getattr(scorer, "cut", ()))


@phase("scoring")
@torch.no_grad()
def score_tokens(reward_model: RewardModel, rows: Sequence[list[int]], pad_id: int, batch_size: int = 64) -> Tensor:
    """Scores (B,), on the CPU, of rows of reward-model tokens. Rows of similar length share a batch."""
    device = reward_model.score_head.weight.device
    by_length = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    scores = torch.zeros(len(rows))  # (B,)
    for start in range(0, len(rows), batch_size):
        indices = by_length[start : start + batch_size]
        tokens, mask = pad([rows[index] for index in indices], pad_id, "right")  # (batch_size, S)
        scores[torch.tensor(indices)] = reward_model(tokens.to(device), mask.to(device)).cpu()
    return scores


class FunctionScorer:
    """A user's function as a scorer. Errors in it stop training with one sentence that names the function."""

    def __init__(self, name: str, function: Scorer) -> None:
        self.name, self.function = f"the scorer {name}", function

    def __call__(self, prompts: Sequence[str], responses: Sequence[str]) -> Tensor:
        try:
            scores = as_tensor(self.function(list(prompts), list(responses)))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever the user's code raises; sys.exit() would end training in silence
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise TrainingError(
                f"{self.name} raised {_shown(error)} ({frame.filename}, line {frame.lineno})"
            ) from error
        if not isinstance(scores, Tensor):
            raise TrainingError(f"{self.name} must return a tensor or a list of numbers, not {quoted(scores)}")
        if scores.shape != (len(responses),):
            raise TrainingError(
                f"{self.name} must return the shape ({len(responses)},) for {len(responses)} responses, "
                f"not {tuple(scores.shape)}"
            )
        return scores.detach().float().cpu()  # the function may compute anywhere, with gradients or without


def as_tensor(scores: object) -> object:
    """Lists, tuples and arrays of numbers as a tensor; anything else as it is."""
    if isinstance(scores, list | tuple | np.ndarray):
        try:
            return torch.as_tensor(np.asarray(scores, dtype=np.float64))
        except (TypeError, ValueError):  # not numbers, or lists of different lengths
            return scores
    return scores


def load_scorer(name: str) -> FunctionScorer:
    """The scorer `package.module:function`; the working directory is searched too.

    Raises ValueError if the module cannot be imported, has no such function, or if the function cannot score two texts.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ValueError(f"ppo.scorer must be package.module:function, not {name!r}")
    # `python train_ppo.py` searches the script's folder, `python -m` the working directory; users expect the latter.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
        function = getattr(module, function_name, None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the module raises while it is imported
        raise ValueError(f"the module of ppo.scorer {name} cannot be imported: {_shown(error)}") from error
    if not callable(function):
        raise ValueError(f"ppo.scorer {name}: {module.__name__} has no function {function_name!r}")
    scorer = FunctionScorer(name, function)
    try:
        score_texts(scorer, ["The film", ""], [" was good.", "It was not."])
    except TrainingError as error:
        raise ValueError(f"{error} (ppo.scorer, called with two texts before training)") from None
    return scorer


def _shown(error: BaseException) -> str:
    """Type and message of an exception, even if the message itself cannot be made."""
    return traceback.format_exception_only(error)[-1].strip()
