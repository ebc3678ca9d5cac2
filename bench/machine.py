"""The machine that a benchmark runs on: what it is, and the rates that no program on it can exceed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from bench.measuring import timed

PACKAGES = ("torch", "transformers", "trl", "accelerate")


@dataclass(frozen=True)
class Rates:
    """The highest rates measured. Whatever else runs on the machine can only lower them."""

    flops: float
    """FLOP/s of matrix products; a multiplication and an addition are 2 FLOP."""
    bandwidth: float
    """Bytes/s read and written while copying memory; a byte copied counts twice."""

    def best(self, other: Rates) -> Rates:
        """The higher of each."""
        return Rates(max(self.flops, other.flops), max(self.bandwidth, other.bandwidth))


@dataclass(frozen=True)
class Work:
    """What work needs at least, and how long it took."""

    seconds: float
    flops: float = 0
    moved: float = 0
    """Bytes read and written."""

    def share(self, rates: Rates) -> str:
        """How much of the rate that limits it the work has reached."""
        computing, moving = self.flops / rates.flops / self.seconds, self.moved / rates.bandwidth / self.seconds
        return f"{computing:.0%} of FLOP/s" if computing > moving else f"{moving:.0%} of bandwidth"


def measure_rates(
    device: str, dtype: torch.dtype, size: int = 2048, mebibytes: int = 256, repetitions: int = 10
) -> Rates:
    """The best of some repetitions: products of square matrices of this size and dtype, and copies of that many MiB."""
    a, b = torch.rand(2, size, size, device=device, dtype=dtype)
    product = torch.empty_like(a)
    source = torch.rand(mebibytes * 2**18, device=device)  # larger than any cache
    target = torch.empty_like(source)
    multiply, copy = timed(lambda: torch.mm(a, b, out=product)), timed(lambda: target.copy_(source))
    return Rates(
        flops=2 * size**3 / min(multiply() for _ in range(repetitions)),
        bandwidth=2 * source.nbytes / min(copy() for _ in range(repetitions)),
    )


def rates_of_machine(device: str, dtype: torch.dtype) -> Rates:
    """`measure_rates` in a process of its own, which leaves no memory allocated on a GPU."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure_rates, device, dtype).result()


def machine() -> dict[str, str | int]:
    """Processor, cores, threads and system."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of those packages that are installed: not every section needs all peers."""
    installed = [name for name in PACKAGES if importlib.util.find_spec(name)]
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in installed}
