"""The language-model loss over rows of token ids, with its gradient, in limited memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minippo.batches import length_batches
from minippo.equations import language_model_loss
from minippo.masking import completion_mask, pad, predicted_tokens
from minippo.memory import phase
from minippo.model import GPT

LOGIT_TOKENS = 512
"""Tokens whose logits are in memory at a time. With what the loss computes from them, the logits of a whole batch would
take more memory than anything else: V numbers per token, where the hidden states have C."""


def backward_in_chunks(
    gpt: GPT,
    tokens: Tensor,
    mask: Tensor,
    chunk_tokens: int = LOGIT_TOKENS,
    *,
    num_tokens: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor:
    """Mean loss over `tokens` (B, T), (), in nats per token; adds `weight` times its gradient to the parameters.

    `num_tokens` is the divisor, by default the number of predicted tokens. The logits of the whole batch, B x T x V
    numbers, would take most of the memory. So the graph is cut at the hidden states: chunks of tokens go forward to
    their loss and backward to the hidden states, and then the trunk goes backward once.
    """
    before, targets = predicted_tokens(gpt.hidden(tokens), tokens, mask)  # (N, C), (N,)
    states = before.detach().requires_grad_()  # (N, C), a leaf that collects the gradients of the chunks
    num_tokens, loss = mask[:, 1:].sum() if num_tokens is None else num_tokens, torch.zeros((), device=tokens.device)
    for states_part, targets_part in zip(states.split(chunk_tokens), targets.split(chunk_tokens), strict=True):
        part = language_model_loss(gpt.logits(states_part), targets_part, num_tokens)
        (weight * part).backward()
        loss += part.detach()
    before.backward(states.grad)
    return loss


@phase("held-out loss")
@torch.no_grad()
def held_out_losses(
    gpt: GPT, pieces: Sequence[list[int]], prompt_lengths: np.ndarray, pad_id: int, batch_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """Loss of each of the `pieces` without its prompt, in nats, and the number of its tokens, (pieces,) float64 both.

    `prompt_lengths` (pieces,) are in tokens. Dropout is off.
    """
    gpt.eval()
    device = gpt.token_embedding.weight.device
    losses, counts = np.zeros(len(pieces)), np.zeros(len(pieces))
    lengths = np.array([len(piece) for piece in pieces])  # (pieces,)
    for batch in length_batches(lengths, batch_tokens, torch.Generator()):
        tokens, mask = pad([pieces[i] for i in batch], pad_id, "right")  # (B, T)
        tokens, mask = tokens.to(device), completion_mask(mask, prompt_lengths[batch]).to(device)
        before, targets = predicted_tokens(gpt.hidden(tokens), tokens, mask)  # (N, C), (N,)
        by_token = [
            F.cross_entropy(gpt.logits(states_part).float(), targets_part, reduction="none")
            for states_part, targets_part in zip(before.split(LOGIT_TOKENS), targets.split(LOGIT_TOKENS), strict=True)
        ]
        sizes = mask[:, 1:].sum(dim=1).tolist()  # (B,), whose sum is N
        losses[batch] = [float(of_piece.sum()) for of_piece in torch.cat(by_token).cpu().split(sizes)]
        counts[batch] = sizes
    return losses, counts


def held_out_loss(
    gpt: GPT, pieces: Sequence[list[int]], prompt_lengths: np.ndarray, pad_id: int, batch_tokens: int
) -> float:
    """Mean loss per token over all `pieces` of `held_out_losses`, in nats."""
    losses, counts = held_out_losses(gpt, pieces, prompt_lengths, pad_id, batch_tokens)
    return float(losses.sum() / max(1, counts.sum()))  # a mean of the means would weigh the tokens of short pieces more
