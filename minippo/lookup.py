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
        rows, places = ctx.saved_tensors[0].unique(return_inverse=True)  # (U,) and (...): ids == rows[places]
        # The backward pass of a table with only these rows. The order of the sums does not change.
        sums = torch.ops.aten.embedding_dense_backward(gradient, places, len(rows), -1, False)  # (U, C)
        by_row = torch.sparse_coo_tensor(
            rows.unsqueeze(0), sums, ctx.table.shape, is_coalesced=True, check_invariants=False
        )
        # PyTorch adds a sparse gradient to one that is there, in place. Without one, optimizers need a dense gradient.
        return by_row.to_dense() if ctx.table.grad is None else by_row, None
