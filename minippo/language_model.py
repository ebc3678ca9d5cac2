"""What language-model training works with: the loss of rows of ids and its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from minippo.batches import length_batches
from minippo.equations import language_model_loss
from minippo.masking import pad, predicted_tokens
from minippo.model import GPT


def backward_in_chunks(
    gpt: GPT,
    tokens: Tensor,
    mask: Tensor,
    chunk_tokens: int = 512,
    *,
    num_tokens: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor:
    """Loss, (), and `weight` times its gradient in `gpt`, without the logits of the whole batch existing at once.

    `num_tokens` is the divisor, by default the predicted tokens of this batch. The logits would be B x T x V numbers,
    most of the memory and of the time spent waiting for it. So the graph is cut at the hidden states: some tokens at a
    time go forward to their loss and back, and the trunk goes back once.
    """
    before, targets = predicted_tokens(gpt.hidden(tokens), tokens, mask)
    states = before.detach().requires_grad_()  # (N, C)
    num_tokens, loss = mask[:, 1:].sum() if num_tokens is None else num_tokens, torch.zeros((), device=tokens.device)
    for states_part, targets_part in zip(states.split(chunk_tokens), targets.split(chunk_tokens), strict=True):
        part = language_model_loss(gpt.logits(states_part), targets_part, num_tokens)
        (weight * part).backward()
        loss += part.detach()
    before.backward(states.grad)
    return loss


@torch.no_grad()
def held_out_loss(gpt: GPT, pieces: Sequence[list[int]], pad_id: int, batch_tokens: int) -> float:
    """Mean loss per token over `pieces`, nats, dropout off."""
    gpt.eval()
    device = gpt.token_embedding.weight.device
    total, count = 0.0, 0
    lengths = np.array([len(piece) for piece in pieces])
    for batch in length_batches(lengths, batch_tokens, torch.Generator()):
        tokens, mask = (t.to(device) for t in pad([pieces[i] for i in batch], pad_id, "right"))
        num_tokens = int(mask[:, 1:].sum())
        before, targets = predicted_tokens(gpt.hidden(tokens), tokens, mask)
        total += float(language_model_loss(gpt.logits(before), targets)) * num_tokens
        count += num_tokens
    return total / max(1, count)
