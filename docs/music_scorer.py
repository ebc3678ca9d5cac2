"""A reward that is a rule: reviews that speak of the music. See docs/scorer.md."""

from __future__ import annotations

import re

import torch
from torch import Tensor

MUSIC = re.compile(r"\b(score|songs?|melod(?:y|ies)|music|orchestra|soundtrack|tunes?)\b", re.IGNORECASE)


def about_the_music(prompts: list[str], responses: list[str]) -> Tensor:
    """Share of the response's sentences that speak of the music, from 0 to 1. Shape (B,)."""
    return torch.tensor([_share(response) for response in responses])


def _share(response: str) -> float:
    sentences = [sentence for sentence in re.split(r"[.!?]", response) if sentence.strip()]
    return sum(bool(MUSIC.search(sentence)) for sentence in sentences) / max(1, len(sentences))
