"""An embedding table whose gradient is added to the one it has as the output embedding, row by row."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class TiedEmbedding(nn.Embedding):
    """`nn.Embedding` whose backward pass takes little time and memory if the table already has a gradient.

    A table that is also the output embedding has one: the language-model head goes backward first. `nn.Embedding` makes
    another one of the same size, V x C numbers with only a few rows that are not 0, and adds all of it.

    Meant for `backward`: `torch.autograd.grad` may return a sparse gradient. The options of `nn.Embedding` do nothing.
    """

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., C)."""
        return _Lookup.apply(self.weight, ids)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor) -> Tensor:
        ctx.table = table
        ctx.save_for_backward(ids)
        return F.embedding(ids, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (ids,), add_rows = ctx.saved_tensors, torch.ops.aten.embedding_dense_backward  # that of `nn.Embedding`
        if ctx.table.grad is None:
            return add_rows(gradient, ids, len(ctx.table), -1, False), None  # (V, C)
        # As if the table had only the rows that occur: the same sums in the same order, but U x C numbers instead of
        # V x C. PyTorch adds a sparse gradient in place.
        rows, places = ids.unique(return_inverse=True)  # (U,) and (...): ids == rows[places]
        sums = add_rows(gradient, places, len(rows), -1, False)  # (U, C)
        indices, shape = rows.unsqueeze(0), ctx.table.shape
        return torch.sparse_coo_tensor(indices, sums, shape, is_coalesced=True, check_invariants=False), None
