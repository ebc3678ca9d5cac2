"""The models that are measured, with random weights, and the work that they cannot do without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tiktoken
import torch

from minippo.model import GPT, GPTConfig
from minippo.tokenizer import Tokenizer
from minippo.weights import save_pretrained


@dataclass(frozen=True)
class ModelSize:
    """A model as in GPT-2 or, with the activation "relu", as in OPT."""

    name: str
    layers: int
    channels: int
    vocab: int
    head_channels: int = 64
    context: int = 1024
    activation: Literal["gelu_new", "relu"] = "gelu_new"

    @property
    def config(self) -> GPTConfig:
        """The architecture."""
        heads = max(1, self.channels // self.head_channels)
        return GPTConfig(self.vocab, self.context, self.layers, heads, self.channels, activation=self.activation)

    @property
    def block_weights(self) -> int:
        """Weights of the matrices in the blocks: 4 C^2 in attention, 8 C^2 in the MLP."""
        return 12 * self.layers * self.channels**2

    @property
    def head_weights(self) -> int:
        """Weights of the output embedding."""
        return self.vocab * self.channels

    @property
    def weights(self) -> int:
        """All of them, except biases, gains and position embeddings."""
        return self.block_weights + self.head_weights

    def forward_flops(self, tokens: int, predicted: int) -> int:
        """FLOP of a forward pass over `tokens`, with logits at `predicted` of them: 2 per weight. A backward pass takes
        twice as many. Attention, at these lengths a few percent, is not counted."""
        return 2 * (self.block_weights * tokens + self.head_weights * predicted)

    def gpt(self) -> GPT:
        """The model, always with the same random weights."""
        torch.manual_seed(0)
        return GPT(self.config).eval()

    def save(self, folder: Path) -> Path:
        """Write the weights for programs that load them from `folder`, which is returned."""
        save_pretrained(self.gpt(), folder)
        return folder

    def prompts(self, count: int, length: int) -> list[list[int]]:
        """Random prompts, always the same. The last id, end-of-text, is not among their tokens."""
        generator = torch.Generator().manual_seed(1)
        return torch.randint(self.vocab - 1, (count, length), generator=generator).tolist()

    def tokenizer(self) -> Tokenizer:
        """One character for every id but the last, which is end-of-text: random ids survive the way through text."""
        ranks = {chr(0x10000 + i).encode(): i for i in range(self.vocab - 1)}
        special = {"<|endoftext|>": self.vocab - 1}
        return Tokenizer(
            tiktoken.Encoding("characters", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens=special)
        )


TOY = ModelSize("toy", 2, 64, 256)
S = ModelSize("S", 4, 128, 1024)
M = ModelSize("M", 6, 384, 8192)
L = ModelSize("L", 12, 768, 50257)
XL = ModelSize("GPT-2 XL", 48, 1600, 50257)
OPT_125M = ModelSize("OPT-125m", 12, 768, 50272, context=2048, activation="relu")
OPT_1B = ModelSize("OPT-1.3b", 24, 2048, 50272, context=2048, activation="relu")
OPT_3B = ModelSize("OPT-2.7b", 32, 2560, 50272, head_channels=80, context=2048, activation="relu")
SIZES = {size.name: size for size in (TOY, S, M, L, XL, OPT_125M, OPT_1B, OPT_3B)}
