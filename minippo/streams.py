"""Random streams: every purpose has a name, and every name its own stream of random numbers.

A stream is determined by (seed, name, position) alone. No two purposes share a stream and no generator is kept between
two uses, so evaluating, saving, logging or resuming cannot change what is drawn next. docs/randomness.md lists the
names.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, name: str, *position: int) -> torch.Generator:
    """A CPU generator at the beginning of its stream, for shuffles and token dropout."""
    return torch.Generator().manual_seed(_key(seed, name, position) % 2**64)


def seed_global(seed: int, name: str, *position: int) -> None:
    """Seed PyTorch's global generators, which initialise weights and draw dropout masks."""
    torch.manual_seed(_key(seed, name, position) % 2**64)


def response_uniforms(seed: int, name: str, step: int, indices: Sequence[int], length: int) -> Tensor:
    """Uniform numbers in [0, 1) that choose the tokens of responses, (B, R) float64; B = len(indices), R = `length`.

    Row b depends on (seed, name, step, indices[b]) alone, so a prompt gets the same response in any batch, in any
    process, and if it is sampled again by itself. Philox (Salmon et al. 2011) is a counter-based generator, which makes
    a stream per response cheap: it costs about 10 microseconds.
    """
    rows = [np.random.Philox(key=_key(seed, name, (step, index))).random_raw(length) for index in indices]
    # The upper 53 bits: the precision of a float64.
    return torch.from_numpy((np.stack(rows) >> np.uint64(11)) * 2.0**-53)


def _key(seed: int, name: str, position: tuple[int, ...]) -> int:
    """A 128-bit key. Hashing makes the streams of neighbouring seeds and positions unrelated."""
    numbers = tuple(map(operator.index, position))  # repr() of a NumPy integer would differ
    digest = hashlib.blake2b(repr((operator.index(seed), name, numbers)).encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little")
