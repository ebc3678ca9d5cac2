"""Where does the memory go? What models hold at the most demanding moments of their forward and backward passes.

What lasts for a whole stage: weights, gradients, AdamW's two moments and, unless the weights are float32 on the CPU,
their float32 master copies. For n parameters, these are 4 n + 4 n + 8 n bytes on a CPU in float32; in bfloat16, 2 n +
2 n on the device and 8 n + 4 n in CPU memory, where `CPUAdamW` keeps moments and master copies.

The rest depends on the batch. Without gradients, a block's tensors live only while it runs, so depth costs nothing.
For a backward pass, every block keeps what its operators need to compute gradients. On the way back, activations are
freed while gradients appear, so the peak is at one of the two ends: all activations, or all gradients. The
language-model head adds V logits for each token that predicts another, several times over.

The methods count bytes, or list moments: what the device holds, by component, at each of the moments that may be the
peak. Legend: V vocabulary, C channels, H heads, T tokens of a row, S reward-model tokens.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import torch

from minippo.heads import ActorCritic, RewardModel
from minippo.memory import PART
from minippo.model import GPT
from minippo.packing import SMALL

Moment = Counter[str]
"""Component -> bytes on the device."""

FLOAT32, FLOAT64 = 4, 8
"""Bytes per number. Statistics and logits are float32 in every model."""


@dataclass(frozen=True)
class PlannedModel:
    """A model of which only the sizes are known: its tensors are on PyTorch's "meta" device, without memory."""

    module: GPT | ActorCritic | RewardModel
    on_gpu: bool
    dropout: float = 0.0
    checkpoint: bool = False
    """Whether blocks keep only their input and compute the rest again (memory.checkpoint-activations)."""
    offload: bool = False
    """Whether gradients leave the device as soon as they are computed (memory.offload-gradients)."""

    # ------------------------------------------------------------------------------------------ sizes

    @property
    def gpt(self) -> GPT:
        """The transformer without its head."""
        return self.module if isinstance(self.module, GPT) else self.module.gpt

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, activations and gradients of the transformer. Its head is float32."""
        return self.gpt.token_embedding.weight.dtype

    @cached_property
    def num_parameters(self) -> int:
        """Of the transformer and its head."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @cached_property
    def weights(self) -> int:
        """All parameters."""
        return sum(parameter.nbytes for parameter in self.module.parameters())

    @property
    def embedding(self) -> int:
        """The embedding table, which is also the language-model head."""
        return self.gpt.token_embedding.weight.nbytes

    @cached_property
    def block(self) -> int:
        """The parameters of one block: 12 C^2 numbers, and a few vectors."""
        return sum(parameter.nbytes for parameter in self.gpt.blocks[0].parameters())

    @property
    def packed(self) -> int:
        """The copies of large weights that generation on a CPU makes (`packing.packed_linear`)."""
        if self.on_gpu or self.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            return 0
        positions = self.gpt.position_embedding.weight
        large = [p for p in self.gpt.parameters() if p.dim() == 2 and p.numel() > SMALL and p is not positions]
        return sum(parameter.nbytes for parameter in large)

    @property
    def held(self) -> int:
        """What stays on a GPU although gradients leave it: the embedding table's sum in float32, while several backward
        passes of a microbatch add to it (`Gradients.together`). Through a reward model, there is only one."""
        several = self.offload and self.on_gpu and not self.reads_one_position
        return several * self.gpt.token_embedding.weight.numel() * FLOAT32

    def hidden(self, tokens: int) -> int:
        """C numbers for each of `tokens`: the unit in which activations are counted."""
        return tokens * self.gpt.config.channels * self.dtype.itemsize

    def logits(self, tokens: int, bytes_per_logit: int) -> int:
        """V logits for each of `tokens`, with everything that is computed from them."""
        return tokens * self.gpt.config.vocab_size * bytes_per_logit

    def attention_bias(self, rows: int, length: int) -> int:
        """What a mask adds to the attention scores, (rows, 1, length, length). Causal attention alone needs none."""
        return rows * length**2 * self.dtype.itemsize

    # ------------------------------------------------------------------------------------------ forward

    def forward(self, tokens: int) -> int:
        """The most that a forward pass without gradients holds at once. That is in a block's MLP: the block's input,
        the attention's result and their sum (C numbers each), and 4 C before and 4 C after the activation."""
        return 11 * self.hidden(tokens)

    def generation(self, rows: int, query_length: int, response_length: int, temperature: float) -> list[Moment]:
        """Sampling with a cache: reading the prompts, choosing a token, and dropping finished rows from the cache."""
        layers, states = self.gpt.config.layers, self.hidden(rows * query_length)
        cache = 2 * layers * self.hidden(rows * (query_length + response_length))  # keys and values
        prompts = self.forward(rows * query_length) + self.attention_bias(rows, query_length)
        # The logits, also divided by the temperature, if it is not 1, and their softmax; that and its running sum in
        # float64.
        logits = self.logits(rows, (2 + (temperature != 1)) * FLOAT32 + 2 * FLOAT64)
        # One layer at a time, once a quarter of the rows have finished.
        kept = cache // layers * 3 // 4
        lasting = Counter({"KV cache": cache, "packed weights": self.packed})
        return [
            lasting + Counter({"temporaries": prompts}),
            lasting + Counter({"temporaries": states, "logits": logits}),
            lasting + Counter({"temporaries": states + kept}),
        ]

    def reading(self, rows: int, length: int) -> list[Moment]:
        """Scoring, which reads each text once, with a mask."""
        return [Counter(temporaries=self.forward(rows * length) + self.attention_bias(rows, length))]

    def predicting(self, tokens: int, predicted: int, at_once: int, bytes_per_logit: int) -> list[Moment]:
        """A forward pass over `tokens`, and the logits of those `predicted`, `at_once` of them at a time."""
        return [
            Counter(temporaries=self.forward(tokens)),
            Counter(temporaries=self.hidden(predicted), logits=self.logits(at_once, bytes_per_logit)),
        ]

    # ------------------------------------------------------------------------------------------ backward

    def saved_by_block(self, tokens: int) -> int:
        """What a block keeps for its backward pass.

        Each operator keeps its inputs: the two layer norms (C numbers each), the matrix products after them (C each),
        the attention (3 C: queries, keys, values), the product after it (C), the activation (4 C) and the last product
        (4 C). For ReLU, the last two are the same: its result tells where its input was negative. Float32 statistics:
        mean and deviation of two norms, and the log-sum of each head's attention weights.
        """
        numbers = 12 if self.gpt.config.activation == "relu" else 16
        statistics = tokens * (4 + self.gpt.config.heads) * FLOAT32
        return numbers * self.hidden(tokens) + statistics + 2 * self.dropped(tokens)  # after attention and MLP

    def dropped(self, tokens: int) -> int:
        """What dropout keeps: on a GPU one byte per number, on a CPU a factor."""
        kept = 0 if self.dropout == 0 else 1 if self.on_gpu else self.dtype.itemsize
        return tokens * self.gpt.config.channels * kept

    @property
    def reads_one_position(self) -> bool:
        """Whether the last block computes keys and values of all tokens, but the rest for one only, as that of a reward
        model does (`GPT.hidden_at`)."""
        return isinstance(self.module, RewardModel)

    def saved(self, tokens: int, layers: int) -> int:
        """What the first `layers` blocks keep for the backward pass, with what dropout after the embeddings and the
        final norm (its input and its result, C numbers each) keep."""
        is_short = self.reads_one_position and layers == self.gpt.config.layers
        blocks = (layers - is_short) * (self.hidden(tokens) if self.checkpoint else self.saved_by_block(tokens))
        end = 0 if self.reads_one_position else 2
        if is_short:  # its norm (2 C), keys and values (2 C)
            end = 4
        return blocks + end * self.hidden(tokens) + self.dropped(tokens)

    def through_block(self, tokens: int, layers: int) -> int:
        """What the backward pass through block `layers` needs besides what was kept: the gradients of the residual
        stream (C) and of the MLP (4 C; for ReLU, which keeps its result, 4 C before and 4 C after it). With
        checkpointing, also everything that the block computes again."""
        if self.reads_one_position and layers == self.gpt.config.layers:  # of keys and values, twice, and of the stream
            return 5 * self.hidden(tokens)
        again = self.saved_by_block(tokens) - self.hidden(tokens) if self.checkpoint else 0
        return again + (9 if self.gpt.config.activation == "relu" else 5) * self.hidden(tokens)

    def gradients(self, size: int, new: int, is_added: bool, is_table: bool = False) -> Moment:
        """Gradients of `size` bytes, and a `new` one that has just been computed: the first of its parameter, or one
        that is added to it.

        On their way to the CPU, gradients wait for their copy. They become float32 and are added on the device, in
        parts. The sum of the table is on the GPU by then (`held`).
        """
        if not self.offload:
            return Counter(gradients=size + new)
        waiting = max(new, self.block) if self.on_gpu else new
        # Of a part: float32, if it is not; the sum so far, if that is not on the device; and the new sum.
        copies = (self.dtype != torch.float32) + is_added * ((self.on_gpu and not is_table) + 1)
        return Counter(
            gradients=waiting + self.held, temporaries=copies * min(new // self.dtype.itemsize, PART) * FLOAT32
        )

    def backward(self, tokens: int, before: int, lasting: int) -> list[Moment]:
        """The way back through the blocks, while `lasting` bytes of other temporaries exist.

        `before` are the bytes of the gradients that are there when it starts: all, if an earlier microbatch has left
        its own, to which those of this one are added; otherwise that of the head, if it has one.
        """
        L, is_added = self.gpt.config.layers, before == self.weights
        # The embedding table comes last. If it is the head as well, a few rows are added to the gradient that it has,
        # unless that is offloaded: then another one is made.
        new = self.embedding if self.offload else 0
        moments = [
            Counter(temporaries=lasting + 2 * self.hidden(tokens))
            + self.gradients(self.weights, new, before > 0, is_table=before > 0)
        ]
        for layers in {L, max(1, L - 1), 1}:  # blocks that still hold their activations; the last one may be short
            passed = L - layers + (self.reads_one_position and layers == L)
            gradients = min(self.weights, before + passed * self.block)
            temporaries = lasting + self.through_block(tokens, layers)
            moments.append(
                Counter(activations=self.saved(tokens, layers), temporaries=temporaries)
                # The first gradient of a block is that of the MLP's last product, a third of its weights.
                + self.gradients(gradients, self.block // 3, is_added)
            )
        return moments

    def head_backward(self, tokens: int, at_once: int, bytes_per_logit: int, before: int, lasting: int) -> list[Moment]:
        """The language-model head, forward and backward for `at_once` tokens: first with the tensors of the loss, then
        with its gradient and that of the table."""
        activations: Moment = Counter(activations=self.saved(tokens, self.gpt.config.layers), temporaries=lasting)
        return [
            activations + self.gradients(before, 0, True) + Counter(logits=self.logits(at_once, bytes_per_logit)),
            activations
            + self.gradients(before, self.embedding, before > 0, is_table=True)
            + Counter(logits=self.logits(at_once, FLOAT32)),
        ]
