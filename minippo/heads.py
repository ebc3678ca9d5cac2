"""Two models on one transformer: a policy with its critic (language-model head and value head), and a reward model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from minippo.masking import last_response_index
from minippo.model import GPT


class ActorCritic(nn.Module):
    """Policy and critic on a shared trunk: the language-model head and the value head read the same hidden states.

    A shared trunk takes half the memory of two networks, and the value loss trains features that the policy uses.
    The price is that the two losses pull on the same weights; `ppo.value-coef` balances them.

    The value head is a "linear" layer, or an "mlp" of two layers with a GELU between them. Its last layer starts at
    zero: the first values are 0, so the first advantages are the rewards-to-go and do not depend on an untrained
    critic. None is a policy without a critic: its values are None.
    """

    def __init__(self, gpt: GPT, value_head: str | None = "linear") -> None:
        super().__init__()
        self.gpt, self.value_head = gpt, None
        if value_head is None:
            return
        C = gpt.config.channels
        last = nn.Linear(C, 1)  # one value per token
        # Zero weights still get a gradient: it is the hidden state times the error of the value.
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.value_head = last if value_head == "linear" else nn.Sequential(nn.Linear(C, C), nn.GELU(), last)

    @property
    def head_parameters(self) -> list[nn.Parameter]:
        """The weights of the two heads. The embedding table is that of the language-model head."""
        critic = () if self.value_head is None else self.value_head.parameters()
        return [self.gpt.token_embedding.weight, *critic]

    def forward(
        self, tokens: Tensor, attention_mask: Tensor | None = None, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) and values (B, T) at each of `tokens` (B, T).

        The value at a token estimates the return of the tokens after it.
        """
        hidden = self.gpt.hidden(tokens, attention_mask, positions)  # (B, T, C), computed once for both heads
        return self.gpt.logits(hidden), self.values(hidden)

    def values(self, hidden: Tensor) -> Tensor | None:
        """Hidden states (..., C) -> values (...), in float32 whatever the model's dtype: returns are sums over
        tokens. None without a critic."""
        if self.value_head is None:
            return None
        dtype = next(self.value_head.parameters()).dtype  # float32 on a bfloat16 transformer, too
        return self.value_head(hidden.to(dtype)).squeeze(-1).float()


class RewardModel(nn.Module):
    """A transformer with a linear head that reads one score at the last real token, the end-of-text.

    The score is `gain * raw + bias`. Gain and bias are set once, after training, so that the scores of the reference
    policy's samples have mean 0 and variance 1. A preference loss determines scores only up to a constant, and their
    scale depends on how long the model trained; after normalisation, a KL coefficient means the same for every reward
    model. Both are buffers, not parameters: they are saved with the model and never trained.

    A model that was trained on labels (`rm.objective`) keeps gain 1 and bias 0, and returns a probability instead.
    """

    gain: Tensor
    bias: Tensor
    is_probability: Tensor

    def __init__(self, gpt: GPT) -> None:
        super().__init__()
        self.gpt = gpt
        self.score_head = nn.Linear(gpt.config.channels, 1, bias=False)
        # Standard deviation 1 / sqrt(C + 1), so that initial scores are of order 1 (Huang et al. 2024, 2403.17031,
        # detail 11).
        nn.init.normal_(self.score_head.weight, std=(gpt.config.channels + 1) ** -0.5)
        # Buffers move with the model and are saved with it, but no optimizer sees them.
        self.register_buffer("gain", torch.ones(()))
        self.register_buffer("bias", torch.zeros(()))
        self.register_buffer("is_probability", torch.zeros(()))  # 1 or 0

    def forward(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Scores (B,), float32, of right-padded `tokens` (B, S); `attention_mask` (B, S) is True at real tokens."""
        if attention_mask is None:  # no padding: the last token of every row is real
            attention_mask = torch.ones_like(tokens, dtype=torch.bool)
        last_hidden = self.gpt.hidden_at(tokens, attention_mask, last_response_index(attention_mask))  # (B, C)
        # In float32: the differences between the scores of good responses are small.
        raw = self.score_head(last_hidden.to(self.score_head.weight.dtype)).flatten().float()  # (B,)
        score = self.gain * raw + self.bias
        return torch.where(self.is_probability == 1, score.sigmoid(), score)

    def to_probability(self) -> None:
        """Return the probability of label 1 from now on, from 0 to 1, of which the score so far is the log-odds."""
        self.is_probability.fill_(1)

    def normalise(self, scores: Tensor) -> None:
        """Change gain and bias so that `scores` (B,), computed with the present ones, become mean 0 and variance 1.

        Stiennon et al. 2020 (2009.01325) shift the mean; Ziegler et al. 2019 (1909.08593) rescale as well.

        Raises ValueError if all scores are the same, since no gain can spread them.
        """
        deviation, mean = scores.std(correction=0), scores.mean()  # (), (); of these samples, so no n - 1
        if not deviation > 1e-6:
            raise ValueError(f"the reward model gives {len(scores)} reference samples the same score, {mean:.4g}")
        # (gain * raw + bias - mean) / deviation, written as a new gain and bias.
        self.gain.div_(deviation)
        self.bias.sub_(mean).div_(deviation)
