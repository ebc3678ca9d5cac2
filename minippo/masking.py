"""Padding, masks and what they leave out: masked statistics, and which state predicts which token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

# ---------------------------------------------------------------------------------------------- collation


def pad(rows: Sequence[Sequence[int]], pad_id: int, side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
    """Rows of ids -> (B, longest) ids and a mask that is True where a token is real."""
    tokens = torch.full((len(rows), max(map(len, rows))), pad_id, dtype=torch.long)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for index, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(tokens.shape[1] - len(row), None)
        tokens[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = True
    return tokens, mask


def predicted_tokens(x: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """What of `x` (B, T, ...) stands one place before each token that is to be predicted, (N, ...), and those, (N,).

    mask (B, T): True where a token is to be predicted. The first token of a row has nothing before it and never is.
    What is masked is left out before any softmax, whose gradient would turn a NaN times 0 into NaN.
    """
    predicted = mask[:, 1:]
    return x[:, :-1][predicted], tokens[:, 1:][predicted]


# ---------------------------------------------------------------------------------------------- masked statistics


class Moments(NamedTuple):
    """Count, mean and population variance of a set of numbers; a + b is those of the union (Chan et al. 1979)."""

    count: Tensor
    mean: Tensor
    variance: Tensor

    def __add__(self, other: Moments) -> Moments:  # type: ignore[override]
        count = self.count + other.count
        share = other.count.to(other.mean.dtype) / count.clamp(min=1)
        shift = other.mean - self.mean
        variance = (1 - share) * self.variance + share * other.variance + share * (1 - share) * shift**2
        return Moments(count, self.mean + share * shift, variance)


def masked_moments(x: Tensor, mask: Tensor) -> Moments:
    """Moments of the real entries of `x`; all 0 where there are none."""
    x = torch.where(mask, x, 0)  # first, not last: the gradient of a square under a mask is 0 * 2x, NaN where x is
    mean = masked_mean(x, mask)
    return Moments(mask.sum(), mean, masked_mean((x - mean) ** 2, mask))


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of the real entries, over `dim` or over all; 0 where there are none."""
    total, count = torch.where(mask, x, 0), mask
    if dim is None:
        return total.sum() / count.sum().clamp(min=1)
    return total.sum(dim) / count.sum(dim).clamp(min=1)


def _masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, x, 0).sum()


# ---------------------------------------------------------------------------------------------- log-probabilities


FORBIDDEN_LOGIT = -1e9
"""The logit of a token that cannot be drawn. Not -inf: exp of it is 0 all the same, and 0 * -1e9 in the entropy is 0,
where 0 * -inf is NaN."""


def forbid_tokens(logits: Tensor, tokens: Sequence[int], forbidden: Tensor) -> Tensor:
    """`logits` (..., V) in which `tokens` have no chance where `forbidden` (...) is True."""
    ids = torch.arange(logits.shape[-1], device=logits.device)
    is_one = torch.isin(ids, torch.tensor(tokens, device=logits.device))
    return torch.where(forbidden.unsqueeze(-1) & is_one, FORBIDDEN_LOGIT, logits)


# ---------------------------------------------------------------------------------------------- rewards


def last_response_index(response_mask: Tensor) -> Tensor:
    """Index of the last real token of each row, (B,)."""
    index = torch.arange(response_mask.shape[1], device=response_mask.device)
    return torch.where(response_mask, index, 0).amax(dim=1)
