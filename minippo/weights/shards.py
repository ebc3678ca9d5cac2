"""Weight files: located in a folder or on the hub, mapped into memory, read one tensor at a time."""

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
"""File name -> path; None if the model has no such file."""

# The names that a model's weights may have, in order of preference. An index lists the shards of a large model.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

LFS_POINTER = b"version https://git-lfs"

ZIP = b"PK\x03\x04"

LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of a `torch.save` file before PyTorch 1.6, a pickled number; newer ones are ZIP files."""


def finder(name_or_path: str | Path) -> Find:
    """Locates the files of a folder, or of a model on the hub, where each is downloaded on first use."""
    folder = Path(name_or_path)
    if folder.is_dir():
        return lambda name: folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download  # imported late: only public weights need it
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    def find(name: str) -> Path | None:
        try:
            return Path(hf_hub_download(str(name_or_path), name))
        except EntryNotFoundError:  # also raised offline, if the file is not in the cache
            return None
        except (HFValidationError, RepositoryNotFoundError):
            raise ValueError(f"{name_or_path} is neither a folder nor a model on the hub") from None
        except HfHubHTTPError as error:
            raise ValueError(f"cannot download {name} of {name_or_path} from the hub: {error}") from None

    return find


def find_config(find: Find, name_or_path: str | Path) -> Path:
    """The model's config.json. Raises FileNotFoundError."""
    path = find("config.json")
    if path is None:
        hint = "" if Path(name_or_path).is_dir() else ": no such folder, and no such model on the hub or no connection"
        raise FileNotFoundError(f"{name_or_path} has no config.json{hint}")
    return path


class StoredTensors:
    """The tensors of a model's weight files by name. Each is a view of its mapped file.

    Drop one before reading the next: the pages read from a mapped file count as memory of this process until the file
    is closed, so it is closed and reopened whenever the share `RELEASE` of it has been read.
    """

    RELEASE = 0.02

    def __init__(self, find: Find, name_or_path: str | Path, prefix: str) -> None:
        source = next((path for name in WEIGHT_FILES if (path := find(name)) is not None), None)
        if source is None:
            raise FileNotFoundError(f"{name_or_path} has none of the files {', '.join(WEIGHT_FILES)}")
        self.source = source
        self._path, self._read = source, 0
        if source.suffix == ".json":
            files = _shards(find, source)
        else:
            self._open(source)
            files = dict.fromkeys(self._names, source)
        # Name without the prefix -> file, name in the file.
        self._entries = {name.removeprefix(prefix): (path, name) for name, path in files.items()}

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """The names, without the prefix."""
        return iter(self._entries)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor `name`, without the prefix. Raises ValueError if it is missing or has NaN or infinite values."""
        tensor = self.read(name)
        if tensor.numel() and not all(math.isfinite(extreme) for extreme in tensor.aminmax()):  # both are NaN if any is
            raise ValueError(f"{self._path}: the tensor {self._entries[name][1]!r} contains NaN or infinite values")
        return tensor

    def read(self, name: str) -> Tensor:
        """The same, whatever its values."""
        if name not in self._entries:
            raise ValueError(f"{self.source} has no tensor {name!r}")
        path, full_name = self._entries[name]
        if path != self._path or self._read > self.RELEASE * path.stat().st_size:
            self._open(path)
        if full_name not in self._names:
            raise ValueError(f"{path} has no tensor {full_name!r}, although {self.source.name} lists it")
        tensor = self._get(full_name)
        self._read += tensor.nbytes
        return tensor

    def _open(self, path: Path) -> None:
        self._get = None  # closes the file
        self._names, self._get = _open(path)
        self._path, self._read = path, 0


def _shards(find: Find, index: Path) -> dict[str, Path]:
    """Tensor name -> the shard that the index lists for it. Raises FileNotFoundError if a shard is missing."""
    names = entry(read_object(index), "weight_map", index, dict)
    files = {checked(file, f"{index}: the file of {name!r}", str) for name, file in names.items()}
    paths = {file: find(file) for file in sorted(files)}
    missing = [file for file, path in paths.items() if path is None]
    if missing:
        raise FileNotFoundError(f"{index} lists files that are missing: {', '.join(missing)}")
    return {name: paths[file] for name, file in names.items()}


def _open(path: Path) -> tuple[set[str], Callable[[str], Tensor]]:
    """The names of a file's tensors, and a function that reads one. Raises ValueError for other kinds of files."""
    with path.open("rb") as opened:
        beginning = opened.read(32)
    if not beginning:
        raise ValueError(f"{path} is empty")
    if beginning.startswith(LFS_POINTER):
        raise ValueError(f"{path} is a Git LFS pointer, not the weights: run `git lfs pull`")
    if path.suffix == ".safetensors":
        try:
            file = safe_open(path, "pt")
        except SafetensorError as error:
            raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from None
        return set(file.keys()), file.get_tensor
    if beginning.startswith(LEGACY):
        raise ValueError(
            f"{path} has PyTorch's format from before version 1.6, which cannot be mapped: load it with torch.load and "
            "write it again with torch.save"
        )
    if not beginning.startswith(ZIP):
        raise ValueError(f"{path} is not a PyTorch checkpoint: it begins with {beginning[:16]!r}")
    try:
        tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path} contains more than tensors and could run code when loaded") from None
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path} is truncated or not a PyTorch checkpoint: {str(error).splitlines()[0]}") from None
    if not isinstance(tensors, dict):
        raise ValueError(f"{path} contains a {type(tensors).__name__} instead of a dict of tensors")
    tensors = {name: tensor for name, tensor in tensors.items() if isinstance(name, str) and isinstance(tensor, Tensor)}
    return set(tensors), tensors.__getitem__
