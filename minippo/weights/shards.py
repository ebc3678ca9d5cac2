"""Weight files: located in a folder or on the hub, mapped into memory, read one tensor at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from minippo.errors import quoted
from minippo.storage import checked, entry, read_object
from minippo.weights.tensor_file import FLOATS, is_finite, open_tensors

Find = Callable[[str], "Path | None"]
"""File name -> path; None if the model has no such file."""

# The names that a model's weights may have, in order of preference. An index lists the shards of a large model.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

WRAPPERS = re.compile(r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What DistributedDataParallel, torch.compile and others insert into the names of the tensors that they wrap."""


def finder(name_or_path: str | Path) -> Find:
    """Locates the files of a folder, or of a model on the hub, where each is downloaded on first use."""
    folder = Path(name_or_path)
    if folder.is_dir():
        return lambda name: folder / name if (folder / name).exists() else None
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
            reason = str(error).split("\n")[0]
            raise ValueError(f"cannot download {name} of {name_or_path} from the hub: {reason}") from None

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

    def __init__(self, find: Find, name_or_path: str | Path, prefix: str = "", root: str = "") -> None:
        """`root` is the name of the token embedding without `prefix`. Whatever precedes it in the file, precedes the
        names of all tensors of the transformer."""
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
        # Name without prefixes -> file, name in the file.
        self._entries: dict[str, tuple[Path, str]] = {}
        for name, full_name in _short_names(files, prefix, root, source):
            if name in self._entries:
                both = some_of([self._entries[name][1], full_name])
                raise ValueError(f"{source} has two tensors {quoted(name)}: {both}")
            self._entries[name] = (files[full_name], full_name)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """The names, without the prefix."""
        return iter(self._entries)

    @property
    def num_values(self) -> int:
        """The number of values of all tensors."""
        return sum(self._mapped(name).numel() for name in self)

    def check(self, name: str, shape: tuple[int, ...], like: torch.dtype = torch.float32) -> None:
        """Raise ValueError unless the tensor has this shape and, as `like`, floating-point numbers; if `like` is of
        another kind, the dtype must be the same. Reads none of its values."""
        tensor = self._mapped(name)
        where = f"{self._path}: according to config.json, {quoted(name)} should have"
        if tensor.shape != shape:
            raise ValueError(f"{where} the shape {shape}, not {tuple(tensor.shape)}")
        if tensor.dtype not in (FLOATS if like in FLOATS else (like,)):
            expected = "float32, float16, bfloat16 or float64" if like in FLOATS else like
            raise ValueError(f"{where} the dtype {expected}, not {tensor.dtype}")

    def read(self, name: str) -> Tensor:
        """The tensor `name`, without the prefix. Raises ValueError if it is missing."""
        tensor = self._mapped(name)
        self._read += tensor.nbytes
        return tensor

    def copy(self, name: str, values: Tensor, target: Tensor) -> None:
        """Copy `values`, a part of the tensor `name`, to `target`. Raises ValueError if they are NaN or infinite there,
        perhaps because they are too large for its dtype."""
        target.copy_(values)
        if not is_finite(target):
            full_name = self._entries[name][1][:80]
            raise ValueError(f"{self._path}: the tensor {full_name!r} contains NaN or infinite values")

    def _mapped(self, name: str) -> Tensor:
        if name not in self._entries:
            raise ValueError(f"{self.source} has no tensor {name!r}")
        path, full_name = self._entries[name]
        if path != self._path or self._read > self.RELEASE * path.stat().st_size:
            self._open(path)
        if full_name not in self._names:
            raise ValueError(f"{path} has no tensor {quoted(full_name)}, although {self.source.name} lists it")
        return self._get(full_name)

    def _open(self, path: Path) -> None:
        self._get = None  # closes the file
        self._names, self._get = open_tensors(path)
        self._path, self._read = path, 0


def some_of(names: list[str]) -> str:
    """The first few names, shortened, and the number of the others."""
    shown = [name if len(name) <= 80 and name.isprintable() else quoted(name) for name in names[:3]]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _short_names(full_names: Iterable[str], prefix: str, root: str, source: Path) -> Iterator[tuple[str, str]]:
    """Every name without prefixes, and in full. Raises ValueError if there are two models, or none."""
    names = {full_name: WRAPPERS.sub("", full_name) for full_name in full_names}
    roots = [name for name in names.values() if name == root or name.endswith(f".{root}")] if root else [prefix]
    if not roots:
        others = f"only {some_of(list(names))}" if names else "nor any other"
        raise ValueError(f"{source} has no tensor {root!r}, {others}")
    before = {name.removesuffix(root) for name in roots}
    if len(before) > 1:
        raise ValueError(f"{source} has more than one model: {some_of(sorted(roots))}")
    (whole,) = before
    outer = whole.removesuffix(prefix)  # heads lie outside the transformer: "policy." of "policy.transformer."
    for full_name, name in names.items():
        yield name.removeprefix(whole) if name.startswith(whole) else name.removeprefix(outer), full_name


def _shards(find: Find, index: Path) -> dict[str, Path]:
    """Tensor name -> the shard that the index lists for it. Raises FileNotFoundError if a shard is missing, and
    ValueError if one is not in the same folder."""
    names = entry(read_object(index), "weight_map", index, dict)
    files = {checked(file, f"{index}: the file of {quoted(name)}", str) for name, file in names.items()}
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    for file in sorted(files):
        if not re.fullmatch(rf"[\w-][\w.-]{{,200}}{re.escape(suffix)}", file):
            raise ValueError(f"{index} lists {quoted(file)}, which is not the name of a {suffix} file in its folder")
    paths = {file: find(file) for file in sorted(files)}
    missing = [file for file, path in paths.items() if path is None]
    if missing:
        raise FileNotFoundError(f"{index} lists files that are missing: {some_of(missing)}")
    folder = index.parent.resolve()
    inside = [folder]
    if folder.parent.name == "snapshots":  # the cache of the hub, in which every file is a link to such a folder
        inside.append(folder.parents[1] / "blobs")
    for file, path in paths.items():
        if path.resolve().parent not in inside:
            raise ValueError(f"{index} lists {file}, which is a link out of its folder")
    return {name: paths[file] for name, file in names.items()}
