"""A rule as a reward: reviews that mention the music. See docs/scorer.md."""

from __future__ import annotations

import re

import torch
from torch import Tensor

MUSIC = re.compile(r"\b(score|songs?|melod(?:y|ies)|music|orchestra|soundtrack|tunes?)\b", re.IGNORECASE)


def about_the_music(prompts: list[str], responses: list[str]) -> Tensor:
    """Share of each response's sentences that mention the music, (B,), between 0 and 1."""
    return torch.tensor([_share(response) for response in responses])  # (B,)


def _share(response: str) -> float:
    sentences = [sentence for sentence in re.split(r"[.!?]", response) if sentence.strip()]
    return sum(bool(MUSIC.search(sentence)) for sentence in sentences) / max(1, len(sentences))
