"""The transformer: a GPT-2-style decoder with pre-norm blocks, learned positions and a tied output embedding.

To change the model, edit this file only. Other files use `GPTConfig`, `KVCache`, and these members of `GPT`: `config`,
`token_embedding` (whose weight tells dtype and device), `hidden`, `hidden_at`, `logits`, `forward`, `set_dropout`,
`set_suppress_tokens` and `checkpoint_activations`. Parameters may have any names: a run stores a model that GPT-2's
file format cannot express under the names in this file, together with every field of `GPTConfig`.

Legend: B prompts, P query length, R response length, T longest query + response, V vocabulary, C channels, H heads,
D channels per head, S reward-model tokens, M rows of a microbatch, N unmasked tokens. In this file, T are the tokens of
one forward pass and S the tokens that they may attend to: those in the cache, followed by the T new ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from minippo.lookup import TiedEmbedding
from minippo.masking import FORBIDDEN_LOGIT


@dataclass(frozen=True)
class GPTConfig:
    """The architecture of a `GPT`."""

    vocab_size: int
    """Rows of the embedding table, V."""
    context: int
    """Maximum number of tokens in a sequence."""
    layers: int
    heads: int
    channels: int
    dropout: float = 0.0
    """Probability of dropping an activation in training mode."""
    activation: Literal["gelu_new", "relu"] = "gelu_new"
    suppress_tokens: tuple[int, ...] = ()
    """Ids that no text contains, such as rows of the embedding table beyond the tokenizer's ids. Their logits are
    so low that they are never sampled and take no probability from the others."""

    def __post_init__(self) -> None:
        if self.channels % self.heads:
            raise ValueError(f"{self.channels} channels cannot be divided among {self.heads} heads")


class LayerCache:
    """Keys and values of one attention layer."""

    def __init__(self, shape: tuple[int, ...], like: Tensor) -> None:
        # (B, H, max_length, D) each. Not initialised: `append` returns only what has been written.
        self.keys = like.new_empty(shape)
        self.values = like.new_empty(shape)
        self.length = 0

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store those of T new tokens, (B, H, T, D); return those of all tokens so far, (B, H, S, D)."""
        end = self.length + keys.shape[2]
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]  # views: nothing is copied


class KVCache:
    """Keys and values of the tokens seen so far, one `LayerCache` per block.

    Without it, each new token would recompute the keys and values of all tokens before it, which causal attention never
    changes. The memory is allocated once for `max_length` tokens: growing it token by token would copy it every time.
    """

    def __init__(self, config: GPTConfig, batch_size: int, max_length: int, like: Tensor) -> None:
        shape = (batch_size, config.heads, max_length, config.channels // config.heads)
        # In the model's own dtype and on its device, both taken from `like`.
        self.layers = [LayerCache(shape, like) for _ in range(config.layers)]

    @property
    def length(self) -> int:
        """Number of tokens stored."""
        return self.layers[0].length

    def keep_rows(self, rows: Tensor) -> None:
        """Drop every row of the batch except `rows`."""
        for layer in self.layers:  # copies: one layer at a time, so that the peak stays low
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]


def take(x: Tensor, index: Tensor) -> Tensor:
    """Position `index` (B,) of each row of `x` (B, T, ...): (B, 1, ...)."""
    return x[torch.arange(len(x), device=x.device), index].unsqueeze(1)


class Attention(nn.Module):
    """Causal multi-head self-attention (Vaswani et al. 2017, equation 1)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.channels, 3 * config.channels)  # queries, keys, values in one matrix product
        self.out = nn.Linear(config.channels, config.channels)

    def forward(self, x: Tensor, allowed: Tensor | None, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C); `allowed` as returned by `GPT.embed`."""
        query, key, value = self.qkv(x).split(x.shape[2], dim=2)  # (B, T, C) each
        return self.attend(query, key, value, allowed, cache)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None, cache: LayerCache | None
    ) -> Tensor:
        """Queries (B, T, C) or fewer, keys and values (B, T, C) -> the layer's output for each query."""
        # Heads attend independently, so they become a batch dimension: (B, T, C) -> (B, H, T, D).
        query, key, value = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        if cache is not None:
            key, value = cache.append(key, value)  # (B, H, S, D): those of earlier tokens come first
        # softmax(query @ key^T / sqrt(D) + allowed) @ value; one kernel, which need not store the (B, H, T, S) scores
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, is_causal=allowed is None)
        return self.out(attended.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, C)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Pre-norm: the residual stream itself is never normalised, so that gradients reach every layer undiminished and deep
    models train without a long warmup (Xiong et al. 2020).
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.channels)
        self.attention = Attention(config)
        self.mlp_norm = nn.LayerNorm(config.channels)
        self.up = nn.Linear(config.channels, 4 * config.channels)  # two thirds of a block's parameters are in the MLP
        self.down = nn.Linear(4 * config.channels, config.channels)
        self.dropout = nn.Dropout(config.dropout)
        self.relu = config.activation == "relu"

    def forward(self, x: Tensor, allowed: Tensor | None, cache: LayerCache | None) -> Tensor:
        """(B, T, C) -> (B, T, C); `allowed` as returned by `GPT.embed`."""
        # `GPT.hidden_at` does the same for a single position: a change here belongs there, too.
        attended = self.attention(self.attention_norm(x), allowed, cache)
        x = x + self.dropout(attended)
        return self.add_mlp(x)

    def add_mlp(self, x: Tensor) -> Tensor:
        """x + mlp(norm(x)), the second half of the block."""
        wide = self.up(self.mlp_norm(x))  # (B, T, 4C)
        # GPT-2 was trained with the tanh approximation of GELU; the exact one would give other logits.
        wide = F.relu(wide) if self.relu else F.gelu(wide, approximate="tanh")
        return x + self.dropout(self.down(wide))


class GPT(nn.Module):
    """`hidden` is the trunk that all heads share, `logits` the language-model head, `forward` both."""

    suppressed: Tensor
    checkpoint_activations = False
    """Whether the backward pass computes the activations of each block again, instead of keeping them
    (`memory.checkpoint_activations`)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = TiedEmbedding(config.vocab_size, config.channels)  # also the output embedding
        self.position_embedding = nn.Embedding(config.context, config.channels)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.channels)  # pre-norm leaves the residual stream unnormalised
        self.apply(self._initialise)
        self.set_suppress_tokens(config.suppress_tokens)

    def _initialise(self, module: nn.Module) -> None:
        # GPT-2's initialisation (Radford et al. 2019): small weights, so that the first predictions are nearly uniform.
        # Each block adds two terms to the residual stream; dividing their scale by the square root of their number
        # keeps the variance of the sum independent of depth. `apply` visits a block last, after its layers.
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, Block):
            for residual in (module.attention.out, module.down):
                nn.init.normal_(residual.weight, std=0.02 / math.sqrt(2 * self.config.layers))

    def set_suppress_tokens(self, ids: Sequence[int]) -> None:
        """Never sample these ids from now on."""
        self.config = replace(self.config, suppress_tokens=tuple(ids))
        tensor = torch.tensor(self.config.suppress_tokens, dtype=torch.long, device=self.token_embedding.weight.device)
        self.register_buffer("suppressed", tensor, persistent=False)  # moves with the model, but is not a weight

    def set_dropout(self, probability: float) -> None:
        """Drop activations with this probability in training mode."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability

    def forward(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T); arguments as for `hidden`."""
        return self.logits(self.hidden(tokens, attention_mask, positions, cache))

    def hidden(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Hidden states (B, T, C) of `tokens` (B, T) after the final norm.

        attention_mask (B, S) bool is True for real tokens, cached ones included; by default, all are real. positions
        (B, T) are by default counted from the mask, so that left padding shifts nothing. With a `cache` of S - T
        tokens, the new tokens attend to those and are added to it. Hidden states at masked positions are finite but
        meaningless. Raises ValueError if the tokens exceed the context.
        """
        x, allowed = self.embed(tokens, attention_mask, positions, cache)
        for layer, block in enumerate(self.blocks):
            x = self.run_block(block, x, allowed, cache.layers[layer] if cache is not None else None)  # (B, T, C)
        return self.final_norm(x)

    def hidden_at(self, tokens: Tensor, attention_mask: Tensor, index: Tensor) -> Tensor:
        """`hidden(tokens, attention_mask)` at position `index` (B,) of each row, (B, C).

        The last block computes keys and values for all positions, but a query and the MLP for one, which saves most of
        its time. If your blocks differ, `return take(self.hidden(tokens, attention_mask), index).squeeze(1)` is correct
        for any model.
        """
        x, allowed = self.embed(tokens, attention_mask, None, None)  # (B, T, C), (B, 1, T, T)
        *blocks, last = self.blocks
        for block in blocks:  # in full: later blocks attend to all positions
            x = self.run_block(block, x, allowed, None)
        # The last block as in `Block.forward`, with `qkv` split into its first C rows, the queries, and the other 2C.
        C, normed, qkv = x.shape[2], last.attention_norm(x), last.attention.qkv
        query = F.linear(take(normed, index), qkv.weight[:C], qkv.bias[:C])  # (B, 1, C)
        key, value = F.linear(normed, qkv.weight[C:], qkv.bias[C:]).split(C, dim=2)  # (B, T, C) each
        allowed = take(allowed.transpose(1, 2), index).transpose(1, 2)  # (B, 1, 1, T): what this query may attend to
        attended = last.attention.attend(query, key, value, allowed, None)
        x = take(x, index) + last.dropout(attended)  # (B, 1, C)
        return self.final_norm(last.add_mlp(x)).squeeze(1)

    def run_block(self, block: nn.Module, x: Tensor, allowed: Tensor | None, cache: LayerCache | None) -> Tensor:
        """`block(x, allowed, cache)`, (B, T, C). With `checkpoint_activations`, only `x` is kept for the backward pass,
        which runs the block again, with the same random numbers for its dropout."""
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(block, x, allowed, cache, use_reentrant=False)
        return block(x, allowed, cache)

    def embed(
        self, tokens: Tensor, attention_mask: Tensor | None, positions: Tensor | None, cache: KVCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """The first block's input, (B, T, C), and the attention bias `allowed`, (B or 1, 1, T, S): 0 where a token may
        attend to another, -inf elsewhere; None stands for causal. Arguments as for `hidden`."""
        seen = 0 if cache is None else cache.length
        T = tokens.shape[1]
        if seen + T > self.config.context:
            raise ValueError(f"{seen} + {T} tokens do not fit the model's context of {self.config.context}")
        if positions is None:
            positions = position_ids(attention_mask, tokens, seen)  # (B or 1, T)
        # (B, T, C). Without positions, attention would treat the tokens before it as a set.
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))
        allowed = attention_pattern(attention_mask, seen, T, tokens.device)
        if allowed is not None:  # converted here once; a bool mask would be converted again in every block
            allowed = torch.zeros_like(allowed, dtype=x.dtype).masked_fill(~allowed, -torch.inf)
        return x, allowed

    def logits(self, hidden: Tensor) -> Tensor:
        """Language-model head, (..., C) -> (..., V).

        Tied weights: a token's output embedding is its input embedding, which saves V x C parameters.
        """
        logits = self.unembed(hidden)
        if self.config.suppress_tokens:
            # In place, since logits are the largest tensor of a forward pass; and not -inf, whose entropy would be NaN.
            logits.index_fill_(-1, self.suppressed, max(FORBIDDEN_LOGIT, torch.finfo(logits.dtype).min))
        return logits

    def unembed(self, hidden: Tensor) -> Tensor:
        """The matrix product of `logits`."""
        return F.linear(hidden, self.token_embedding.weight)


def position_ids(attention_mask: Tensor | None, tokens: Tensor, seen: int) -> Tensor:
    """Positions of the last T tokens, (B, T), or (1, T) without a mask: the number of real tokens before each.

    Left padding aligns the last tokens of all prompts, so that generation appends one column. The first real token has
    position 0 wherever it is, as if its row were alone.
    """
    if attention_mask is None:  # the cached tokens are 0 to seen - 1
        return torch.arange(seen, seen + tokens.shape[1], device=tokens.device).unsqueeze(0)
    # Pads before the first real token would get -1; they share position 0, which is harmless since nothing reads them.
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -tokens.shape[1] :]


def attention_pattern(attention_mask: Tensor | None, seen: int, T: int, device: torch.device) -> Tensor | None:
    """Which of the S tokens each of the T new ones may attend to, (B or 1, 1, T, S) bool; None: plain causal attention.

    Every token may attend to itself, even a pad: the pads on the left have nothing else, and a softmax over nothing is
    NaN, which would spread from there through the gradients.
    """
    if attention_mask is None:
        if seen == 0:  # the attention kernel has a faster path for this case, without a mask in memory
            return None
        if T == 1:
            return torch.ones(1, 1, 1, seen + 1, dtype=torch.bool, device=device)
        return torch.ones(T, seen + T, dtype=torch.bool, device=device).tril(seen)[None, None]
    if T == 1:  # a token that is generated: all real tokens so far, and itself
        return F.pad(attention_mask[:, :-1], (0, 1), value=True)[:, None, None, :]
    causal = torch.ones(T, seen + T, dtype=torch.bool, device=device).tril(seen)  # (T, S)
    itself = F.pad(torch.eye(T, dtype=torch.bool, device=device), (seen, 0))  # (T, S)
    return ((attention_mask[:, None, :] & causal) | itself).unsqueeze(1)
