"""One file of tensors, safetensors or PyTorch's: opened without running code, and mapped instead of read.

The file may come from a stranger. Opening it reads a table of its tensors, which is small and lies within the file;
whoever opens it compares shapes and dtypes with the model before values are read.
"""

from __future__ import annotations

import math
import pickletools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minippo.errors import quoted

LFS_POINTER = b"version https://git-lfs"

ZIP = b"PK\x03\x04"

LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of a `torch.save` file before PyTorch 1.6, a pickled number; newer ones are ZIP files."""

MAX_TABLE = 2**19
"""Bytes of the part of a file that lists its tensors, enough for some thousand; a longer one would take seconds to
read."""

PLAIN = re.compile(r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)|torch \w+Storage")
"""What the pickle of dense tensors refers to. PyTorch's loader admits more: sparse and quantised tensors, buffers of
any size."""

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def open_tensors(path: Path) -> tuple[set[str], Callable[[str], Tensor]]:
    """The names of a file's tensors, and a function that maps one. Raises ValueError for other kinds of files."""
    if path.exists() and not path.is_file():  # opening a named pipe would wait for ever
        raise ValueError(f"{path} is not a regular file")
    with path.open("rb") as opened:
        beginning = opened.read(32)
    if not beginning:
        raise ValueError(f"{path} is empty")
    if beginning.startswith(LFS_POINTER):
        raise ValueError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull`")
    return (_open_safetensors if path.suffix == ".safetensors" else _open_pickled)(path, beginning)


def _open_safetensors(path: Path, beginning: bytes) -> tuple[set[str], Callable[[str], Tensor]]:
    table = int.from_bytes(beginning[:8], "little")
    try:
        if table > MAX_TABLE:
            raise SafetensorError(f"a header of {table:,} bytes")
        file = safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {quoted(str(error), 80)}") from None

    def get(name: str) -> Tensor:
        try:
            return file.get_tensor(name)
        except Exception as error:  # a dtype that PyTorch lacks, for example
            raise ValueError(f"{path}: the tensor {quoted(name)} cannot be read: {quoted(str(error), 80)}") from None

    return set(file.keys()), get


def _open_pickled(path: Path, beginning: bytes) -> tuple[set[str], Callable[[str], Tensor]]:
    if beginning.startswith(LEGACY):
        raise ValueError(
            f"{path} has PyTorch's format from before version 1.6, which cannot be mapped: load it with torch.load and "
            "write it again with torch.save"
        )
    if not beginning.startswith(ZIP):
        raise ValueError(f"{path} is not a PyTorch checkpoint: it begins with {quoted(beginning)}")
    try:
        odd = _not_tensors(path)
        tensors = None if odd else torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # what a damaged pickle raises can be anything
        reason = str(error).split("\n")[0][:120]
        raise ValueError(f"{path} is truncated or not a PyTorch checkpoint: {reason}") from None
    if odd:
        raise ValueError(f"{path} contains {odd}")
    if not isinstance(tensors, dict):
        raise ValueError(f"{path} contains a {type(tensors).__name__} instead of a dict of tensors")
    tensors = {name: tensor for name, tensor in tensors.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    for name, tensor in tensors.items():
        if math.prod(tensor.shape) * tensor.itemsize > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"{path}: the tensor {quoted(name)} claims the shape {tuple(tensor.shape)}, but stores less"
            )
    return set(tensors), tensors.__getitem__


def _not_tensors(path: Path) -> str:
    """What a PyTorch file contains besides dense tensors, in words; "" if nothing. Nothing is unpickled."""
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            return "compressed data"
        table, *others = [member for member in members if member.filename.split("/")[-1] == "data.pkl"]
        if others or table.file_size > MAX_TABLE:
            return f"{1 + len(others)} tables of tensors, the first of {table.file_size:,} bytes"
        calls = {argument for code, argument, _ in pickletools.genops(file.read(table)) if "GLOBAL" in code.name}
    odd = sorted(str(call) for call in calls if not PLAIN.fullmatch(str(call)))
    return f"more than dense tensors ({quoted(odd[0])}), which could run code or fill the memory" if odd else ""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, by name. Raises ValueError, naming the file, if it cannot be read or a value is NaN or
    infinite."""
    names, get = open_tensors(path)
    tensors = {name: get(name).clone() for name in sorted(names)}  # a copy, because the mapped file may be replaced
    if broken := [name for name, tensor in tensors.items() if tensor.dtype not in FLOATS or not is_finite(tensor)]:
        raise ValueError(f"{path}: the tensor {quoted(broken[0])} contains NaN or infinite values, or no numbers")
    return tensors


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    return not tensor.numel() or all(math.isfinite(extreme) for extreme in tensor.aminmax())  # both are NaN if any is
