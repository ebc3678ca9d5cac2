"""Padding, masks, and next-token alignment.

Masks are built from positions and travel with the batch; they are never rebuilt from ids, because a pad may have the id
of end-of-text. They are bool, True at real tokens. Masked entries never affect a result, not even if they are NaN:
masking uses `torch.where`, never a multiplication, since 0 * NaN is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor


def pad(rows: Sequence[Sequence[int]], pad_id: int, side: Literal["left", "right"]) -> tuple[Tensor, Tensor]:
    """Rows of ids -> ids (B, longest) and a mask (B, longest) that is True at real tokens.

    Generation pads on the left, so that every row's next token comes at the same index; everything else pads on the
    right, where causal attention alone hides the padding.
    """
    tokens = torch.full((len(rows), max(map(len, rows))), pad_id, dtype=torch.long)  # (B, longest)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for index, row in enumerate(rows):
        columns = slice(0, len(row)) if side == "right" else slice(tokens.shape[1] - len(row), None)
        tokens[index, columns] = torch.tensor(row, dtype=torch.long)
        mask[index, columns] = True
    return tokens, mask


def completion_mask(mask: Tensor, prompt_lengths: Sequence[int] | np.ndarray) -> Tensor:
    """`mask` (B, T) of rows padded on the right, without the first `prompt_lengths` (B,) tokens of each row."""
    prompt = torch.arange(mask.shape[1]) < torch.as_tensor(prompt_lengths).unsqueeze(1)  # (B, T)
    return mask & ~prompt


def predicted_tokens(x: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of `x` (B, T, ...) one position before each of N masked-in tokens, (N, ...), and those tokens, (N,).

    `mask` (B, T) is True at tokens to predict; the first token of a row has no predecessor and is never predicted.
    Selecting them before any softmax matters: a masked NaN would reach the gradient through a softmax multiplied by 0.
    """
    predicted = mask[:, 1:]
    return x[:, :-1][predicted], tokens[:, 1:][predicted]


def scatter(x: Tensor, mask: Tensor) -> Tensor:
    """The N numbers `x` at the N places that `mask` marks, in the shape of `mask`, and 0 elsewhere."""
    return x.new_zeros(mask.shape).masked_scatter(mask, x)


def last_response_index(response_mask: Tensor) -> Tensor:
    """Index of the last real token of each row, (B,)."""
    index = torch.arange(response_mask.shape[1], device=response_mask.device)
    return torch.where(response_mask, index, 0).amax(dim=1)


FORBIDDEN_LOGIT = -1e9
"""Logit of a token that cannot be drawn. Not -inf: exp(-1e9) is 0 as well, but in the entropy 0 * -1e9 is 0, whereas
0 * -inf is NaN."""


def forbid_tokens(logits: Tensor, tokens: Sequence[int], forbidden: Tensor) -> Tensor:
    """`logits` (..., V), with `tokens` made impossible where `forbidden` (...) is True."""
    columns = torch.tensor(sorted(set(tokens)), device=logits.device)
    allowed = torch.where(forbidden.unsqueeze(-1), FORBIDDEN_LOGIT, logits[..., columns])  # (..., len(columns))
    return logits.index_copy(-1, columns, allowed)  # a mask (..., V) would cost as much as a softmax


# ---------------------------------------------------------------------------------------------- masked statistics


class Moments(NamedTuple):
    """Count, mean and population variance of a set of numbers.

    a + b are the moments of the union (Chan et al. 1979), so that microbatches or processes can add theirs.
    """

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
    """Moments of the real entries of `x`; all 0 if there are none."""
    x = torch.where(mask, x, 0)  # before squaring: the gradient of a masked square is 0 * 2x, which is NaN if x is
    mean = masked_mean(x, mask)
    return Moments(mask.sum(), mean, masked_mean((x - mean) ** 2, mask))


def masked_mean(x: Tensor, mask: Tensor, dim: int | None = None) -> Tensor:
    """Mean of the real entries, over `dim` or over all dimensions; 0 if there are none."""
    total, count = torch.where(mask, x, 0), mask
    if dim is None:
        return total.sum() / count.sum().clamp(min=1)
    return total.sum(dim) / count.sum(dim).clamp(min=1)


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of the real entries, ()."""
    return torch.where(mask, x, 0).sum()
