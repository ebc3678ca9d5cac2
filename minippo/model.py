"""A GPT-2-style transformer: token and position embeddings, pre-norm blocks, tied output embedding.

Legend: B rows, T new tokens, S tokens in all (those in the cache too), L layers, H heads, C channels, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minippo.masking import FORBIDDEN_LOGIT


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a `GPT`."""

    vocab_size: int
    """Rows of the embedding table."""
    context: int
    """The most tokens that fit into one sequence."""
    layers: int
    heads: int
    channels: int
    dropout: float = 0.0
    """Share of activations dropped while `model.train()` is on."""
    activation: Literal["gelu_new", "relu"] = "gelu_new"
    family: Literal["gpt2", "opt"] = "gpt2"
    """In whose public format the weights are saved; what they compute is the same."""
    never_sampled: tuple[int, ...] = ()
    """Ids that no text has, such as rows of the embedding table beyond the tokenizer's ids: the logits give them no
    chance."""
    eos_id: int | None = None
    """End of text, for the tools that read what is saved: nothing here looks at it. None: the last id."""
    pad_id: int | None = None
    """What those tools shall fill a batch with. None: they are told of nothing."""

    def __post_init__(self) -> None:
        if self.channels % self.heads:
            raise ValueError(f"{self.channels} channels cannot be divided among {self.heads} heads")


class KVCache:
    """Keys and values of the tokens seen so far, in memory allocated once for `max_length` tokens."""

    def __init__(self, config: GPTConfig, batch_size: int, max_length: int, like: Tensor) -> None:
        shape = (config.layers, batch_size, config.heads, max_length, config.channels // config.heads)
        self.keys = like.new_empty(shape)
        self.values = like.new_empty(shape)
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, H, T, D) behind the `length` tokens there are; return all of the layer's, (B, H, S, D)."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def keep_rows(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]


def take(x: Tensor, index: Tensor) -> Tensor:
    """Of `x` (B, T, ...), the place `index` (B,) of each row: (B, 1, ...)."""
    return x[torch.arange(len(x), device=x.device), index].unsqueeze(1)


class Attention(nn.Module):
    """Causal self-attention with H heads. Vaswani et al. 2017 eq. 1."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.channels, 3 * config.channels)
        self.out = nn.Linear(config.channels, config.channels)

    def forward(
        self, x: Tensor, allowed: Tensor | None, cache: KVCache | None, layer: int, read_at: Tensor | None
    ) -> Tensor:
        C = x.shape[2]
        if read_at is None:
            query, key, value = self.qkv(x).split(C, dim=2)
        else:  # every token is attended to, but only one asks
            weight, bias = self.qkv.weight, self.qkv.bias
            query = F.linear(take(x, read_at), weight[:C], bias[:C])
            allowed = take(allowed.transpose(1, 2), read_at).transpose(1, 2)
            key, value = F.linear(x, weight[C:], bias[C:]).split(C, dim=2)
        query, key, value = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        if cache is not None:
            key, value = cache.append(layer, key, value)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, is_causal=allowed is None)
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.channels)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.channels)
        self.up = nn.Linear(config.channels, 4 * config.channels)
        self.down = nn.Linear(4 * config.channels, config.channels)
        self.dropout = nn.Dropout(config.dropout)
        self.relu = config.activation == "relu"

    def forward(
        self,
        x: Tensor,
        allowed: Tensor | None,
        cache: KVCache | None,
        layer: int,
        read_at: Tensor | None = None,
    ) -> Tensor:
        attended = self.attention(self.attention_norm(x), allowed, cache, layer, read_at)
        if read_at is not None:
            x = take(x, read_at)
        x = x + self.dropout(attended)
        wide = self.up(self.mlp_norm(x))
        wide = F.relu(wide) if self.relu else F.gelu(wide, approximate="tanh")
        return x + self.dropout(self.down(wide))


class GPT(nn.Module):
    """`hidden` is the trunk that every head shares; `logits` the language-model head; `forward` both."""

    never_sampled: Tensor

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.channels)
        self.position_embedding = nn.Embedding(config.context, config.channels)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.channels)
        if (
            config.family == "opt"
        ):  # the public table begins with two rows that no position reads: kept for the way back
            self.register_buffer("unread_positions", torch.zeros(2, config.channels))
        self.apply(self._initialise)
        self.set_ids()

    def set_ids(self, **changes: Any) -> None:
        """Put ids into `config`: `never_sampled`, `eos_id`, `pad_id`. The logits forbid the first from here on."""
        self.config = replace(self.config, **changes)
        ids = torch.tensor(self.config.never_sampled, dtype=torch.long, device=self.token_embedding.weight.device)
        self.register_buffer("never_sampled", ids, persistent=False)

    def set_dropout(self, share: float) -> None:
        """Drop this share of activations while `train()` is on."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = share

    def _initialise(self, module: nn.Module) -> None:
        # GPT-2's initialisation (Radford et al. 2019): what is added to the residual stream shrinks with depth.
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, Block):
            for residual in (module.attention.out, module.down):
                nn.init.normal_(residual.weight, std=0.02 / math.sqrt(2 * self.config.layers))

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T); arguments as in `hidden`."""
        return self.logits(self.hidden(tokens, attention_mask, positions, cache))

    def hidden(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
        read_at: Tensor | None = None,
    ) -> Tensor:
        """Final-normed hidden states (B, T, C) of `tokens` (B, T).

        attention_mask (B, S) bool, True where a token is real, by default everywhere; it covers the tokens in the cache
        too. positions (B, T), by default counted from the mask, so that a left pad shifts nothing. With a `cache`
        holding S - T tokens, the new ones attend to those and are added to it. With `read_at` (B,), an index in each
        row, only the hidden states there are returned, (B, 1, C), and the last block works out nothing else.

        What stands at a masked position is finite and means nothing. Raises ValueError beyond the context.
        """
        seen = cache.length if cache is not None else 0
        T = tokens.shape[1]
        if seen + T > self.config.context:
            raise ValueError(f"{seen} + {T} tokens do not fit the model's context of {self.config.context}")
        if positions is None:
            positions = position_ids(attention_mask, tokens, seen)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))
        if read_at is not None and attention_mask is None:
            attention_mask = torch.ones_like(tokens, dtype=torch.bool)
        allowed = attention_pattern(attention_mask, seen, T, tokens.device)
        if allowed is not None:  # as numbers to add, once here rather than in every block
            allowed = torch.zeros_like(allowed, dtype=x.dtype).masked_fill(~allowed, -torch.inf)
        for layer, block in enumerate(self.blocks):
            x = block(x, allowed, cache, layer, read_at if block is self.blocks[-1] else None)
        if cache is not None:
            cache.length += T
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Language-model head, (..., C) -> (..., V): the output embedding is the input embedding."""
        logits = F.linear(hidden, self.token_embedding.weight)
        if self.config.never_sampled:
            logits.index_fill_(-1, self.never_sampled, max(FORBIDDEN_LOGIT, torch.finfo(logits.dtype).min))
        return logits


def position_ids(attention_mask: Tensor | None, tokens: Tensor, seen: int) -> Tensor:
    """Positions of the last T tokens: how many real tokens stand before each. (B, T), or (1, T) without a mask."""
    if attention_mask is None:
        return torch.arange(seen, seen + tokens.shape[1], device=tokens.device).unsqueeze(0)
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]


def attention_pattern(attention_mask: Tensor | None, seen: int, T: int, device: torch.device) -> Tensor | None:
    """Which of the S tokens each of the T new ones may attend to, (B or 1, 1, T, S) bool; None stands for causal.

    Everyone may attend to itself: a left pad has nothing else, and a softmax over nothing is NaN.
    """
    if attention_mask is None:
        if seen == 0:
            return None
        if T == 1:
            return torch.ones(1, 1, 1, seen + 1, dtype=torch.bool, device=device)
        return torch.ones(T, seen + T, dtype=torch.bool, device=device).tril(seen)[None, None]
    if T == 1:
        return F.pad(attention_mask[:, :-1], (0, 1), value=True)[:, None, None, :]
    causal = torch.ones(T, seen + T, dtype=torch.bool, device=device).tril(seen)
    itself = torch.eye(T, dtype=torch.bool, device=device)
    itself = F.pad(itself, (seen, 0))
    return ((attention_mask[:, None, :] & causal) | itself).unsqueeze(1)
