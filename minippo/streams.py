"""Where every random number comes from: a name for each purpose, and a stream of its own for each name.

A stream is determined by (seed, name, position) and by nothing else. No two purposes share one, and nothing keeps a
generator between two uses, so evaluating, saving, logging or resuming cannot change what is drawn next.
docs/randomness.md lists the names.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, name: str, *position: int) -> torch.Generator:
    """A CPU generator at the beginning of its stream, for shuffles and dropped tokens."""
    return torch.Generator().manual_seed(_key(seed, name, position) % 2**64)


def seed_global(seed: int, name: str) -> None:
    """Seed PyTorch's global generators, which initialise weights and draw dropout masks."""
    torch.manual_seed(_key(seed, name, ()) % 2**64)


def response_uniforms(seed: int, name: str, step: int, indices: Sequence[int], length: int) -> Tensor:
    """Uniform numbers in [0, 1) that choose the tokens of responses, (B, R) float64, B = len(indices), R = `length`.

    Row b depends on (seed, name, step, indices[b]) alone: a prompt gets the same response in any batch, in any process,
    and when it is sampled again by itself. Philox (Salmon et al. 2011) is a counter-based generator, so opening one
    stream for each response costs only a hundredth of a millisecond.
    """
    rows = [np.random.Philox(key=_key(seed, name, (step, index))).random_raw(length) for index in indices]
    # The upper 53 bits, as many as a float64 holds.
    return torch.from_numpy((np.stack(rows) >> np.uint64(11)) * 2.0**-53)


def _key(seed: int, name: str, position: tuple[int, ...]) -> int:
    """128 bits. A hash, so that neighbouring seeds and positions have unrelated streams."""
    numbers = tuple(map(operator.index, position))  # a NumPy integer would be spelled otherwise
    digest = hashlib.blake2b(repr((operator.index(seed), name, numbers)).encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little")
