"""What a result may depend on besides the settings: memory and versions."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib.metadata import version

import torch


def peak_memory_mb() -> float:
    """Peak memory of this process in MiB; on a GPU, the peak of the memory allocated there."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB on Linux


def physical_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("torch", "tiktoken", "numpy")}
