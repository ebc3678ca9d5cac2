"""Weight files: found in a folder or on the hub, mapped into memory, read one tensor at a time."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from minippo.storage import checked, entry, read_object

Find = Callable[[str], "Path | None"]
"""Name of a file -> where it lies; None where there is none of that name."""

# What a model's weights may be called, the best first. An index names the pieces of larger ones.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

LFS_POINTER = b"version https://git-lfs"

ZIP = b"PK\x03\x04"

LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How `torch.save` began before it wrote ZIP files: a pickled number."""


def finder(name_or_path: str | Path) -> Find:
    """Where the files of a folder lie, or those of a model on the hub, each fetched when it is first asked for."""
    folder = Path(name_or_path)
    if folder.is_dir():
        return lambda name: folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download  # only who asks for public weights needs it
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    def find(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(str(name_or_path), name))
        except EntryNotFoundError:  # without a network: neither fetched before
            return None
        except (HFValidationError, RepositoryNotFoundError):
            raise ValueError(f"{name_or_path} is neither a folder nor a model on the hub") from None
        except HfHubHTTPError as error:
            raise ValueError(f"{name} of {name_or_path} cannot be fetched from the hub: {error}") from None

    return find


def find_config(find: Find, name_or_path: str | Path) -> Path:
    """The model's config.json. Raises FileNotFoundError."""
    path = find("config.json")
    if path is None:
        where = (
            ""
            if Path(name_or_path).is_dir()
            else ": there is no such folder, and the hub has no such model or cannot be reached"
        )
        raise FileNotFoundError(f"{name_or_path} has no config.json{where}")
    return path


class StoredTensors:
    """The tensors of a model's weight files by name, each a view of its file.

    Use one and let it go before the next is read. What has been read of a mapped file counts as this process's memory
    until the file is closed, so it is closed and opened anew whenever `RELEASE` of it has been read.
    """

    RELEASE = 0.02

    def __init__(self, find: Find, name_or_path: str | Path, prefix: str) -> None:
        found = next((path for name in WEIGHT_FILES if (path := find(name)) is not None), None)
        if found is None:
            raise FileNotFoundError(f"{name_or_path} has no {' and no '.join(WEIGHT_FILES)}")
        self.source = found
        self._path, self._read = found, 0
        if found.suffix == ".json":
            files = _shards(find, found)
        else:
            self._open(found)
            files = dict.fromkeys(self._names, found)
        self._places = {name.removeprefix(prefix): (path, name) for name, path in files.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        """The names, without the prefix."""
        return iter(self._places)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor called `name`, with the prefix or without.

        Raises ValueError where there is none, or where it holds NaN or infinite numbers.
        """
        if name not in self._places:
            raise ValueError(f"{self.source} has no tensor {name!r}")
        path, full_name = self._places[name]
        if path != self._path or self._read > self.RELEASE * path.stat().st_size:
            self._open(path)
        if full_name not in self._names:
            raise ValueError(f"{path} has no tensor {full_name!r}, though {self.source.name} says so")
        tensor = self._get(full_name)
        self._read += tensor.nbytes
        if tensor.numel() and not all(math.isfinite(extreme) for extreme in tensor.aminmax()):  # a NaN is both extremes
            raise ValueError(f"{path}: its tensor {full_name!r} holds NaN or infinite numbers")
        return tensor

    def _open(self, path: Path) -> None:
        self._get = None  # closes the file
        self._names, self._get = _open(path)
        self._path, self._read = path, 0


def _shards(find: Find, index: Path) -> dict[str, Path]:
    """Name of a tensor -> the file that the index names for it. Raises FileNotFoundError where one is not there."""
    names = entry(read_object(index), "weight_map", index, dict)
    files = {checked(file, f"{index}: the file of {name!r}", str) for name, file in names.items()}
    paths = {file: find(file) for file in sorted(files)}
    missing = [file for file, path in paths.items() if path is None]
    if missing:
        raise FileNotFoundError(f"{index} names files that are not there: {', '.join(missing)}")
    return {name: paths[file] for name, file in names.items()}


def _open(path: Path) -> tuple[set[str], Callable[[str], Tensor]]:
    """The names of a file's tensors, and what gives one by its name. Raises ValueError for what is no such file."""
    with path.open("rb") as opened:
        beginning = opened.read(32)
    if not beginning:
        raise ValueError(f"{path} is empty")
    if beginning.startswith(LFS_POINTER):
        raise ValueError(f"{path} is Git LFS's pointer to the weights, not the weights: git lfs pull fetches them")
    if path.suffix == ".safetensors":
        try:
            file = safe_open(path, "pt")
        except SafetensorError as error:
            raise ValueError(f"{path} is no whole safetensors file: {error}") from None
        return set(file.keys()), file.get_tensor
    if beginning.startswith(LEGACY):
        raise ValueError(
            f"{path} is in PyTorch's format from before 1.6, which cannot be mapped: load it with torch.load and write "
            "it with torch.save"
        )
    if not beginning.startswith(ZIP):
        raise ValueError(f"{path} is no file of PyTorch's: it begins with {beginning[:16]!r}")
    try:
        tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path} holds more than tensors, and could run code when opened") from None
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no whole file of PyTorch's present format: {reason}") from None
    if not isinstance(tensors, dict):
        raise ValueError(f"{path} holds a {type(tensors).__name__}, not tensors by their names")
    tensors = {name: tensor for name, tensor in tensors.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    return set(tensors), tensors.__getitem__
