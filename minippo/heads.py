"""What a transformer becomes with a head on it: a policy with its critic, or a reward model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minippo.masking import last_response_index
from minippo.model import GPT, KVCache


class ActorCritic(nn.Module):
    """Policy and critic on one trunk: a language-model head and a value head read the same hidden states.

    The value head is a "linear" layer, or an "mlp" of two with a GELU between. Its last layer starts at zero, so that
    the first values are 0 and the first advantages are the rewards-to-go.
    """

    def __init__(self, gpt: GPT, value_head: str = "linear") -> None:
        super().__init__()
        self.gpt = gpt
        C = gpt.config.channels
        last = nn.Linear(C, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.value_head = last if value_head == "linear" else nn.Sequential(nn.Linear(C, C), nn.GELU(), last)

    def forward(
        self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V) and values (B, T), which estimate what is still to come after each of `tokens` (B, T)."""
        hidden = self.gpt.hidden(tokens, attention_mask, positions)
        return self.gpt.logits(hidden), self.values(hidden)

    def values(self, hidden: Tensor) -> Tensor:
        """(..., C) -> (...), float32."""
        return self.value_head(hidden).squeeze(-1).float()

    # What `generate` asks of a model; the value head has no part in it.

    def hidden(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """The trunk's hidden states, as `GPT.hidden`."""
        return self.gpt.hidden(tokens, attention_mask, positions, cache)

    def logits(self, hidden: Tensor) -> Tensor:
        """The language-model head, as `GPT.logits`."""
        return self.gpt.logits(hidden)


class RewardModel(nn.Module):
    """A transformer and a linear head that reads one score at the last real token, the end-of-text.

    The score is `gain * raw + bias`: two numbers, no parameters, set once after training so that the scores of the
    reference policy's samples have mean 0 and variance 1 and a KL coefficient means the same for every reward model.
    """

    gain: Tensor
    bias: Tensor

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt
        self.score_head = nn.Linear(gpt.config.channels, 1, bias=False)
        # Huang et al. 2024 (2403.17031) detail 11: the head starts at the scale 1 / sqrt(C + 1).
        nn.init.normal_(self.score_head.weight, std=(gpt.config.channels + 1) ** -0.5)
        self.register_buffer("gain", torch.ones(()))
        self.register_buffer("bias", torch.zeros(()))

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Scores (B,), float32, of `tokens` (B, S); `attention_mask` (B, S) is True where a token is real."""
        if attention_mask is None:
            attention_mask = torch.ones_like(tokens, dtype=torch.bool)
        last_hidden = self.gpt.hidden_at(tokens, attention_mask, last_response_index(attention_mask))  # (B, C)
        return self.gain * self.score_head(last_hidden).flatten().float() + self.bias

    def normalise(self, scores: Tensor) -> None:
        """Set gain and bias so that `scores` (B,), made with the present ones, get mean 0 and variance 1.

        Stiennon et al. 2020 (2009.01325) centre, Ziegler et al. 2019 (1909.08593) scale as well. Raises ValueError
        where the scores do not differ, since no gain can spread them.
        """
        deviation, mean = scores.std(correction=0), scores.mean()
        if not deviation > 1e-6:
            raise ValueError(f"the reward model gives {len(scores)} reference samples the same score, {mean:.4g}")
        self.gain.div_(deviation)
        self.bias.sub_(mean).div_(deviation)
