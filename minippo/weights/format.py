"""What the files of a model contain besides its architecture and weights: metadata that no computation uses."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from minippo.model import GPT


@dataclass(frozen=True)
class FileFormat:
    """How a `GPT` is written in public weight files."""

    family: Literal["gpt2", "opt"] = "gpt2"
    """Both describe the same computation, under different names."""
    eos_id: int | None = None
    """End of text, for other tools. None: the last id."""
    pad_id: int | None = None
    """Padding, for other tools. None: config.json names none."""
    unread_positions: Tensor | None = field(default=None, compare=False, repr=False)
    """(2, C): OPT's table of positions begins with two rows that no position reads. None: zeros."""
    unused: tuple[str, ...] = field(default=(), compare=False)
    """Tensors of the files that the model was loaded from and does not use, such as the head of a reward model."""


def file_format(gpt: GPT) -> FileFormat:
    """The format of the file that `gpt` was loaded from, with the ids that were set since; GPT-2's by default."""
    return getattr(gpt, "file_format", FileFormat())


def set_file_format(gpt: GPT, **changes: Any) -> None:
    """Change fields of the model's `FileFormat`."""
    # An attribute of the module, although model.py does not know it: copies of the model, on any device, keep it.
    gpt.file_format = replace(file_format(gpt), **changes)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the permissions of any new file; `save_file` allows only its owner to read it."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # a full disk, among others, in the words of Rust
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code) if number else str(error), str(path)) from None
    path.chmod(mode)
